/* A program that asks its debugger for things: what, its command line says, or `request`. */
#include "firmware.h"

enum {
    OPEN = 0x01, CLOSE = 0x02, WRITEC = 0x03, WRITE0 = 0x04, WRITE = 0x05, READ = 0x06, READC = 0x07,
    ISERROR = 0x08, ISTTY = 0x09, SEEK = 0x0A, FLEN = 0x0C, TMPNAM = 0x0D, REMOVE = 0x0E,
    RENAME = 0x0F, CLOCK = 0x10, TIME = 0x11, SYSTEM = 0x12, ERRNO = 0x13, GET_CMDLINE = 0x15,
    HEAPINFO = 0x16, EXIT = 0x18, EXIT_EXTENDED = 0x20, ELAPSED = 0x30, TICKFREQ = 0x31
};

#define APPLICATION_EXIT 0x20026u

char request[64];
volatile uint32_t before, after;

__attribute__((noinline)) static int32_t ask(uint32_t operation, uint32_t parameter)
{
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t r1 __asm__("r1") = parameter;
    before++;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    after++;
    return (int32_t)r0;
}

static int32_t ask_with(uint32_t operation, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    volatile uint32_t block[4] = { a, b, c, d };
    return ask(operation, (uint32_t)block);
}

static uint32_t length_of(const char *text)
{
    uint32_t length = 0;
    while (text[length])
        length++;
    return length;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void print(const char *text) { ask(WRITE0, (uint32_t)text); }

static void print_number(const char *name, int32_t value)
{
    char digits[12], *at = digits + sizeof digits;
    uint32_t rest = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    *--at = 0;
    do
        *--at = '0' + rest % 10;
    while (rest /= 10);
    if (value < 0)
        *--at = '-';
    print(name);
    print("=");
    print(at);
    print("\n");
}

static int32_t open(const char *name, uint32_t mode)
{
    return ask_with(OPEN, (uint32_t)name, mode, length_of(name), 0);
}

static int32_t put(int32_t handle, const char *text)
{
    return ask_with(WRITE, handle, (uint32_t)text, length_of(text), 0);
}

__attribute__((noreturn, noinline)) void leave(uint32_t status)
{
    for (;;)
        ask_with(EXIT_EXTENDED, APPLICATION_EXIT, status, 0, 0);
}

static void files(void)
{
    static char buffer[64];
    int32_t out = open("log.txt", 4);
    print_number("write", put(out, "first line\n"));
    print_number("flen", ask_with(FLEN, out, 0, 0, 0));
    print_number("istty", ask_with(ISTTY, out, 0, 0, 0));
    print_number("close", ask_with(CLOSE, out, 0, 0, 0));
    print_number("closed", ask_with(CLOSE, out, 0, 0, 0));
    print_number("errno", ask(ERRNO, 0));
    out = open("log.txt", 8);
    put(out, "second line\n");
    ask_with(CLOSE, out, 0, 0, 0);
    int32_t in = open("log.txt", 0);
    print_number("seek", ask_with(SEEK, in, 6, 0, 0));
    print_number("read", ask_with(READ, in, (uint32_t)buffer, 4, 0));
    print(buffer);
    print("\n");
    print_number("rest", ask_with(READ, in, (uint32_t)buffer, sizeof buffer, 0));
    print_number("end", ask_with(READ, in, (uint32_t)buffer, sizeof buffer, 0));
    ask_with(CLOSE, in, 0, 0, 0);
    print_number("rename", ask_with(RENAME, (uint32_t) "log.txt", 7, (uint32_t) "new.txt", 7));
    print_number("gone", open("log.txt", 0));
    print_number("tmpnam", ask_with(TMPNAM, (uint32_t)buffer, 7, sizeof buffer, 0));
    print(buffer);
    print("\n");
    int32_t temporary = open(buffer, 6);
    ask_with(CLOSE, temporary, 0, 0, 0);
    print_number("remove", ask_with(REMOVE, (uint32_t)buffer, length_of(buffer), 0, 0));
    print_number("removed", ask_with(REMOVE, (uint32_t)buffer, length_of(buffer), 0, 0));
    print_number("outside", open("../outside.txt", 4));
    print_number("absolute", open("/etc/passwd", 0));
}

static void console(void)
{
    int32_t in = open(":tt", 0), out = open(":tt", 4), error = open(":tt", 8);
    char buffer[8] = { 0 };
    put(out, "to stdout\n");
    put(error, "to stderr\n");
    print_number("istty", ask_with(ISTTY, out, 0, 0, 0));
    uint32_t left = ask_with(READ, in, (uint32_t)buffer, sizeof buffer - 1, 0);
    print_number("left", left);
    put(out, buffer);
    print_number("readc", ask(READC, 0));
}

static void features(void)
{
    char buffer[8] = { 0 };
    int32_t handle = open(":semihosting-features", 0);
    print_number("flen", ask_with(FLEN, handle, 0, 0, 0));
    print_number("left", ask_with(READ, handle, (uint32_t)buffer, sizeof buffer, 0));
    print_number("magic", same(buffer, "SHFB\3"));
    print_number("writing", open(":semihosting-features", 4));
}

static void surroundings(void)
{
    volatile uint32_t heap[4] = { 1, 1, 1, 1 }, ticks[2] = { 0, 1 };
    print_number("heapinfo", ask_with(HEAPINFO, (uint32_t)heap, 0, 0, 0));
    print_number("heap", heap[0] | heap[1] | heap[2] | heap[3]);
    print_number("system", ask_with(SYSTEM, (uint32_t) "touch harm", 10, 0, 0));
    print_number("iserror", ask_with(ISERROR, (uint32_t)-1, 0, 0, 0));
    print_number("noerror", ask_with(ISERROR, 1, 0, 0, 0));
    print_number("tickfreq", ask(TICKFREQ, 0));
    for (volatile int n = 0; n < 20000; n++)
        ;
    print_number("elapsed", ask(ELAPSED, (uint32_t)ticks));
    print_number("ticked", ticks[0] > 100 && ticks[1] == 0);
    print_number("clock", ask(CLOCK, 0) >= 0);
    print_number("time", ask(TIME, 0) > 1700000000);
}

static void nonsense(void)
{
    static const uint32_t addresses[] = { 0xFFFFFFFF, 0x2001FFFE, 0x70000000, 0 };
    for (uint32_t n = 0; n < sizeof addresses / sizeof *addresses; n++)
        for (uint32_t operation = 0; operation < 0x40; operation++)
            if (operation != EXIT && operation != EXIT_EXTENDED && operation != WRITEC
                && operation != WRITE0 && operation != READC)
                ask(operation, addresses[n]);
    int32_t out = open(":tt", 4), in = open(":semihosting-features", 0);
    print_number("write", ask_with(WRITE, out, 0x70000000, 0xFFFFFFFF, 0));
    print_number("read", ask_with(READ, in, 0x70000000, 0xFFFFFFFF, 0));
    print_number("errno", ask(ERRNO, 0));
    print_number("name", ask_with(OPEN, (uint32_t)request, 0, 0xFFFFFFFF, 0));
    print_number("mode", ask_with(OPEN, (uint32_t) ":tt", 12, 3, 0));
    print_number("operation", ask(0x99, 0));
    int32_t many = 0;
    while (many < 1000 && open(":tt", 4) > 0)
        many++;
    print_number("open", many);
    print(" the end");
}

__attribute__((noinline)) void fault(uint32_t depth)
{
    if (depth > 0)
        fault(depth - 1);
    else
        REG(0x70000000) = 1; /* an FMC bank that no clock reaches */
    after++;
}

__attribute__((noinline)) void hang(void)
{
    for (;;)
        ;
}

int main(void)
{
    if (!request[0]) {
        static char line[64];
        char *from = line, *to = request;
        if (ask_with(GET_CMDLINE, (uint32_t)line, sizeof line, 0, 0) != 0)
            leave(99);
        while (*from && *from++ != ' ') /* the program's name */
            ;
        while ((*to++ = *from++))
            ;
    }
    if (same(request, "") || same(request, "hello")) {
        print("hello, world\n");
        ask(WRITEC, (uint32_t) "!\n");
        ask(WRITEC, (uint32_t) "\n");
    } else if (same(request, "old-exit"))
        ask(EXIT, APPLICATION_EXIT);
    else if (same(request, "error"))
        ask(EXIT, 0x20023);
    else if (same(request, "three"))
        leave(3);
    else if (same(request, "many"))
        leave(0x300);
    else if (same(request, "files"))
        files();
    else if (same(request, "console"))
        console();
    else if (same(request, "features"))
        features();
    else if (same(request, "surroundings"))
        surroundings();
    else if (same(request, "nonsense"))
        nonsense();
    else if (same(request, "fault"))
        fault(2);
    else if (same(request, "undefined"))
        __asm__ volatile("udf #0");
    else if (same(request, "lockup"))
        __asm__ volatile("cpsid f\n udf #0");
    else if (same(request, "break"))
        __asm__ volatile("bkpt #1");
    else if (same(request, "hang"))
        hang();
    else if (same(request, "chatter"))
        for (;;)
            print(".");
    else if (same(request, "reset"))
        REG(0xE000ED0C) = 0x05FA0004; /* AIRCR: SYSRESETREQ */
    leave(0);
}
