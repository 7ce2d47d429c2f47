/*
 * What the NOR is, is asked of the NOR: JESD216 (SFDP) "JEDEC Basic Flash Parameter Table" and
 * "4-byte Address Instruction Parameter Table".  What tables of early revisions leave out is
 * known by manufacturer, from the datasheets of W25Q256JV, MT25QL512ABB and IS25LP256D.
 *
 * Opcodes that carry four address bytes by themselves are preferred: then the part stays in
 * three-byte mode, which is where the boot code of an application expects it after a reset.
 *
 * Two NORs side by side (BOTH_BANKS) must be equal.  They are driven as one whose pages, sectors
 * and size are twice as large: what is written to both or read from both is in pairs of bytes,
 * and a register of one is bits 7:0, that of the other bits 15:8.
 */
#include "nor.h"

#include "loader.h"
#include "quadspi.h"
#include "registers.h"

struct found found;

/* Frames: instruction on one line, then ... */
#define INSTRUCTION(opcode) (CCR_IMODE(ONE) | CCR_INSTRUCTION(opcode))
#define WITH_DATA(opcode) (INSTRUCTION(opcode) | CCR_DMODE(ONE))
#define ON_FOUR_LINES(opcode) (CCR_IMODE(FOUR) | CCR_INSTRUCTION(opcode))

enum {
    WRITE_STATUS = 0x01,
    WRITE_DISABLE = 0x04,
    READ_STATUS = 0x05,
    WRITE_ENABLE = 0x06,
    WRITE_STATUS_2 = 0x31,
    READ_STATUS_2 = 0x35,
    WRITE_STATUS_2_MACRONIX = 0x3E, /* QER 3 */
    READ_STATUS_2_MACRONIX = 0x3F,
    CLEAR_FLAGS = 0x50,
    READ_SFDP = 0x5A,
    ENABLE_RESET = 0x66,
    READ_FLAGS = 0x70,
    RESET = 0x99,
    READ_ID = 0x9F,
    WAKE_UP = 0xAB,
    ENTER_4BYTE = 0xB7,
    ERASE_CHIP = 0xC7,
    EXIT_QPI_MICRON = 0xF5,
    EXIT_QPI_WINBOND = 0xFF,
};

enum { WINBOND = 0xEF, MICRON = 0x20, ISSI = 0x9D, MACRONIX = 0xC2, GIGADEVICE = 0xC8 };

#define BUSY 1u
#define WRITE_ENABLED 2u
#define FLAGS_READY 0x80u
#define FLAGS_FAILED 0x32u /* erase, program, protection */

/* Times that hold for every part known; erase times come from its SFDP. */
#define LEFT_BUSY_MS 3000u /* an erase that an application began before it was stopped */
#define RESET_MS 1000u
#define STATUS_WRITE_MS 1000u
#define PROGRAM_MS 100u
#define ERASE_UNIT_MS 5000u
#define ERASE_CHIP_MS 1000000u

#define IDENTIFY_HZ 25000000u
#define DEFAULT_HZ 66000000u /* leaves margin to the parts (133 MHz) and to the board */

struct erase_type {
    uint32_t size; /* bytes; 0 ends the list */
    uint32_t opcode;
    uint32_t max_ms;
};

static struct erase_type erase_types[4]; /* largest first */
static uint32_t read_phases, program_phases;
static uint32_t nors = 1;  /* side by side */
static uint32_t every = 1; /* times a bit of a register: that bit of each NOR's */

bool nor_failed(uint32_t status, uint32_t address)
{
    found.status = status;
    found.address = address;
    found.culprits = 0;
    return false;
}

/* The same, where it can be told which of two NORs it is: those with a 1 in `registers`. */
static bool failed_in(uint32_t registers, uint32_t status, uint32_t address)
{
    nor_failed(status, address);
    if (nors == 2u)
        found.culprits = ((registers & 0xFFu) != 0) | (uint32_t)((registers >> 8) != 0) << 1;
    return false;
}

static bool quadspi_fault(void)
{
    return nor_failed(QUADSPI_FAULT, 0);
}

static uint32_t manufacturer(void)
{
    return found.jedec >> 16;
}

/* --- Small frames --------------------------------------------------------------------- */

/* Ones, where the QUADSPI does not finish. */
static uint32_t read_register(uint32_t opcode)
{
    uint32_t values = 0xFFu * every;
    quadspi_read(WITH_DATA(opcode), 0, (uint8_t *)&values, nors);
    return values;
}

static bool ready(uint32_t milliseconds)
{
    uint32_t done = FLAGS_READY * every;
    if (found.flags & FOUND_FLAG_STATUS) {
        if (!quadspi_poll(WITH_DATA(READ_FLAGS), done, done, milliseconds))
            return false;
    }
    return quadspi_poll(WITH_DATA(READ_STATUS), BUSY * every, 0, milliseconds);
}

static bool stuck_busy(uint32_t address)
{
    return failed_in(read_register(READ_STATUS) & BUSY * every, STUCK_BUSY, address);
}

/* Send write enable; 0, or a bit for those that did not take it. */
static uint32_t refused_write_enable(void)
{
    if (!quadspi_command(INSTRUCTION(WRITE_ENABLE)))
        return every;
    uint32_t wanted = WRITE_ENABLED * every, mask = (WRITE_ENABLED | BUSY) * every;
    return (read_register(READ_STATUS) & mask) ^ wanted;
}

/* One register, or two that follow each other. */
static bool write_registers(uint32_t opcode, uint32_t first, uint32_t second, uint32_t count)
{
    uint8_t values[4];
    uint32_t length = 0;

    for (uint32_t i = 0; i < nors; i++)
        values[length++] = (uint8_t)(first >> 8 * i);
    for (uint32_t i = 0; count == 2 && i < nors; i++)
        values[length++] = (uint8_t)(second >> 8 * i);
    return !refused_write_enable() && quadspi_write(WITH_DATA(opcode), 0, values, length) &&
           ready(STATUS_WRITE_MS);
}

/* --- Out of any state ----------------------------------------------------------------- */

/*
 * An application may have left the NOR in continuous read (it then takes an address where we send
 * an instruction), in QPI (instructions on four lines), powered down, busy, or all of these.
 * Ones on all lines end the first for every vendor; what a NOR does not expect it ignores.
 */
static void wake_up(void)
{
    static const uint8_t ones[32] = {
        [0 ... 31] = 0xFF,
    };
    static const uint8_t on_four_lines[] = {WAKE_UP, EXIT_QPI_WINBOND, EXIT_QPI_MICRON};

    quadspi_write(CCR_ABMODE(FOUR) | CCR_ABSIZE(4) | CCR_DMODE(FOUR), 0, ones, 16u * nors);
    for (uint32_t i = 0; i < sizeof on_four_lines; i++) {
        quadspi_command(ON_FOUR_LINES(on_four_lines[i]));
        pause_us(50); /* a NOR needs up to 30 us from power-down to its next instruction */
    }
    quadspi_command(INSTRUCTION(WAKE_UP));
    pause_us(50);
}

static bool reset_nor(void)
{
    /* Let an erase end: cut short, it leaves a sector that is neither old nor blank. */
    uint32_t status = read_register(READ_STATUS), answer = 0;
    for (uint32_t shift = 0; shift < 8u * nors; shift += 8)
        if ((status >> shift & 0xFFu) != 0xFF)
            answer |= 1u << shift;
    if (answer)
        quadspi_poll(WITH_DATA(READ_STATUS), BUSY * answer, 0, LEFT_BUSY_MS);
    quadspi_command(INSTRUCTION(ENABLE_RESET));
    quadspi_command(INSTRUCTION(RESET));
    pause_us(200); /* tRST: 30 us (Winbond) to 100 us (ISSI) */

    uint8_t id[6] = {0};
    if (!quadspi_read(WITH_DATA(READ_ID), 0, id, 3u * nors))
        return quadspi_fault();
    uint32_t silent = 0;
    for (uint32_t i = 0; i < nors; i++) {
        const uint8_t *at = id + i;
        uint32_t jedec = (uint32_t)at[0] << 16 | (uint32_t)at[nors] << 8 | at[2u * nors];
        if (jedec == 0 || jedec == 0xFFFFFF)
            silent |= 1u << 8 * i;
        *(i ? &found.second_jedec : &found.jedec) = jedec;
    }
    if (silent) {
        bool busy = answer & silent & read_register(READ_STATUS);
        return failed_in(silent, busy ? STUCK_BUSY : NO_ANSWER, 0);
    }
    if (nors == 2u && found.jedec != found.second_jedec)
        return nor_failed(NOT_ALIKE, 0);
    return ready(RESET_MS) || stuck_busy(0);
}

/* --- What it is ----------------------------------------------------------------------- */

struct sfdp {
    uint32_t basic[20]; /* words 1, 2, ... of the tables; 0 beyond their end */
    uint32_t basic_words;
    uint32_t four_byte[2];
    bool has_four_byte;
};

static bool read_sfdp(uint32_t address, void *data, uint32_t length)
{
    uint32_t phases = WITH_DATA(READ_SFDP) | CCR_ADMODE(ONE) | CCR_ADSIZE(3) | CCR_DCYC(8);

    if (nors == 1u)
        return quadspi_read(phases, address, data, length);
    for (uint8_t *byte = data; length; length--, address++, byte++) {
        uint8_t pair[2];
        if (!quadspi_read(phases, 2u * address, pair, 2))
            return false;
        if (pair[0] != pair[1])
            found.status = NOT_ALIKE;
        *byte = pair[0];
    }
    return true;
}

static bool load_sfdp(struct sfdp *sfdp)
{
    uint8_t header[8];

    for (uint32_t i = 0; i < 20; i++)
        sfdp->basic[i] = 0;
    sfdp->basic_words = 0;
    sfdp->has_four_byte = false;
    if (!read_sfdp(0, header, sizeof header))
        return false;
    if (header[0] != 'S' || header[1] != 'F' || header[2] != 'D' || header[3] != 'P')
        return false;
    uint32_t tables = (uint32_t)header[6] + 1u;
    for (uint32_t i = 0; i < tables; i++) {
        uint8_t entry[8];
        if (!read_sfdp(8u + 8u * i, entry, sizeof entry))
            return false;
        uint32_t id = (uint32_t)entry[7] << 8 | entry[0];
        uint32_t words = entry[3];
        uint32_t at = (uint32_t)entry[6] << 16 | (uint32_t)entry[5] << 8 | entry[4];
        if (entry[0] == 0x00 && words > sfdp->basic_words) {
            /* Revisions before JESD216B leave the high byte of the id undefined. */
            uint32_t take = words < 20 ? words : 20;
            if (!read_sfdp(at, sfdp->basic, 4u * take))
                return false;
            sfdp->basic_words = take;
        }
        if (id == 0xFF84 && words >= 2) {
            if (!read_sfdp(at, sfdp->four_byte, 8))
                return false;
            sfdp->has_four_byte = true;
        }
    }
    return sfdp->basic_words >= 9;
}

static uint32_t four_byte_opcode(uint32_t opcode)
{
    static const uint8_t pairs[][2] = {
        {0x03, 0x13}, {0x0B, 0x0C}, {0x6B, 0x6C}, {0xEB, 0xEC}, {0x02, 0x12},
        {0x32, 0x34}, {0x38, 0x3E}, {0x20, 0x21}, {0x52, 0x5C}, {0xD8, 0xDC},
    };
    for (uint32_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (pairs[i][0] == opcode)
            return pairs[i][1];
    return 0;
}

/* How addresses are sent: what the part calls a four-byte instruction, or a mode it must be in. */
enum addressing { THREE_BYTES, FOUR_BYTE_OPCODES, FOUR_BYTE_MODE, ALWAYS_FOUR_BYTES };

static enum addressing addressing_of(const struct sfdp *sfdp)
{
    if (found.size <= 0x1000000u)
        return THREE_BYTES;
    if ((sfdp->basic[0] >> 17 & 3u) == 2u)
        return ALWAYS_FOUR_BYTES;
    if (sfdp->has_four_byte || (sfdp->basic[15] >> 24 & 1u << 5))
        return FOUR_BYTE_OPCODES;
    return FOUR_BYTE_MODE;
}

static void insert_erase_type(uint32_t size, uint32_t opcode, uint32_t max_ms)
{
    struct erase_type type = {size, opcode, max_ms};
    for (uint32_t i = 0; i < 4; i++)
        if (type.size > erase_types[i].size) {
            struct erase_type smaller = erase_types[i];
            erase_types[i] = type;
            type = smaller;
        }
}

static uint32_t erase_max_ms(const struct sfdp *sfdp, uint32_t index)
{
    static const uint16_t units[4] = {1, 16, 128, 1000};
    if (sfdp->basic_words < 10)
        return ERASE_UNIT_MS;
    uint32_t word = sfdp->basic[9];
    uint32_t typical = word >> (4u + 7u * index) & 0x7Fu;
    uint32_t milliseconds =
        units[typical >> 5] * ((typical & 31u) + 1u) * 2u * ((word & 15u) + 1u);
    /* A worn part may need longer than its table says; a time-out is for one that is dead. */
    return milliseconds > ERASE_UNIT_MS / 2u ? 2u * milliseconds : ERASE_UNIT_MS;
}

static void describe_erase(const struct sfdp *sfdp, enum addressing addressing)
{
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t half = sfdp->basic[7 + i / 2] >> 16 * (i % 2);
        uint32_t exponent = half & 0xFFu, opcode = half >> 8 & 0xFFu;
        if (exponent == 0 || exponent > 31)
            continue;
        if (addressing == FOUR_BYTE_OPCODES && sfdp->has_four_byte) {
            opcode = sfdp->four_byte[1] >> 8 * i & 0xFFu;
            if (!(sfdp->four_byte[0] >> (9 + i) & 1u) || opcode == 0xFF)
                continue;
        } else if (addressing == FOUR_BYTE_OPCODES) {
            /* Without a table, only those that every such part has: 5Ch is not among them. */
            opcode = opcode == 0x52 ? 0 : four_byte_opcode(opcode);
            if (!opcode)
                continue;
        }
        insert_erase_type(1u << exponent, opcode, erase_max_ms(sfdp, i));
    }
}

static uint32_t address_phase(uint32_t lines)
{
    return CCR_ADMODE(lines) | CCR_ADSIZE(found.address_bytes);
}

/* A fast read on one line: eight dummy cycles, in every part there is. */
static uint32_t plain_read_phases(void)
{
    uint32_t opcode = 0x0B;
    if (found.address_bytes == 4 && !(found.flags & FOUND_ENTERED_4BYTE))
        opcode = 0x0C;
    return WITH_DATA(opcode) | address_phase(ONE) | CCR_DCYC(8);
}

static void use_plain_lines(bool four_byte_opcodes)
{
    found.read_opcode = four_byte_opcodes ? 0x0C : 0x0B;
    found.read_lines = 0x11;
    found.read_dummies = 8;
    read_phases = WITH_DATA(found.read_opcode) | address_phase(ONE) | CCR_DCYC(8);
    found.program_opcode = four_byte_opcodes ? 0x12 : 0x02;
    found.program_lines = 0x11;
    program_phases = WITH_DATA(found.program_opcode) | address_phase(ONE);
}

static void use_four_lines(const struct sfdp *sfdp, enum addressing addressing)
{
    bool native = addressing == FOUR_BYTE_OPCODES;
    uint32_t modes = sfdp->basic[0], both = sfdp->basic[2];
    uint32_t table = sfdp->has_four_byte ? sfdp->four_byte[0] : 0xFFFFFFFFu;

    if ((modes & 1u << 21) && (!native || (table & 1u << 5))) {
        uint32_t opcode = both >> 8 & 0xFFu;
        found.read_opcode = native ? four_byte_opcode(opcode) : opcode;
        found.read_lines = 0x44;
        found.read_dummies = (both & 31u) + (both >> 5 & 7u);
        /* The mode bits, if the part has any, are the first of the dummies: we send ones. */
        uint32_t mode_byte = found.read_dummies >= 3 ? CCR_ABMODE(FOUR) | CCR_ABSIZE(1) : 0;
        read_phases = INSTRUCTION(found.read_opcode) | address_phase(FOUR) | mode_byte |
                      CCR_DCYC(found.read_dummies - (mode_byte ? 2u : 0u)) | CCR_DMODE(FOUR);
    } else if ((modes & 1u << 22) && (!native || (table & 1u << 4))) {
        uint32_t opcode = both >> 24;
        found.read_opcode = native ? four_byte_opcode(opcode) : opcode;
        found.read_lines = 0x14;
        found.read_dummies = (both >> 16 & 31u) + (both >> 21 & 7u);
        read_phases = INSTRUCTION(found.read_opcode) | address_phase(ONE) |
                      CCR_DCYC(found.read_dummies) | CCR_DMODE(FOUR);
    }

    /* No table of three-byte parts says how they program on four lines; their makers do. */
    uint32_t maker = manufacturer();
    bool known = maker == WINBOND || maker == MICRON || maker == ISSI || maker == GIGADEVICE;
    if (native && sfdp->has_four_byte ? (table & 1u << 7) != 0 : known) {
        found.program_opcode = native ? 0x34 : 0x32;
        found.program_lines = 0x14;
        program_phases = INSTRUCTION(found.program_opcode) | address_phase(ONE) | CCR_DMODE(FOUR);
    } else if (native && sfdp->has_four_byte ? (table & 1u << 8) != 0 : maker == MACRONIX) {
        found.program_opcode = native ? 0x3E : 0x38;
        found.program_lines = 0x44;
        program_phases = INSTRUCTION(found.program_opcode) | address_phase(FOUR) | CCR_DMODE(FOUR);
    }
}

/* --- Quad enable ---------------------------------------------------------------------- */

enum quad_enable {
    NO_QE_BIT = 0,
    SR2_BIT1_WITH_SR1_A = 1, /* 01h with two bytes; three encodings of it in JESD216 */
    SR1_BIT6 = 2,
    SR2_BIT7_OWN_OPCODES = 3,
    SR2_BIT1_WITH_SR1_B = 4,
    SR2_BIT1_WITH_SR1_C = 5,
    SR2_BIT1_OWN_OPCODE = 6,
};

static uint32_t quad_enable_method(const struct sfdp *sfdp)
{
    if (sfdp->basic_words >= 15)
        return sfdp->basic[14] >> 20 & 7u;
    switch (manufacturer()) {
    case MICRON:
        return NO_QE_BIT;
    case ISSI:
    case MACRONIX:
        return SR1_BIT6;
    case WINBOND:
    case GIGADEVICE:
        return SR2_BIT1_WITH_SR1_B;
    default:
        return 7; /* reserved: nobody told us */
    }
}

/* Leaves IO2 and IO3 as data lines.  The bit is non-volatile, and written only when it is 0. */
static bool enable_quad(uint32_t method)
{
    uint32_t status = read_register(READ_STATUS) & ~((BUSY | WRITE_ENABLED) * every);
    uint32_t from, bit, missing;

    switch (method) {
    case NO_QE_BIT:
        return true;
    case SR1_BIT6:
        from = READ_STATUS;
        bit = (1u << 6) * every;
        break;
    case SR2_BIT7_OWN_OPCODES:
        from = READ_STATUS_2_MACRONIX;
        bit = (1u << 7) * every;
        break;
    case SR2_BIT1_WITH_SR1_A:
    case SR2_BIT1_WITH_SR1_B:
    case SR2_BIT1_WITH_SR1_C:
    case SR2_BIT1_OWN_OPCODE:
        from = READ_STATUS_2;
        bit = (1u << 1) * every;
        break;
    default:
        return nor_failed(QE_REFUSED, 0);
    }
    uint32_t value = from == READ_STATUS ? status : read_register(from);
    if ((value & bit) == bit)
        return true;
    found.flags |= FOUND_QE_SET;
    value |= bit;
    if (method == SR1_BIT6)
        write_registers(WRITE_STATUS, value, 0, 1);
    else if (method == SR2_BIT7_OWN_OPCODES)
        write_registers(WRITE_STATUS_2_MACRONIX, value, 0, 1);
    else if (method == SR2_BIT1_OWN_OPCODE)
        write_registers(WRITE_STATUS_2, value, 0, 1);
    else
        write_registers(WRITE_STATUS, status, value, 2);
    missing = ~read_register(from) & bit;
    return !missing || failed_in(missing, QE_REFUSED, 0);
}

/* True if four lines read what one line reads, wherever we look: IO2 and IO3 are wired. */
static bool four_lines_agree(void)
{
    uint8_t by_one[32], by_four[32];

    for (uint32_t i = 0; i < 16; i++) {
        uint32_t at = (found.size >> 4) * i;
        if (!quadspi_read(plain_read_phases(), at, by_one, sizeof by_one) ||
            !quadspi_read(read_phases, at, by_four, sizeof by_four))
            return false;
        for (uint32_t k = 0; k < sizeof by_one; k++)
            if (by_one[k] != by_four[k])
                return false;
    }
    return true;
}

/* --- All together --------------------------------------------------------------------- */

static uint32_t size_of(const struct sfdp *sfdp)
{
    uint32_t density = sfdp->basic[1];
    if (density & 1u << 31) {
        uint32_t exponent = density & 0x7FFFFFFFu;
        return exponent >= 13 && exponent <= 34 ? 1u << (exponent - 3) : 0;
    }
    return (density >> 3) + 1u;
}

/* A part without SFDP is driven as its ancestors were: one line, three address bytes. */
static bool describe_by_id(void)
{
    uint32_t capacity = found.jedec & 0xFFu;
    if (capacity < 0x10 || capacity > 0x18)
        return nor_failed(UNSUPPORTED, 0);
    found.size = 1u << capacity;
    found.page_size = 256;
    found.address_bytes = 3;
    insert_erase_type(0x10000, 0xD8, ERASE_UNIT_MS);
    insert_erase_type(0x1000, 0x20, ERASE_UNIT_MS);
    use_plain_lines(false);
    return true;
}

static bool describe(void)
{
    struct sfdp sfdp;

    bool has_table = load_sfdp(&sfdp);
    if (found.status == NOT_ALIKE)
        return nor_failed(NOT_ALIKE, 0);
    if (!has_table)
        return describe_by_id();
    found.flags |= FOUND_SFDP;
    found.size = size_of(&sfdp);
    if (!found.size || (found.size & (found.size - 1u)))
        return nor_failed(UNSUPPORTED, 0);
    found.page_size = sfdp.basic_words >= 11 ? 1u << (sfdp.basic[10] >> 4 & 15u) : 256u;
    if (sfdp.basic_words >= 14 && (sfdp.basic[13] & 1u << 3))
        found.flags |= FOUND_FLAG_STATUS;

    enum addressing addressing = addressing_of(&sfdp);
    found.address_bytes = addressing == THREE_BYTES ? 3 : 4;
    if (addressing == FOUR_BYTE_MODE) {
        found.flags |= FOUND_ENTERED_4BYTE;
        quadspi_command(INSTRUCTION(WRITE_ENABLE)); /* which some parts ask for */
        quadspi_command(INSTRUCTION(ENTER_4BYTE));
        quadspi_command(INSTRUCTION(WRITE_DISABLE));
    }
    describe_erase(&sfdp, addressing);
    use_plain_lines(addressing == FOUR_BYTE_OPCODES);

    uint32_t method = quad_enable_method(&sfdp);
    if (method == 7)
        return true; /* one line is enough for a part that nobody described */
    if (!enable_quad(method))
        return false;
    use_four_lines(&sfdp, addressing);
    return true;
}

/* What one of them is has been told; seen together they are twice that. */
static void count_all_nors(void)
{
    found.size *= nors;
    found.page_size *= nors;
    for (uint32_t i = 0; i < 4; i++)
        erase_types[i].size *= nors;
}

/* Tell the host what can be erased.  True if what it calls a sector can be. */
static bool publish_erase_sizes(void)
{
    bool fits = false;
    uint32_t next = 0;
    for (uint32_t i = 4; i-- > 0;)
        if (erase_types[i].size) {
            found.erase_sizes[next++] = erase_types[i].size;
            fits = fits || config.sector_size % erase_types[i].size == 0;
        }
    return fits;
}

static void note_registers(uint32_t opcode, uint32_t shift)
{
    uint32_t values = read_register(opcode);
    found.status_registers |= ((values & 0xFFu) | values >> 8 << 16) << shift;
}

bool nor_open(void)
{
    uint32_t max_hz = config.clock_hz ? config.clock_hz : DEFAULT_HZ;
    nors = both_banks() ? 2u : 1u;
    every = both_banks() ? 0x0101u : 1u;
    for (uint32_t i = 0; i < 4; i++)
        erase_types[i].size = 0;
    quadspi_open(max_hz < IDENTIFY_HZ ? max_hz : IDENTIFY_HZ);
    wake_up();
    if (!reset_nor() || !describe())
        return false;
    count_all_nors();
    if (!publish_erase_sizes())
        return nor_failed(UNSUPPORTED, 0);
    found.clock_hz = quadspi_set(max_hz, found.size);
    if (found.read_lines != 0x11 && !four_lines_agree()) {
        found.flags |= FOUND_QUAD_FAILED;
        use_plain_lines(found.address_bytes == 4 && !(found.flags & FOUND_ENTERED_4BYTE));
    }
    note_registers(READ_STATUS, 0);
    if (manufacturer() == WINBOND)
        note_registers(READ_STATUS_2, 8);
    found.status = READY;
    return true;
}

/* --- Changing it ---------------------------------------------------------------------- */

static bool completed(uint32_t milliseconds, uint32_t failure, uint32_t address)
{
    if (!ready(milliseconds))
        return stuck_busy(address);
    if (!(found.flags & FOUND_FLAG_STATUS))
        return true;
    uint32_t failed = read_register(READ_FLAGS) & FLAGS_FAILED * every;
    if (!failed)
        return true;
    quadspi_command(INSTRUCTION(CLEAR_FLAGS));
    quadspi_command(INSTRUCTION(WRITE_DISABLE)); /* a failed operation leaves it enabled */
    return failed_in(failed, failure, address);
}

/* A protected sector ignores the erase, and says nothing: look at its first bytes. */
static bool looks_blank(uint32_t address)
{
    uint8_t bytes[16];
    if (!quadspi_read(plain_read_phases(), address, bytes, sizeof bytes))
        return quadspi_fault();
    for (uint32_t i = 0; i < sizeof bytes; i++)
        if (bytes[i] != 0xFF)
            return failed_in(1u << 8 * (i & 1u), NOT_ERASED, address + i);
    return true;
}

static const struct erase_type *largest_unit(uint32_t start, uint32_t end)
{
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t size = erase_types[i].size;
        if (size && start % size == 0 && end - start >= size)
            return &erase_types[i];
    }
    return 0;
}

bool nor_erase(uint32_t start, uint32_t end)
{
    while (start < end) {
        const struct erase_type *unit = largest_unit(start, end);
        if (!unit)
            return nor_failed(OUT_OF_RANGE, start);
        uint32_t refused = refused_write_enable();
        if (refused)
            return failed_in(refused, WRITE_REFUSED, start);
        if (!quadspi_command_at(INSTRUCTION(unit->opcode) | address_phase(ONE), start))
            return nor_failed(QUADSPI_FAULT, start);
        if (!completed(unit->max_ms, NOT_ERASED, start) || !looks_blank(start))
            return false;
        start += unit->size;
    }
    return true;
}

bool nor_erase_all(void)
{
    uint32_t refused = refused_write_enable();
    if (refused)
        return failed_in(refused, WRITE_REFUSED, 0);
    if (!quadspi_command(INSTRUCTION(ERASE_CHIP)))
        return quadspi_fault();
    return completed(ERASE_CHIP_MS, NOT_ERASED, 0) && looks_blank(0);
}

/* In place, because between two pages a NOR waits for each instruction of ours. */
static inline __attribute__((always_inline)) bool
program_page(uint32_t address, const uint8_t *data, uint32_t length, bool first)
{
    if (!quadspi_command(INSTRUCTION(WRITE_ENABLE)) ||
        !quadspi_write(program_phases, address, data, length))
        return nor_failed(QUADSPI_FAULT, address);
    /* Whether write enable takes is asked once, and while the page is programmed, not before. */
    if (first && (read_register(READ_STATUS) & BUSY * every) != BUSY * every) {
        uint32_t refused = refused_write_enable();
        if (refused)
            return failed_in(refused, WRITE_REFUSED, address);
        quadspi_command(INSTRUCTION(WRITE_DISABLE)); /* protected: verifying will tell */
    }
    return completed(PROGRAM_MS, NOT_PROGRAMMED, address);
}

/* Two NORs take bytes in pairs: this one goes with a neighbour of ones, which programs nothing. */
static __attribute__((noinline)) bool program_half_a_pair(uint32_t address, uint8_t byte)
{
    uint8_t pair[2] = {0xFF, 0xFF};
    pair[address & 1u] = byte;
    return program_page(address & ~1u, pair, 2, true);
}

bool nor_program(uint32_t address, const uint8_t *data, uint32_t length)
{
    if (nors == 2u && length && (address & 1u)) {
        if (!program_half_a_pair(address, *data))
            return false;
        address++, data++, length--;
    }
    uint32_t odd = nors == 2u ? length & 1u : 0;
    length -= odd;
    for (bool first = true; length; first = false) {
        uint32_t room = found.page_size - address % found.page_size;
        uint32_t count = length < room ? length : room;
        if (!program_page(address, data, count, first))
            return false;
        address += count;
        data += count;
        length -= count;
    }
    return !odd || program_half_a_pair(address, *data);
}

bool nor_map(void)
{
    return quadspi_map(read_phases);
}
