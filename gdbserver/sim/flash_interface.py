"""The embedded flash memory and its controller: what the two banks have in common.

RM0433, "Embedded flash memory (FLASH)".  A bank is `flash_bank.FlashBank`; here are the two
register sets, the option bytes, mass erase, swapped banks, and readout protection.

Where the manual is silent: a change of option bytes takes `OPTION_CHANGE` and keeps both
banks busy; a change that is cut short by a reset has not happened.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import (
    BANK1,
    BANK2,
    FLASH_ACR,
    FLASH_BANK2_OFFSET,
    FLASH_BOOT_CUR,
    FLASH_BOOT_PRG,
    FLASH_CRCDATA,
    FLASH_KEYR,
    FLASH_OPTCCR,
    FLASH_OPTCR,
    FLASH_OPTKEY1,
    FLASH_OPTKEY2,
    FLASH_OPTKEYR,
    FLASH_OPTSR_CUR,
    FLASH_OPTSR_PRG,
    FLASH_SIZE,
    FLASH_SR,
    KIB,
    MASS_ERASE_SECONDS,
    SYSTEM_FLASH_1,
    UID,
    FlashSr,
)
from gdbserver.sim.bus import Bus, BusStall, Direct, Master
from gdbserver.sim.clock import MILLISECOND, SECOND, Clock, Timing
from gdbserver.sim.flash_bank import BANK_OPTIONS, FLAGS, FlashBank, KeyLock, Operation
from gdbserver.sim.polling import AccessKind
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    on_read,
    on_write,
)

log = logging.getLogger(__name__)

OPTION_CHANGE = 20 * MILLISECOND  # not published

# What parts come with: the option bytes of an STM32H743 as delivered.
OPTSR_DELIVERED = 0x1BC6AAF0
BOOT_DELIVERED = 0x1FF00800
_STATUS = 0x40000001  # OPTSR_CUR: OPTCHANGEERR, OPT_BUSY

_OPTSR = BitStruct(
    "SWAP_BANK_OPT" / Flag,
    "OPTCHANGEERR" / Flag,
    Unmodelled("IO_HSLV"),
    Padding(7),
    "SECURITY" / Flag,
    Unmodelled("ST_RAM_SIZE", 2),
    Unmodelled("IWDG_FZ_SDBY"),
    Unmodelled("IWDG_FZ_STOP"),
    Padding(1),
    "RDP" / BitsInteger(8),
    Unmodelled("NRST_STBY_D1"),
    Unmodelled("NRST_STOP_D1"),
    Padding(1),
    "IWDG1_SW" / Flag,
    Unmodelled("BOR_LEV", 2),
    Padding(1),
    "OPT_BUSY" / Flag,
)
_BOOT = BitStruct("BOOT_ADD1" / BitsInteger(16), "BOOT_ADD0" / BitsInteger(16))


class SharedRegisters(Peripheral):
    """The registers that show up at the offsets of both banks."""

    size = FLASH_BANK2_OFFSET

    ACR = Register(
        FLASH_ACR,
        # Both follow from the clock on silicon; here no value is too small, and WRHIGHFREQ
        # has no effect.
        BitStruct(Padding(26), "WRHIGHFREQ" / BitsInteger(2), "LATENCY" / BitsInteger(4)),
        reset=0x00000037,
    )
    OPTKEYR = Register(FLASH_OPTKEYR, BitStruct("OPTKEYR" / BitsInteger(32)), writable=0)
    OPTCR = Register(
        FLASH_OPTCR,
        BitStruct(
            "SWAP_BANK" / Flag,
            "OPTCHANGEERRIE" / Flag,
            Padding(25),
            "MER" / Flag,
            Padding(2),
            "OPTSTART" / Flag,
            "OPTLOCK" / Flag,
        ),
        reset=0x00000001,
        writable=0x7FFFFFFF,
    )
    OPTSR_CUR = Register(FLASH_OPTSR_CUR, _OPTSR, reset=OPTSR_DELIVERED, writable=0)
    OPTSR_PRG = Register(FLASH_OPTSR_PRG, _OPTSR, reset=OPTSR_DELIVERED, writable=~_STATUS)
    OPTCCR = Register(
        FLASH_OPTCCR, BitStruct(Padding(1), "CLR_OPTCHANGEERR" / Flag, Padding(30)), writable=0
    )
    BOOT_CUR = Register(FLASH_BOOT_CUR, _BOOT, reset=BOOT_DELIVERED, writable=0)
    BOOT_PRG = Register(FLASH_BOOT_PRG, _BOOT, reset=BOOT_DELIVERED)
    CRCDATA = Register(FLASH_CRCDATA, BitStruct("CRC_DATA" / BitsInteger(32)), writable=0)

    def __init__(self, interface: FlashInterface) -> None:
        self.interface = interface
        self.lock = KeyLock(FLASH_OPTKEY1, FLASH_OPTKEY2)
        super().__init__("FLASH")

    def reset(self) -> None:
        options = {r: self.raw(r) for r in _SHARED_OPTIONS} if self._values else {}
        super().reset()
        for current, value in options.items():
            self.set_raw(current, value & ~_STATUS if current is self.OPTSR_CUR else value)
            self.set_raw(_SHARED_OPTIONS[current], self.raw(current))
        self.update(self.OPTCR, SWAP_BANK=self[self.OPTSR_CUR].SWAP_BANK_OPT)
        self.lock.reset()

    @on_read(OPTCR)
    def _refresh_lock(self) -> None:
        self.update(self.OPTCR, OPTLOCK=self.lock.locked)

    @on_write(OPTCR)
    def _control(self, optcr: Fields) -> None:
        if self.lock.locked:
            log.warning("FLASH: OPTCR written while locked")
            return
        if optcr.OPTSTART or optcr.MER:
            self.interface.wait_until_idle()
        self.store(optcr)
        self.update(self.OPTCR, OPTSTART=0, MER=0)
        if optcr.MER:
            self.interface.mass_erase()
        if optcr.OPTSTART:
            self.interface.change_options()
        if optcr.OPTLOCK:
            self.lock.close()
        self.interface.update_irq()

    @on_read(OPTSR_CUR)
    def _refresh(self) -> None:
        self.update(self.OPTSR_CUR, OPT_BUSY=self.interface.changing_options)

    @on_write(OPTCCR)
    def _clear(self, optccr: Fields) -> None:
        if optccr.CLR_OPTCHANGEERR:
            self.update(self.OPTSR_CUR, OPTCHANGEERR=0)
            self.interface.update_irq()


_SHARED_OPTIONS = {
    SharedRegisters.OPTSR_CUR: SharedRegisters.OPTSR_PRG,
    SharedRegisters.BOOT_CUR: SharedRegisters.BOOT_PRG,
}
_PRG_OFFSETS = {r.offset for r in (*BANK_OPTIONS.values(), *_SHARED_OPTIONS.values())}


class RegisterFile:
    """The controller's registers on the bus: two sets, one for each bank as it is mapped."""

    size = 2 * FLASH_BANK2_OFFSET

    def __init__(self, interface: FlashInterface) -> None:
        self._interface = interface

    def read(self, offset: int, size: int, master: Master) -> int:
        number, offset = divmod(offset, FLASH_BANK2_OFFSET)
        if number > 1:
            return 0
        if offset & ~3 in SharedRegisters.registers:
            return self._interface.shared.read(offset, size, master)
        return self._interface.mapped[number].read(offset, size, master)

    def quick_read(self, offset: int, size: int) -> int | None:
        """SR, which software waits for."""
        number, offset = divmod(offset, FLASH_BANK2_OFFSET)
        return self._interface.mapped[number].status() if offset == FLASH_SR and size == 4 else None

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        number, offset = divmod(offset, FLASH_BANK2_OFFSET)
        if number > 1:
            return
        bank, shared = self._interface.mapped[number], self._interface.shared
        register = offset & ~3
        if register == FLASH_KEYR:
            bank.lock.give(value) if size == 4 else bank.lock.jam()
        elif bank.lock.half_open:
            bank.lock.jam()
        elif register == FLASH_OPTKEYR:
            shared.lock.give(value) if size == 4 else shared.lock.jam()
        elif register in _PRG_OFFSETS and shared.lock.locked:
            log.warning("FLASH: option register %#04x written while OPTCR is locked", register)
        elif register in SharedRegisters.registers:
            shared.write(offset, size, value, master)
        else:
            bank.write(offset, size, value, master)


class FlashArray:
    """What is mapped at the address of bank 1 or 2: the other bank, when they are swapped."""

    def __init__(self, interface: FlashInterface, number: int) -> None:
        self._interface = interface
        self._number = number

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self.read_block(offset, size, master), "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        self._interface.touched_by(master)
        bank = self._interface.mapped[self._number - 1]
        bank.write_array(offset, value.to_bytes(size, "little"), master)

    def quick_write(self, offset: int, size: int, value: int) -> AccessKind | None:
        """Seven of eight words that a program stores."""
        filled = self._interface.mapped[self._number - 1].fill(offset, size, value)
        return AccessKind.ACT if filled else None

    def read_block(self, offset: int, length: int, master: Master) -> bytes:
        self._interface.touched_by(master)
        return self._interface.mapped[self._number - 1].read_array(offset, length)

    def write_block(self, offset: int, data: bytes, master: Master) -> None:
        self._interface.touched_by(master)
        self._interface.mapped[self._number - 1].write_array_block(offset, data, master)

    def direct(self, offset: int) -> Direct | None:
        return self._interface.mapped[self._number - 1].direct(offset)


class SystemFlash:
    """ST's boot loader, which is not there, and what ST wrote beside it.  Reads only."""

    def __init__(self, data: dict[int, bytes], length: int = len(SYSTEM_FLASH_1)) -> None:
        self.data = bytearray(b"\xff") * length
        for offset, value in data.items():
            self.data[offset : offset + len(value)] = value

    def read(self, offset: int, size: int, master: Master) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int, master: Master) -> None:
        log.warning("write to system flash at offset %#07x is ignored", offset)

    def direct(self, offset: int) -> Direct | None:
        return Direct(0, self.data, writable=False)


class FlashInterface:
    """The embedded flash memory and its controller.

    `on_irq` is called with the level of interrupt line 4, `on_changing` with a bank's addresses
    when it begins to be erased or programmed.  `axi_hz` is the clock that the CRC unit runs on;
    `debugger` says whether one is connected, which readout protection level 1 minds.
    """

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        *,
        timing: Timing = "typical",
        flash_kib: int = 2048,
        rdp: int = 0xAA,
        uid: bytes = bytes.fromhex("2f003500 0d513330 33353530"),
        axi_hz: Callable[[], int] = lambda: 64_000_000,
        debugger: Callable[[], bool] = lambda: False,
    ) -> None:
        self.timing: Timing = timing
        self._axi_hz = axi_hz
        self.debugger = debugger
        self.on_irq: Callable[[bool], None] = lambda level: None
        self.on_changing: Callable[[Span], None] = lambda span: None
        self.erases: Counter[int] = Counter()
        """How often the sector that starts at an address was erased."""
        self.programs: Counter[int] = Counter()
        """How often the flash word at an address was programmed."""
        self.rdp_level, self.secure = 0, False
        self._bus = bus
        self._irq = False
        self._intruded = False
        self.changing_options = False
        self.refuse_option_change = False
        # H750: a single sector, in bank 1.
        sizes = (flash_kib // 2, flash_kib // 2) if flash_kib > 128 else (flash_kib, 0)
        self.shared = SharedRegisters(self)
        self.banks = (
            FlashBank(1, sizes[0] * KIB, clock, self),
            FlashBank(2, sizes[1] * KIB, clock, self),
        )
        self.mapped = self.banks
        """The banks as they are mapped now: swapped, or as they are numbered."""
        self.registers = RegisterFile(self)
        self._arrays = (FlashArray(self, 1), FlashArray(self, 2))
        self.system = SystemFlash(
            {
                UID - SYSTEM_FLASH_1.start: uid,
                FLASH_SIZE - SYSTEM_FLASH_1.start: flash_kib.to_bytes(2, "little"),
            }
        )
        self.system_2 = SystemFlash({})
        self.shared.update(SharedRegisters.OPTSR_CUR, RDP=rdp)
        self.shared.update(SharedRegisters.OPTSR_PRG, RDP=rdp)
        self._note_options()

    def array(self, number: int) -> FlashArray:
        """The bus device for the addresses of bank 1 or 2."""
        return self._arrays[number - 1]

    def base(self, bank: FlashBank) -> int:
        """The address where `bank` is mapped now."""
        return (BANK1, BANK2)[self.mapped.index(bank)].start

    def reset(self) -> None:
        """A system reset: operations are cut short, locks close, banks swap if asked to."""
        self.changing_options = False
        for bank in self.banks:
            bank.take_back()
            bank.reset()
        self.shared.reset()
        swapped = self.shared[SharedRegisters.OPTCR].SWAP_BANK
        self.mapped = (self.banks[1], self.banks[0]) if swapped else self.banks
        self.update_irq()

    def power_loss(self) -> None:
        """Power goes and returns: a reset that also ends what a debugger saw at RDP level 1."""
        self._intruded = False
        self.reset()

    # --- What the banks ask for -------------------------------------------------------------

    @property
    def latency(self) -> int:
        return self.shared[SharedRegisters.ACR].LATENCY

    @property
    def axi_hz(self) -> int:
        return self._axi_hz()

    @property
    def crc_result(self) -> int:
        return self.shared.raw(SharedRegisters.CRCDATA)

    @crc_result.setter
    def crc_result(self, value: int) -> None:
        self.shared.set_raw(SharedRegisters.CRCDATA, value)

    @property
    def crc_busy(self) -> bool:
        return any(bank.crc_busy for bank in self.banks)

    def _note_options(self) -> None:
        optsr = self.shared[SharedRegisters.OPTSR_CUR]
        self.rdp_level = {0xAA: 0, 0xCC: 2}.get(optsr.RDP, 1)
        self.secure = bool(optsr.SECURITY)
        for bank in self.banks:
            bank.note_options()

    def rdp_denied(self) -> bool:
        """Whether readout protection hides the flash: level 1, and a debugger was seen."""
        if self.rdp_level != 1:
            return False
        if not self._intruded and self.debugger():
            self._hide()
        return self._intruded

    def touched_by(self, master: Master) -> None:
        """An access at RDP level 1 from a debugger hides the flash until power goes."""
        if self.rdp_level == 1 and master in (Master.AP0, Master.AP1) and not self._intruded:
            self._hide()

    def _hide(self) -> None:
        self._intruded = True
        for bank in self.banks:
            bank.take_back()

    def revoke(self, bank: FlashBank) -> None:
        self._bus.revoke(Span.of(self.base(bank), len(bank.cells.data)))

    def changing(self, bank: FlashBank) -> None:
        self.on_changing(Span.of(self.base(bank), len(bank.cells.data)))

    def update_irq(self) -> None:
        shared = self.shared
        level = (
            self.banks[0].interrupting
            or self.banks[1].interrupting
            # OPTCHANGEERR and OPTCHANGEERRIE are the same bit of their registers.
            or bool(shared.raw(shared.OPTSR_CUR) & shared.raw(shared.OPTCR) & 1 << 30)
        )
        if level != self._irq:
            self._irq = level
            self.on_irq(level)

    # --- Mass erase, option bytes -------------------------------------------------------------

    def wait_until_idle(self) -> None:
        """Raises: `BusStall` while a bank has something to do."""
        ready = max((bank.idle_at for bank in self.banks if bank.busy), default=0)
        if ready:
            raise BusStall(ready)

    def mass_erase(self) -> None:
        """OPTCR.MER: both banks at once, if both are unlocked and none is protected."""
        if any(bank.lock.locked for bank in self.banks):
            log.warning("FLASH: mass erase asked for while a bank is locked")
            return
        for bank in self.banks:
            bank.erase_all()

    def change_options(self) -> None:
        """OPTCR.OPTSTART: make the option bytes what the PRG registers say."""
        old = self.rdp_level
        new = self.shared[SharedRegisters.OPTSR_PRG].RDP
        if old == 2 or self.refuse_option_change:
            self.shared.update(SharedRegisters.OPTSR_CUR, OPTCHANGEERR=1)
            self.update_irq()
            return
        regression = old == 1 and new == 0xAA
        duration = OPTION_CHANGE
        if regression:
            duration += round(MASS_ERASE_SECONDS[3][self.timing == "maximum"] * SECOND)
        self.changing_options = True
        for bank in self.banks:
            bank.enqueue(self._option_change(bank, duration, erase=regression))

    def _option_change(self, bank: FlashBank, duration: int, *, erase: bool) -> Operation:
        """The part of a change of options that `bank` is busy with."""
        cells = Span(0, len(bank.cells.data))

        def finish() -> None:
            if erase:
                bank.cells.erase(cells)
            if bank is self.banks[-1]:
                self._load_options()

        def interrupt() -> None:
            if erase:
                bank.cells.half_erase(cells)

        return Operation(duration, finish, interrupt)

    def _load_options(self) -> None:
        self.changing_options = False
        for bank in self.banks:
            for current, programmed in BANK_OPTIONS.items():
                bank.set_raw(current, bank.raw(programmed))
        for current, programmed in _SHARED_OPTIONS.items():
            self.shared.set_raw(current, self.shared.raw(programmed))
        self._note_options()

    # --- Inspection and faults ------------------------------------------------------------------

    def _bank_at(self, address: int) -> tuple[FlashBank, int]:
        for bank, span in zip(self.mapped, (BANK1, BANK2), strict=True):
            if address in span:
                return bank, address - span.start
        raise ValueError(f"{address:#010x} is not in flash")

    def contents(self, span: Span) -> bytes:
        """What the cells hold, ECC aside; a span in one bank."""
        bank, offset = self._bank_at(span.start)
        return bytes(bank.cells.data[offset : offset + len(span)])

    def load(self, address: int, data: bytes) -> None:
        """Put `data` there as if it had always been: no time, no counting, good ECC."""
        bank, offset = self._bank_at(address)
        bank.take_back()
        bank.cells.load(offset, data)

    def fail_cell(self, address: int, mask: int = 0xFF) -> None:
        """From now on the bits under `mask` of the byte at `address` cannot be programmed.

        One such bit is corrected by ECC when it is read; two and more are not.
        """
        bank, offset = self._bank_at(address)
        bank.cells.stick(offset, mask)

    def flip_bits(self, address: int, mask: int) -> None:
        """Change bits of the byte at `address` without its ECC, as wear and radiation do."""
        bank, offset = self._bank_at(address)
        bank.take_back()
        bank.cells.flip(offset, mask)

    def raise_error(self, bank: int, error: FlashSr) -> None:
        """Set error flags of the bank that is mapped as number `bank`."""
        self.mapped[bank - 1].flag(error & FLAGS)
