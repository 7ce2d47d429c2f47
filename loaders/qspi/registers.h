/*
 * The few peripherals that the loader drives; names as in RM0433.
 *
 * RM0433: "Memory map", "Reset and clock control (RCC)", "General-purpose I/Os (GPIO)",
 * "Quad-SPI interface (QUADSPI)", "Independent watchdog (IWDG)".  DDI0403E: "Debug Exception and
 * Monitor Control Register", "The Data Watchpoint and Trace Unit".
 */
#pragma once

#include <stdint.h>

#define REG32(address) (*(volatile uint32_t *)(address))
#define REG8(address) (*(volatile uint8_t *)(address))

/* --- RCC ------------------------------------------------------------------------------ */
#define RCC_BASE 0x58024400u
#define RCC_CR REG32(RCC_BASE + 0x00)
#define RCC_CFGR REG32(RCC_BASE + 0x10)
#define RCC_D1CFGR REG32(RCC_BASE + 0x18)
#define RCC_PLLCKSELR REG32(RCC_BASE + 0x28)
#define RCC_PLL1DIVR REG32(RCC_BASE + 0x30)
#define RCC_D1CCIPR REG32(RCC_BASE + 0x4C)
#define RCC_CSR REG32(RCC_BASE + 0x74)
#define RCC_AHB3RSTR REG32(RCC_BASE + 0x7C)
#define RCC_AHB3ENR REG32(RCC_BASE + 0xD4)
#define RCC_AHB4ENR REG32(RCC_BASE + 0xE0)

#define RCC_CR_HSIDIV(value) ((value) >> 3 & 3u)
#define RCC_CFGR_SWS(value) ((value) >> 3 & 7u) /* 0 HSI, 1 CSI, 2 HSE, 3 PLL1 */
#define RCC_D1CFGR_HPRE(value) ((value) & 15u)
#define RCC_D1CFGR_D1CPRE(value) ((value) >> 8 & 15u)
#define RCC_PLLCKSELR_SRC(value) ((value) & 3u) /* 0 HSI */
#define RCC_PLLCKSELR_DIVM1(value) ((value) >> 4 & 63u)
#define RCC_PLL1DIVR_N(value) ((value) & 511u)
#define RCC_PLL1DIVR_P(value) ((value) >> 9 & 127u)
#define RCC_D1CCIPR_QSPISEL(value) ((value) >> 4 & 3u) /* 0 hclk3, 1 pll1_q, 2 pll2_r, 3 per */
#define RCC_CSR_LSIRDY (1u << 1)
#define RCC_AHB3_QSPI (1u << 14) /* the same bit in AHB3ENR and AHB3RSTR */

/* --- GPIO ----------------------------------------------------------------------------- */
#define GPIO_BASE(port) (0x58020000u + 0x400u * (port)) /* 0 is port A */
#define GPIO_MODER(port) REG32(GPIO_BASE(port) + 0x00)
#define GPIO_OTYPER(port) REG32(GPIO_BASE(port) + 0x04)
#define GPIO_OSPEEDR(port) REG32(GPIO_BASE(port) + 0x08)
#define GPIO_PUPDR(port) REG32(GPIO_BASE(port) + 0x0C)
#define GPIO_AFR(port, pin) REG32(GPIO_BASE(port) + ((pin) < 8 ? 0x20 : 0x24))
#define GPIO_MODER_ALTERNATE 2u
#define GPIO_OSPEEDR_VERY_HIGH 3u
#define GPIO_PUPDR_UP 1u

/* --- QUADSPI -------------------------------------------------------------------------- */
#define QUADSPI_BASE 0x52005000u
#define QUADSPI_CR REG32(QUADSPI_BASE + 0x00)
#define QUADSPI_DCR REG32(QUADSPI_BASE + 0x04)
#define QUADSPI_SR REG32(QUADSPI_BASE + 0x08)
#define QUADSPI_FCR REG32(QUADSPI_BASE + 0x0C)
#define QUADSPI_DLR REG32(QUADSPI_BASE + 0x10)
#define QUADSPI_CCR REG32(QUADSPI_BASE + 0x14)
#define QUADSPI_AR REG32(QUADSPI_BASE + 0x18)
#define QUADSPI_ABR REG32(QUADSPI_BASE + 0x1C)
#define QUADSPI_DR REG32(QUADSPI_BASE + 0x20)
#define QUADSPI_DR8 REG8(QUADSPI_BASE + 0x20)
#define QUADSPI_PSMKR REG32(QUADSPI_BASE + 0x24)
#define QUADSPI_PSMAR REG32(QUADSPI_BASE + 0x28)

#define CR_EN (1u << 0)
#define CR_ABORT (1u << 1)
#define CR_SSHIFT (1u << 4)
#define CR_DFM (1u << 6)
#define CR_FSEL (1u << 7)
#define CR_FTHRES(value) ((value) << 8)
#define CR_APMS (1u << 22)
#define CR_PRESCALER(value) ((value) << 24)

#define DCR_CSHT(value) ((value) << 8)
#define DCR_FSIZE(value) ((value) << 16)

#define SR_TEF (1u << 0)
#define SR_TCF (1u << 1)
#define SR_FTF (1u << 2)
#define SR_SMF (1u << 3)
#define SR_BUSY (1u << 5)
#define SR_FLEVEL(value) ((value) >> 8 & 63u) /* bytes in the FIFO */
#define FCR_ALL 0x1Bu /* CTOF, CSMF, CTCF, CTEF */

#define CCR_INSTRUCTION(opcode) ((uint32_t)(opcode))
#define CCR_IMODE(lines) ((uint32_t)(lines) << 8) /* 1, 2, and 3 for four lines */
#define CCR_ADMODE(lines) ((uint32_t)(lines) << 10)
#define CCR_ADSIZE(bytes) (((uint32_t)(bytes) - 1u) << 12)
#define CCR_ABMODE(lines) ((uint32_t)(lines) << 14)
#define CCR_ABSIZE(bytes) (((uint32_t)(bytes) - 1u) << 16)
#define CCR_DCYC(cycles) ((uint32_t)(cycles) << 18)
#define CCR_DMODE(lines) ((uint32_t)(lines) << 24)
#define CCR_FMODE_READ (1u << 26)
#define CCR_FMODE_POLL (2u << 26)
#define CCR_FMODE_MAPPED (3u << 26)
#define CCR_FRCM (1u << 29)
#define ONE 1u
#define FOUR 3u

/* --- IWDG1 ---------------------------------------------------------------------------- */
#define IWDG1_KR REG32(0x58004800u)
#define IWDG_KR_RELOAD 0xAAAAu

/* --- Core: the cycle counter ---------------------------------------------------------- */
#define DEMCR REG32(0xE000EDFCu)
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL REG32(0xE0001000u)
#define DWT_CTRL_CYCCNTENA (1u << 0)
#define DWT_CYCCNT REG32(0xE0001004u)
