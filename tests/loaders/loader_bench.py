"""A loader on the simulated board, called straight on its core: no probe, no server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elftools.elf.elffile import ELFFile

from gdbserver.chip.cortex_m import Selector
from gdbserver.loader.file import CONFIG, FOUND
from gdbserver.sim.board import Board, BoardOptions
from gdbserver.sim.bus import Master
from gdbserver.sim.clock import SECOND

BUILT = Path(__file__).parents[2] / "loaders" / "built"

NOR = 0x90000000
BUFFER = 0x24010000
STACK = 0x20010000
TRAP = 0x20010000  # behind the stack: a BKPT

READY, NO_ANSWER, STUCK_BUSY, UNSUPPORTED, QE_REFUSED = 1, 2, 3, 5, 6
OUT_OF_RANGE, WRITE_REFUSED, NOT_ERASED, NOT_PROGRAMMED, NOT_ALIKE = 7, 8, 9, 10, 11
FOUND_SFDP, FOUND_ENTERED_4BYTE, FOUND_FLAG_STATUS, FOUND_QUAD_FAILED, FOUND_QE_SET = (
    1 << bit for bit in range(5)
)


class Bench:
    """One board with our QSPI loader in its AXI SRAM."""

    def __init__(
        self,
        options: BoardOptions | None = None,
        *,
        config: Mapping[str, object] | None = None,
        fill: int = 0xA5,
    ) -> None:
        self.board = Board(options)
        self._reset_and_halt()
        self.symbols: dict[str, int] = {}
        # Whatever was in RAM before: a loader may rely on what is in its file, no more.
        self.write(0x24000000, bytes([fill]) * 0x20000)
        with (BUILT / "qspi.stldr").open("rb") as file:
            elf = ELFFile(file)
            code = next(s for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1)
            assert code["p_filesz"] == code["p_memsz"]
            self.write(code["p_vaddr"], code.data())
            for symbol in elf.get_section_by_name(".symtab").iter_symbols():
                self.symbols[symbol.name] = symbol["st_value"]
        if config is not None:
            self.write(self.symbols["config"], CONFIG.build(config))
        self.write(TRAP, b"\x00\xbe")

    def _reset_and_halt(self) -> None:
        """As a debugger does: debug on, faults and reset caught, SYSRESETREQ."""
        write = self.board.bus.write
        write(0xE000EDF0, 4, 0xA05F0003, Master.AP0)  # DHCSR: C_DEBUGEN, C_HALT
        write(0xE000EDFC, 4, 0x010007F1, Master.AP0)  # DEMCR: TRCENA, all of vector catch
        write(0xE000ED0C, 4, 0x05FA0004, Master.AP0)  # AIRCR: SYSRESETREQ
        self.board.run_until(self.board.clock.now + SECOND // 1000)
        assert self.board.core.halted

    def write(self, address: int, data: bytes) -> None:
        for offset in range(0, len(data), 4):
            part = data[offset : offset + 4].ljust(4, b"\0")
            self.board.bus.write(address + offset, 4, int.from_bytes(part, "little"), Master.AP0)

    def read(self, address: int, length: int) -> bytes:
        start, end = address & ~3, address + length + 3 & ~3
        words = (self.board.bus.read(at, 4, Master.AP0) for at in range(start, end, 4))
        data = b"".join(word.to_bytes(4, "little") for word in words)
        return data[address - start : address - start + length]

    @property
    def found(self) -> object:
        return FOUND.parse(self.read(self.symbols["found"], FOUND.sizeof()))

    def call(self, routine: str, *arguments: int, seconds: float = 1000.0) -> int:
        """Run a routine until it returns; r0 (and r1, for 64-bit results, in `high`)."""
        core = self.board.core
        for register in range(4):
            core.write_register(register, (*arguments, 0, 0, 0, 0)[register])
        core.write_register(9, 0)
        core.write_register(Selector.MSP, STACK)
        core.write_register(13, STACK)
        core.write_register(14, TRAP | 1)
        core.write_register(Selector.XPSR, 1 << 24)
        core.write_register(Selector.PC, self.symbols[routine] & ~1)
        start, cycles = self.board.clock.now, core.cycles
        core.resume()
        until = start + int(seconds * SECOND)
        while not core.halted and self.board.clock.now < until:
            # In small steps at first: a core that waits is taken to the end of a step.
            step = max(SECOND // 1000, (self.board.clock.now - start) // 50)
            self.board.run_until(min(until, self.board.clock.now + step))
        if not core.halted:
            core.request_halt()
            at = core.read_register(Selector.PC)
            raise AssertionError(f"{routine} still runs after {seconds} s, at {at:#010x}")
        at = core.read_register(Selector.PC)
        assert at == TRAP, f"{routine} did not return: pc is {at:#010x}"
        self.seconds = (core.cycles - cycles) / 64_000_000  # the clock that reset leaves
        self.high = core.read_register(1)
        return core.read_register(0)

    def program(self, offset: int, data: bytes) -> int:
        self.write(BUFFER, data)
        return self.call("Write", NOR + offset, len(data), BUFFER)
