/*
 * What a program whose code lives in the NOR does first: after reset the QUADSPI is off.
 * W25Q256JV on PB2, PB6, PF6-PF9; fast quad reads with four address bytes (ECh).
 * RM0433, "Quad-SPI interface (QUADSPI)"; W25Q256JV, "Fast Read Quad I/O".
 */
#include "firmware.h"

static void alternate(uint32_t port, uint32_t pin, uint32_t function)
{
    uint32_t base = 0x58020000u + 0x400u * port, shift = 4u * (pin & 7u);

    REG(0x580244E0) |= 1u << port; /* RCC_AHB4ENR */
    REG(base + 0x08) |= 3u << (2u * pin); /* OSPEEDR: very high */
    REG(base + (pin < 8 ? 0x20 : 0x24)) =
        (REG(base + (pin < 8 ? 0x20 : 0x24)) & ~(15u << shift)) | function << shift;
    REG(base) = (REG(base) & ~(3u << (2u * pin))) | 2u << (2u * pin); /* MODER: alternate */
}

void map_nor(void)
{
    REG(0x580244D4) |= 1u << 14; /* RCC_AHB3ENR: QSPIEN */
    if ((REG(0x52005014) >> 26 & 3u) == 3u) /* QUADSPI_CCR: mapped by somebody already */
        return;
    alternate('B' - 'A', 2, 9);  /* CLK */
    alternate('B' - 'A', 6, 10); /* NCS */
    alternate('F' - 'A', 8, 10); /* IO0 */
    alternate('F' - 'A', 9, 10); /* IO1 */
    alternate('F' - 'A', 7, 9);  /* IO2 */
    alternate('F' - 'A', 6, 9);  /* IO3 */
    REG(0x52005004) = 25u << 16 | 5u << 8;       /* DCR: FSIZE, with a margin; CSHT */
    REG(0x52005000) = 0u << 24 | 1u << 4 | 1u;   /* CR: 64 MHz, SSHIFT, EN */
    REG(0x5200501C) = 0xFF;                      /* ABR: no continuous read */
    REG(0x52005014) = 3u << 26                   /* CCR: mapped, */
                      | 3u << 24                 /* data on four lines, */
                      | 4u << 18                 /* four dummy cycles */
                      | 0u << 16 | 3u << 14      /* after a mode byte, */
                      | 3u << 12 | 3u << 10      /* four address bytes, on four lines, */
                      | 1u << 8 | 0xEC;          /* the instruction on one */
}
