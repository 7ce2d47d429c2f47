"""The parts that a board can carry: geometry, instructions, times, SFDP.

Datasheets: Winbond W25Q256JV, W25Q128JV, W25Q64JV; Micron MT25QL512ABB; ISSI IS25LP256D;
JEDEC JESD216 for the layout of SFDP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gdbserver.sim.clock import MICROSECOND, MILLISECOND, SECOND
from gdbserver.sim.nor_commands import BY_MODE, Command, Data
from gdbserver.sim.nor_vendors import Issi, Micron, Vendor, Winbond

if TYPE_CHECKING:
    from gdbserver.sim.nor import Nor

KIB = 1024
MIB = 1024 * KIB

Times = Mapping[str | int, tuple[int, int]]
"""Nanoseconds, (typical, maximum), by name; erases by their size in bytes."""


@dataclass(frozen=True)
class Part:
    name: str
    jedec_id: bytes
    size: int
    commands: Mapping[int, Command]
    times: Times
    sfdp: bytes
    vendor: Callable[[Nor], Vendor]
    device_id: int = 0
    """What the instructions older than JEDEC ids answer."""
    quad_fixed: bool = False
    """QE is set in the factory and cannot be cleared."""
    unique_id: bytes = bytes.fromhex("d1 64 30 5b 3f 07 2a 1c")


def sfdp(blocks: Mapping[int, str]) -> bytes:
    """256 bytes of table from hex strings, by offset."""
    table = bytearray(b"\xff") * 256
    for offset, text in blocks.items():
        data = bytes.fromhex(text)
        table[offset : offset + len(data)] = data
    return bytes(table)


def _table(commands: Iterable[Command]) -> dict[int, Command]:
    return {command.opcode: command for command in commands}


_NOT_IN_QPI = {0x03, 0x3B, 0x6B, 0xBB, 0x32, 0x38, 0x13, 0x3C, 0x6C, 0xBC, 0x34, 0x3E, 0x92, 0x94}


def _without_qpi(commands: Mapping[int, Command]) -> dict[int, Command]:
    """What has a number of lines in its name exists on one line of opcode only."""
    return {
        opcode: replace(command, qpi=opcode not in _NOT_IN_QPI)
        for opcode, command in commands.items()
    }


def _four_byte(commands: Iterable[tuple[int, Command]]) -> list[Command]:
    """The same instructions under other opcodes, always with four address bytes."""
    return [
        replace(command, opcode=opcode, name=command.name + " (4-byte)", address=4)
        for opcode, command in commands
    ]


def _read(opcode: int, name: str, **how: Any) -> Command:
    return Command(opcode, name, "read_array", address=BY_MODE, data=Data.OUT, **how)


def _register(opcode: int, name: str, action: str, **how: Any) -> Command:
    return Command(opcode, name, action, data=Data.OUT, **how)


def _change(opcode: int, name: str, action: str, **how: Any) -> Command:
    """A program, erase or register write: needs the write enable latch."""
    return Command(opcode, name, action, needs_write_enable=True, **how)


# --- Winbond ---------------------------------------------------------------------------------

_READ = _read(0x03, "Read Data")
_FAST = _read(0x0B, "Fast Read", dummy=8)
_DUAL_OUT = _read(0x3B, "Fast Read Dual Output", lines=(1, 2), dummy=8)
_QUAD_OUT = _read(0x6B, "Fast Read Quad Output", lines=(1, 4), dummy=8)
_DUAL_IO = _read(0xBB, "Fast Read Dual I/O", lines=(2, 2), mode=True)
_QUAD_IO = _read(0xEB, "Fast Read Quad I/O", lines=(4, 4), mode=True, dummy=4, wraps=True)
_PROGRAM = _change(0x02, "Page Program", "page_program", address=BY_MODE, data=Data.IN)
_QUAD_PROGRAM = replace(_PROGRAM, opcode=0x32, name="Quad Input Page Program", lines=(1, 4))
_ERASE_4K = _change(0x20, "Sector Erase", "erase", address=BY_MODE, size=4 * KIB)
_ERASE_32K = _change(0x52, "Block Erase 32 KB", "erase", address=BY_MODE, size=32 * KIB)
_ERASE_64K = _change(0xD8, "Block Erase 64 KB", "erase", address=BY_MODE, size=64 * KIB)
_CHIP_ERASE = (
    _change(0xC7, "Chip Erase", "chip_erase"),
    _change(0x60, "Chip Erase", "chip_erase"),
)

_COMMON = (
    Command(0x06, "Write Enable", "write_enable"),
    Command(0x04, "Write Disable", "write_disable"),
    _READ,
    _FAST,
    _DUAL_OUT,
    _QUAD_OUT,
    _PROGRAM,
    _ERASE_4K,
    _ERASE_32K,
    _ERASE_64K,
    *_CHIP_ERASE,
    Command(0x75, "Erase / Program Suspend", "suspend", when_busy=True),
    Command(0x7A, "Erase / Program Resume", "resume"),
    _register(0x9F, "JEDEC ID", "jedec"),
    _register(0x5A, "Read SFDP", "read_sfdp", address=3, dummy=8),
    Command(0x66, "Enable Reset", "enable_reset", when_busy=True),
    Command(0x99, "Reset Device", "reset", when_busy=True),
    Command(0xB9, "Power-down", "power_down"),
)

_WINBOND = (
    *_COMMON,
    Command(0x50, "Volatile SR Write Enable", "volatile_write_enable"),
    _register(0x05, "Read Status Register-1", "read_status1", when_busy=True),
    _register(0x35, "Read Status Register-2", "read_status2", when_busy=True),
    _register(0x15, "Read Status Register-3", "read_status3", when_busy=True),
    Command(0x01, "Write Status Register-1", "write_status1", data=Data.IN),
    Command(0x31, "Write Status Register-2", "write_status2", data=Data.IN),
    Command(0x11, "Write Status Register-3", "write_status3", data=Data.IN),
    _DUAL_IO,
    _QUAD_IO,
    _QUAD_PROGRAM,
    _register(0xAB, "Release Power-down / ID", "release", dummy=24, when_down=True),
    _register(0x90, "Manufacturer/Device ID", "read_device_id", address=3),
    _register(
        0x92,
        "Manufacturer/Device ID Dual I/O",
        "read_device_id",
        address=BY_MODE,
        lines=(2, 2),
        mode=True,
    ),
    _register(
        0x94,
        "Manufacturer/Device ID Quad I/O",
        "read_device_id",
        address=BY_MODE,
        lines=(4, 4),
        mode=True,
        dummy=4,
    ),
    _register(0x4B, "Read Unique ID", "read_unique_id", dummy=32),
    Command(0x77, "Set Burst with Wrap", "set_wrap", address=BY_MODE, lines=(4, 4), data=Data.IN),
    _change(0x44, "Erase Security Registers", "erase_security", address=BY_MODE),
    _change(0x42, "Program Security Registers", "program_security", address=BY_MODE, data=Data.IN),
    _register(0x48, "Read Security Registers", "read_security", address=BY_MODE, dummy=8),
    _change(0x36, "Individual Block Lock", "lock_block", address=BY_MODE),
    _change(0x39, "Individual Block Unlock", "unlock_block", address=BY_MODE),
    _register(0x3D, "Read Block Lock", "read_lock", address=BY_MODE),
    _change(0x7E, "Global Block Lock", "lock_all"),
    _change(0x98, "Global Block Unlock", "unlock_all"),
)

_WINBOND_LARGE = (
    *_WINBOND,
    Command(0xB7, "Enter 4-Byte Address Mode", "enter_four_byte"),
    Command(0xE9, "Exit 4-Byte Address Mode", "exit_four_byte"),
    _change(0xC5, "Write Extended Address Register", "write_extended_address", data=Data.IN),
    _register(0xC8, "Read Extended Address Register", "read_extended_address"),
    # No 5Ch: a 32 KB erase has no 4-byte opcode, and no 1-4-4 program exists.
    *_four_byte(
        (
            (0x13, _READ),
            (0x0C, _FAST),
            (0x3C, _DUAL_OUT),
            (0x6C, _QUAD_OUT),
            (0xBC, _DUAL_IO),
            (0xEC, _QUAD_IO),
            (0x12, _PROGRAM),
            (0x34, _QUAD_PROGRAM),
            (0x21, _ERASE_4K),
            (0xDC, _ERASE_64K),
        )
    ),
)


_WINBOND_QPI = (
    Command(0x38, "Enter QPI Mode", "enter_qpi"),
    Command(0xFF, "Exit QPI Mode", "leave_quad_protocol"),
    Command(0xC0, "Set Read Parameters", "set_read_parameters", data=Data.IN),
)


def _winbond_times(chip_typical: int, chip_maximum: int, program: tuple[int, int]) -> Times:
    return {
        "program": program,
        4 * KIB: (50 * MILLISECOND, 400 * MILLISECOND),
        32 * KIB: (120 * MILLISECOND, 1600 * MILLISECOND),
        64 * KIB: (150 * MILLISECOND, 2000 * MILLISECOND),
        "chip": (chip_typical * SECOND, chip_maximum * SECOND),
        "status": (10 * MILLISECOND, 15 * MILLISECOND),
        "suspend": (20 * MICROSECOND, 20 * MICROSECOND),
        "power down": (3 * MICROSECOND, 3 * MICROSECOND),
        "release": (3 * MICROSECOND, 3 * MICROSECOND),
        "reset": (30 * MICROSECOND, 30 * MICROSECOND),
    }


def _winbond_sfdp(density: str, chip: str, last: str) -> bytes:
    """JESD216A (1.5), one table of sixteen words at 0x80.

    Words 12 to 15 are those of sister parts of the same generation, and so is word 16 of the
    256 Mbit part (taken from the 512 Mbit part: B7h enters four-byte mode, 66h-99h resets).
    """
    return sfdp(
        {
            0x00: "53464450 050100ff 00050110 800000ff",
            0x80: f"e520{density} 44eb086b 083b42bb feffffff ffff0000 ffff40eb 0c200f52"
            f"10d80000 3602a600 82ea14{chip} e9637633 7a757a75 f7a2d55c 19f74dff {last}",
        }
    )


_W25Q256JV = Part(
    name="W25Q256JV",
    jedec_id=bytes.fromhex("ef4019"),
    size=32 * MIB,
    commands=_table(_WINBOND_LARGE),
    times=_winbond_times(80, 400, (700 * MICROSECOND, 3 * MILLISECOND)),
    sfdp=_winbond_sfdp("fbff ffffff0f", "d3", "e970f9a5"),
    vendor=Winbond,
    device_id=0x18,
    quad_fixed=True,
)


# --- Micron ------------------------------------------------------------------------------------

_MICRON_READS = (
    _READ,
    replace(_FAST, wraps=True),
    replace(_DUAL_OUT, wraps=True),
    replace(_QUAD_OUT, wraps=True),
    _read(0xBB, "Dual I/O Fast Read", lines=(2, 2), dummy=8, wraps=True),
    _read(0xEB, "Quad I/O Fast Read", lines=(4, 4), dummy=10, wraps=True),
)
_MICRON_DDR_READS = (
    _read(0x0D, "DTR Fast Read", dummy=6, ddr=True, wraps=True),
    _read(0x3D, "DTR Dual Output Fast Read", lines=(1, 2), dummy=6, ddr=True, wraps=True),
    _read(0xBD, "DTR Dual I/O Fast Read", lines=(2, 2), dummy=6, ddr=True, wraps=True),
    _read(0x6D, "DTR Quad Output Fast Read", lines=(1, 4), dummy=6, ddr=True, wraps=True),
    _read(0xED, "DTR Quad I/O Fast Read", lines=(4, 4), dummy=8, ddr=True, wraps=True),
)
_MICRON_PROGRAMS = (
    _PROGRAM,
    replace(_QUAD_PROGRAM, name="Quad Input Fast Program"),
    replace(_PROGRAM, opcode=0x38, name="Extended Quad Input Fast Program", lines=(4, 4)),
    replace(_PROGRAM, opcode=0xA2, name="Dual Input Fast Program", lines=(1, 2)),
    replace(_PROGRAM, opcode=0xD2, name="Extended Dual Input Fast Program", lines=(2, 2)),
)

_MICRON = (
    *_COMMON,
    *_MICRON_READS,
    *_MICRON_DDR_READS,
    *_MICRON_PROGRAMS,
    _register(0x9E, "Read ID", "jedec"),
    _register(0xAF, "Multiple I/O Read ID", "jedec"),
    _register(0xAB, "Release from Deep Power-down", "release", dummy=24, when_down=True),
    _register(0x05, "Read Status Register", "read_status", when_busy=True),
    _change(0x01, "Write Status Register", "write_status", data=Data.IN),
    _register(0x70, "Read Flag Status Register", "read_flag_status", when_busy=True),
    Command(0x50, "Clear Flag Status Register", "clear_flag_status"),
    _register(0xB5, "Read Nonvolatile Configuration", "read_nonvolatile"),
    _change(0xB1, "Write Nonvolatile Configuration", "write_nonvolatile", data=Data.IN),
    _register(0x85, "Read Volatile Configuration", "read_volatile"),
    _change(0x81, "Write Volatile Configuration", "write_volatile", data=Data.IN),
    _register(0x65, "Read Enhanced Volatile Configuration", "read_enhanced"),
    _change(0x61, "Write Enhanced Volatile Configuration", "write_enhanced", data=Data.IN),
    _register(0xC8, "Read Extended Address Register", "read_extended_address"),
    _change(0xC5, "Write Extended Address Register", "write_extended_address", data=Data.IN),
    _change(0xB7, "Enter 4-Byte Address Mode", "enter_four_byte"),
    _change(0xE9, "Exit 4-Byte Address Mode", "exit_four_byte"),
    Command(0x35, "Enter Quad Input/Output Mode", "enter_quad_protocol"),
    Command(0xF5, "Reset Quad Input/Output Mode", "leave_quad_protocol"),
    _register(0xE8, "Read Volatile Lock Bits", "read_lock", address=BY_MODE),
    _register(0xE0, "Read Volatile Lock Bits (4-byte)", "read_lock", address=4),
    _change(0xE5, "Write Volatile Lock Bits", "write_lock", address=BY_MODE, data=Data.IN),
    _change(0xE1, "Write Volatile Lock Bits (4-byte)", "write_lock", address=4, data=Data.IN),
    *_four_byte(
        (
            *zip((0x13, 0x0C, 0x3C, 0x6C, 0xBC, 0xEC), _MICRON_READS, strict=True),
            *zip((0x0E, 0x39, 0xBE, 0x3A, 0xEE), _MICRON_DDR_READS, strict=True),
            *zip((0x12, 0x34, 0x3E), _MICRON_PROGRAMS[:3], strict=True),
            (0x21, _ERASE_4K),
            (0x5C, _ERASE_32K),
            (0xDC, _ERASE_64K),
        )
    ),
)

# A single die ("monolithic"): one bulk erase, no die erase.
_MT25QL512ABB = Part(
    name="MT25QL512ABB",
    jedec_id=bytes.fromhex("20ba20 10 44 00") + bytes(14),
    size=64 * MIB,
    commands=_table(_MICRON),
    times={
        "program": (120 * MICROSECOND, 1800 * MICROSECOND),
        4 * KIB: (50 * MILLISECOND, 400 * MILLISECOND),
        32 * KIB: (100 * MILLISECOND, 1 * SECOND),
        64 * KIB: (150 * MILLISECOND, 1 * SECOND),
        "chip": (153 * SECOND, 460 * SECOND),
        "status": (1300 * MICROSECOND, 8 * MILLISECOND),
        "nonvolatile": (200 * MILLISECOND, 1 * SECOND),
        "suspend": (30 * MICROSECOND, 30 * MICROSECOND),
        "power down": (3 * MICROSECOND, 3 * MICROSECOND),
        "release": (30 * MICROSECOND, 30 * MICROSECOND),
        "reset": (30 * MICROSECOND, 30 * MICROSECOND),
    },
    # JESD216B (1.6) with the table of 4-byte instructions; read off sister parts of the family.
    sfdp=sfdp(
        {
            0x00: "53464450 060101ff 00060110 300000ff 84000102 800000ff",
            0x30: "e520fbff ffffff1f 29eb276b 273b27bb ffffffff ffff27bb ffff29eb 0c2010d8"
            "0f520000 244a9900 8b8e03e1 ac012738 7a757a75 fbbdd55c 4a0f82ff 81bd3d36",
            0x80: "ffe7ffff 21dc5cff",
        }
    ),
    vendor=Micron,
    device_id=0xFF,
)


# --- ISSI ----------------------------------------------------------------------------------------

_ISSI_READS = (
    _READ,
    replace(_FAST, wraps=True),
    replace(_DUAL_OUT, wraps=True),
    replace(_QUAD_OUT, wraps=True),
    replace(_DUAL_IO, wraps=True),
    _QUAD_IO,
)

_ISSI = (
    *_COMMON,
    *_ISSI_READS,
    _QUAD_PROGRAM,
    replace(_QUAD_PROGRAM, opcode=0x38),
    replace(_ERASE_4K, opcode=0xD7),
    Command(0xB0, "Suspend", "suspend", when_busy=True),
    Command(0x30, "Resume", "resume"),
    _register(0xAB, "Release Power-down / ID", "release", dummy=24, when_down=True),
    _register(0xAF, "Read JEDEC ID in QPI mode", "jedec"),
    _register(0x05, "Read Status Register", "read_status", when_busy=True),
    Command(0x01, "Write Status Register", "write_status", data=Data.IN),
    Command(0x50, "Volatile SR Write Enable", "volatile_write_enable"),
    _register(0x48, "Read Function Register", "read_function", when_busy=True),
    _change(0x42, "Write Function Register", "write_function", data=Data.IN),
    _register(0x61, "Read Read Parameters", "read_read_parameters"),
    Command(0x63, "Set Read Parameters (volatile)", "set_read_volatile", data=Data.IN),
    Command(0xC0, "Set Read Parameters (volatile)", "set_read_volatile", data=Data.IN),
    _change(0x65, "Set Read Parameters", "set_read_nonvolatile", data=Data.IN),
    _register(0x81, "Read Extended Read Parameters", "read_extended_parameters", when_busy=True),
    Command(0x82, "Clear Extended Read Parameters", "clear_errors"),
    _register(0x16, "Read Bank Address Register", "read_bank"),
    _register(0xC8, "Read Bank Address Register", "read_bank"),
    Command(0x17, "Write Bank Address Register (volatile)", "write_bank", data=Data.IN),
    _change(0xC5, "Write Bank Address Register (volatile)", "write_bank", data=Data.IN),
    _change(0x18, "Write Bank Address Register", "write_bank_nonvolatile", data=Data.IN),
    Command(0xB7, "Enter 4-Byte Address Mode", "enter_four_byte"),
    Command(0x29, "Exit 4-Byte Address Mode", "exit_four_byte"),
    Command(0x35, "Enter Quad Peripheral Interface", "enter_quad_protocol"),
    Command(0xF5, "Exit Quad Peripheral Interface", "leave_quad_protocol"),
    _register(0x4B, "Read Unique ID", "read_unique_id", address=BY_MODE, dummy=8),
    *_four_byte(
        (
            *zip((0x13, 0x0C, 0x3C, 0x6C, 0xBC, 0xEC), _ISSI_READS, strict=True),
            (0x12, _PROGRAM),
            (0x34, _QUAD_PROGRAM),
            (0x3E, _QUAD_PROGRAM),
            (0x21, _ERASE_4K),
            (0x5C, _ERASE_32K),
            (0xDC, _ERASE_64K),
        )
    ),
)

_IS25LP256D = Part(
    name="IS25LP256D",
    jedec_id=bytes.fromhex("9d6019"),
    size=32 * MIB,
    commands=_without_qpi(_table(_ISSI)),
    # Typical erase and program times as the part's own SFDP has them.
    times={
        "program": (200 * MICROSECOND, 800 * MICROSECOND),
        4 * KIB: (48 * MILLISECOND, 300 * MILLISECOND),
        32 * KIB: (160 * MILLISECOND, 500 * MILLISECOND),
        64 * KIB: (304 * MILLISECOND, 1 * SECOND),
        "chip": (60 * SECOND, 180 * SECOND),
        "status": (2 * MILLISECOND, 15 * MILLISECOND),
        "suspend": (100 * MICROSECOND, 100 * MICROSECOND),
        "power down": (3 * MICROSECOND, 3 * MICROSECOND),
        "release": (5 * MICROSECOND, 5 * MICROSECOND),
        "reset": (100 * MICROSECOND, 100 * MICROSECOND),
    },
    # JESD216B (1.6); says "three address bytes only", which is not so.
    sfdp=sfdp(
        {
            0x00: "53464450 060101ff 00060110 300000ff 9d050103 80000002",
            0x30: "e520f9ff ffffff0f 44eb086b 083b80bb feffffff ffff00ff ffff44eb 0c200f52"
            "10d800ff 234ac900 82d811ce cccd6846 7a757a75 f7aed55c 4a422cff f030faa9",
            0x80: "50195016 9ff9c064 8fefffff",
        }
    ),
    vendor=Issi,
    device_id=0x18,
    unique_id=bytes.fromhex("4a 31 36 22 0c 9d 58 01 e7 70 12 b3 6f 05 c8 21"),
)

_W25Q128JV = Part(
    name="W25Q128JV",
    jedec_id=bytes.fromhex("ef4018"),
    size=16 * MIB,
    commands=_table(_WINBOND),
    times=_winbond_times(40, 200, (700 * MICROSECOND, 3 * MILLISECOND)),
    sfdp=_winbond_sfdp("f9ff ffffff07", "c9", "e930f880"),
    vendor=Winbond,
    device_id=0x17,
    quad_fixed=True,
)

_W25Q64JV = Part(
    name="W25Q64JV",
    jedec_id=bytes.fromhex("ef4017"),
    size=8 * MIB,
    commands=_table(_WINBOND),
    times=_winbond_times(20, 100, (400 * MICROSECOND, 3 * MILLISECOND)),
    sfdp=_winbond_sfdp("f9ff ffffff03", "c4", "e930f880"),
    vendor=Winbond,
    device_id=0x16,
    quad_fixed=True,
)


def _im(part: Part) -> Part:
    """The same density as -IM: QE is the user's, and there is QPI.

    Its reads on both clock edges are not modelled.
    """
    return replace(
        part,
        name=f"{part.name}-IM",
        jedec_id=part.jedec_id[:1] + b"\x70" + part.jedec_id[2:],
        commands={**_without_qpi(part.commands), **_table(_WINBOND_QPI)},
        quad_fixed=False,
    )


_PARTS = (
    *(_W25Q256JV, _im(_W25Q256JV), _W25Q128JV, _im(_W25Q128JV), _W25Q64JV, _im(_W25Q64JV)),
    *(_MT25QL512ABB, _IS25LP256D),
)

PARTS: Mapping[str, Part] = {part.name: part for part in _PARTS}
