/*
 * A time-out must neither fire early at 480 MHz nor hang when nobody counts, so clocks are
 * taken as fast as the registers allow (RM0433, "Reset and clock control (RCC)"), and each look
 * at a deadline counts the cycles that its caller must have spent, even if CYCCNT stands still.
 */
#include "clock.h"

#include "registers.h"

#define LEAST_CYCLES (LOOKS_AT_TIME * 8u) /* a look is a read over two buses, and a branch */

static uint32_t core_khz;
static bool watched;

static uint32_t divided(uint32_t hz, uint32_t code)
{
    /* HPRE and D1CPRE: 0xxx is 1, then 2, 4, 8, 16, 64, 128, 256, 512. */
    static const uint8_t shifts[8] = {1, 2, 3, 4, 6, 7, 8, 9};
    return code < 8 ? hz : hz >> shifts[code - 8];
}

/* What PLL1 makes of HSI is known; of a crystal, only what it can be at most. */
static uint32_t pll1_hz(uint32_t hsi_hz)
{
    uint32_t divider = RCC_PLLCKSELR_DIVM1(RCC_PLLCKSELR);
    if (RCC_PLLCKSELR_SRC(RCC_PLLCKSELR) != 0 || divider == 0)
        return 480000000u;
    uint32_t vco = hsi_hz / divider * (RCC_PLL1DIVR_N(RCC_PLL1DIVR) + 1u);
    return vco / (RCC_PLL1DIVR_P(RCC_PLL1DIVR) + 1u);
}

static uint32_t system_hz(void)
{
    uint32_t hsi_hz = 64000000u >> RCC_CR_HSIDIV(RCC_CR);

    switch (RCC_CFGR_SWS(RCC_CFGR)) {
    case 0:
        return hsi_hz;
    case 1:
        return 4000000u;
    case 2:
        return 50000000u; /* HSE: a crystal or a signal of at most so much */
    default:
        return pll1_hz(hsi_hz);
    }
}

void clock_init(void)
{
    core_khz = divided(system_hz(), RCC_D1CFGR_D1CPRE(RCC_D1CFGR)) / 1000u;
    watched = RCC_CSR & RCC_CSR_LSIRDY; /* a watchdog that runs keeps LSI on */
    DEMCR |= DEMCR_TRCENA;
    DWT_CTRL |= DWT_CTRL_CYCCNTENA;
}

uint32_t clock_quadspi_hz(void)
{
    switch (RCC_D1CCIPR_QSPISEL(RCC_D1CCIPR)) {
    case 0:
        return divided(core_khz * 1000u, RCC_D1CFGR_HPRE(RCC_D1CFGR));
    case 3:
        return 64000000u; /* per_ck: HSI, CSI or HSE */
    default:
        return 250000000u; /* an output of PLL1 or PLL2 */
    }
}

struct deadline deadline_in(uint32_t milliseconds)
{
    return (struct deadline){DWT_CYCCNT, (uint64_t)milliseconds * core_khz};
}

bool deadline_expired(struct deadline *deadline)
{
    /* A watchdog that an option byte or an application has started cannot be stopped. */
    if (watched)
        IWDG1_KR = IWDG_KR_RELOAD;

    uint32_t now = DWT_CYCCNT;
    uint32_t passed = now - deadline->last;
    if (passed < LEAST_CYCLES)
        passed = LEAST_CYCLES;
    deadline->last = now;
    if (passed >= deadline->left) {
        deadline->left = 0;
        return true;
    }
    deadline->left -= passed;
    return false;
}

void pause_us(uint32_t microseconds)
{
    /* A turn takes a cycle at least: the branch is taken. */
    uint32_t turns = microseconds * (core_khz / 1000u + 1u);
    __asm__ volatile("1: subs %0, #1\n bne 1b" : "+l"(turns) : : "cc");
}
