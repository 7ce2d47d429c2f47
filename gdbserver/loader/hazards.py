"""What a loader's code does to the rest of the chip, as far as reading the code can tell.

A loader shares the core with whatever runs before and after it.  Most of what goes wrong
between two programs on one core is plain to see in their instructions: one starts SysTick and
leaves it, the other enables interrupts.  So the code is followed from each entry point, through
branches and calls, with the constants that registers hold on the way: enough to tell to
which register of the core or chip a store goes, because compilers load such addresses right
before they use them.

Rule 1: only code that a routine can reach counts, through branches, calls, and calls through
a register whose value is known.  Functions that are reached through pointers in memory, and
interrupt handlers, are not looked at.
Rule 2: nothing here is a reason to refuse a loader.  Many that do such things work, since
`known_state` takes care of what they leave behind.

Armv7-M Architecture Reference Manual (DDI 0403E.e), "The Armv7-M Instruction Set", "System Control
Space"; RM0433, "Memory map and register boundary addresses".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import capstone as cs
from capstone import arm

from gdbserver.chip import cortex_m as cm
from gdbserver.chip import stm32h743 as chip
from gdbserver.chip.memory import Span
from gdbserver.loader.file import Image

_WORD = 0xFFFFFFFF
_CALL_CLOBBERS = (arm.ARM_REG_R0, arm.ARM_REG_R1, arm.ARM_REG_R2, arm.ARM_REG_R3, arm.ARM_REG_R12)

_RCC_AHB = Span.of(chip.RCC, 0x7C)  # clock sources and dividers; resets and enables follow

# What a store to an address means for others.  First match counts.
_STORES: tuple[tuple[Span, str, str], ...] = (
    (Span.of(cm.DHCSR, 4), "dhcsr", "writes DHCSR, which is the debugger's"),
    (Span.of(cm.SYST_CSR, 4), "systick", "starts SysTick"),
    (Span.of(cm.VTOR, 4), "vtor", "moves the vector table (VTOR)"),
    (Span.of(cm.AIRCR, 4), "reset", "resets the chip (AIRCR.SYSRESETREQ)"),
    (Span.of(cm.CCR, 4), "cache", "switches a cache (CCR)"),
    (Span.of(cm.MPU_CTRL, 4), "mpu", "switches the MPU"),
    (Span.of(cm.NVIC_ISER, 4 * 8), "nvic", "enables an interrupt in the NVIC"),
    (Span.of(chip.IWDG1, 4), "watchdog", "starts or feeds the independent watchdog"),
    (Span.of(chip.WWDG1, 4), "watchdog", "starts or feeds the window watchdog"),
    (Span.of(chip.FLASH, 0x200), "flash", "drives the controller of internal flash"),
    (Span.of(chip.PWR, 0x30), "power", "changes the power supply's settings (PWR)"),
    (_RCC_AHB, "clock", "changes the clocks (RCC)"),
)
_SYSRESETREQ = 1 << 2
_IWDG_RELOAD = 0xAAAA  # to IWDG_KR

_PLAIN = {
    "wfi": ("sleep", "sleeps (WFI), and wakes only if an interrupt comes"),
    "wfe": ("sleep", "sleeps (WFE)"),
    "bkpt": ("bkpt", "stops for a debugger (BKPT)"),
    "svc": ("svc", "calls a supervisor (SVC) that is not there"),
}


@dataclass(frozen=True, slots=True)
class Hazard:
    """One instruction that reaches beyond the loader."""

    kind: str
    address: int
    place: str
    """The function and the offset in it."""
    routine: str
    """The entry point from which the instruction is reached; the first one, if several."""
    does: str

    def __str__(self) -> str:
        address = f"{self.address:#010x}"
        known = "" if self.place == address else f"{address}, "
        return f"{self.place} ({known}from {self.routine}) {self.does}"


def hazards(image: Image, entries: dict[str, int]) -> tuple[Hazard, ...]:
    """Everything noteworthy in the code behind `entries`, in address order."""
    walk = _Walk(image)
    for routine, entry in entries.items():
        walk.follow(routine, entry & ~1)
    return tuple(sorted(walk.result(), key=lambda hazard: hazard.address))


@dataclass
class _State:
    """What is known of the registers before an instruction."""

    values: dict[int, int] = field(default_factory=dict)
    ones: dict[int, int] = field(default_factory=dict)
    """Bits that are known to be set in registers that are not known otherwise."""
    compared: int | None = None
    """The last constant that something was compared with: the bound of a jump table."""

    def copy(self) -> _State:
        return _State(dict(self.values), dict(self.ones), self.compared)

    def forget(self, register: int) -> None:
        self.values.pop(register, None)
        self.ones.pop(register, None)

    def learn(self, register: int, value: int | None, ones: int = 0) -> None:
        self.forget(register)
        if value is not None:
            self.values[register] = value & _WORD
        elif ones:
            self.ones[register] = ones


class _Walk:
    """Follow the code of all routines, in any order, each instruction once."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._seen: set[int] = set()
        self._found: list[Hazard] = []
        self._undone: set[str] = set()
        """Kinds of hazard that the same code also undoes."""
        self._disassembler = cs.Cs(cs.CS_ARCH_ARM, cs.CS_MODE_THUMB | cs.CS_MODE_MCLASS)
        self._disassembler.detail = True

    def follow(self, routine: str, entry: int) -> None:
        """Everything that can be reached from `entry` and was not before."""
        waiting = [(entry, _State())]
        while waiting:
            address, state = waiting.pop()
            while address not in self._seen:
                self._seen.add(address)
                instruction = self._decode(address)
                if instruction is None:
                    break
                for kind, does in self._look(instruction, state):
                    place = self._image.place(address)
                    self._found.append(Hazard(kind, address, place, routine, does))
                waiting += self._elsewhere(instruction, state)
                self._execute(instruction, state)
                if _ends(instruction):
                    break
                address += instruction.size

    def result(self) -> Iterator[Hazard]:
        for hazard in self._found:
            if hazard.kind == "systick" and "systick" not in self._undone:
                yield replace(hazard, does=hazard.does + ", and never stops it")
            elif hazard.kind != "cpsid" or "cpsid" not in self._undone:
                yield hazard

    # --- Instructions -------------------------------------------------------------------------

    def _bytes(self, address: int, length: int) -> bytes:
        for start, data in self._image.chunks:
            if start <= address < start + len(data):
                return data[address - start : address - start + length]
        return b""

    def _word(self, address: int) -> int | None:
        data = self._bytes(address, 4)
        return struct.unpack("<I", data)[0] if len(data) == 4 else None

    def _decode(self, address: int) -> Any:
        return next(self._disassembler.disasm(self._bytes(address, 4), address, 1), None)

    def _elsewhere(self, instruction: Any, state: _State) -> list[tuple[int, _State]]:
        """Where else execution may go on, besides at the next instruction."""
        if instruction.id in (arm.ARM_INS_TBB, arm.ARM_INS_TBH):
            return [(to, state.copy()) for to in self._table(instruction, state)]
        to = _destination(instruction, state)
        if to is None or not any(to in span for span in self._image.memory):
            return []
        return [(to, _State() if _is_call(instruction) else state.copy())]

    def _table(self, instruction: Any, state: _State) -> Iterator[int]:
        """The targets of a jump table that lies right behind its instruction."""
        if instruction.operands[0].mem.base != arm.ARM_REG_PC or state.compared is None:
            return
        width = 1 if instruction.id == arm.ARM_INS_TBB else 2
        start = instruction.address + 4
        entries = self._bytes(start, width * (state.compared + 1))
        for offset in range(0, len(entries), width):
            yield start + 2 * int.from_bytes(entries[offset : offset + width], "little")

    # --- Constants ----------------------------------------------------------------------------

    def _execute(self, instruction: Any, state: _State) -> None:
        """Keep track of constants through one instruction."""
        operands = instruction.operands
        target = operands[0].reg if operands and operands[0].type == arm.ARM_OP_REG else None
        value, ones = None, 0
        match instruction.id:
            case arm.ARM_INS_CMP if operands[1].type == arm.ARM_OP_IMM:
                state.compared = operands[1].imm
            case arm.ARM_INS_MOV | arm.ARM_INS_MOVW:
                value = _value(operands[1], state)
            case arm.ARM_INS_MVN:
                value = _apply(lambda a, _: ~a, _value(operands[1], state), 0)
            case arm.ARM_INS_MOVT:
                low = state.values.get(operands[0].reg)
                value = _apply(lambda a, b: a & 0xFFFF | b << 16, low, operands[1].imm)
            case arm.ARM_INS_LDR:
                if (address := _address(instruction, state)) is not None and _from_pool(
                    instruction
                ):
                    value = self._word(address)
            case arm.ARM_INS_ADR:
                value = (instruction.address + 4 & ~3) + operands[1].imm
            case arm.ARM_INS_ADD | arm.ARM_INS_ADDW:
                value = _apply(lambda a, b: a + b, *_sources(operands, state))
            case arm.ARM_INS_SUB | arm.ARM_INS_SUBW:
                value = _apply(lambda a, b: a - b, *_sources(operands, state))
            case arm.ARM_INS_BIC:
                value = _apply(lambda a, b: a & ~b, *_sources(operands, state))
            case arm.ARM_INS_ORR:
                left, right = _sources(operands, state)
                value = _apply(lambda a, b: a | b, left, right)
                ones = (left or 0) | (right or 0)
                for operand in operands:
                    if operand.type == arm.ARM_OP_REG:
                        ones |= state.ones.get(operand.reg, 0)
            case arm.ARM_INS_LSL:
                value = _apply(lambda a, b: a << (b & 31), *_sources(operands, state))
        if _is_call(instruction):
            for register in _CALL_CLOBBERS:
                state.forget(register)
        for register in instruction.regs_access()[1]:
            state.forget(register)
        if target is not None and (value is not None or ones):
            state.learn(target, value, ones)

    # --- What is worth telling ----------------------------------------------------------------

    def _look(self, instruction: Any, state: _State) -> Iterator[tuple[str, str]]:
        """(kind, sentence) of each hazard in one instruction."""
        if instruction.mnemonic in _PLAIN:
            yield _PLAIN[instruction.mnemonic]
        elif instruction.mnemonic == "cpsie":
            self._undone.add("cpsid")
            yield "cpsie", "lets interrupts in (CPSIE)"
        elif instruction.mnemonic == "cpsid":
            yield "cpsid", "masks interrupts (CPSID), and nothing here lets them in again"
        elif instruction.id == arm.ARM_INS_MSR and "primask" in instruction.op_str.lower():
            self._undone.add("cpsid")
        elif instruction.mnemonic.startswith("str"):
            yield from self._store(instruction, state)
        to = _destination(instruction, state)
        if to is not None and not any(to in span for span in self._image.memory):
            yield "outside", f"goes to {to:#010x}, outside its image"

    def _store(self, instruction: Any, state: _State) -> Iterator[tuple[str, str]]:
        address = _address(instruction, state)
        if address is None:
            return
        store = next((store for store in _STORES if address in store[0]), None)
        if store is None:
            return
        _, kind, does = store
        source = instruction.operands[0].reg
        value = state.values.get(source)
        ones = value if value is not None else state.ones.get(source, 0)
        if kind == "systick":
            if value is not None and not value & 1:
                self._undone.add("systick")
                return
            if value is not None and value & 2:
                does += " with its interrupt"
        elif kind == "watchdog" and value == _IWDG_RELOAD:
            return  # feeding a watchdog that runs helps, and one that does not is not started
        elif kind == "reset" and not ones & _SYSRESETREQ:
            return
        elif kind in ("dhcsr", "vtor") and value is not None:
            does += f": {value:#010x}"
        yield kind, does


def _sources(operands: Any, state: _State) -> tuple[int | None, int | None]:
    """The two inputs; the first is the destination where only two operands are written."""
    return _value(operands[-2], state), _value(operands[-1], state)


def _value(operand: Any, state: _State) -> int | None:
    if operand.type == arm.ARM_OP_IMM:
        return int(operand.imm) & _WORD
    if operand.type == arm.ARM_OP_REG and operand.shift.type == arm.ARM_SFT_INVALID:
        return state.values.get(operand.reg)
    return None


def _apply(operation: Any, left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else operation(left, right) & _WORD


def _address(instruction: Any, state: _State) -> int | None:
    """What the instruction's memory operand refers to, where that is known."""
    operand = next((o for o in instruction.operands if o.type == arm.ARM_OP_MEM), None)
    if operand is None:
        return None
    memory = operand.mem
    if memory.base == arm.ARM_REG_PC:
        base: int | None = instruction.address + 4 & ~3
    else:
        base = state.values.get(memory.base)
    offset: int | None = memory.disp
    if memory.index:
        index = state.values.get(memory.index)
        offset = None if index is None else index << operand.shift.value
    return _apply(lambda a, b: a + b, base, offset)


def _from_pool(instruction: Any) -> bool:
    operands = instruction.operands
    return bool(operands[1].type == arm.ARM_OP_MEM and operands[1].mem.base == arm.ARM_REG_PC)


def _is_call(instruction: Any) -> bool:
    return instruction.id in (arm.ARM_INS_BL, arm.ARM_INS_BLX)


def _destination(instruction: Any, state: _State) -> int | None:
    """Where a branch or call goes; None for everything else, and where it is not known."""
    if instruction.id in (arm.ARM_INS_B, arm.ARM_INS_BL, arm.ARM_INS_CBZ, arm.ARM_INS_CBNZ):
        return int(instruction.operands[-1].imm)
    if instruction.id in (arm.ARM_INS_BX, arm.ARM_INS_BLX):
        value = _value(instruction.operands[0], state)
        return None if value is None else value & ~1
    return None


def _ends(instruction: Any) -> bool:
    """Whether execution never goes on at the next instruction."""
    always = instruction.cc in (arm.ARM_CC_AL, arm.ARM_CC_INVALID)
    if instruction.id in (arm.ARM_INS_TBB, arm.ARM_INS_TBH, arm.ARM_INS_UDF):
        return True
    if instruction.id in (arm.ARM_INS_B, arm.ARM_INS_BX):
        return always
    written = instruction.regs_access()[1]
    return (
        always
        and arm.ARM_REG_PC in written
        and not _is_call(instruction)
        and (instruction.id in (arm.ARM_INS_POP, arm.ARM_INS_LDM, arm.ARM_INS_LDR, arm.ARM_INS_MOV))
    )
