"""Cortex-M7 debug, fault and system registers, as the Arm manuals name them.

Armv7-M Architecture Reference Manual (DDI 0403E.e): "Debug register support in the SCS",
"Flash Patch and Breakpoint unit", "The Data Watchpoint and Trace unit", "System Control and
ID registers"; Cortex-M7 Technical Reference Manual (DDI 0489).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from gdbserver.chip.memory import Span

PPB = Span(0xE0000000, 0xE0100000)
"""Private peripheral bus: where every register of this module lives."""

ITM_BASE = 0xE0000000
DWT_BASE = 0xE0001000
FPB_BASE = 0xE0002000
SCS_BASE = 0xE000E000

# --- System control space ------------------------------------------------------------
ICTR = 0xE000E004
ACTLR = 0xE000E008
SYST_CSR = 0xE000E010
SYST_RVR = 0xE000E014
SYST_CVR = 0xE000E018
SYST_CALIB = 0xE000E01C
NVIC_ISER = 0xE000E100
NVIC_ICER = 0xE000E180
NVIC_ISPR = 0xE000E200
NVIC_ICPR = 0xE000E280
NVIC_IABR = 0xE000E300
NVIC_IPR = 0xE000E400
CPUID = 0xE000ED00
ICSR = 0xE000ED04
VTOR = 0xE000ED08
AIRCR = 0xE000ED0C
SCR = 0xE000ED10
CCR = 0xE000ED14
SHPR1 = 0xE000ED18
SHPR2 = 0xE000ED1C
SHPR3 = 0xE000ED20
SHCSR = 0xE000ED24
CFSR = 0xE000ED28
HFSR = 0xE000ED2C
DFSR = 0xE000ED30
MMFAR = 0xE000ED34
BFAR = 0xE000ED38
AFSR = 0xE000ED3C
CLIDR = 0xE000ED78
CTR = 0xE000ED7C
CCSIDR = 0xE000ED80
CSSELR = 0xE000ED84
CPACR = 0xE000ED88
MPU_TYPE = 0xE000ED90
MPU_CTRL = 0xE000ED94
MPU_RNR = 0xE000ED98
MPU_RBAR = 0xE000ED9C
MPU_RASR = 0xE000EDA0
DHCSR = 0xE000EDF0
DCRSR = 0xE000EDF4
DCRDR = 0xE000EDF8
DEMCR = 0xE000EDFC
STIR = 0xE000EF00
FPCCR = 0xE000EF34
FPCAR = 0xE000EF38
FPDSCR = 0xE000EF3C
MVFR0 = 0xE000EF40
MVFR1 = 0xE000EF44
MVFR2 = 0xE000EF48
ICIALLU = 0xE000EF50
ICIMVAU = 0xE000EF58
DCIMVAC = 0xE000EF5C
DCISW = 0xE000EF60
DCCMVAU = 0xE000EF64
DCCMVAC = 0xE000EF68
DCCSW = 0xE000EF6C
DCCIMVAC = 0xE000EF70
DCCISW = 0xE000EF74

CPUID_M7_R1P1 = 0x411FC271
CPUID_PART = 0xFF00FFF0  # implementer and part number: all but the revision


class Dhcsr(IntFlag):
    """Debug Halting Control and Status Register; writes need `DBGKEY`."""

    C_DEBUGEN = 1 << 0
    C_HALT = 1 << 1
    C_STEP = 1 << 2
    C_MASKINTS = 1 << 3  # changes only while halted, with C_HALT already set
    C_SNAPSTALL = 1 << 5
    S_REGRDY = 1 << 16
    S_HALT = 1 << 17
    S_SLEEP = 1 << 18
    S_LOCKUP = 1 << 19
    S_RETIRE_ST = 1 << 24  # sticky, cleared by reading
    S_RESET_ST = 1 << 25  # sticky, cleared by reading


DBGKEY = 0xA05F0000
DCRSR_WRITE = 1 << 16


class Demcr(IntFlag):
    """Debug Exception and Monitor Control Register."""

    VC_CORERESET = 1 << 0
    VC_MMERR = 1 << 4
    VC_NOCPERR = 1 << 5
    VC_CHKERR = 1 << 6
    VC_STATERR = 1 << 7
    VC_BUSERR = 1 << 8
    VC_INTERR = 1 << 9
    VC_HARDERR = 1 << 10
    MON_EN = 1 << 16
    MON_PEND = 1 << 17
    MON_STEP = 1 << 18
    MON_REQ = 1 << 19
    TRCENA = 1 << 24


VC_ALL_FAULTS = (
    Demcr.VC_MMERR
    | Demcr.VC_NOCPERR
    | Demcr.VC_CHKERR
    | Demcr.VC_STATERR
    | Demcr.VC_BUSERR
    | Demcr.VC_INTERR
    | Demcr.VC_HARDERR
)


class Dfsr(IntFlag):
    """Debug Fault Status Register: why the core halted.  Write one to clear."""

    HALTED = 1 << 0
    BKPT = 1 << 1
    DWTTRAP = 1 << 2
    VCATCH = 1 << 3
    EXTERNAL = 1 << 4


class Cfsr(IntFlag):
    """Configurable Fault Status Register: MMFSR, BFSR and UFSR side by side."""

    IACCVIOL = 1 << 0
    DACCVIOL = 1 << 1
    MUNSTKERR = 1 << 3
    MSTKERR = 1 << 4
    MLSPERR = 1 << 5
    MMARVALID = 1 << 7
    IBUSERR = 1 << 8
    PRECISERR = 1 << 9
    IMPRECISERR = 1 << 10
    UNSTKERR = 1 << 11
    STKERR = 1 << 12
    LSPERR = 1 << 13
    BFARVALID = 1 << 15
    UNDEFINSTR = 1 << 16
    INVSTATE = 1 << 17
    INVPC = 1 << 18
    NOCP = 1 << 19
    UNALIGNED = 1 << 24
    DIVBYZERO = 1 << 25


class Hfsr(IntFlag):
    """HardFault Status Register."""

    VECTTBL = 1 << 1
    FORCED = 1 << 30
    DEBUGEVT = 1 << 31


class Aircr(IntFlag):
    """Application Interrupt and Reset Control Register; writes need `VECTKEY`."""

    VECTRESET = 1 << 0
    VECTCLRACTIVE = 1 << 1
    SYSRESETREQ = 1 << 2


VECTKEY = 0x05FA0000


class Icsr(IntFlag):
    """Interrupt Control and State Register, the bits that change something."""

    PENDSTCLR = 1 << 25
    PENDSTSET = 1 << 26
    PENDSVCLR = 1 << 27
    PENDSVSET = 1 << 28
    NMIPENDSET = 1 << 31


class Ccr(IntFlag):
    """Configuration and Control Register."""

    NONBASETHRDENA = 1 << 0
    USERSETMPEND = 1 << 1
    UNALIGN_TRP = 1 << 3
    DIV_0_TRP = 1 << 4
    BFHFNMIGN = 1 << 8
    STKALIGN = 1 << 9
    DC = 1 << 16
    IC = 1 << 17
    BP = 1 << 18


class ExceptionNumber(IntEnum):
    """Exception numbers, as in IPSR; external interrupt n is 16 + n."""

    RESET = 1
    NMI = 2
    HARD_FAULT = 3
    MEM_MANAGE = 4
    BUS_FAULT = 5
    USAGE_FAULT = 6
    SV_CALL = 11
    DEBUG_MONITOR = 12
    PEND_SV = 14
    SYS_TICK = 15


class Selector(IntEnum):
    """DCRSR.REGSEL: which core register DCRDR stands for.  r0-r12 are 0-12, s0-s31 64-95."""

    SP = 13
    LR = 14
    PC = 15  # DebugReturnAddress
    XPSR = 16
    MSP = 17
    PSP = 18
    SPECIAL = 20  # CONTROL[31:24] FAULTMASK[23:16] BASEPRI[15:8] PRIMASK[7:0]
    FPSCR = 33
    S0 = 64


LOCKUP_PC = 0xFFFFFFFE
XPSR_THUMB = 1 << 24

# --- Flash Patch and Breakpoint, revision 2 ---------------------------------------------
FP_CTRL = FPB_BASE + 0x000
FP_REMAP = FPB_BASE + 0x004
FP_COMP = FPB_BASE + 0x008  # + 4 n
FP_CTRL_ENABLE = 1 << 0
FP_CTRL_KEY = 1 << 1

# --- Data Watchpoint and Trace ---------------------------------------------------------------
DWT_CTRL = DWT_BASE + 0x000
DWT_CYCCNT = DWT_BASE + 0x004
DWT_PCSR = DWT_BASE + 0x01C
DWT_COMP = DWT_BASE + 0x020  # + 16 n
DWT_MASK = DWT_BASE + 0x024  # + 16 n: number of low address bits ignored
DWT_FUNCTION = DWT_BASE + 0x028  # + 16 n
DWT_FUNCTION_READ = 5
DWT_FUNCTION_WRITE = 6
DWT_FUNCTION_ACCESS = 7
DWT_FUNCTION_MATCHED = 1 << 24  # cleared by reading
