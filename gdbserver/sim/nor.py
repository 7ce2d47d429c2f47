"""A serial NOR flash as a die: what goes in and out of its pins in one chip-select cycle.

`transfer` is the only way in.  It takes a `Frame`, the phases that a controller put on the
wires, and decodes it as the die does: instruction first, then whatever *that* instruction
wants.  A frame that has the expected shape is taken at once.  Any other is unrolled clock by
clock, so that a missing dummy cycle, a wrong number of lines or a three-byte address in
four-byte mode gives just the shifted bits that silicon gives, and not an error message.

Rule 1: only this module changes the array, and only by clearing bits or by erasing.
Rule 2: an operation starts when chip select rises and takes effect when it ends; while it
runs the die answers status reads and little else.
Rule 3: a reset of the microcontroller does nothing here.  `power_cycle` does.

Datasheets of Winbond W25Q256JV, W25Q128JV and W25Q64JV ("Instructions", "Status and
Configuration Registers", "AC Electrical Characteristics"), Micron MT25QL512ABB ("Command
Definitions", "Volatile Configuration Register", "XIP Mode"), ISSI IS25LP256D ("Registers",
"Device Operation").
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

from gdbserver.chip.memory import Span
from gdbserver.sim.clock import Clock, Event, Timing
from gdbserver.sim.nor_commands import BY_MODE, Command, Data, Operation, Request
from gdbserver.sim.nor_frames import Clocks, Frame, sample
from gdbserver.sim.nor_parts import PARTS, Part
from gdbserver.sim.nor_vendors import Vendor, repeat

log = logging.getLogger(__name__)

PAGE = 256


class Nor:
    """The die.  `timing` picks the typical or the maximum times of the datasheet.

    Inspection: `memory`, `contents`, `erases`, `programs`, `busy`, `busy_until`,
    `address_bytes`.  Faults: `stick_busy`, `fail_cell`, `power_cycle`, `lift_off`, and setting
    `jedec_id`.
    """

    def __init__(
        self,
        part: str,
        clock: Clock,
        *,
        timing: Timing = "typical",
        memory: bytearray | memoryview | None = None,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f"no NOR is called {part!r}; there are {', '.join(PARTS)}")
        self.part: Part = PARTS[part]
        self.clock = clock
        self.memory = bytearray(b"\xff") * self.part.size if memory is None else memory
        """The array; shared with whoever executes from it, never rebound.  Of one of two dice
        side by side it is every other byte of what the microcontroller sees."""
        self.jedec_id = self.part.jedec_id
        self.erases: Counter[tuple[int, int]] = Counter()
        """Erases that began, by (address, size)."""
        self.programs: Counter[int] = Counter()
        """Page programs that began, by the page's address."""
        self.on_change: list[Callable[[], None]] = []
        """Called when the die becomes busy or ready, or understands reads differently."""
        self._timing = 0 if timing == "typical" else 1
        self._on_board = True
        self._failed: dict[int, int] = {}
        self._stuck: Literal["no", "next", "yes"] = "no"
        self._event: Event | None = None
        self._operation: Operation | None = None
        self._suspended: Operation | None = None
        self.vendor: Vendor = self.part.vendor(self)
        self._actions: Mapping[int, Callable[[Request], bytes]] = {
            opcode: self._action(command.action) for opcode, command in self.part.commands.items()
        }
        self._power_up()

    def _action(self, name: str) -> Callable[[Request], bytes]:
        action: Callable[[Request], bytes] = getattr(
            self.vendor if hasattr(self.vendor, name) else self, name
        )
        return action

    # --- State ------------------------------------------------------------------------------

    def _power_up(self) -> None:
        self._operation = self._suspended = self._event = None
        self.write_enabled = False
        self.volatile_write_enabled = False
        self.powered_down = False
        self.protocol = 1
        self.wrap = 0  # bytes; 0 for no wrap
        self.extended_address = 0
        self.four_byte = False
        self._deaf_until = 0
        self._reset_enabled = False
        self._continuous: int | None = None
        self.vendor.power_up()

    @property
    def busy(self) -> bool:
        return self._operation is not None or self._stuck == "yes"

    @property
    def suspended(self) -> bool:
        return self._suspended is not None

    @property
    def suspended_kind(self) -> str | None:
        return self._suspended.kind if self._suspended is not None else None

    @property
    def busy_until(self) -> int | None:
        """When BUSY falls, or None if it is not set, or never falls."""
        return self._event.when if self.busy and self._event is not None else None

    @property
    def changes_at(self) -> int | None:
        """When a status read can next give something else by itself."""
        if self.clock.now < self._deaf_until:
            return self._deaf_until
        return self._event.when if self._event is not None else None

    @property
    def address_bytes(self) -> int:
        """Address bytes of instructions whose length depends on the mode."""
        return 4 if self.four_byte else 3

    def contents(self, start: int, length: int) -> bytes:
        """What an ideal reader would find in the array."""
        return bytes(self.memory[start : start + length])

    def time(self, what: str | int) -> int:
        """A datasheet time in nanoseconds: by name, or the erase of so many bytes."""
        return self.part.times[what][self._timing]

    def changed(self) -> None:
        """From now on reads mean something else: tell all that relied on them."""
        for notify in self.on_change:
            notify()

    # --- Faults ------------------------------------------------------------------------------

    def stick_busy(self, *, now: bool = False) -> None:
        """The operation under way, else the next one (with `now`: none at all), never ends."""
        if now or self._operation is not None:
            self._stuck = "yes"
            self._cancel()
            self.changed()
        else:
            self._stuck = "next"

    def fail_cell(self, address: int, bit: int | None = None) -> None:
        """One bit, or all of a byte, keeps for ever the value that it has now."""
        mask = 0xFF if bit is None else 1 << bit
        self._failed[address] = self._failed.get(address, 0) | mask

    def lift_off(self) -> None:
        """The part is not on the board (any more): nobody hears, and nobody drives a line."""
        self._on_board = False
        self.changed()

    def power_cycle(self) -> None:
        """Power goes and comes back: what was being programmed or erased stays as far as it got."""
        self._stuck = "no"
        self._break_off()
        self.vendor.power_cycled()
        self._power_up()
        self.changed()

    # --- The seam ------------------------------------------------------------------------------

    def transfer(self, frame: Frame) -> bytes:
        """One chip-select cycle; gives the `frame.read` bytes that the controller samples."""
        if self.clock.now < self._deaf_until or not self._on_board:
            return b"\xff" * frame.read
        before = self._reading()
        request, late = self._decode(frame)
        answer = b""
        if request is not None:
            answer = self._execute(request)
        else:
            self._reset_enabled = False
        if self._reading() != before:
            self.changed()
        if not frame.read:
            return b""
        if late is None:
            return answer or b"\xff" * frame.read
        lines = self._lines(request.command)[1] if request is not None else 1
        return sample(frame, answer, lines, late)

    def _reading(self) -> tuple[object, ...]:
        """All that decides how a read of the array is understood, registers aside."""
        return (
            self.busy,
            self.powered_down,
            self.four_byte,
            self.extended_address,
            self.protocol,
            self.wrap,
            self._continuous,
        )

    def understands(self, frame: Frame) -> bool:
        """Would this frame, for any address, read the array from just that address on?"""
        if self.busy or self.powered_down or self.suspended or self.clock.now < self._deaf_until:
            return False
        if not self._on_board:
            return False
        command = self._command(frame.instruction)
        if command is None or command.action != "read_array":
            return False
        if not self._fits(frame, command) or not self._usable(command):
            return False
        if self.wrap and command.wraps:
            return False
        return self._address_length(command) == 4 or self.extended_address == 0

    def _command(self, instruction: int | None) -> Command | None:
        if self._continuous is not None:
            return self.part.commands[self._continuous] if instruction is None else None
        return self.part.commands.get(instruction) if instruction is not None else None

    def _lines(self, command: Command) -> tuple[int, int]:
        """Of address and data: the instruction's own, or all that the protocol uses."""
        return command.lines if self.protocol == 1 else (self.protocol, self.protocol)

    def _fits(self, frame: Frame, command: Command) -> bool:
        """Does the frame have just the shape that the instruction has?"""
        lines_of_address, lines_of_data = self._lines(command)
        if frame.ddr != command.ddr:
            return False
        if frame.instruction is not None and frame.instruction_lines != self.protocol:
            return False
        if frame.address_bytes != self._address_length(command):
            return False
        if frame.address_bytes and frame.address_lines != lines_of_address:
            return False
        between = frame.dummy
        if frame.alternate_bytes:
            if frame.alternate_lines != lines_of_address:
                return False
            edges = 2 if frame.ddr else 1
            between += 8 * frame.alternate_bytes // frame.alternate_lines // edges
        if between != self.vendor.waits(command):
            return False
        if (frame.read or frame.write) and frame.data_lines != lines_of_data:
            return False
        if frame.write:
            return command.data is Data.IN
        return command.data is not Data.NONE or not frame.read

    def _address_length(self, command: Command) -> int:
        return self.address_bytes if command.address == BY_MODE else command.address

    def _decode(self, frame: Frame) -> tuple[Request | None, int | None]:
        """The request in a frame, and how many clocks late the controller samples.

        None for "not late at all" means that the frame has the instruction's own shape.
        """
        command = self._command(frame.instruction)
        if command is not None and self._fits(frame, command) and self._usable(command):
            mode = 0xFF
            if frame.alternate_bytes:
                mode = frame.alternate >> 8 * (frame.alternate_bytes - 1) & 0xFF
            return Request(command, frame.address, mode, frame.write, frame.read), None
        return self._decode_clocks(frame)

    def _usable(self, command: Command) -> bool:
        if self.protocol == 4 and not command.qpi:
            return False
        return max(self._lines(command)) < 4 or self.vendor.quad_enabled

    def _decode_clocks(self, frame: Frame) -> tuple[Request | None, int]:
        driven = frame.driven()
        if not self.vendor.quad_enabled:
            # IO3 is HOLD#: while it is low the die does not see the clock.
            driven = [level for level in driven if level & 0x8]
        clocks = Clocks([*driven, *frame.released()])
        opcode = self._continuous
        if opcode is None:
            if clocks.left < 8 // self.protocol:
                return None, 0
            opcode = clocks.take(8, self.protocol)
        command = self.part.commands.get(opcode)
        if command is None or not self._usable(command) or command.ddr:
            log.info("%s: instruction %#04x is not for this part now", self.part.name, opcode)
            return None, 0
        request = Request(command, mode=-1)
        for_address, for_data = self._lines(command)
        request.address = clocks.take(8 * self._address_length(command), for_address)
        waits = self.vendor.waits(command)
        if min(waits, clocks.left) >= 8 // for_address:
            request.mode = clocks.take(8, for_address)
            waits -= 8 // for_address
        clocks.skip(waits)
        late = len(driven) - clocks.position
        rest = clocks.left
        request.complete = rest >= 0
        request.exact = rest == 0 if command.data is Data.NONE else rest * for_data % 8 == 0
        if command.data is Data.IN and rest > 0:
            count = rest * for_data // 8
            request.write = clocks.take(8 * count, for_data).to_bytes(count, "big")
        elif command.data is Data.OUT and rest > 0:
            request.read = -(-rest * for_data // 8)
        return request, late

    # --- Executing -----------------------------------------------------------------------------

    def _execute(self, request: Request) -> bytes:
        command = request.command
        if command.action != "reset":
            self._reset_enabled = False
        if self.powered_down and not command.when_down:
            return b""
        if self.busy and not command.when_busy:
            log.info("%s: %s ignored while busy", self.part.name, command.name)
            return b""
        if command.action == "read_array" and request.mode != -1:
            more = self.vendor.continues(command, request.mode)
            self._continuous = command.opcode if more else None
        if not request.complete and command.action != "release":
            return b""
        if command.data is not Data.OUT and not request.exact:
            log.info("%s: %s ends off its boundary and is ignored", self.part.name, command.name)
            return b""
        if command.needs_write_enable and not self.write_enabled:
            log.info("%s: %s without write enable", self.part.name, command.name)
            return b""
        return self._actions[command.opcode](request)

    def write_enable(self, request: Request) -> bytes:
        self.write_enabled = True
        return b""

    def write_disable(self, request: Request) -> bytes:
        self.write_enabled = self.volatile_write_enabled = False
        return b""

    def volatile_write_enable(self, request: Request) -> bytes:
        self.volatile_write_enabled = True
        return b""

    def enable_reset(self, request: Request) -> bytes:
        self._reset_enabled = True
        return b""

    def reset(self, request: Request) -> bytes:
        """Only right after `enable_reset`.  What was under way stays as far as it got."""
        if self._reset_enabled:
            self._break_off()
            self._power_up()
            self._deaf_until = self.clock.now + self.time("reset")
            self.changed()
        return b""

    def jedec(self, request: Request) -> bytes:
        return repeat(self.jedec_id, request.read)

    def read_sfdp(self, request: Request) -> bytes:
        table = self.part.sfdp
        start = request.address & 0xFF
        return repeat(table[start:] + table[:start], request.read)

    def read_unique_id(self, request: Request) -> bytes:
        return repeat(self.part.unique_id, request.read)

    def read_array(self, request: Request) -> bytes:
        start = self.full_address(request)
        if self.wrap and request.command.wraps:
            base = start - start % self.wrap
            ring = bytes(self.memory[base : base + self.wrap])
            turn = start - base
            return repeat(ring[turn:] + ring[:turn], request.read)
        data = bytes(self.memory[start : start + request.read])
        while len(data) < request.read:  # the address counter rolls over
            data += bytes(self.memory[: request.read - len(data)])
        return data

    def full_address(self, request: Request) -> int:
        """The address on the wires, completed by the extended address register."""
        address = request.address
        if self._address_length(request.command) == 3:
            address = address & 0xFFFFFF | self.extended_address << 24
        return address % self.part.size

    def page_program(self, request: Request) -> bytes:
        if not request.write:
            return b""
        address = self.full_address(request)
        page = address - address % PAGE
        if self._may_change(Span.of(page, PAGE), "program"):
            self.programs[page] += 1
            image = _wrap_into_page(address - page, request.write)
            span = Span.of(page, PAGE)
            self.start(Operation("program", span, self.time("program"), image=image))
        return b""

    def erase(self, request: Request) -> bytes:
        size = request.command.size
        address = self.full_address(request)
        span = Span.of(address - address % size, size)
        if self._may_change(span, "erase"):
            self.erases[span.start, size] += 1
            self.start(Operation("erase", span, self.time(size)))
        return b""

    def chip_erase(self, request: Request) -> bytes:
        span = Span.of(0, self.part.size)
        if self._may_change(span, "erase"):
            self.erases[0, self.part.size] += 1
            self.start(Operation("chip erase", span, self.time("chip")))
        return b""

    def _may_change(self, span: Span, what: Literal["program", "erase"]) -> bool:
        """Protection and suspension; a refusal clears WEL and has no other effect."""
        held = self._suspended
        if held is not None and (
            what == "erase" or held.kind == "program" or len(held.span & span)
        ):
            log.info("%s: %s of %s refused: suspended", self.part.name, what, span)
            return False
        if self.vendor.protected(span):
            log.info("%s: %s of %s refused: protected", self.part.name, what, span)
            self.vendor.refused(what)
            return False
        return True

    def enter_four_byte(self, request: Request) -> bytes:
        self.four_byte = True
        return b""

    def exit_four_byte(self, request: Request) -> bytes:
        self.four_byte = False
        return b""

    def enter_quad_protocol(self, request: Request) -> bytes:
        """QPI: from now on everything, opcodes too, travels on four lines."""
        self.protocol = 4
        return b""

    def leave_quad_protocol(self, request: Request) -> bytes:
        self.protocol = 1
        return b""

    def read_extended_address(self, request: Request) -> bytes:
        return bytes([self.extended_address]) * request.read

    def power_down(self, request: Request) -> bytes:
        self.powered_down = True
        self._deaf_until = self.clock.now + self.time("power down")
        return b""

    def release(self, request: Request) -> bytes:
        """Wakes the die; with its dummy bytes clocked, also gives the device id."""
        if self.powered_down:
            self.powered_down = False
            self._deaf_until = self.clock.now + self.time("release")
        return bytes([self.part.device_id]) * request.read if request.complete else b""

    def suspend(self, request: Request) -> bytes:
        """Programs and erases of the array, chip erase excepted, stop after tSUS."""
        operation = self._operation
        if (
            operation is None
            or self._suspended is not None
            or operation.kind not in {"program", "erase"}
            or self._stuck == "yes"
        ):
            return b""
        self._cancel()
        operation.done = min(
            operation.duration, operation.done + self.clock.now - operation.started
        )
        operation.started = self.clock.now
        self._event = self.clock.after(self.time("suspend"), self._suspend_now)
        return b""

    def _suspend_now(self) -> None:
        self._suspended, self._operation, self._event = self._operation, None, None
        self.write_enabled = False
        self.changed()

    def resume(self, request: Request) -> bytes:
        if self._suspended is not None and not self.busy:
            operation, self._suspended = self._suspended, None
            self.start(operation)
        return b""

    # --- Operations ------------------------------------------------------------------------------

    def start(self, operation: Operation) -> None:
        """Make the die busy with this."""
        operation.started = self.clock.now
        self._operation = operation
        if self._stuck == "next":
            self._stuck = "yes"
        if self._stuck == "no":
            self._event = self.clock.after(operation.duration - operation.done, self._finish)

    def _cancel(self) -> None:
        if self._event is not None:
            self._event.cancel()
            self._event = None

    def _finish(self) -> None:
        operation, self._operation, self._event = self._operation, None, None
        assert operation is not None
        self.write_enabled = False
        self._apply(operation, 1.0)
        operation.finish()
        self.changed()

    def _break_off(self) -> None:
        """Reset or power loss: operations under way stop where they are."""
        self._cancel()
        for operation in (self._operation, self._suspended):
            if operation is None:
                continue
            done = operation.done
            if operation is self._operation:
                done += self.clock.now - operation.started
            self._apply(operation, min(1.0, done / operation.duration))

    def _apply(self, operation: Operation, part: float) -> None:
        """What an operation has done to the array after this part of its time.

        A program goes through the page from its first byte.  An erase first programs
        everything to zero, then erases; both from the first byte.
        """
        start, length = operation.span.start, len(operation.span)
        if operation.kind == "program":
            image = operation.image
            if part < 1:
                keep = int(length * part)
                image = image[:keep] + b"\xff" * (length - keep)
            old = int.from_bytes(self.memory[start : start + length], "little")
            new = old & int.from_bytes(image, "little")
            self._put(start, new.to_bytes(length, "little"), "program")
        elif operation.kind in {"erase", "chip erase"}:
            zeroed = int(length * min(1.0, 2 * part))
            erased = int(length * max(0.0, 2 * part - 1))
            tail = bytes(self.memory[start + zeroed : start + length])
            self._put(start, b"\xff" * erased + bytes(zeroed - erased) + tail, "erase")

    def _put(self, start: int, data: bytes, what: Literal["program", "erase"]) -> None:
        end = start + len(data)
        kept = {a: self.memory[a] for a in self._failed if start <= a < end}
        self.memory[start:end] = data
        for address, old in kept.items():
            mask = self._failed[address]
            new = self.memory[address]
            self.memory[address] = old & mask | new & ~mask & 0xFF
            if self.memory[address] != new:
                self.vendor.failed(what)


def _wrap_into_page(offset: int, data: bytes) -> bytes:
    """What the page buffer holds once `data` was clocked in: the last 256 bytes win."""
    image = bytearray(b"\xff") * PAGE
    skipped = max(0, len(data) - PAGE)
    offset, data = (offset + skipped) % PAGE, data[skipped:]
    until_end = data[: PAGE - offset]
    image[offset : offset + len(until_end)] = until_end
    image[: len(data) - len(until_end)] = data[len(until_end) :]
    return bytes(image)
