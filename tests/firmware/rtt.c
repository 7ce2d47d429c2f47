/* An RTT program of our own: SEGGER's memory layout, none of its code. */
#include "firmware.h"

struct ring {
    const char *name;
    char *buffer;
    uint32_t size;
    volatile uint32_t write, read;
    uint32_t flags;
};

struct {
    char identifier[16];
    uint32_t up_count, down_count;
    struct ring up[2], down[1];
} _SEGGER_RTT;

static char terminal[64], measurements[16], keys[16];

volatile uint32_t sent, stop_after;

static void set_up(void)
{
    static const char backwards[] = "TTR REGGES";
    _SEGGER_RTT.up_count = 2;
    _SEGGER_RTT.down_count = 1;
    _SEGGER_RTT.up[0] = (struct ring){ "Terminal", terminal, sizeof terminal, 0, 0, 2 };
    _SEGGER_RTT.up[1] = (struct ring){ "numbers", measurements, sizeof measurements, 0, 0, 0 };
    _SEGGER_RTT.down[0] = (struct ring){ "Terminal", keys, sizeof keys, 0, 0, 0 };
    __asm__ volatile("dmb" ::: "memory");
    for (int n = 0; n < 10; n++) /* last, so that nobody finds half a block */
        _SEGGER_RTT.identifier[n] = backwards[9 - n];
}

static void put(struct ring *ring, char byte)
{
    uint32_t next = (ring->write + 1) % ring->size;
    while (next == ring->read)
        ; /* wait until the debugger has made room */
    ring->buffer[ring->write] = byte;
    __asm__ volatile("dmb" ::: "memory");
    ring->write = next;
}

static void print(const char *text)
{
    while (*text)
        put(&_SEGGER_RTT.up[0], *text++);
}

static void print_number(uint32_t value)
{
    char digits[11], *at = digits + 10;
    *at = 0;
    do
        *--at = '0' + value % 10;
    while (value /= 10);
    print(at);
    print("\n");
}

int main(void)
{
    set_up();
    print("ready\n");
    for (uint32_t n = 0; n < 100; n++) {
        print("line ");
        print_number(n);
        sent++;
    }
    for (uint32_t n = 0; n < 8; n++)
        put(&_SEGGER_RTT.up[1], 'a' + n);
    for (;;) {
        struct ring *in = &_SEGGER_RTT.down[0];
        while (in->read != in->write) {
            char byte = in->buffer[in->read];
            in->read = (in->read + 1) % in->size;
            if (byte == '.') { /* the end: a program that is watched by nobody would fault here */
                print("bye\n");
                register uint32_t r0 __asm__("r0") = 0x18, r1 __asm__("r1") = 0x20026;
                __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
            }
            put(&_SEGGER_RTT.up[0], byte >= 'a' && byte <= 'z' ? byte - 32 : byte);
        }
    }
}
