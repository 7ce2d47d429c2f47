/* Small situations for a debugger, in internal flash only.  Set `drill`, and go. */
#include "firmware.h"

enum drill { COUNT, RECURSE, WATCH, BUS_FAULT, UNDEFINED, DIVIDE, BREAK, STACK, WAIT } volatile drill;

volatile uint32_t counter;
volatile uint32_t watched = 0x11111111;
volatile uint32_t copied;
volatile uint32_t result;
volatile uint32_t nowhere = 0x70000000; /* an FMC bank that no clock reaches */

__attribute__((noinline)) uint32_t recurse(uint32_t depth)
{
    if (depth == 0)
        return 1;
    return depth + recurse(depth - 1);
}

__attribute__((noinline)) void touch(void)
{
    watched = 0x22222222;
    copied = watched;
    watched = watched + 1;
}

__attribute__((noinline)) void bus_fault(void)
{
    result = REG(nowhere);
}

__attribute__((noinline)) void undefined(void)
{
    __asm__ volatile("udf #0");
}

__attribute__((noinline)) void divide(void)
{
    REG(0xE000ED14) |= 1u << 4; /* CCR: DIV_0_TRP */
    result = 1000u / result;
}

__attribute__((noinline)) void breakpoint(void)
{
    __asm__ volatile("bkpt #1");
    counter += 1000;
}

__attribute__((noinline)) void step_1(void) { counter += 1; }
__attribute__((noinline)) void step_2(void) { counter += 2; }
__attribute__((noinline)) void step_3(void) { counter += 3; }

int main(void)
{
    start_ticks();
    for (;;) {
        switch (drill) {
        case RECURSE:
            result = recurse(10);
            break;
        case WATCH:
            touch();
            break;
        case BUS_FAULT:
            bus_fault();
            break;
        case UNDEFINED:
            undefined();
            break;
        case DIVIDE:
            divide();
            break;
        case BREAK:
            breakpoint();
            break;
        case STACK:
            result = recurse(100000);
            break;
        case WAIT:
            __asm__ volatile("wfi");
            break;
        default:
            break;
        }
        drill = COUNT;
        step_1();
        step_2();
        step_3();
    }
}
