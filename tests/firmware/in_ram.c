/* A loop through code in RAM, where breakpoints are written over instructions, and in flash. */
#include "firmware.h"

/* Part of .data, so that the startup code copies it; calls go through a pointer. */
#define IN_RAM __attribute__((section(".in_ram"), noinline, long_call))

volatile uint32_t counter, sum;

IN_RAM uint32_t weigh(uint32_t value)
{
    uint32_t weight = 1;
    for (uint32_t i = 0; i < value % 8; i++)
        weight += weight;
    sum += weight;
    return weight;
}

__attribute__((noinline)) void count(void)
{
    counter++;
}

int main(void)
{
    for (;;) {
        weigh(counter);
        count();
    }
}
