"""What the chip says of a loader that failed: interrupts, vectors, resets, the pattern of bytes.

A tool that only says which segment it was working on leaves its user alone.  Most failures of
loaders have few causes, and each leaves traces that the debugger can read afterwards.  These
functions read them, and answer in sentences; none of them changes anything.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "The vector table", "System timer, SysTick";
RM0433, "RCC reset status register (RCC_RSR)".
"""

from __future__ import annotations

from collections.abc import Iterator

from gdbserver.chip import cortex_m as cm
from gdbserver.chip import stm32h743 as chip
from gdbserver.errors import LoaderRefused, LoaderTimeout, MemoryFault
from gdbserver.loader.file import FOUND, LoaderFile
from gdbserver.loader.nor_survey import describe, describe_quadspi, survey
from gdbserver.loader.own import identity
from gdbserver.target.access import Read
from gdbserver.target.target import Target

_RESETS = {
    30: "low power (LPWR)",
    28: "the window watchdog (WWDG1)",
    26: "the independent watchdog (IWDG1)",
    24: "software (SYSRESETREQ)",
    23: "power-on",
    21: "brown-out",
    22: "the reset pin (NRST)",
}
_POWER = 1 << 23 | 1 << 21  # power-on, brown-out
_CODE = (
    *(chip.ITCM, chip.SYSTEM_FLASH_1, chip.SYSTEM_FLASH_2, chip.BANK1, chip.BANK2, chip.DTCM),
    *(chip.AXI_SRAM, chip.SRAM1, chip.SRAM2, chip.SRAM3, chip.SRAM4, chip.QSPI_WINDOW),
)
_UPPER_LINES = {0x44: "the bits on IO2", 0x88: "the bits on IO3", 0xCC: "the bits on IO2 and IO3"}
_TICKING = 3  # SYST_CSR: ENABLE and TICKINT
_PENDSTSET = 1 << 26


def reset_cause(before: int, after: int) -> str:
    """What RCC_RSR says of a reset: the strongest cause that is new, for the pin follows every
    other.  Where none is, any could be it that was there, but loss of power, which takes the
    debugger's registers as well."""
    new = [cause for bit, cause in _RESETS.items() if after & ~before & 1 << bit]
    old = [cause for bit, cause in _RESETS.items() if after & ~_POWER & 1 << bit]
    return new[0] if new else " or ".join(old) or "an unknown cause"


def inherited(target: Target, *, primask: int) -> Iterator[str]:
    """What could interrupt the core now, and where that would lead: one sentence each."""
    (csr,), (icsr,), (vtor,), (mpu,), (ccr,) = target.run(
        [Read(cm.SYST_CSR), Read(cm.ICSR), Read(cm.VTOR), Read(cm.MPU_CTRL), Read(cm.CCR)]
    )
    if csr & _TICKING == _TICKING:
        masked = ", masked for now (PRIMASK = 1)" if primask & 1 else ""
        pending = " and pending" if icsr & _PENDSTSET else ""
        state = f"{pending} (CSR {csr & 7:#010x}){masked}"
        yield f"SysTick is running with its interrupt enabled{state}"
    elif csr & 1:
        yield "SysTick is running without its interrupt"
    yield from _vectors(target, vtor)
    if mpu & 1:
        yield "the MPU is on"
    if ccr & cm.Ccr.DC:
        yield "the data cache is on"


def _vectors(target: Target, vtor: int) -> Iterator[str]:
    """What is wrong with the table that VTOR points to, as far as faults and ticks go."""
    bad = []
    for number, name in (
        (cm.ExceptionNumber.SYS_TICK, "SysTick"),
        (cm.ExceptionNumber.HARD_FAULT, "HardFault"),
    ):
        try:
            vector = target.read_word(vtor + 4 * number)
        except MemoryFault:
            yield f"VTOR is {vtor:#010x}, where there is no memory"
            return
        if wrong := _wrong_with(target, vector):
            bad.append(f"its {name} vector is {vector:#010x}, {wrong}")
    if bad:
        yield f"VTOR {vtor:#010x} points to no vector table any more: {', '.join(bad)}"


def _wrong_with(target: Target, vector: int) -> str | None:
    """Why the core cannot go on at a vector; None where it can, as far as one sees."""
    if vector == 0xFFFFFFFF:
        return "which is erased flash"
    if not vector & 1:
        return "which is not Thumb code"
    if not any(vector & ~1 in area for area in _CODE):
        return "where no code can be"
    try:
        instruction = target.read_memory(vector & ~1, 2)
    except MemoryFault:
        return "which cannot be read"
    return "in erased flash" if instruction == b"\xff\xff" else None


def pattern(expected: bytes, found: bytes) -> str | None:
    """What wrong contents look like, when they look like something.

    Both begin at the first byte that differs, or a little before it.
    """
    if not found.strip(b"\xff"):
        return "it is still erased: the device did not program it"
    if not found.strip(b"\0"):
        return "it is all zeros: it was not erased before, or the device does not answer"
    for bits, lines in _UPPER_LINES.items():
        if found != expected and found == bytes(byte | bits for byte in expected[: len(found)]):
            return f"all of it has come, but for {lines}: is what they are connected to right?"
    for distance in range(1, 9):
        if _same(expected, found[distance:]):
            return f"the right bytes, {distance} too far up: an address or a count is off"
        if _same(expected[distance:], found):
            return f"the right bytes, {distance} too far down: an address or a count is off"
    for width, words in ((2, "each pair of bytes"), (4, "each word of four bytes")):
        if _same(_reversed(expected, width), found):
            return f"the right bytes, {words} reversed: an error in byte order"
    stuck = any(a & ~b & 0xFF for a, b in zip(expected, found, strict=False))
    missing = any(b & ~a & 0xFF for a, b in zip(expected, found, strict=False))
    if stuck and not missing:
        return "bits are 0 that shall be 1: it was not erased, or not erased whole, before"
    if missing and not stuck:
        return "bits are 1 that shall be 0: part of it was not programmed"
    return None


def _same(one: bytes, other: bytes) -> bool:
    """Whether two pieces agree as far as both go; too little to tell is no agreement."""
    length = min(len(one), len(other))
    return length >= 8 and one[:length] == other[:length] and len(set(one[:length])) > 1


def _reversed(data: bytes, width: int) -> bytes:
    return b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))


_WHY = {
    3: (
        "the NOR says that it is busy for longer than it may",
        "switch its power off and on; if it comes back, the NOR is broken",
    ),
    4: (
        "the QUADSPI did not finish a transfer",
        "reset the chip first (monitor reset halt), then load again",
    ),
    5: (
        "neither SFDP nor the JEDEC id tells how to drive this part",
        "give a loader that was made for it with --extload FILE",
    ),
    6: (
        "the quad enable bit could not be set",
        "is WP# (IO2) held low, or are the NOR's status registers locked (SRP, SRL)?",
    ),
    7: ("the address is outside the NOR", "is the image linked for a larger one?"),
    8: (
        "the NOR did not accept write enable",
        "is it in a mode of its own, or is WP# (IO2) held low? switch its power off and on",
    ),
    9: (
        "it is not blank after the erase",
        "is it protected (block protection in its status register, WP#), or worn out?",
    ),
    10: (
        "the NOR reports that programming failed",
        "is it protected (block protection in its status register, WP#), or worn out?",
    ),
    11: (
        "the two NORs side by side are not alike",
        "dual-flash mode needs two with the same JEDEC id and SFDP table",
    ),
}
"""What our own loader's `found.status` means, and what to do."""

_NOT_ERASED, _NOT_PROGRAMMED, _OUT_OF_RANGE, _NO_ANSWER = 9, 10, 7, 2
_CULPRITS = {
    0b01: "on bank 1 of the QUADSPI, ",
    0b10: "on bank 2 of the QUADSPI, ",
    0b11: "on both banks of the QUADSPI, ",
}
"""Of two NORs side by side, which."""

_SET_BY_ITSELF = (
    "its own Init has left the NOR so, and cannot begin from there: it works once after power-on; "
    "use --extload builtin"
)
_TOO_FAST = (
    "are the wires long, or is it slow? a --board file with a small max_clock lets it be asked "
    "slowly"
)


def explain_refusal(
    target: Target, loader: LoaderFile, error: LoaderRefused, *, again: bool = False
) -> None:
    """Say why: our own loader knows, and for others we look ourselves.

    `again`: a routine of that name has done its work before.
    """
    if (found := what_it_found(target, loader)) is not None:
        _explain_own(target, loader, error, found)
        return
    error.details = (describe_quadspi(target),)
    if error.routine == "Init":
        nor = survey(target)
        error.why, error.hint = describe(nor, _names(loader))
        if nor.woken and again:
            error.hint = _SET_BY_ITSELF
        error.nor_answers = nor.answers
    else:
        error.hint = (
            "the loader does not say why; the NOR may be protected against writing, "
            "or smaller than the loader believes"
        )


def _explain_own(
    target: Target, loader: LoaderFile, error: LoaderRefused, found: dict[str, int]
) -> None:
    status = found["status"]
    if status == _NO_ANSWER:
        nor = survey(target)
        error.why, error.hint = describe(nor, _names(loader))
        if nor.answers:
            error.why += ", but not at the loader's clock"
            error.hint = _TOO_FAST
        return
    why, error.hint = _WHY.get(status, (f"status {status}", None))
    facts = []
    if found["jedec"] not in (0, 0xFFFFFF):
        facts.append(identity(found))
    if status in (_OUT_OF_RANGE, _NOT_ERASED, _NOT_PROGRAMMED):
        facts.append(f"at offset {found['address']:#x}")
    culprit = _CULPRITS.get(found["culprits"], "")
    error.why = f"{culprit}{why}" + (f" ({', '.join(facts)})" if facts else "")


def explain_timeout(
    target: Target, loader: LoaderFile, error: LoaderTimeout, *, again: bool = False
) -> None:
    """Say more of an Init that does not return: many wait for ever for a NOR that is not there."""
    if error.routine != "Init" or loader.finds_out:
        return
    nor = survey(target)
    error.nor_answers = nor.answers
    if not nor.answers:
        error.why, error.hint = describe(nor, _names(loader))
    elif nor.woken and again:
        error.why, error.hint = describe(nor, _names(loader))[0], _SET_BY_ITSELF


def _names(loader: LoaderFile) -> str:
    """Where authors of loaders write which NOR it is for."""
    return f"{loader.path.stem} {loader.name}"


def what_it_found(target: Target, loader: LoaderFile) -> dict[str, int] | None:
    """What our own loader has learned about the NOR, while it is in RAM; None for others."""
    if not loader.finds_out:
        return None
    address = loader.image.symbols["found"].address
    return dict(FOUND.parse(target.read_memory(address, FOUND.sizeof())))
