/* A serial NOR: found out, then erased and programmed.  Addresses count from the NOR's start. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* From whatever state it was left in to a described, idle, quad-enabled NOR.  Fills `found`. */
bool nor_open(void);

/* Erase [start, end), both multiples of the smallest erase unit. */
bool nor_erase(uint32_t start, uint32_t end);
bool nor_erase_all(void);
bool nor_program(uint32_t address, const uint8_t *data, uint32_t length);
bool nor_map(void);

/* Note why a routine fails, for the host to read in `found`; returns false. */
bool nor_failed(uint32_t status, uint32_t address);
