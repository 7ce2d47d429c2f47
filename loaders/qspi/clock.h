/* Time, without a timer of our own: the cycle counter and what the clocks can be at most. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Start counting.  Call it again when the clocks may have changed. */
void clock_init(void);

/* The QUADSPI's kernel clock is not faster than this. */
uint32_t clock_quadspi_hz(void);

struct deadline {
    uint32_t last;
    uint64_t left;
};

struct deadline deadline_in(uint32_t milliseconds);

/* True once the time is over.  To be called every LOOKS_AT_TIME looks at what is waited for. */
bool deadline_expired(struct deadline *deadline);

#define LOOKS_AT_TIME 32u

void pause_us(uint32_t microseconds);
