/*
 * The routines that ST's tools, and stm32-gdbserver, call: 1 is success, 0 is failure.
 *
 * The caller has stopped everything else: no interrupts, D-cache off, nobody else uses the
 * QUADSPI.  The loader starts no timer, moves no vector table, enables no interrupt, and returns
 * from everything in bounded time.  Between calls the NOR is memory-mapped.
 */
#include "clock.h"
#include "loader.h"
#include "nor.h"

struct config config = {
    .magic = CONFIG_MAGIC,
    .bank = 1,
    .clock_hz = 0,
    .pins =
        {
            {'B' - 'A', 2, 9, 0},  /* CLK */
            {'B' - 'A', 6, 10, 0}, /* NCS */
            {'F' - 'A', 8, 10, 0}, /* IO0 */
            {'F' - 'A', 9, 10, 0}, /* IO1 */
            {'F' - 'A', 7, 9, 0},  /* IO2 */
            {'F' - 'A', 6, 9, 0},  /* IO3 */
        },
    .base = 0x90000000u,
    .sector_size = 0x10000u,
    .second = {[0 ... 4] = {NO_PIN, 0, 0, 0}},
};

static void forget(void)
{
    for (uint32_t *word = (uint32_t *)&found; word < (uint32_t *)(&found + 1); word++)
        *word = 0;
}

static bool inside(uint32_t address, uint32_t size)
{
    uint32_t offset = address - config.base;
    if (found.status == NOT_INITIALISED)
        return false;
    if (address < config.base || offset > found.size || size > found.size - offset)
        return nor_failed(OUT_OF_RANGE, offset);
    return true;
}

int Init(void)
{
    clock_init();
    forget();
    return nor_open() && nor_map();
}

int Write(uint32_t address, uint32_t size, const uint8_t *buffer)
{
    if (!inside(address, size))
        return 0;
    bool good = nor_program(address - config.base, buffer, size);
    return nor_map() && good;
}

/* From the sector that holds `start` to the one that holds `end`, inclusive. */
int SectorErase(uint32_t start, uint32_t end)
{
    uint32_t mask = config.sector_size - 1u;

    if (start > end || !inside(start, 1) || !inside(end, 1))
        return 0;
    bool good = nor_erase((start - config.base) & ~mask, ((end - config.base) | mask) + 1u);
    return nor_map() && good;
}

int MassErase(void)
{
    if (!inside(config.base, 1))
        return 0;
    bool good = nor_erase_all();
    return nor_map() && good;
}

int Read(uint32_t address, uint32_t size, uint8_t *buffer)
{
    if (!inside(address, size))
        return 0;
    __builtin_memcpy(buffer, (const void *)address, size);
    return 1;
}

/* The sum of the bytes, on top of `initial`. */
uint32_t CheckSum(uint32_t start, uint32_t size, uint32_t initial)
{
    for (const uint8_t *byte = (const uint8_t *)start; size; size--)
        initial += *byte++;
    return initial;
}

/*
 * Low word: 0, or the first address that differs; high word: the sum of the bytes.  `padding` is
 * how many bytes the caller added in front (bits 3:0) and behind (bits 19:16) to get whole words.
 */
uint64_t Verify(uint32_t address, uint32_t buffer, uint32_t words, uint32_t padding)
{
    uint32_t size = words * 4u;
    uint32_t sum =
        CheckSum(address + (padding & 15u), size - (padding & 15u) - (padding >> 16 & 15u), 0);
    const uint8_t *expected = (const uint8_t *)buffer, *actual = (const uint8_t *)address;

    for (uint32_t i = 0; i < size; i++)
        if (actual[i] != expected[i])
            return (uint64_t)sum << 32 | (address + i);
    return (uint64_t)sum << 32;
}

/* What the compiler calls when it wants bytes moved; there is no library here. */
void *memcpy(void *restrict to, const void *restrict from, __SIZE_TYPE__ count)
{
    uint8_t *target = to;
    const uint8_t *source = from;

    for (; count >= 4; count -= 4, target += 4, source += 4) {
        uint32_t word;
        __builtin_memcpy(&word, source, 4);
        __builtin_memcpy(target, &word, 4);
    }
    while (count--)
        *target++ = *source++;
    return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ count)
{
    for (volatile uint8_t *target = to; count; count--)
        *target++ = (uint8_t)value;
    return to;
}
