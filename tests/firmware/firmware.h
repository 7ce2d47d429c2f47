#pragma once

#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(address))

/* Functions and data that are to live in the NOR; calls go through a pointer, it is far away. */
#define IN_NOR __attribute__((section(".nor.text"), noinline, long_call))
#define NOR_DATA __attribute__((section(".nor.rodata"), used))
#define IN_BANK2 __attribute__((section(".bank2.text"), noinline, long_call))

extern volatile uint32_t ticks; /* milliseconds, once started */

int main(void);
void start_ticks(void);
void map_nor(void);
