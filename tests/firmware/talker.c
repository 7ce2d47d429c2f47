/* Prints through the ITM, as CMSIS' ITM_SendChar does; the debugger sets up the rest. */
#include "firmware.h"

#define RCC 0x58024400u
#define RCC_CR REG(RCC + 0x00)
#define RCC_PLLCKSELR REG(RCC + 0x28)
#define RCC_PLLCFGR REG(RCC + 0x2C)
#define RCC_PLL1DIVR REG(RCC + 0x30)

#define ITM 0xE0000000u
#define ITM_PORT(n) REG(ITM + 4 * (n))
#define ITM_TER REG(ITM + 0xE00)
#define ITM_TCR REG(ITM + 0xE80)

volatile uint32_t printed;

/* The trace clock: HSI / 8 * 25 / 2 = 100 MHz at output R of PLL1. */
static void start_trace_clock(void)
{
    RCC_PLLCKSELR = 8 << 4;
    RCC_PLLCFGR = 3 << 2 | 1 << 18;
    RCC_PLL1DIVR = 1 << 24 | 1 << 16 | 1 << 9 | 24;
    RCC_CR |= 1 << 24;
    while (!(RCC_CR & 1 << 25))
        ;
}

static void put(unsigned port, char character)
{
    if (!(ITM_TCR & 1) || !(ITM_TER & 1u << port))
        return;
    while (!ITM_PORT(port))
        ;
    *(volatile uint8_t *)(ITM + 4 * port) = character;
}

int main(void)
{
    start_trace_clock();
    for (;;) {
        for (const char *text = "Hello, wire.\n"; *text; text++)
            put(0, *text);
        put(1, '!');
        while (!ITM_PORT(2))
            ;
        ITM_PORT(2) = 0x12345678;
        printed++;
    }
}
