"""The simulated board: STM32H743 + QSPI NOR below a pyOCD probe, on a virtual clock."""

# pyOCD loads its probe plugins while it is imported, and `gdbserver.sim.probe` is one.  If that
# module were imported first, pyOCD would find it half made; so pyOCD comes before all of them.
import pyocd  # noqa: F401
