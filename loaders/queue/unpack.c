/*
 * What crossed a slow link packed: "deflate", RFC 1951, as Python's zlib makes it.
 *
 * Of firmware in pieces of 8 KiB it leaves 53 %, and decoding takes some 90 instructions a byte:
 * little beside what a link takes for one that is worth packing for.  Pieces stand alone, so
 * what was unpacked of a piece is all that it refers to.
 *
 * Nothing static, so that the image can lie anywhere.
 */
#include <stdbool.h>
#include <stdint.h>

#pragma GCC optimize("O2") /* an exception here: the core is waited for */

#define LONGEST_CODE 15u
#define LITERALS 288u
#define DISTANCES 32u
#define END_OF_BLOCK 256u

struct stream {
    const uint8_t *next, *end;
    uint32_t bits, count; /* bits that were taken from `next` and not used yet, lowest first */
    uint8_t *to, *start, *limit;
    bool bad;
};

/* Canonical codes: how many there are of each length, and their symbols in order. */
struct codes {
    uint16_t count[LONGEST_CODE + 1u];
    uint16_t symbols[LITERALS];
};

/* Have `count` bits at hand, as far as there are so many; zeros behind the end. */
static inline void need(struct stream *in, uint32_t count)
{
    while (in->count < count && in->next != in->end) {
        in->bits |= (uint32_t)*in->next++ << in->count;
        in->count += 8u;
    }
}

static inline void drop(struct stream *in, uint32_t count)
{
    if (count > in->count) {
        in->bad = true;
        count = in->count;
    }
    in->bits >>= count;
    in->count -= count;
}

static uint32_t take(struct stream *in, uint32_t count)
{
    need(in, count);
    uint32_t value = in->bits & ((1u << count) - 1u);
    drop(in, count);
    return value;
}

static void make_codes(struct codes *codes, const uint8_t *lengths, uint32_t symbols)
{
    uint16_t place[LONGEST_CODE + 1u];

    for (uint32_t i = 0; i <= LONGEST_CODE; i++)
        codes->count[i] = 0;
    for (uint32_t i = 0; i < symbols; i++)
        codes->count[lengths[i]]++;
    codes->count[0] = 0;
    place[0] = 0;
    for (uint32_t i = 1; i <= LONGEST_CODE; i++)
        place[i] = (uint16_t)(place[i - 1u] + codes->count[i - 1u]);
    for (uint32_t i = 0; i < symbols; i++)
        if (lengths[i])
            codes->symbols[place[lengths[i]]++] = (uint16_t)i;
}

/* Codes of one length are consecutive numbers, and begin where those one bit shorter end. */
static uint32_t symbol(struct stream *in, const struct codes *codes)
{
    uint32_t value = 0, first = 0;
    const uint16_t *count = codes->count, *symbols = codes->symbols;

    need(in, LONGEST_CODE);
    uint32_t bits = in->bits;
    for (uint32_t length = 1; length <= LONGEST_CODE; length++) {
        value |= bits & 1u;
        bits >>= 1;
        uint32_t here = *++count;
        if (value - first < here) {
            drop(in, length);
            return symbols[value - first];
        }
        symbols += here;
        first = (first + here) << 1;
        value <<= 1;
    }
    in->bad = true;
    return END_OF_BLOCK;
}

static void put(struct stream *in, uint8_t byte)
{
    if (in->to == in->limit)
        in->bad = true;
    else
        *in->to++ = byte;
}

/* Lengths from 3 and distances from 1: groups of codes, each with one extra bit more. */
static uint32_t length_of(struct stream *in, uint32_t code)
{
    if (code < 8u)
        return 3u + code;
    if (code == 28u)
        return 258u;
    uint32_t extra = (code >> 2) - 1u;
    return 3u + ((4u + (code & 3u)) << extra) + take(in, extra);
}

static uint32_t distance_of(struct stream *in, uint32_t code)
{
    if (code < 4u)
        return 1u + code;
    uint32_t extra = (code >> 1) - 1u;
    return 1u + ((2u + (code & 1u)) << extra) + take(in, extra);
}

static void coded(struct stream *in, const struct codes *literals, const struct codes *distances)
{
    while (!in->bad) {
        uint32_t code = symbol(in, literals);
        if (code == END_OF_BLOCK)
            return;
        if (code < END_OF_BLOCK) {
            put(in, (uint8_t)code);
            continue;
        }
        uint32_t length = length_of(in, code - 257u);
        uint32_t distance = distance_of(in, symbol(in, distances));
        if (distance > (uint32_t)(in->to - in->start)) {
            in->bad = true;
            return;
        }
        while (length-- && !in->bad)
            put(in, in->to[-(int32_t)distance]);
    }
}

static void stored(struct stream *in)
{
    in->bits = in->count = 0; /* on to the next byte; less than one was left */
    uint32_t length = take(in, 8);
    length |= take(in, 8) << 8;
    take(in, 16);
    while (length-- && !in->bad)
        put(in, (uint8_t)take(in, 8));
}

static void fixed_lengths(uint8_t *lengths)
{
    for (uint32_t i = 0; i < LITERALS; i++)
        lengths[i] = i < 144u ? 8 : i < 256u ? 9 : i < 280u ? 7 : 8;
    for (uint32_t i = 0; i < DISTANCES; i++)
        lengths[LITERALS + i] = 5;
}

/* Lengths of codes are themselves coded; 16 repeats the last one, 17 and 18 are zeros. */
static void read_lengths(struct stream *in, uint8_t *lengths, uint32_t total, struct codes *codes)
{
    uint8_t own[19];
    uint32_t given = take(in, 4) + 4u;

    for (uint32_t i = 0; i < 19u; i++)
        own[i] = 0;
    for (uint32_t i = 0; i < given; i++) {
        /* 16, 17, 18, 0, and from the middle outwards: 8, 7, 9, 6, 10, ... */
        uint32_t step = i - 3u;
        uint32_t place = i < 3u    ? 16u + i
                         : i == 3u ? 0
                         : step & 1u ? 8u + step / 2u
                                     : 8u - step / 2u;
        own[place] = (uint8_t)take(in, 3);
    }
    make_codes(codes, own, 19);
    uint32_t done = 0;
    while (done < total && !in->bad) {
        uint32_t code = symbol(in, codes), times = 1;
        uint8_t length = code < 16u ? (uint8_t)code : 0;
        if (code == 16u) {
            if (!done) {
                in->bad = true;
                return;
            }
            length = lengths[done - 1u];
            times = 3u + take(in, 2);
        } else if (code == 17u) {
            times = 3u + take(in, 3);
        } else if (code >= 18u) {
            times = 11u + take(in, 7);
        }
        while (times-- && done < total)
            lengths[done++] = length;
    }
}

/* Returns how many bytes there are at `to` now; 0 if the data cannot be, or is too long. */
uint32_t unpack(const uint8_t *from, uint32_t length, uint8_t *to, uint32_t room)
{
    struct stream in = {from, from + length, 0, 0, to, to, to + room, false};
    struct codes literals, distances;
    uint8_t lengths[LITERALS + DISTANCES];
    bool last = false;

    while (!last && !in.bad) {
        last = take(&in, 1);
        uint32_t kind = take(&in, 2), count = LITERALS, far = DISTANCES;
        if (kind == 0) {
            stored(&in);
            continue;
        }
        if (kind == 1u) {
            fixed_lengths(lengths);
        } else {
            count = take(&in, 5) + 257u;
            far = take(&in, 5) + 1u;
            if (kind == 3u || count > LITERALS)
                return 0;
            read_lengths(&in, lengths, count + far, &literals);
            if (in.bad)
                return 0;
        }
        make_codes(&literals, lengths, count);
        make_codes(&distances, lengths + count, far);
        coded(&in, &literals, &distances);
    }
    return in.bad ? 0 : (uint32_t)(in.to - to);
}
