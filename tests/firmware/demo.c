/*
 * The demonstration: code and constants in internal flash bank 1, bank 2 and the NOR, in one
 * ELF.  main calls each of them in an endless loop.
 */
#include "firmware.h"

/* In the NOR: a greeting, a table with a sum that everybody knows, and 96 KiB of ballast. */
NOR_DATA const char greeting[] = "hello from the QSPI NOR";
NOR_DATA const uint32_t squares[16] = {
    0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 121, 144, 169, 196, 225,
};
#define ROW(n) (n) * 0x01010101u, (n) * 0x02020202u + 1u, ~(n), (n) ^ 0x5AA55AA5u
#define ROWS8(n) ROW(n), ROW(n + 1), ROW(n + 2), ROW(n + 3), ROW(n + 4), ROW(n + 5), ROW(n + 6), ROW(n + 7)
#define ROWS64(n) ROWS8(n), ROWS8(n + 8), ROWS8(n + 16), ROWS8(n + 24), ROWS8(n + 32), ROWS8(n + 40), ROWS8(n + 48), ROWS8(n + 56)
#define ROWS512(n) ROWS64(n), ROWS64(n + 64), ROWS64(n + 128), ROWS64(n + 192), ROWS64(n + 256), ROWS64(n + 320), ROWS64(n + 384), ROWS64(n + 448)
#define ROWS2K(n) ROWS512(n), ROWS512(n + 512), ROWS512(n + 1024), ROWS512(n + 1536)
NOR_DATA const uint32_t ballast[6 * 2048 * 2] = {
    ROWS2K(0u), ROWS2K(2048u), ROWS2K(4096u),
};

volatile uint32_t counter;
volatile uint32_t total = 42; /* .data: copied by the startup code */
volatile float mean;
const char *volatile said;

IN_NOR uint32_t sum_in_nor(const uint32_t *values, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += values[i];
    return sum;
}

IN_BANK2 uint32_t twice_in_bank2(uint32_t value)
{
    return 2 * value;
}

__attribute__((noinline)) static uint32_t add(uint32_t a, uint32_t b)
{
    uint32_t sum = a + b;
    return sum;
}

int main(void)
{
    map_nor();
    start_ticks();
    said = greeting;
    for (;;) {
        uint32_t sum = sum_in_nor(squares, 16);
        total = add(sum, twice_in_bank2(counter));
        mean = (float)total / 16.0f;
        counter++;
    }
}
