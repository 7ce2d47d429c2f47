"""What is on the QUADSPI's pins, found out from outside: for when a loader cannot say.

A loader whose Init returns 0 has seen an identity that it does not know, or none.  It has set up
the pins before that, and left them so.  So the debugger can look which pins they are, and
ask the NOR for its JEDEC id through the same QUADSPI, at a clock that no board is too slow for.
Where both banks are in use (dual-flash mode) there are two NORs, which answer byte by byte in
turns.

RM0433, "Quad-SPI interface (QUADSPI)", "General-purpose I/Os (GPIO)", "Reset and clock control
(RCC)"; JEDEC JEP106 for manufacturers; SFDP-era NORs agree on 9Fh, "Read JEDEC ID".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.stm32h743 import QuadspiCcr, QuadspiCr, QuadspiSr
from gdbserver.errors import TargetError
from gdbserver.target.access import Read, Write
from gdbserver.target.target import Target

_SIGNALS = tuple(chip.QUADSPI_PINS)
_LINES = ("IO0", "IO1", "IO2", "IO3")
BOTH_BANKS = 3
_MANUFACTURERS = {
    0x01: "Infineon (Spansion)",
    0x1F: "Renesas (Adesto)",
    0x20: "Micron",
    0x9D: "ISSI",
    0xBF: "Microchip (SST)",
    0xC2: "Macronix",
    0xC8: "GigaDevice",
    0xEF: "Winbond",
}
_FAMILIES = {
    "W25Q": 0xEF,
    "W25M": 0xEF,
    "MX25": 0xC2,
    "MX66": 0xC2,
    "IS25": 0x9D,
    "MT25": 0x20,
    "N25Q": 0x20,
    "S25F": 0x01,
    "GD25": 0xC8,
}
_STACKED = {0xEF71}  # W25M: several dies behind one chip select, each of which tells only of itself
_PART = re.compile(rf"({'|'.join(_FAMILIES)})[A-Z]*0*(\d+)(G?)", re.IGNORECASE)
_MEGABITS = (2048, 1024, 512, 256, 128, 64, 32, 16, 8)

_SLOWEST = 0xFF << chip.QUADSPI_CR_PRESCALER_SHIFT
# Any address; chip select high for eight cycles.
_LARGEST = 31 << chip.QUADSPI_DCR_FSIZE_SHIFT | 7 << chip.QUADSPI_DCR_CSHT_SHIFT
_READ_ON_ONE_LINE = (
    QuadspiCcr.INDIRECT_READ | QuadspiCcr.DATA_ON_ONE | QuadspiCcr.INSTRUCTION_ON_ONE
)
_READ_ID = _READ_ON_ONE_LINE | 0x9F
_WAKE_UP, _LEAVE_QPI, _LEAVE_QPI_MICRON = 0xAB, 0xFF, 0xF5
_FUNCTIONAL_MODES = ("indirect write", "indirect read", "automatic polling", "memory-mapped")
_TRANSFER_SECONDS = 0.1

# All lines high for as long as the longest address and mode bits take: whatever a NOR in QPI or in
# continuous read makes of it, it leaves that mode.
_ALL_ONES = (
    QuadspiCcr.INSTRUCTION_ON_FOUR
    | QuadspiCcr.ADDRESS_ON_FOUR
    | QuadspiCcr.FOUR_ADDRESS_BYTES
    | QuadspiCcr.ALTERNATE_ON_FOUR
    | QuadspiCcr.FOUR_ALTERNATE_BYTES
    | 0xFF
)

# JESD216, "Serial Flash Discoverable Parameters": three address bytes, eight dummy cycles.
_READ_SFDP = (
    _READ_ON_ONE_LINE
    | QuadspiCcr.ADDRESS_ON_ONE
    | QuadspiCcr.THREE_ADDRESS_BYTES
    | 8 << chip.QUADSPI_CCR_DCYC_SHIFT
    | 0x5A
)
_SFDP = 0x50444653


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found."""

    pins: Mapping[str, str]
    """The QUADSPI's signals that pins are set up for: {"CLK": "PB2", ...}; those of the second of
    two NORs are {"BK2_IO0": ...}."""
    jedec: int | None
    """Three bytes, manufacturer first; None where the QUADSPI did not finish the transfer."""
    second: int | None = None
    """Of two NORs side by side, that of the one on bank 2."""
    bank: int = 1
    """1, 2 or `BOTH_BANKS`."""
    woken: bool = False
    """It answers, but at first it did not: it was powered down, in QPI or in continuous read."""

    @property
    def ids(self) -> tuple[int | None, ...]:
        return (self.jedec, self.second) if self.bank == BOTH_BANKS else (self.jedec,)

    @property
    def answers(self) -> bool:
        return not any(_silent(jedec) for jedec in self.ids)


def _silent(jedec: int | None) -> bool:
    return jedec in (None, 0, 0xFFFFFF)


def _spaced(jedec: int | None) -> str:
    return (jedec or 0).to_bytes(3, "big").hex(" ").upper()


@dataclass(frozen=True, slots=True)
class Part:
    """A NOR by what its name, or a loader's, says of it."""

    name: str
    manufacturer: int
    size: int  # bytes


def promised(name: str) -> Part | None:
    """The part that a file or device name speaks of: "W25Q256_board" -> W25Q256, 32 MiB."""
    match = _PART.search(name)
    if match is None:
        return None
    family, digits, giga = match.groups()
    megabits = int(digits) * 1024 if giga and len(digits) < 3 else None
    if megabits is None:
        # MX25L25645 and W25Q256 say the same: density first, other digits behind it.
        megabits = next((m for m in _MEGABITS if digits.startswith(str(m))), None)
    if megabits is None:
        return None
    return Part(match[0], _FAMILIES[family.upper()], megabits * chip.MIB // 8)


def jedec_size(jedec: int) -> int | None:
    """Bytes, from the third byte of the id; after 19h comes 1Ah with some vendors, or 20h."""
    code = jedec & 0xFF
    if 0x10 <= code <= 0x1C:
        return 1 << code
    return 1 << code - 6 if 0x20 <= code <= 0x22 else None


@dataclass(frozen=True, slots=True)
class Die:
    """What a NOR itself says of its size, and of how it is erased."""

    jedec: int
    size: int
    """Bytes; of two NORs side by side (dual-flash mode), both together."""
    smallest_erase: int
    """The same, of the smallest erase; 1 when it does not tell."""
    count: int = 1
    """NORs side by side."""

    def __str__(self) -> str:
        nors = "the NOR" if self.count == 1 else "the two NORs side by side"
        return f"{nors} (JEDEC id {_spaced(self.jedec)}, {self.size // chip.KIB} KiB)"


def find_die(target: Target) -> Die | None:
    """Ask the NOR at the pins that are set up; None when it cannot be told.

    To be used after a loader's Init.  The QUADSPI is in reset state afterwards, and the NOR in
    none of the modes in which it does not take plain instructions.
    """
    found = survey(target)
    if found.jedec is None or not found.answers or found.jedec >> 8 in _STACKED:
        return None
    by_table, smallest_erase = _ask_sfdp(target, found.bank)
    # Where the two disagree, the benefit of the doubt: nothing is refused that may be right.
    size = max(by_table, jedec_size(found.jedec) or 0)
    count = len(found.ids)
    return Die(found.jedec, count * size, count * smallest_erase, count) if size else None


def _ask_sfdp(target: Target, bank: int) -> tuple[int, int]:
    """Size and smallest erase of the basic flash parameter table; (0, 1) when there is none."""
    header = _read_sfdp(target, bank, 0, 4)
    if header is None or header[0] != _SFDP:
        return 0, 1
    table = header[3] & 0xFFFFFF
    density, erases = (
        _read_sfdp(target, bank, table + 4, 1),
        _read_sfdp(target, bank, table + 28, 2),
    )
    reset_quadspi(target)
    if density is None or erases is None:
        return 0, 1
    (bits,) = density
    size = 1 << (bits & 0x3F) - 3 if bits >> 31 else (bits + 1) // 8
    exponents = [word >> shift & 0xFF for word in erases for shift in (0, 16)]
    return size, 1 << min((e for e in exponents if e), default=0)


def _read_sfdp(target: Target, bank: int, address: int, words: int) -> list[int] | None:
    """Words of the table; of two NORs, the first one's."""
    nors = 2 if bank == BOTH_BANKS else 1
    length = 4 * words * nors
    if not transfer(target, bank, _READ_SFDP, length=length, address=address * nors):
        return None
    there = target.run([Read(chip.QUADSPI_DR)] * (length // 4))
    data = b"".join(word.to_bytes(4, "little") for (word,) in there)[::nors]
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def describe(survey: Survey, name: str) -> tuple[str, str]:
    """What was found, in one sentence, and what to do; `name` is the loader's, and may promise a
    part."""
    pins = ", ".join(f"{signal}={pin}" for signal, pin in survey.pins.items()) or "no pins"
    missing = missing_signals(survey.pins, survey.bank)
    if missing and not survey.answers:  # on two lines a NOR does without the others
        lacking = f"no pin is set up as {', '.join(missing)}"
        have = f" (there are {pins})" if survey.pins else ""
        return f"the loader has not connected the NOR: {lacking}{have}", _OTHER_BOARD
    if survey.jedec is None:
        return f"the QUADSPI did not finish reading the NOR's id at {pins}", _CLOCK
    if not survey.answers:
        return _silence(survey, pins), _TO_CHECK
    identity = _spaced(survey.jedec)
    two = len(survey.ids) == 2
    if two and survey.jedec != survey.second:
        ids = f"{identity} on bank 1 and {_spaced(survey.second)} on bank 2"
        return f"the two NORs at {pins} are not alike: their JEDEC ids are {ids}", _ALIKE
    manufacturer = _MANUFACTURERS.get(survey.jedec >> 16, "an unknown manufacturer")
    size = jedec_size(survey.jedec)
    described = f"{manufacturer}, {size // chip.MIB} MiB" if size else manufacturer
    found = (
        f"both NORs at {pins} answer: the JEDEC id of each is {identity} ({described})"
        if two
        else f"the NOR at {pins} answers: its JEDEC id is {identity} ({described})"
    )
    if survey.woken:
        return f"{found}, but only since it was woken", _WOKEN
    part = promised(name)
    if part is None:
        return found, "is that the NOR that the loader is for?"
    # Two dice in one package have a name for both together: MT25TL01G is twice 512 Mbit.
    sizes = (size, 2 * (size or 0)) if two else (size,)
    if part.manufacturer != survey.jedec >> 16 or part.size not in sizes:
        expected = f"{part.name} of {part.size // chip.MIB} MiB"
        return f"{found}, and the loader's name promises {expected}", _OTHER_NOR
    variants = _VARIANTS if part.manufacturer == _WINBOND else ""
    return f"{found}, as the loader's name promises", f"{_OTHER_ID}{variants}; {_BUILTIN}"


_WINBOND = 0xEF
_BUILTIN = "--extload builtin asks the NOR itself"
_OTHER_BOARD = f"the loader is for another board, or does not set these pins up; {_BUILTIN}"
_OTHER_NOR = f"the loader is for another NOR; {_BUILTIN}"
_OTHER_ID = "it may insist on another id"
_VARIANTS = " (Winbond sells EF 40 and EF 70 under one name)"
_CLOCK = "does the clock run that QSPISEL (RCC_D1CCIPR) gives the QUADSPI?"
_ALIKE = "dual-flash mode needs two of the same part; use one of them, on its own bank"
_WOKEN = "a program had left it powered down, in QPI or in continuous read, and Init does not mind"
_TO_CHECK = (
    "compare these pins with the schematic (CLK, NCS, IO0 and IO1 matter first); measure at the "
    "NOR: power, RESET# and HOLD# (IO3) high, NCS falling; does another chip drive these lines?"
)


def _silence(survey: Survey, pins: str) -> str:
    """Who does not answer, and what comes instead."""
    if len(survey.ids) == 1:
        return f"no NOR answers at {pins}: its JEDEC id reads as {_reading(survey.jedec)}"
    ids = f"{_reading(survey.jedec)} on bank 1, and as {_reading(survey.second)} on bank 2"
    silent = [bank for bank, jedec in enumerate(survey.ids, start=1) if _silent(jedec)]
    if len(silent) == 2:
        return f"neither of two NORs answers at {pins}: the JEDEC ids read as {ids}"
    return (
        f"of two NORs side by side (dual-flash mode) the one on bank {silent[0]} does not "
        f"answer at {pins}: the JEDEC ids read as {ids}"
    )


def _reading(jedec: int | None) -> str:
    levels = {0: " (something holds IO1 low)", 0xFFFFFF: " (nobody drives IO1)"}
    return _spaced(jedec) + levels.get(jedec or 0, "")


def missing_signals(pins: Mapping[str, str], bank: int) -> list[str]:
    """The signals that a NOR on this bank needs, or two on both, and that no pin is set up as."""
    needed = list(_SIGNALS)
    if bank == BOTH_BANKS:
        needed += [f"BK2_{line}" for line in _LINES]
        if "BK2_NCS" in pins:
            needed.remove("NCS")  # one chip select may serve both
    return [signal for signal in needed if signal not in pins]


def survey(target: Target) -> Survey:
    """Look at the pins, and read the JEDEC id.  The QUADSPI is in reset state afterwards."""
    pins, bank = used_pins(target)
    with_clock = target.read_word(chip.RCC_AHB3ENR)
    try:
        target.write_word(chip.RCC_AHB3ENR, with_clock | chip.AHB3_QSPI)
        ids = read_ids(target, bank)
        woken = any(jedec in (0, 0xFFFFFF) for jedec in ids)
        if woken:
            # It may be in QPI, in continuous read, or powered down.
            transfer(target, bank, _ALL_ONES, address=0xFFFFFFFF, alternate=0xFFFFFFFF)
            transfer(target, bank, QuadspiCcr.INSTRUCTION_ON_FOUR | _LEAVE_QPI)
            transfer(target, bank, QuadspiCcr.INSTRUCTION_ON_FOUR | _LEAVE_QPI_MICRON)
            transfer(target, bank, QuadspiCcr.INSTRUCTION_ON_ONE | _WAKE_UP)
            ids = read_ids(target, bank)
        reset_quadspi(target)
    except TargetError:
        ids, woken = (None, None), False
    finally:
        target.write_word(chip.RCC_AHB3ENR, with_clock)
    found = Survey(pins, ids[0], ids[1] if bank == BOTH_BANKS else None, bank)
    return replace(found, woken=woken and found.answers)


def used_pins(target: Target) -> tuple[dict[str, str], int]:
    """Which pins are the QUADSPI's now, and of which bank: that of most, or `BOTH_BANKS`.

    Both are in use in dual-flash mode, and when all data lines of both are set up.
    """
    clocks = target.read_word(chip.RCC_AHB4ENR)
    found: list[dict[str, str]] = []
    for table in (chip.QUADSPI_PINS, chip.QUADSPI_BANK2_PINS):
        pins = {}
        for signal, choice in table.items():
            for pin, function in choice.items():
                port, number = ord(pin[1]) - ord("A"), int(pin[2:])
                if not clocks >> port & 1:
                    continue
                base = chip.GPIOA + chip.GPIO_STRIDE * port
                half, shift = divmod(number, 8)
                (mode,), (alternate,) = target.run([Read(base), Read(base + 0x20 + 4 * half)])
                if mode >> 2 * number & 3 == 2 and alternate >> 4 * shift & 15 == function:
                    pins[signal] = pin
        found.append(pins)
    lines = all(line in pins for pins in found for line in _LINES)
    if lines or target.read_word(chip.QUADSPI_CR) & QuadspiCr.DFM:
        second = {f"BK2_{s}": pin for s, pin in found[1].items() if s != "CLK"}
        return found[0] | second, BOTH_BANKS
    bank = 2 if len(found[1]) > len(found[0]) else 1
    return found[bank - 1], bank


def reset_quadspi(target: Target) -> None:
    """To its reset state, with its clock on or off."""
    held = target.read_word(chip.RCC_AHB3RSTR)
    target.run(
        [
            Write(chip.RCC_AHB3RSTR, [held | chip.AHB3_QSPI]),
            Write(chip.RCC_AHB3RSTR, [held & ~chip.AHB3_QSPI]),
        ]
    )


def transfer(
    target: Target, bank: int, ccr: int, *, length: int = 1, address: int = 0, alternate: int = 0
) -> bool:
    """One chip-select cycle, from QUADSPI's reset state on; whether it came to its end.

    On `BOTH_BANKS`, address and length are those of both NORs together.
    """
    reset_quadspi(target)
    select = {1: 0, 2: QuadspiCr.FSEL, BOTH_BANKS: QuadspiCr.DFM}[bank]
    start = [Write(chip.QUADSPI_AR, [address])] if ccr & QuadspiCcr.ADMODE else []
    target.run(
        [
            Write(chip.QUADSPI_DCR, [_LARGEST]),
            Write(chip.QUADSPI_CR, [QuadspiCr.EN | _SLOWEST | select]),
            Write(chip.QUADSPI_FCR, [chip.QUADSPI_CLEARED]),
            Write(chip.QUADSPI_DLR, [length - 1]),
            Write(chip.QUADSPI_ABR, [alternate]),
            Write(chip.QUADSPI_CCR, [ccr]),
            *start,
        ]
    )
    deadline = target.deadline(_TRANSFER_SECONDS)
    ends = QuadspiSr.TCF | QuadspiSr.TEF
    while not (status := target.read_word(chip.QUADSPI_SR)) & ends:
        if deadline.expired():
            return False
    return not status & QuadspiSr.TEF


def read_ids(target: Target, bank: int) -> tuple[int | None, ...]:
    """The JEDEC id on one line, of each NOR; None when the QUADSPI does not finish."""
    nors = 2 if bank == BOTH_BANKS else 1
    if not transfer(target, bank, _READ_ID, length=3 * nors):
        return (None,) * nors
    data = bytes(byte for (byte,) in target.run([Read(chip.QUADSPI_DR, 1, 1)] * 3 * nors))
    return tuple(int.from_bytes(data[nor::nors], "big") for nor in range(nors))


def describe_quadspi(target: Target) -> str:
    """The QUADSPI's registers in one line, as they are now."""
    if not target.read_word(chip.RCC_AHB3ENR) & chip.AHB3_QSPI:
        return "QUADSPI: its clock is off (RCC_AHB3ENR.QSPIEN)"
    cr, dcr, sr = target.read_words(chip.QUADSPI_CR, 3)
    (ccr,), (ar,) = target.run([Read(chip.QUADSPI_CCR), Read(chip.QUADSPI_AR)])
    mode = _FUNCTIONAL_MODES[ccr >> chip.QUADSPI_CCR_FMODE_SHIFT & 3]
    state = [f"{mode}, instruction {ccr & 0xFF:#04x}"]
    if cr & QuadspiCr.DFM:
        state.insert(0, "dual-flash mode")
    if not cr & QuadspiCr.EN:
        state.insert(0, "disabled")
    if sr & QuadspiSr.BUSY:
        state.append("busy")
    if sr & QuadspiSr.TEF:
        state.append("transfer error")
    if fifo := sr >> chip.QUADSPI_SR_FLEVEL_SHIFT & 0x3F:
        state.append(f"{fifo} bytes in the FIFO")
    return (
        f"QUADSPI: {', '.join(state)} (SR {sr:#010x}, CR {cr:#010x}, DCR {dcr:#010x}, "
        f"CCR {ccr:#010x}, AR {ar:#010x})"
    )
