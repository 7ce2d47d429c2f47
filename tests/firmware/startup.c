/* From reset to main, on the clock that reset leaves: HSI, 64 MHz. */
#include <stdint.h>

#include "firmware.h"

extern uint32_t _stack_top, _data_start, _data_end, _data_image, _bss_start, _bss_end;

volatile uint32_t ticks;

static void SysTick_Handler(void)
{
    ticks++;
}

static void Default_Handler(void)
{
    for (;;)
        ;
}

/* A debugger that has loaded a program sets the pc, and not sp: so this does. */
__attribute__((naked)) void Reset_Handler(void)
{
    __asm__ volatile("ldr sp, =_stack_top\n b start");
}

__attribute__((used)) static void start(void)
{
    REG(0xE000ED88) |= 0xFu << 20; /* CPACR: the FPU, before any code that uses it */
    __asm__ volatile("dsb\n isb");
    for (uint32_t *from = &_data_image, *to = &_data_start; to < &_data_end;)
        *to++ = *from++;
    for (uint32_t *to = &_bss_start; to < &_bss_end;)
        *to++ = 0;
    main();
    Default_Handler();
}

void start_ticks(void)
{
    REG(0xE000E014) = 64000 - 1; /* SYST_RVR: 1 ms */
    REG(0xE000E018) = 0;
    REG(0xE000E010) = 7; /* SYST_CSR: core clock, interrupt, go */
}

typedef void (*vector)(void);

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)&_stack_top,
    Reset_Handler,
    Default_Handler, /* NMI */
    Default_Handler, /* HardFault */
    Default_Handler, /* MemManage */
    Default_Handler, /* BusFault */
    Default_Handler, /* UsageFault */
    [11] = Default_Handler, /* SVCall */
    [12] = Default_Handler, /* DebugMonitor */
    [14] = Default_Handler, /* PendSV */
    [15] = SysTick_Handler,
};
