/*
 * An application that leaves nothing as reset left it: watchdog, MPU, caches, interrupts, a
 * vector table in RAM, the process stack, masked priorities.  A download over it has to work.
 */
#include "firmware.h"

volatile uint32_t counter;

__attribute__((aligned(512))) static uint32_t vectors_in_ram[16];
__attribute__((aligned(8))) static uint32_t process_stack[256];

static void start_watchdog(void)
{
    REG(0x58004800) = 0xCCCC; /* IWDG_KR: start, for good */
    REG(0x58004800) = 0x5555;
    REG(0x58004804) = 1;   /* IWDG_PR: LSI / 8, 4 kHz */
    REG(0x58004808) = 400; /* IWDG_RLR: 100 ms */
}

static void feed_watchdog(void)
{
    REG(0x58004800) = 0xAAAA;
}

static void move_vectors(void)
{
    const uint32_t *from = (const uint32_t *)0x08000000;
    for (uint32_t i = 0; i < 16; i++)
        vectors_in_ram[i] = from[i];
    REG(0xE000ED08) = (uint32_t)vectors_in_ram;
}

/* AXI SRAM, where loaders live: neither written nor executed from. */
static void forbid_axi_sram(void)
{
    REG(0xE000ED98) = 0;                            /* MPU_RNR */
    REG(0xE000ED9C) = 0x24000000;                   /* MPU_RBAR */
    REG(0xE000EDA0) = 1u << 28 | 6u << 24 | 18u << 1 | 1u; /* MPU_RASR: XN, read only, 512 KiB */
    REG(0xE000ED94) = 5;                            /* MPU_CTRL: on, the rest as without it */
    __asm__ volatile("dsb\n isb");
}

static void start_caches(void)
{
    REG(0xE000EF50) = 0; /* ICIALLU */
    for (uint32_t set = 0; set < 128; set++)
        for (uint32_t way = 0; way < 4; way++)
            REG(0xE000EF60) = way << 30 | set << 5; /* DCISW */
    __asm__ volatile("dsb\n isb");
    REG(0xE000ED14) |= 3u << 16; /* CCR: DC, IC */
    __asm__ volatile("dsb\n isb");
}

int main(void)
{
    start_watchdog();
    move_vectors();
    forbid_axi_sram();
    start_caches();
    start_ticks();
    __asm__ volatile("msr psp, %0\n"
                     "msr control, %1\n"
                     "isb\n"
                     "msr basepri, %2"
                     :
                     : "r"(process_stack + 256), "r"(2), "r"(0xF0)
                     : "memory");
    for (;;) {
        feed_watchdog();
        counter++;
    }
}
