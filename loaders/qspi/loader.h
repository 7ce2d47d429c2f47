/*
 * What a host shares with this loader, besides the routines that ST's tools know.
 *
 * `config` is patched by the host in the image before it is uploaded; `found` is read by the
 * host after Init, and after any routine that returned 0.  Both layouts are fixed: 32-bit
 * fields in this order, little-endian (the twins of gdbserver/loader/file.py).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pin {
    uint8_t port;     /* 0 is port A */
    uint8_t number;   /* 0 to 15 */
    uint8_t function; /* alternate function number, DS12110 "Pin descriptions" */
    uint8_t reserved;
};

struct config {
    uint32_t magic;       /* CONFIG_MAGIC: the host knows by it that it patches the right thing */
    uint32_t bank;        /* 1 or 2: the QUADSPI's bank that the NOR is wired to; or BOTH_BANKS */
    uint32_t clock_hz;    /* the NOR is never clocked faster than this; 0 leaves it to us */
    struct pin pins[6];   /* CLK, NCS, IO0, IO1, IO2, IO3 */
    uint32_t base;        /* where the QUADSPI maps the NOR */
    uint32_t sector_size; /* what SectorErase counts in: the sector size in StorageInfo */
    struct pin second[5]; /* of BOTH_BANKS: IO0, IO1, IO2, IO3 of bank 2, and NCS or NO_PIN */
};

#define CONFIG_MAGIC 0x43505351u /* "QSPC" */
#define BOTH_BANKS 3u /* dual-flash mode: two equal NORs side by side, seen as one twice as large */
#define NO_PIN 0xFFu  /* as a port: both NORs hang on one chip select */

/* Why the last routine that failed did so; READY when none has since Init. */
enum status {
    NOT_INITIALISED = 0,
    READY = 1,
    NO_ANSWER = 2,       /* no JEDEC ID: all ones or all zeros */
    STUCK_BUSY = 3,      /* the NOR's status register says busy for longer than it may */
    QUADSPI_FAULT = 4,   /* the QUADSPI itself did not finish, or refused an address */
    UNSUPPORTED = 5,     /* neither SFDP nor the JEDEC ID tells how to drive the part */
    QE_REFUSED = 6,      /* the quad enable bit could not be set */
    OUT_OF_RANGE = 7,    /* asked for addresses outside the NOR */
    WRITE_REFUSED = 8,   /* write enable did not take */
    NOT_ERASED = 9,      /* still not blank after an erase: protected, or worn out */
    NOT_PROGRAMMED = 10, /* the flag status register reports a failed program operation */
    NOT_ALIKE = 11,      /* of BOTH_BANKS: their JEDEC IDs or SFDP tables differ */
};

/* Of BOTH_BANKS, sizes are of both together; the second's status registers are in bits 31:16. */
struct found {
    uint32_t jedec; /* manufacturer, type, capacity: 0x00EF4019 is a W25Q256JV; 0: none read */
    uint32_t size;  /* bytes */
    uint32_t page_size;
    uint32_t erase_sizes[4]; /* bytes, ascending; 0 for none */
    uint32_t clock_hz;       /* of the NOR, at most */
    uint32_t status;         /* enum status */
    uint32_t address;        /* where in the NOR the routine that failed was */
    uint32_t address_bytes;
    uint32_t read_opcode;
    uint32_t read_lines; /* address and data lines as two digits: 0x44, 0x14, 0x11 */
    uint32_t read_dummies;
    uint32_t program_opcode;
    uint32_t program_lines;
    uint32_t status_registers; /* SR1 in bits 7:0, SR2 in bits 15:8 where the part has one */
    uint32_t flags;            /* FOUND_... */
    uint32_t second_jedec;     /* of BOTH_BANKS: what the NOR on bank 2 says; `jedec` is bank 1's */
    uint32_t culprits;         /* of BOTH_BANKS: who failed; bit 0 for bank 1, bit 1 for bank 2 */
};

#define FOUND_SFDP (1u << 0)         /* described by its own SFDP table, not by guesswork */
#define FOUND_ENTERED_4BYTE (1u << 1) /* has no 4-byte opcodes: left in 4-byte address mode */
#define FOUND_FLAG_STATUS (1u << 2)  /* reports failures in a flag status register */
#define FOUND_QUAD_FAILED (1u << 3)  /* four-line reads disagree with one-line ones: not used */
#define FOUND_QE_SET (1u << 4)       /* quad enable was 0 and has been set, for good */

extern struct config config;
extern struct found found;

static inline bool both_banks(void)
{
    return config.bank == BOTH_BANKS;
}
