"""Leave a NOR as an application might have left it: for testing whether a loader copes.

A reset of the chip does not reach the NOR.  It stays in the mode that somebody chose, and a loader
that expects it as after power-on works once, and then not again until the power goes.

W25Q256JV, MT25QL512ABB, IS25LP256D, "Instructions"; RM0433, "Quad-SPI interface (QUADSPI)".
"""

from __future__ import annotations

from gdbserver.chip.stm32h743 import QUADSPI_CCR_DCYC_SHIFT, QuadspiCcr
from gdbserver.loader.nor_survey import missing_signals, read_ids, transfer, used_pins
from gdbserver.target.target import Target

_WINBOND, _ISSI, _MICRON, _MACRONIX, _GIGADEVICE = 0xEF, 0x9D, 0x20, 0xC2, 0xC8

_ENTER_QPI = {_WINBOND: 0x38, _GIGADEVICE: 0x38, _ISSI: 0x35, _MICRON: 0x35, _MACRONIX: 0x35}
_WRITE_ENABLE, _WRITE_DISABLE, _ENTER_4BYTE, _EXIT_4BYTE = 0x06, 0x04, 0xB7, 0xE9
_POWER_DOWN, _WAKE_UP = 0xB9, 0xAB
_RESET_ENABLE, _RESET, _LEAVE_QPI, _LEAVE_QPI_OTHERS = 0x66, 0x99, 0xFF, 0xF5
_ONE, _FOUR = QuadspiCcr.INSTRUCTION_ON_ONE, QuadspiCcr.INSTRUCTION_ON_FOUR

# Fast Read Quad I/O: address, mode byte and data on four lines, four dummy cycles more.
_QUAD_READ = (
    QuadspiCcr.INDIRECT_READ
    | QuadspiCcr.DATA_ON_FOUR
    | 4 << QUADSPI_CCR_DCYC_SHIFT
    | QuadspiCcr.ALTERNATE_ON_FOUR
    | QuadspiCcr.THREE_ADDRESS_BYTES
    | QuadspiCcr.ADDRESS_ON_FOUR
    | _ONE
    | 0xEB
)
_STAY_IN_READ = 0xA0  # mode byte: the next frame begins with its address
_WITHOUT_MODE_BYTES = {_MICRON, _MACRONIX}  # they want registers set, or other values


class Nor:
    """The NOR on the pins that are set up for the QUADSPI, driven from outside.

    Two side by side (dual-flash mode) are brought into the same state, and have one name here.
    Each method that leaves it in a state returns None, or why that cannot be.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.pins, self._bank = used_pins(target)
        self._ids = read_ids(target, self._bank)
        self._jedec = self._ids[0] or 0

    @property
    def answers(self) -> bool:
        silent = any(jedec in (None, 0, 0xFFFFFF) for jedec in self._ids)
        return not missing_signals(self.pins, self._bank) and not silent

    @property
    def _maker(self) -> int:
        return self._jedec >> 16

    def _send(self, *opcodes: int, lines: int = _ONE) -> None:
        for opcode in opcodes:
            transfer(self._target, self._bank, lines | opcode)

    def leave_in_four_byte_mode(self) -> str | None:
        if self._jedec & 0xFF <= 0x18:
            return "the part needs no more than three address bytes"
        self._send(_WRITE_ENABLE, _ENTER_4BYTE, _WRITE_DISABLE)
        return None

    def leave_in_qpi(self) -> str | None:
        opcode = _ENTER_QPI.get(self._maker)
        if opcode is None:
            return f"nobody told us how parts of manufacturer {self._maker:02X} enter QPI"
        self._send(opcode)
        if read_ids(self._target, self._bank) == self._ids:
            return "the part has no QPI"
        return None

    def leave_in_continuous_read(self) -> str | None:
        if self._maker in _WITHOUT_MODE_BYTES:
            return "the part enters it in another way than by the mode byte"
        transfer(self._target, self._bank, _QUAD_READ, length=4, alternate=_STAY_IN_READ)
        return None

    def leave_powered_down(self) -> str | None:
        self._send(_POWER_DOWN)
        return None

    def soothe(self) -> None:
        """Back to what it was after power-on, from any of these states."""
        self._send(_LEAVE_QPI, _LEAVE_QPI_OTHERS, lines=_FOUR)
        self._send(_WAKE_UP, _EXIT_4BYTE, _RESET_ENABLE, _RESET)
