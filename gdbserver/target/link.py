"""The wire to the chip: a probe that pyOCD knows, its debug port, and its access ports.

pyOCD finds probes and speaks to them.  Here they are opened, connected, closed, and what their
drivers raise becomes an error of ours; what travels is decided by each access port's `Port`.

Rule 1: no exception of a probe's driver gets any further; `Link.translated` is the boundary.
Rule 2: after an error the sticky flags are clear, and the next access works.
Rule 3: a driver is given plain numbers: a flag of ours, inverted, has only the bits it knows.

ADIv5.2 (IHI 0031), "The Serial Wire Debug Port", "ABORT, AP Abort register".
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from pyocd.core import exceptions
from pyocd.core.session import Session
from pyocd.core.target import Target as PyocdTarget
from pyocd.coresight.ap import APv1Address
from pyocd.coresight.dap import (
    ABORT_ORUNERRCLR,
    ABORT_STKCMPCLR,
    ABORT_STKERRCLR,
    ABORT_WDERRCLR,
    DP_ABORT,
)
from pyocd.probe.debug_probe import DebugProbe
from pyocd.probe.stlink_probe import STLinkMemoryInterface

from gdbserver.errors import (
    AccessRefused,
    AccessStalled,
    ChipLocked,
    GdbServerError,
    ProbeError,
)
from gdbserver.target.cmsis_dap import quicken
from gdbserver.target.port import CSW, CSW_DEVICE_ENABLED, IDR, InterfacePort, Port, RegisterPort
from gdbserver.target.probes import JLINK_FAULTS, driver_errors, is_drivers

log = logging.getLogger(__name__)

FREQUENCIES: Final = (10_000_000, 1_000_000)
"""What is tried when nobody says: as fast as most wiring bears, then what any bears."""

_CLEAR_STICKY: Final = ABORT_ORUNERRCLR | ABORT_WDERRCLR | ABORT_STKERRCLR | ABORT_STKCMPCLR

_ONES: Final = (1 << 51) - 1
SWITCH_TO_SWD: Final = (51 + 16 + 51 + 8, _ONES | 0xE79E << 51 | _ONES << 67)
"""Bits, and their number, that choose SWD: line reset, JTAG-to-SWD, line reset, idle cycles.

ADIv5.2 (IHI 0031), "Switching from JTAG to SWD operation"."""

_OPTIONS: Final = {
    "no_config": True,  # what this program does must not depend on where it is started;
    "user_script": os.devnull,  # pyOCD would run any pyocd_user.py that lies there
    "target_override": "cortex_m",  # pyOCD's idea of the chip is not used
    "warning.cortex_m_default": False,
}

SHORTEST_LOOK: Final = 100e-6
"""What a look of a board in software is worth to a `Deadline`: no real probe answers sooner."""

SIMULATED_LOOK: Final = 10e-6
"""What a look is worth that is answered sooner: the bits of a few transfers, at 10 MHz."""

LONGEST_LOOK: Final = 1e-3
"""What one is worth that took much longer: behind a slow simulation next to no time has passed."""


class NeedsLink(Exception):
    """Inside `Link.unreached`: the chip would have to be asked."""


class _Unreached:
    """Makes a link refuse what would go over it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link.refuses = True

    def __exit__(self, *_: object) -> None:
        self._link.refuses = False


class _Translated:
    """Of what goes over a link; a generator would take as long as a short access does."""

    __slots__ = ("_access", "_address", "_link")

    def __init__(self, link: Link, access: str, address: int) -> None:
        self._link = link
        self._access = access
        self._address = address

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and is_drivers(error):
            self._link.recover(error)
            raise _ours(error, f"{self._access} at {self._address:#010x}") from error


class Link:
    """One opened probe, connected to the chip's debug port."""

    def __init__(self, probe: Any, session: Session) -> None:
        self.probe = probe
        self.name: str = probe.description
        self.uid: str = probe.unique_id
        self.monotonic: Callable[[], float] = getattr(probe, "monotonic", time.monotonic)
        """Seconds of the target's time, since whenever: a simulated board keeps its own."""
        drives_hardware = type(probe).__module__.startswith("pyocd.")  # unlike many a plug-in
        self._in_step: Final = drives_hardware or hasattr(probe, "monotonic")
        capabilities = probe.capabilities
        self.manages_select: Final = DebugProbe.Capability.MANAGED_AP_SELECTION in capabilities
        """Whether the probe takes care of DP SELECT; else pyOCD does, and remembers its value."""
        self._quick: Final = quicken(probe)
        self.takes_buffers: Final = self._quick is not None
        """Words for `write_ap_multiple` may be a memoryview; other drivers get a list of them."""
        self._is_stlink = False
        self._session = session
        self._dp: Any = session.board.target.dp
        self._ports: dict[int, Port] = {}
        self.closed = False
        self.refuses = False
        self.unreached: Final = _Unreached(self)
        """``with link.unreached:`` nothing goes over the link: `NeedsLink` is raised instead."""
        self.changes = 0
        """Counts whatever went over the link and may have changed memory, or let the core run.

        As long as it stays the same, memory was changed by nobody but the chip itself."""

    @classmethod
    def open(cls, probe: Any, frequency: int | None, *, under_reset: bool) -> Link:
        """Open the probe and wake the debug port; NRST stays low if `under_reset`."""
        session = None
        try:
            with driver_errors(
                f"cannot open the debug probe {probe.unique_id}",
                hint="close the IDE or server that may be using it, or plug it in again",
            ):
                frequencies = (frequency,) if frequency else FREQUENCIES
                options = {"project_dir": os.getcwd(), "frequency": frequencies[0]}
                session = Session(probe, options={**_OPTIONS, **options})
                _open(session)
            link = cls(probe, session)
            link._connect(frequencies, under_reset)
        except BaseException:
            if session is not None:
                _close(session)
            raise
        return link

    def _connect(self, frequencies: Sequence[int], under_reset: bool) -> None:
        """Wake the debug port at the first of `frequencies` that works."""
        *quick, slowest = frequencies
        for hertz in quick:
            try:
                self._connect_at(hertz, under_reset)
            except ProbeError as error:
                log.debug("at %d Hz: %s", hertz, error.__cause__)
            else:
                return
        self._connect_at(slowest, under_reset, insist=not quick)

    def _connect_at(self, hertz: int, under_reset: bool, *, insist: bool = True) -> None:
        """Wake the debug port at `hertz`, or at the probe's own clock, unless we `insist`."""
        if hertz != self._session.options.get("frequency"):  # else opening has set it
            self._session.options.set("frequency", hertz)
            try:
                with (
                    driver_errors(
                        f"the debug probe does not take a clock of {hertz} Hz",
                        hint="give another --frequency",
                    ),
                    suppress(NotImplementedError),
                ):
                    self.probe.set_clock(hertz)
            except ProbeError as error:
                if insist:
                    raise
                log.info("it keeps the clock that it has: %s", error.__cause__)
        with driver_errors(
            "the chip does not answer the debug probe",
            hint="is the board powered, and the SWD cable right? try a lower --frequency",
        ):
            if under_reset:
                with suppress(NotImplementedError):
                    self.probe.assert_reset(True)
            if not self._connect_at_once():
                self._connect_dp()

    def _connect_at_once(self) -> bool:
        """Try what pyOCD tries first, with its four sequences in one command to the probe.

        Where that does not do, pyOCD repeats it, and wakes a dormant port as well.
        """
        if DebugProbe.Capability.SWJ_SEQUENCE not in self.probe.capabilities:
            return False  # the probe's firmware does it
        options = self._session.options
        try:
            if self.probe.wire_protocol is None:
                self.probe.connect(DebugProbe.Protocol.SWD)
            self.probe.swj_sequence(*SWITCH_TO_SWD)
            options.set("dap_swj_enable", False)
            self._connect_dp()
        except exceptions.Error as error:
            log.debug("the debug port does not answer at once: %s", error)
            return False
        finally:
            options.set("dap_swj_enable", True)
        return True

    def _connect_dp(self) -> None:
        try:
            self._dp.connect()
        except BaseException:
            self.probe.unlock()  # pyOCD forgets to, and the next call may be another thread's
            raise

    def reconnect(self) -> None:
        """Start over: the chip was without power, or the probe was pulled out and put back.

        Raises:
            ProbeError: there still is no answer.
        """
        self.close()
        with driver_errors("the debug probe cannot be opened again", hint="plug it in again"):
            _open(self._session)
        self.closed = False
        self.changes += 1
        self._connect_at(self._session.options.get("frequency"), under_reset=False)
        for number, port in self._ports.items():
            with self.translated("read", number << 24):
                port.renew(self.probe.get_memory_interface_for_ap(APv1Address(number)))

    def close(self) -> None:
        """Give the probe back, whatever state it is in."""
        self.closed = True
        _close(self._session)

    def port(self, number: int) -> Port:
        """Access port `number`.

        Raises:
            AccessRefused: there is none.
            ChipLocked: it lets nobody through.
        """
        if number not in self._ports:
            base = number << 24
            with self.translated("read", base):
                csw = self._dp.read_ap(base + CSW)
                if not csw & CSW_DEVICE_ENABLED:
                    if self._dp.read_ap(base + IDR) == 0:
                        raise exceptions.TransferFaultError(f"there is no access port {number}")
                    raise ChipLocked(2)
                interface = self.probe.get_memory_interface_for_ap(APv1Address(number))
            if interface is None:
                self._ports[number] = RegisterPort(self, self._dp, base, csw)
            else:
                if not self._is_stlink and isinstance(interface, STLinkMemoryInterface):
                    self._is_stlink = True
                    _warn_of_old_firmware(interface._link)
                self._ports[number] = InterfacePort(self, self._dp, base, csw, interface)
        return self._ports[number]

    def read_dp(self, address: int) -> int:
        """A register of the debug port."""
        with self.translated("read", address):
            return int(self._dp.read_dp(address))

    def write_dp(self, address: int, value: int) -> None:
        """The same; it may have been the power of the access ports, or an abort."""
        self.changes += 1
        with self.translated("write", address):
            self._dp.write_dp(address, value)
            self._dp.flush()
        self.forget()

    def read_ap(self, address: int) -> int:
        """A register of the access port that is named in bits 24 and up.

        It may be DRW, which counts TAR up.
        """
        with self.translated("read", address):
            value = int(self._dp.read_ap(address))
        self.forget()
        return value

    def write_ap(self, address: int, value: int) -> None:
        """The same."""
        self.changes += 1
        with self.translated("write", address):
            self._dp.write_ap(address, value)
            self._dp.flush()
        self.forget()

    def hold_reset(self, asserted: bool) -> None:
        """Pull NRST low, or let it go; with a probe that has no such pin, nothing happens."""
        self.changes += 1
        with self.translated("write", 0):
            try:
                self.probe.assert_reset(asserted)
            except NotImplementedError:
                log.info("this probe cannot pull NRST")
            self._dp.flush()
        if asserted:
            self.forget()

    def wait(self, seconds: float) -> bool:
        """Have the probe wait before it does what it is told next; whether it knows how."""
        if self._quick is None or not self._quick.can_wait:
            return False
        with self.translated("access", 0):
            self._quick.wait(seconds)
        return True

    def deadline(self, seconds: float) -> Deadline:
        """A time-out in the target's time; ask its `expired` once per look."""
        return Deadline(seconds, self.monotonic, in_step=self._in_step)

    def forget(self) -> None:
        """Forget what SELECT, and CSW and TAR of each port, are assumed to hold.

        That is after whatever may have changed them: an error, a reset, a connection made anew,
        a register written by number, a value that cannot be.  Another debugger on the same chip,
        or a probe's firmware that uses an access port on its own account, gives no other sign,
        and what is done before that is seen goes astray: it is not provided for.
        """
        for port in self._ports.values():
            port.forget()
        self.forget_select()

    def forget_select(self) -> None:
        """Have pyOCD write DP SELECT anew before it uses it, as after a reset."""
        if not self.manages_select:
            self._session.notify(PyocdTarget.Event.POST_RESET, self)

    def recover(self, error: Exception) -> None:
        """Forget what is assumed about the debug port, and clear its sticky flags.

        A driver with a queue sends that together with the next access: ABORT is always taken
        (ADIv5.2, IHI 0031, "ABORT, AP Abort register").

        Past `DebugPort`, which would answer WAIT with an abort: a word that a slave holds up
        would be lost, where patience lets it through.
        """
        self.forget()
        if self._is_stlink and getattr(error, "fault_address", None) is not None:
            return  # pyOCD's driver, which says where, has cleared them
        try:
            self.probe.write_dp(DP_ABORT, _CLEAR_STICKY)
        except Exception as another:
            if not is_drivers(another):
                raise
            log.debug("the debug port is busy, or gone: %s", another)

    def translated(self, access: str, address: int) -> _Translated:
        """What a driver raises becomes one of our errors, and the port usable again."""
        if self.refuses:
            raise NeedsLink
        if self.closed:
            raise ProbeError("the debug probe is closed")  # a driver might wait for ever
        return _Translated(self, access, address)


def _ours(error: Exception, access: str) -> GdbServerError:
    kind = type(error).__name__
    if isinstance(error, exceptions.TransferFaultError) or kind in JLINK_FAULTS:
        return AccessRefused(f"the chip refused a {access}")
    if isinstance(error, exceptions.TransferTimeoutError):
        return AccessStalled(
            f"the chip kept a {access} waiting",
            hint="something holds the bus: try again, or `monitor reset halt`",
        )
    if isinstance(error, exceptions.TransferError):
        return ProbeError("the chip stopped answering", hint="is it still powered and connected?")
    return ProbeError("the debug probe stopped working", hint="is it still plugged in?")


def _warn_of_old_firmware(stlink: Any) -> None:
    """An ST-LINK before V2J32 or V3J2 takes no CSW with its memory commands, and has its own."""
    oldest = stlink.MIN_JTAG_VERSION_MEM_CSW.get(stlink.hw_version, 0)
    if stlink.jtag_version < oldest:
        log.warning(
            "the ST-LINK's firmware %s does not look into the core's data cache: where a program "
            "has it on, memory may be shown, and written, as it was before; update the firmware "
            "with STM32CubeProgrammer to V%dJ%d or later",
            stlink.version_str,
            stlink.hw_version,
            oldest,
        )


def _open(session: Session) -> None:
    """Open the probe, and set its clock, unless it has no other than its own.

    One that refuses the clock, by its own limits, is open all the same: `Link` tries another.
    """
    try:
        session.open(init_board=False)
    except NotImplementedError as error:
        log.debug("the probe has a clock of its own: %r", error)
    except exceptions.Error as error:
        if not session.probe.is_open:
            raise
        log.debug("at %s Hz: %s", session.options.get("frequency"), error)
        session.options.set("frequency", 0)


def _close(session: Session) -> None:
    try:
        session.close()
    except Exception as error:
        if not is_drivers(error):
            raise
        log.debug("while closing the probe: %s", error)


class Deadline:
    """A time-out that is asked once per look at the target.

    Where the target's time goes `in_step` with `clock` (hardware, and a simulated board that keeps
    time itself), there is one look more when it is over: a host that was busy elsewhere must not
    take its own delay for the target's.  Any other probe may be a simulation, of which nobody
    knows how fast its time goes: there the number of looks counts as well.
    """

    def __init__(self, seconds: float, clock: Callable[[], float], *, in_step: bool) -> None:
        self._seconds = seconds
        self._clock = clock
        self._in_step = in_step
        self._start = clock()
        self._looks = 0
        self._is_over = False

    def expired(self) -> bool:
        self._looks += 1
        elapsed = self._clock() - self._start
        if elapsed < self._seconds:
            return False
        if self._in_step:
            was_over, self._is_over = self._is_over, True
            return was_over
        if self._looks * SHORTEST_LOOK > elapsed:
            worth = SIMULATED_LOOK
        elif elapsed < 10 * self._seconds:
            worth = SHORTEST_LOOK
        else:
            worth = LONGEST_LOOK
        return self._looks * worth >= self._seconds
