/*
 * The QUADSPI as a sender of frames: one call is one chip-select cycle.
 *
 * `phases` is QUADSPI_CCR without FMODE: instruction, address, alternate bytes, dummy cycles,
 * data, each with its lines.  Every call returns false when the QUADSPI did not finish in time
 * or refused (TEF); it is idle again afterwards.
 *
 * On BOTH_BANKS a frame reaches two NORs: the same instruction for both, half the address, and of
 * the data the even bytes for the first and the odd ones for the second.  Addresses and lengths
 * are those of both together, and even (RM0433, "Dual-flash mode").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clock.h"

/* Clocks, pins and the QUADSPI out of reset, at no more than `max_hz`.  Returns the clock. */
uint32_t quadspi_open(uint32_t max_hz);

/* Another clock and, once it is known, the size of the NOR in bytes (0: any address). */
uint32_t quadspi_set(uint32_t max_hz, uint32_t size);

bool quadspi_command(uint32_t phases);
bool quadspi_command_at(uint32_t phases, uint32_t address);
bool quadspi_read(uint32_t phases, uint32_t address, uint8_t *data, uint32_t length);
bool quadspi_write(uint32_t phases, uint32_t address, const uint8_t *data, uint32_t length);

/* Repeat a read of a byte, or of one from each NOR, until (bytes & mask) == match. */
bool quadspi_poll(uint32_t phases, uint32_t mask, uint32_t match, uint32_t milliseconds);

/* Let the core and the debugger read the NOR as memory, until the next call. */
bool quadspi_map(uint32_t phases);
