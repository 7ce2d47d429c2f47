"""The STM32H743 (H742, H750 and H753 share the die): what lives where, and how flash is cut.

RM0433, "Memory and bus architecture", "Embedded flash memory (FLASH)", "Quad-SPI interface",
"Reset and clock control", "Debug infrastructure"; DS12110, "Flash memory characteristics".
"""

from __future__ import annotations

from enum import IntFlag

from gdbserver.chip.memory import FlashRegion, Kind, MemoryMap, Region, Span

KIB = 1024
MIB = 1024 * KIB

# --- Memories --------------------------------------------------------------------------
ITCM = Span.of(0x00000000, 64 * KIB)  # the debugger reaches it through the core's AHBD port
SYSTEM_FLASH_1 = Span.of(0x1FF00000, 128 * KIB)
SYSTEM_FLASH_2 = Span.of(0x1FF40000, 128 * KIB)
BANK1 = Span.of(0x08000000, MIB)
BANK2 = Span.of(0x08100000, MIB)
INTERNAL_FLASH = Span(BANK1.start, BANK2.end)
_FLASH_AREA = Span(BANK1.start, 0x10000000)  # what follows bank 2 is reserved
DTCM = Span.of(0x20000000, 128 * KIB)
AXI_SRAM = Span.of(0x24000000, 512 * KIB)
SRAM1 = Span.of(0x30000000, 128 * KIB)  # SRAM1-3 need RCC_AHB2ENR.SRAMxEN
SRAM2 = Span.of(0x30020000, 128 * KIB)
SRAM3 = Span.of(0x30040000, 32 * KIB)
D2_SRAM_ALIAS = Span.of(0x10000000, 288 * KIB)
SRAM4 = Span.of(0x38000000, 64 * KIB)
BACKUP_SRAM = Span.of(0x38800000, 4 * KIB)
FMC_BANKS = Span(0x60000000, 0x90000000)
QSPI_WINDOW = Span.of(0x90000000, 256 * MIB)
FMC_SDRAM = Span(0xC0000000, 0xE0000000)
PERIPHERALS = Span(0x40000000, 0x60000000)
PPB = Span(0xE0000000, 0xE0100000)

SECTOR = 128 * KIB
FLASH_WORD = 32  # bytes; ECC is per flash word, which is programmed once per erase

UID = 0x1FF1E800  # 96 bits
FLASH_SIZE = 0x1FF1E880  # 16 bits: KiB


def bank(number: int, size: int = MIB) -> FlashRegion:
    """Flash bank 1 or 2, of `size` bytes, as a region of 128 KiB sectors."""
    span = Span.of((BANK1, BANK2)[number - 1].start, size)
    return FlashRegion(f"bank {number}", span, ((size // SECTOR, SECTOR),), FLASH_WORD)


# --- Peripherals -------------------------------------------------------------------------
AXI_SRAM_FN_MOD = 0x51008108  # AXI_TARG7_FN_MOD of the AXI interconnect
MDMA = 0x52000000
FLASH = 0x52002000
FMC = 0x52004000
QUADSPI = 0x52005000
DLYB_QSPI = 0x52006000
WWDG1 = 0x50003000
EXTI = 0x58000000
SYSCFG = 0x58000400
IWDG1 = 0x58004800
GPIOA = 0x58020000
GPIO_STRIDE = 0x400  # ports A to K
RCC = 0x58024400
PWR = 0x58024800
CRC = 0x58024C00
DBGMCU = 0x5C001000  # from the core and AP0
SWO, SWTF = 0x5C003000, 0x5C004000  # serial wire output, and the funnel before it
SWO_APB_D, SWTF_APB_D = 0xE00E3000, 0xE00E4000  # the same through AP2
DBGMCU_APB_D = 0xE00E1000  # the same registers through AP2; works while NRST is held

# DS12110 rev 10, "Pinouts, pin descriptions and alternate functions": which alternate
# function makes a pin a QUADSPI signal.  IO0 to IO3 and NCS are those of bank 1.
QUADSPI_PINS: dict[str, dict[str, int]] = {
    "CLK": {"PB2": 9, "PF10": 9},
    "NCS": {"PB6": 10, "PB10": 9, "PG6": 10},
    "IO0": {"PC9": 9, "PD11": 9, "PF8": 10},
    "IO1": {"PC10": 9, "PD12": 9, "PF9": 10},
    "IO2": {"PE2": 9, "PF7": 9},
    "IO3": {"PA1": 9, "PD13": 9, "PF6": 9},
}
QUADSPI_BANK2_PINS: dict[str, dict[str, int]] = {
    "CLK": {"PB2": 9, "PF10": 9},
    "NCS": {"PC11": 9},
    "IO0": {"PE7": 10, "PH2": 9},
    "IO1": {"PE8": 10, "PH3": 9},
    "IO2": {"PE9": 10, "PG9": 9},
    "IO3": {"PE10": 10, "PG14": 9},
}
QUADSPI_BANKS = {1: QUADSPI_PINS, 2: QUADSPI_BANK2_PINS}

FLASH_IRQ = 4
QUADSPI_IRQ = 92
MDMA_IRQ = 122
IRQ_COUNT = 150

# --- Debug ----------------------------------------------------------------------------------
DEVICE_ID = 0x450  # DBGMCU_IDCODE[11:0]: H742, H743, H750, H753
REVISIONS = {0x1000: "A", 0x1001: "Z", 0x1003: "Y", 0x2001: "X", 0x2003: "V"}
# ES0392, "Reading from AXI SRAM may lead to data read corruption"
AXI_SRAM_MISREAD_BY = frozenset("AZY")
AXI_READ_ISS_OVERRIDE = 1 << 0  # in AXI_SRAM_FN_MOD: one read at a time, which cures it
DPIDR = 0x6BA02477
DBGMCU_IDCODE_OFFSET = 0x00
DBGMCU_CR_OFFSET = 0x04
DBGMCU_APB3FZ1_OFFSET = 0x34
DBGMCU_APB1LFZ1_OFFSET = 0x3C
DBGMCU_APB4FZ1_OFFSET = 0x54
APB3FZ1_WWDG1 = 1 << 6
APB4FZ1_IWDG1 = 1 << 18


class DbgmcuCr(IntFlag):
    """DBGMCU_CR: keep clocks alive for the debugger in low-power modes."""

    DBGSLEEP_D1 = 1 << 0
    DBGSTOP_D1 = 1 << 1
    DBGSTBY_D1 = 1 << 2
    DBGSTOP_D3 = 1 << 7
    DBGSTBY_D3 = 1 << 8
    TRACECLKEN = 1 << 20
    D1DBGCKEN = 1 << 21
    D3DBGCKEN = 1 << 22
    TRGOEN = 1 << 28


# --- Reset and clock control: addresses ------------------------------------------------------
RCC_CR = RCC + 0x00
RCC_CFGR = RCC + 0x10
RCC_D1CFGR = RCC + 0x18  # D2CFGR and D3CFGR follow
RCC_PLLCKSELR = RCC + 0x28
RCC_PLLCFGR = RCC + 0x2C  # DIVR and FRACR of PLL1 to PLL3 follow
RCC_D1CCIPR = RCC + 0x4C  # D2CCIP1R, D2CCIP2R and D3CCIPR follow
RCC_CSR = RCC + 0x74
RCC_AHB3RSTR = RCC + 0x7C
RCC_RSR = RCC + 0xD0
RCC_AHB3ENR = RCC + 0xD4
RCC_AHB2ENR = RCC + 0xDC
RCC_AHB4ENR = RCC + 0xE0  # bit n: port n of GPIOA to GPIOK
RCC_APB3ENR = RCC + 0xE4

AHB3_MDMA = 1 << 0  # in AHB3RSTR and AHB3ENR
AHB3_QSPI = 1 << 14  # in AHB3RSTR and AHB3ENR
AHB2_SRAM = {SRAM1: 1 << 29, SRAM2: 1 << 30, SRAM3: 1 << 31}  # in AHB2ENR
APB3_WWDG1 = 1 << 6  # in APB3ENR


# --- QUADSPI: addresses ----------------------------------------------------------------------
QUADSPI_CR = QUADSPI + 0x00
QUADSPI_DCR = QUADSPI + 0x04
QUADSPI_SR = QUADSPI + 0x08
QUADSPI_FCR = QUADSPI + 0x0C
QUADSPI_DLR = QUADSPI + 0x10
QUADSPI_CCR = QUADSPI + 0x14
QUADSPI_AR = QUADSPI + 0x18
QUADSPI_ABR = QUADSPI + 0x1C
QUADSPI_DR = QUADSPI + 0x20  # a read takes something out of the FIFO, or waits for it
QUADSPI_PSMKR = QUADSPI + 0x24  # PSMAR, PIR and LPTR follow


class QuadspiCr(IntFlag):
    """QUADSPI_CR."""

    EN = 1 << 0
    ABORT = 1 << 1
    DFM = 1 << 6
    FSEL = 1 << 7


QUADSPI_CR_PRESCALER_SHIFT = 24
QUADSPI_DCR_CSHT_SHIFT = 8
QUADSPI_DCR_FSIZE_SHIFT = 16


class QuadspiSr(IntFlag):
    """QUADSPI_SR.  The level of the FIFO is behind `QUADSPI_SR_FLEVEL_SHIFT`."""

    TEF = 1 << 0
    TCF = 1 << 1
    FTF = 1 << 2
    SMF = 1 << 3
    TOF = 1 << 4
    BUSY = 1 << 5


QUADSPI_SR_FLEVEL_SHIFT = 8
QUADSPI_CLEARED = QuadspiSr.TEF | QuadspiSr.TCF | QuadspiSr.SMF | QuadspiSr.TOF  # by FCR


class QuadspiCcr(IntFlag):
    """QUADSPI_CCR: what a frame is made of.  Its low byte is the instruction."""

    IMODE = 3 << 8
    INSTRUCTION_ON_ONE = 1 << 8  # line
    INSTRUCTION_ON_FOUR = 3 << 8
    ADMODE = 3 << 10  # 0: no address
    ADDRESS_ON_ONE = 1 << 10
    ADDRESS_ON_FOUR = 3 << 10
    ADSIZE = 3 << 12
    THREE_ADDRESS_BYTES = 2 << 12
    FOUR_ADDRESS_BYTES = 3 << 12
    ALTERNATE_ON_FOUR = 3 << 14
    FOUR_ALTERNATE_BYTES = 3 << 16
    DMODE = 3 << 24  # 0: no data
    DATA_ON_ONE = 1 << 24
    DATA_ON_FOUR = 3 << 24
    FMODE = 3 << 26  # 0: indirect write; 2: automatic polling
    INDIRECT_READ = 1 << 26
    MEMORY_MAPPED = 3 << 26
    SIOO = 1 << 28  # the instruction is sent once, after CCR was written
    FRCM = 1 << 29


QUADSPI_CCR_DCYC_SHIFT = 18
QUADSPI_CCR_FMODE_SHIFT = 26


# --- MDMA: offsets in the registers of a channel -----------------------------------------------
MDMA_CHANNELS = 16
MDMA_CHANNEL = 0x40  # from MDMA to the first, and from each to the next
MDMA_CISR = 0x00
MDMA_CIFCR = 0x04
MDMA_CESR = 0x08
MDMA_CCR = 0x0C
MDMA_CCR_SWRQ_BYTE = 0x0E  # a byte of CCR in which 1 is SWRQ, and nothing else
MDMA_CTCR = 0x10  # CBNDTR, CSAR, CDAR, CBRUR, CLAR and CTBR follow
MDMA_CSAR = 0x18
MDMA_CMAR = 0x30  # CMDR follows

MDMA_FLAGS = 0x1F  # in CISR, cleared by CIFCR
MDMA_CISR_TEIF = 1 << 0
MDMA_CISR_CTCIF = 1 << 1
MDMA_CCR_EN = 1 << 0
MDMA_CCR_PL_SHIFT = 6
MDMA_CCR_SWRQ = 1 << 16
MDMA_CBNDTR_BRC_SHIFT = 20
MDMA_CBRUR_DUV_SHIFT = 16
MDMA_CTBR_SBUS = 1 << 16  # the source is a TCM


class MdmaCtcr(IntFlag):
    """MDMA_CxTCR: how a channel moves.  Bytes of a buffer, less one: `MDMA_CTCR_TLEN_SHIFT`."""

    SOURCE_COUNTS_UP = 2 << 0
    DESTINATION_COUNTS_UP = 2 << 2
    SOURCE_WORDS = 2 << 4 | 2 << 8  # SSIZE, SINCOS
    DESTINATION_WORDS = 2 << 6 | 2 << 10  # DSIZE, DINCOS
    SOURCE_BURSTS_OF_8 = 3 << 12
    DESTINATION_BURSTS_OF_8 = 3 << 15
    A_BLOCK_PER_REQUEST = 1 << 28  # TRGM; of 0, a buffer
    REPEATED_BLOCKS_PER_REQUEST = 2 << 28
    EVERYTHING_PER_REQUEST = 3 << 28
    SWRM = 1 << 30


MDMA_CTCR_TLEN_SHIFT = 18


# --- Flash controller: offsets; a bank's own registers repeat at +0x100 for bank 2 -----------
FLASH_BANK2_OFFSET = 0x100
FLASH_ACR = 0x00
FLASH_KEYR = 0x04
FLASH_OPTKEYR = 0x08
FLASH_CR = 0x0C
FLASH_SR = 0x10
FLASH_CCR = 0x14
FLASH_OPTCR = 0x18
FLASH_OPTSR_CUR = 0x1C
FLASH_OPTSR_PRG = 0x20
FLASH_OPTCCR = 0x24
FLASH_PRAR_CUR = 0x28
FLASH_PRAR_PRG = 0x2C
FLASH_SCAR_CUR = 0x30
FLASH_SCAR_PRG = 0x34
FLASH_WPSN_CUR = 0x38
FLASH_WPSN_PRG = 0x3C
FLASH_BOOT_CUR = 0x40
FLASH_BOOT_PRG = 0x44
FLASH_CRCCR = 0x50
FLASH_CRCSADD = 0x54
FLASH_CRCEADD = 0x58
FLASH_CRCDATA = 0x5C
FLASH_ECC_FA = 0x60

FLASH_KEY1, FLASH_KEY2 = 0x45670123, 0xCDEF89AB
FLASH_OPTKEY1, FLASH_OPTKEY2 = 0x08192A3B, 0x4C5D6E7F


class FlashCr(IntFlag):
    """FLASH_CR1/2.  PSIZE is `FLASH_CR_PSIZE`; the sector number `FLASH_CR_SNB_SHIFT`."""

    LOCK = 1 << 0
    PG = 1 << 1
    SER = 1 << 2
    BER = 1 << 3
    FW = 1 << 6
    START = 1 << 7
    CRC_EN = 1 << 15
    EOPIE = 1 << 16
    WRPERRIE = 1 << 17
    PGSERRIE = 1 << 18
    STRBERRIE = 1 << 19
    INCERRIE = 1 << 21
    OPERRIE = 1 << 22
    RDPERRIE = 1 << 23
    RDSERRIE = 1 << 24
    SNECCERRIE = 1 << 25
    DBECCERRIE = 1 << 26
    CRCENDIE = 1 << 27
    CRCRDERRIE = 1 << 28


FLASH_CR_PSIZE_SHIFT = 4  # 0 x8, 1 x16, 2 x32, 3 x64; for programming and for erasing
FLASH_CR_SNB_SHIFT = 8


class FlashSr(IntFlag):
    """FLASH_SR1/2.  Bits 16 and up are cleared by writing ones to FLASH_CCR1/2."""

    BSY = 1 << 0
    WBNE = 1 << 1
    QW = 1 << 2
    CRC_BUSY = 1 << 3
    EOP = 1 << 16
    WRPERR = 1 << 17
    PGSERR = 1 << 18
    STRBERR = 1 << 19
    INCERR = 1 << 21
    OPERR = 1 << 22
    RDPERR = 1 << 23
    RDSERR = 1 << 24
    SNECCERR = 1 << 25
    DBECCERR = 1 << 26
    CRCEND = 1 << 27
    CRCRDERR = 1 << 28


FLASH_PROGRAM_ERRORS = (
    FlashSr.WRPERR | FlashSr.PGSERR | FlashSr.STRBERR | FlashSr.INCERR | FlashSr.OPERR
)
FLASH_ERRORS = (
    FLASH_PROGRAM_ERRORS
    | FlashSr.RDPERR
    | FlashSr.RDSERR
    | FlashSr.SNECCERR
    | FlashSr.DBECCERR
    | FlashSr.CRCRDERR
)


class FlashOptcr(IntFlag):
    """FLASH_OPTCR: mass erase of both banks, and changes of option bytes."""

    OPTLOCK = 1 << 0
    OPTSTART = 1 << 1
    MER = 1 << 4
    SWAP_BANK = 1 << 31


class FlashCrccr(IntFlag):
    """FLASH_CRCCR1/2: what the controller's CRC unit runs over."""

    CRC_BY_SECT = 1 << 8
    ADD_SECT = 1 << 9
    CLEAN_SECT = 1 << 10
    START_CRC = 1 << 16
    CLEAN_CRC = 1 << 17
    ALL_BANK = 1 << 22


FLASH_CRCCR_BURST_SHIFT = 20  # 0..3: 4, 16, 64, 256 flash words

OPTSR_RDP_SHIFT = 8  # 0xAA level 0, 0xCC level 2, anything else level 1
OPTSR_SECURITY = 1 << 21
OPTSR_SWAP_BANK = 1 << 31

# DS12110 rev 10, "Flash memory characteristics": seconds, (typical, maximum), by PSIZE.
PROGRAM_SECONDS = ((290e-6, 580e-6), (180e-6, 360e-6), (130e-6, 260e-6), (100e-6, 200e-6))
SECTOR_ERASE_SECONDS = ((2.0, 4.0), (1.8, 3.6), (1.1, 2.2), (1.0, 2.0))
MASS_ERASE_SECONDS = ((13.0, 26.0), (8.0, 16.0), (6.0, 12.0), (5.0, 10.0))


def memory_map(flash: tuple[FlashRegion, ...]) -> MemoryMap:
    """The whole chip with these flash devices: what GDB is told it may look at.

    Flash devices take their part of the areas where flash can be.  The rest of these is flash
    that nobody can program: so GDB asks for it to be erased when an image goes there, and is
    told why not, where of other memory it would say no more than "Load failed".
    """
    regions = [
        Region("ITCM", ITCM),
        Region("D2 SRAM alias", D2_SRAM_ALIAS),
        Region("system flash 1", SYSTEM_FLASH_1, Kind.ROM),
        Region("system flash 2", SYSTEM_FLASH_2, Kind.ROM),
        Region("DTCM", DTCM),
        Region("AXI SRAM", AXI_SRAM),
        Region("SRAM1", SRAM1),
        Region("SRAM2", SRAM2),
        Region("SRAM3", SRAM3),
        Region("SRAM4", SRAM4),
        Region("backup SRAM", BACKUP_SRAM),
        Region("peripherals", PERIPHERALS, volatile=True),
        Region("FMC", FMC_BANKS),
        Region("FMC SDRAM", FMC_SDRAM),
        Region("PPB", PPB, volatile=True),
    ]
    for name, area in (("behind internal flash", _FLASH_AREA), ("QSPI window", QSPI_WINDOW)):
        start = area.start
        devices = sorted(f.span & area for f in flash if len(f.span & area))
        for taken in [*devices, Span(area.end, area.end)]:
            if taken.start > start:
                regions.append(Region(name, Span(start, taken.start), Kind.FLASH))
            start = taken.end
    return MemoryMap(tuple(sorted(regions, key=lambda r: r.span)), flash)
