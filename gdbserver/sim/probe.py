"""The simulated board as a pyOCD debug probe: ``sim`` in ``pyocd list``.

A unique id says which board and which probe: ``sim``, ``sim:cmsis-dap-v2``,
``sim:stlink-v2,nor=W25Q128JV,timing=maximum``.  After the link's name come fields of
`gdbserver.sim.options.BoardOptions`.

The probe is one of pyOCD's own drivers, for CMSIS-DAP or for ST-LINK, on top of a model of
that probe's firmware.  So there is one simulated chip, and two ways to talk to it that differ
exactly as the real ones do: packets of deferred register accesses, or memory commands.

Unicorn, which runs the core, is imported when a board is made and not before: pyOCD loads
this module whenever it looks for probes, and must not suffer from a simulator that lacks a part.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pyocd.board.board import Board as PyocdBoard
from pyocd.board.board_ids import BoardInfo
from pyocd.core import exceptions
from pyocd.core.plugin import Plugin
from pyocd.probe.cmsis_dap_probe import CMSISDAPProbe
from pyocd.probe.debug_probe import DebugProbe
from pyocd.probe.pydapaccess.dap_access_cmsis_dap import DAPAccessCMSISDAP
from pyocd.probe.stlink_probe import StlinkProbe

from gdbserver.sim.clock import MILLISECOND, SECOND
from gdbserver.sim.cmsis_dap import CmsisDapFirmware
from gdbserver.sim.link import Counters, Link
from gdbserver.sim.options import parse_options
from gdbserver.sim.stlink import StlinkFirmware

if TYPE_CHECKING:
    from gdbserver.sim.board import Board

NAME = "sim"
_NEEDS_UNICORN = "the simulated board needs Unicorn: pip install unicorn"


class SimProbe(DebugProbe):  # type: ignore[misc]  # pyOCD is untyped
    """A debug probe with a simulated board on its end.  Each object has a board of its own."""

    @classmethod
    def get_all_connected_probes(
        cls, unique_id: str | None = None, is_explicit: bool = False
    ) -> Sequence[SimProbe]:
        """The board with its default options, where a board can be made at all."""
        try:
            return [cls(NAME)]
        except exceptions.ProbeError:
            return []

    @classmethod
    def get_probe_with_id(cls, unique_id: str, is_explicit: bool = False) -> SimProbe | None:
        """The probe of this id.  pyOCD takes the leading ``sim:`` off and sets `is_explicit`.

        Raises:
            ProbeError: no board has such options, or Unicorn is not installed.
        """
        if is_explicit:
            unique_id = f"{NAME}:{unique_id}"
        if unique_id.partition(":")[0] != NAME:
            return None
        return cls(unique_id)

    def __init__(self, unique_id: str = NAME) -> None:
        super().__init__()
        if importlib.util.find_spec("unicorn") is None:
            raise exceptions.ProbeError(_NEEDS_UNICORN)
        try:
            self.options = parse_options(unique_id.partition(":")[2])
        except ValueError as error:
            raise exceptions.ProbeError(f"no such board as {unique_id!r}: {error}") from None
        self._board: Board | None = None
        self._unique_id = unique_id
        self._open = False
        self._driver: Any = None
        self._link: Link | None = None
        self._swo_rate: float | None = None

    @property
    def board(self) -> Board:
        """The board, powered up at the first look and kept until the program ends."""
        if self._board is None:
            from gdbserver.sim.board import Board  # noqa: PLC0415  # it imports Unicorn

            self._board = Board(self.options)
        return self._board

    @property
    def link(self) -> Link:
        if self._link is None:
            self._link = Link(self.options.link_model, self.board, self.options.waits)
            self.board.attach(self._link)
        return self._link

    @property
    def counters(self) -> Counters:
        """USB exchanges, SWD requests and bytes since the probe was plugged in."""
        return self.link.counters

    @property
    def link_time(self) -> int:
        """The host's virtual time in nanoseconds."""
        return self.link.time

    def monotonic(self) -> float:
        """The host's virtual time in seconds, for time-outs that mean the chip's time."""
        return self.link.time / SECOND

    # --- Who it is -----------------------------------------------------------------------------

    @property
    def unique_id(self) -> str:
        return self._unique_id

    @property
    def vendor_name(self) -> str:
        return self.options.link_model.vendor

    @property
    def product_name(self) -> str:
        return self.options.link_model.product

    @property
    def description(self) -> str:
        return f"STM32H743 + {self.options.nor}, simulated, on {self.options.link_model.name}"

    @property
    def associated_board_info(self) -> Any:
        return BoardInfo(
            name=f"STM32H743 + {self.options.nor}", target="stm32h743xx", vendor="simulated"
        )

    def create_associated_board(self) -> Any:
        return PyocdBoard(self.session, board_info=self.associated_board_info)

    @property
    def supported_wire_protocols(self) -> Collection[DebugProbe.Protocol]:
        return [DebugProbe.Protocol.DEFAULT, DebugProbe.Protocol.SWD]

    @property
    def wire_protocol(self) -> DebugProbe.Protocol | None:
        return self._driver.wire_protocol if self._driver is not None else None

    @property
    def capabilities(self) -> set[DebugProbe.Capability]:
        if self._driver is None:
            return set()
        capabilities: set[DebugProbe.Capability] = self._driver.capabilities
        return capabilities - {DebugProbe.Capability.JTAG_SEQUENCE} | {DebugProbe.Capability.SWO}

    @property
    def driver(self) -> Any:
        """pyOCD's own driver, which speaks to the probe's firmware, from the first opening on."""
        return self._driver

    # --- From open to close ----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        if self._open:
            return
        if self._driver is None:
            self._driver = self._make_driver()
        self._driver.session = self.session
        self._driver.open()
        self._open = True

    def _make_driver(self) -> Any:
        if self.link.model.protocol == "ST-LINK":
            return StlinkProbe(StlinkFirmware(self.link, self._unique_id))
        firmware = CmsisDapFirmware(self.link, self._unique_id)
        return CMSISDAPProbe(DAPAccessCMSISDAP(None, interface=firmware))

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._driver.close()

    def connect(self, protocol: DebugProbe.Protocol | None = None) -> None:
        self._driver.connect(protocol)

    def disconnect(self) -> None:
        self._driver.disconnect()

    def set_clock(self, frequency: float) -> None:
        self._driver.set_clock(int(frequency))

    def flush(self) -> None:
        self._driver.flush()

    # --- Lines ---------------------------------------------------------------------------------

    def swj_sequence(self, length: int, bits: int) -> None:
        self._driver.swj_sequence(length, bits)

    def reset(self) -> None:
        """Pulse NRST.  The times that pyOCD's options give it are virtual here."""
        options = self.session.options
        self.assert_reset(True)
        self._sleep(options.get("reset.hold_time"))
        self.assert_reset(False)
        self._sleep(options.get("reset.post_delay"))

    def _sleep(self, seconds: float | None) -> None:
        self.link.sleep(round((seconds or 0.0) * 1000) * MILLISECOND)

    def assert_reset(self, asserted: bool) -> None:
        self._driver.assert_reset(bool(asserted))

    def is_reset_asserted(self) -> bool:
        return bool(self._driver.is_reset_asserted())

    def get_accessible_pins(self, group: DebugProbe.PinGroup) -> tuple[int, int]:
        pins: tuple[int, int] = self._driver.get_accessible_pins(group)
        return pins

    def read_pins(self, group: DebugProbe.PinGroup, mask: int) -> int:
        pins: int = self._driver.read_pins(group, mask)
        return pins

    def write_pins(self, group: DebugProbe.PinGroup, mask: int, value: int) -> None:
        self._driver.write_pins(group, mask, value)

    # --- Debug port and access ports ---------------------------------------------------------

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        result: int | Callable[[], int] = self._driver.read_dp(addr, now)
        return result

    def write_dp(self, addr: int, data: int) -> None:
        self._driver.write_dp(addr, data)

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        result: int | Callable[[], int] = self._driver.read_ap(addr, now)
        return result

    def write_ap(self, addr: int, data: int) -> None:
        self._driver.write_ap(addr, data)

    def read_ap_multiple(
        self, addr: int, count: int = 1, now: bool = True
    ) -> Sequence[int] | Callable[[], Sequence[int]]:
        result: Sequence[int] | Callable[[], Sequence[int]]
        result = self._driver.read_ap_multiple(addr, count, now)
        return result

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        self._driver.write_ap_multiple(addr, values)

    # --- Serial wire output --------------------------------------------------------------------

    def swo_start(self, baudrate: float) -> None:
        self._swo_rate = baudrate
        self._exchange(b"SWO start", b"OK")
        self.board.swo.forget()

    def swo_stop(self) -> None:
        self._swo_rate = None
        self._exchange(b"SWO stop", b"OK")

    def swo_read(self) -> bytearray:
        if self._swo_rate is None:
            raise exceptions.ProbeError("SWO reception has not been started")
        heard = self.board.swo.heard(self._swo_rate)
        self._exchange(b"SWO read", heard)
        return bytearray(heard)

    def _exchange(self, command: bytes, answer: bytes) -> None:
        """A command that is the same on every kind of probe, apart from how it is written."""
        self.flush()
        self.link.send(command)
        self.link.receive(self.link.answer(answer))

    def get_memory_interface_for_ap(self, ap_address: Any) -> Any:
        return self._driver.get_memory_interface_for_ap(ap_address)


class SimProbePlugin(Plugin):  # type: ignore[misc]  # pyOCD is untyped
    """How pyOCD finds the probe: entry point ``sim`` of group ``pyocd.probe``."""

    def load(self) -> type[SimProbe]:
        return SimProbe

    @property
    def name(self) -> str:
        return NAME

    @property
    def description(self) -> str:
        return "Simulated STM32H743 board"
