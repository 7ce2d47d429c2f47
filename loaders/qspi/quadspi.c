/* RM0433, "Quad-SPI interface (QUADSPI)"; ES0392, the section on QUADSPI. */
#include "quadspi.h"

#include "loader.h"
#include "registers.h"

#define FRAME_MS 100u   /* far more than the longest frame: 32 bytes wait in the FIFO */
#define FIFO_BYTES 32u
#define BURST_BYTES 16u /* half of the FIFO: the other half fills or drains meanwhile */
#define MOST_TURNS 512u /* of a loop: what a burst takes on one line, at a common clock */

struct __attribute__((packed)) unaligned {
    uint32_t value;
};

static uint32_t control; /* CR, as it is between frames */
static bool mapped;
static uint32_t burst_turns; /* of a loop: what half of the FIFO takes to drain, as learned */

static void configure_pin(const struct pin *pin, bool pull_up)
{
    uint32_t port = pin->port, number = pin->number, shift = 2u * number;

    RCC_AHB4ENR |= 1u << port;
    (void)RCC_AHB4ENR; /* the clock is there two cycles after the write */
    GPIO_OTYPER(port) &= ~(1u << number);
    GPIO_OSPEEDR(port) |= GPIO_OSPEEDR_VERY_HIGH << shift;
    GPIO_PUPDR(port) = (GPIO_PUPDR(port) & ~(3u << shift)) | (pull_up ? GPIO_PUPDR_UP : 0u) << shift;
    uint32_t nibble = 4u * (number & 7u);
    GPIO_AFR(port, number) =
        (GPIO_AFR(port, number) & ~(15u << nibble)) | (uint32_t)pin->function << nibble;
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << shift)) | GPIO_MODER_ALTERNATE << shift;
}

/*
 * Look at SR until one of `flags` is there, after a change of sign of those in `inverted`, and at
 * the clock now and then, where it takes long.  Returns SR like that, for one look may tell two
 * things; 0 when the time is over.
 */
static uint32_t wait(uint32_t flags, uint32_t inverted, uint32_t milliseconds)
{
    struct deadline deadline;

    for (uint32_t looks = 1;; looks++) {
        uint32_t there = QUADSPI_SR ^ inverted;
        if (there & flags)
            return there;
        if (looks == LOOKS_AT_TIME)
            deadline = deadline_in(milliseconds);
        else if (looks % LOOKS_AT_TIME == 0 && deadline_expired(&deadline))
            return 0;
    }
}

/*
 * To be run after each reset of the QUADSPI and each time it leaves memory-mapped mode: let its
 * clock run free for a moment (ES0392, "QUADSPI internal timing criticality").
 */
static void settle_timing(void)
{
    QUADSPI_CR = 0;
    QUADSPI_CCR = CCR_FRCM;
    QUADSPI_CCR = CCR_FRCM; /* twice, or the first is taken back at once */
    QUADSPI_CR = CR_ABORT;  /* ends it; due within 127 cycles of the kernel clock */
    for (uint32_t looks = 1000; looks && (QUADSPI_CR & CR_ABORT); looks--)
        ;
    QUADSPI_FCR = FCR_ALL;
}

static void reset_peripheral(void)
{
    RCC_AHB3RSTR |= RCC_AHB3_QSPI;
    (void)RCC_AHB3RSTR;
    RCC_AHB3RSTR &= ~RCC_AHB3_QSPI;
    (void)RCC_AHB3RSTR;
    settle_timing();
    mapped = false;
}

/* Whatever goes on (a mapped read never ends by itself), end it.  Resets the QUADSPI if need be. */
static void stop(void)
{
    if (QUADSPI_SR & SR_BUSY) {
        QUADSPI_CR = control | CR_ABORT;
        if (!wait(SR_BUSY, SR_BUSY, FRAME_MS)) {
            uint32_t device = QUADSPI_DCR;
            reset_peripheral();
            QUADSPI_DCR = device;
            QUADSPI_CR = control;
        }
    }
    if (mapped) {
        settle_timing();
        QUADSPI_CR = control;
        mapped = false;
    }
    QUADSPI_FCR = FCR_ALL;
}

/* A frame ends idle, so only a mapped NOR has to be taken back. */
static inline void begin(void)
{
    if (mapped)
        stop();
}

uint32_t quadspi_open(uint32_t max_hz)
{
    RCC_AHB3ENR |= RCC_AHB3_QSPI;
    (void)RCC_AHB3ENR;
    reset_peripheral();
    uint32_t hz = quadspi_set(max_hz, 0);
    for (int i = 0; i < 6; i++)
        configure_pin(&config.pins[i], i == 1); /* NCS must be high while nobody drives it */
    for (int i = 0; both_banks() && i < 5; i++)
        if (config.second[i].port != NO_PIN)
            configure_pin(&config.second[i], i == 4);
    return hz;
}

uint32_t quadspi_set(uint32_t max_hz, uint32_t size)
{
    uint32_t kernel = clock_quadspi_hz();
    uint32_t divider = (kernel + max_hz - 1u) / max_hz;
    if (divider > 256u)
        divider = 256u;

    stop();
    /*
     * FSIZE is one more than the size asks for: with an exact one, a mapped read of the last byte
     * returns 0 and a second one stalls the bus (ES0392).  256 MiB is all that can be mapped.
     */
    uint32_t bits = 31;
    if (size) {
        bits = 31u - (uint32_t)__builtin_clz(size);
        if (bits > 27u)
            bits = 27u;
    }
    /* Six clocks between two frames are the 50 ns that a NOR wants after a write, up to 120 MHz. */
    QUADSPI_DCR = DCR_FSIZE(bits) | DCR_CSHT(5u);
    control = CR_PRESCALER(divider - 1u) | CR_SSHIFT | CR_APMS | CR_EN |
              CR_FTHRES(BURST_BYTES - 1u);
    if (config.bank == 2u)
        control |= CR_FSEL;
    if (both_banks())
        control |= CR_DFM;
    QUADSPI_CR = control;
    return kernel / divider;
}

static bool finish(bool good)
{
    if (good) {
        uint32_t there = wait(SR_TCF | SR_TEF, SR_BUSY, FRAME_MS);
        good = (there & (SR_TCF | SR_TEF)) == SR_TCF &&
               (there & SR_BUSY || wait(SR_BUSY, SR_BUSY, FRAME_MS));
    }
    if (good)
        QUADSPI_FCR = FCR_ALL;
    else
        stop();
    return good;
}

bool quadspi_command(uint32_t phases)
{
    begin();
    QUADSPI_CCR = phases;
    return finish(true);
}

bool quadspi_command_at(uint32_t phases, uint32_t address)
{
    begin();
    QUADSPI_CCR = phases;
    QUADSPI_AR = address;
    return finish(true);
}

bool quadspi_read(uint32_t phases, uint32_t address, uint8_t *data, uint32_t length)
{
    begin();
    QUADSPI_DLR = length - 1u;
    QUADSPI_ABR = 0xFFFFFFFFu;
    QUADSPI_CCR = phases | CCR_FMODE_READ;
    QUADSPI_AR = address; /* ignored when there is no address phase */
    bool good = true;
    while (good && length) {
        uint32_t burst = length < BURST_BYTES ? length : BURST_BYTES;
        uint32_t there = wait(SR_FTF | SR_TCF | SR_TEF, 0, FRAME_MS);
        good = there && !(there & SR_TEF);
        length -= burst;
        while (good && burst--)
            *data++ = QUADSPI_DR8;
    }
    return finish(good);
}

static inline const uint8_t *put(const uint8_t *data, uint32_t count)
{
    for (; count >= 4u; count -= 4u, data += 4u)
        QUADSPI_DR = ((const struct unaligned *)data)->value;
    while (count--)
        QUADSPI_DR8 = *data++;
    return data;
}

static inline void spend(uint32_t turns)
{
    __asm__ volatile("1: subs %0, #1\n bhi 1b" : "+l"(turns) : : "cc");
}

/*
 * Wait until half of the FIFO is free; how much of it is, in whole words, or 0 where that fails.
 * A look at SR crosses two buses, so there is one when it should be time: later after each that
 * came too early, a little earlier after each that did not.
 */
static inline uint32_t drained(void)
{
    spend(burst_turns);
    uint32_t there = QUADSPI_SR;
    if (there & SR_FTF) {
        burst_turns -= burst_turns / 16u;
    } else {
        if (burst_turns < MOST_TURNS)
            burst_turns += 2u + burst_turns / 16u;
        there = wait(SR_FTF | SR_TEF, 0, FRAME_MS);
    }
    return (there & (SR_FTF | SR_TEF)) == SR_FTF ? (FIFO_BYTES - SR_FLEVEL(there)) & ~3u : 0;
}

bool quadspi_write(uint32_t phases, uint32_t address, const uint8_t *data, uint32_t length)
{
    begin();
    QUADSPI_DLR = length - 1u;
    if (phases & CCR_ABMODE(FOUR))
        QUADSPI_ABR = 0xFFFFFFFFu;
    QUADSPI_CCR = phases;
    QUADSPI_AR = address;
    /* A NOR waits for this between two pages.  The FIFO is empty, so all of it is filled at once. */
    uint32_t room = FIFO_BYTES;
    while (length && room) {
        uint32_t count = length < room ? length : room;
        data = put(data, count);
        length -= count;
        if (length)
            room = drained();
    }
    return finish(!length);
}

bool quadspi_poll(uint32_t phases, uint32_t mask, uint32_t match, uint32_t milliseconds)
{
    begin();
    QUADSPI_DLR = both_banks() ? 1u : 0u;
    QUADSPI_FCR = FCR_ALL; /* not after the match: then a NOR waits for its next command */
    QUADSPI_PSMKR = mask;
    QUADSPI_PSMAR = match;
    QUADSPI_CCR = phases | CCR_FMODE_POLL; /* without a pause: PIR is 0 since its reset */
    uint32_t there = wait(SR_SMF, SR_BUSY, milliseconds);
    if (!(there & SR_BUSY)) /* with APMS it stops by itself at a match */
        stop();
    return there;
}

bool quadspi_map(uint32_t phases)
{
    stop();
    QUADSPI_ABR = 0xFFFFFFFFu; /* never the mode bits that mean "no instruction next time" */
    QUADSPI_CCR = phases | CCR_FMODE_MAPPED;
    mapped = true;
    __asm__ volatile("dsb" : : : "memory");
    return true;
}
