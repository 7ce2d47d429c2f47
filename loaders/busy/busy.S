/*
 * A program that has everything on: what `loader test` lets run before a loader takes the core.
 *
 * It lies where loaders are linked.  When it is halted there are SysTick and an interrupt of a
 * peripheral, both enabled and busy; an MPU that forbids the QUADSPI's window; both caches, with
 * dirty lines in AXI SRAM; a vector table of its own; the process stack; BASEPRI; and the
 * independent watchdog, which bites after 8 s without it.
 *
 * DDI 0403E.e, "System Control Space"; DDI 0489, "Cache maintenance"; RM0433, "IWDG".
 */
    .syntax unified
    .cpu    cortex-m7
    .thumb

    .equ    SCS, 0xE000E000
    .equ    IWDG, 0x58004800
    .equ    DIRTY, 0x24001000
    .equ    QUADSPI_IRQ, 92

    .section .vectors, "a"
    .global vectors
vectors:
    .word   main_stack, start
    .rept   13
    .word   stray
    .endr
    .word   tick
    .rept   QUADSPI_IRQ
    .word   stray
    .endr
    .word   irq
    .rept   150 - QUADSPI_IRQ - 1
    .word   stray
    .endr

    .text
    .macro  function name
    .global \name
    .type   \name, %function
    .thumb_func
\name:
    .endm

    function start
    ldr     r0, =SCS
    ldr     r1, =vectors
    ldr     r2, =0xD08                  /* VTOR */
    str     r1, [r0, r2]
    ldr     sp, =main_stack

    /* The MPU: no access to the 256 MiB at 0x90000000; else as without. */
    ldr     r2, =0xD94
    add     r3, r0, r2                  /* MPU_CTRL */
    movs    r1, #0
    str     r1, [r3, #4]                /* RNR */
    ldr     r1, =0x90000000
    str     r1, [r3, #8]                /* RBAR */
    movs    r1, #27 << 1 | 1
    orr     r1, r1, #1 << 28            /* XN, AP = 0 */
    str     r1, [r3, #12]               /* RASR */
    movs    r1, #5
    str     r1, [r3]
    dsb
    isb

    /* Both caches, invalidated first: 128 sets of 4 ways. */
    movw    r2, #0xF50
    add     r3, r0, r2
    movs    r1, #0
    str     r1, [r3]                    /* ICIALLU */
    movs    r4, #0
1:  lsls    r1, r4, #5
    str     r1, [r3, #0x10]             /* DCISW, way 0 */
    add     r1, r1, #1 << 30
    str     r1, [r3, #0x10]
    add     r1, r1, #1 << 30
    str     r1, [r3, #0x10]
    add     r1, r1, #1 << 30
    str     r1, [r3, #0x10]
    adds    r4, r4, #1
    cmp     r4, #128
    bne     1b
    dsb
    movw    r2, #0xD14
    ldr     r1, [r0, r2]                /* CCR */
    orr     r1, r1, #3 << 16
    str     r1, [r0, r2]
    dsb
    isb

    ldr     r3, =DIRTY
    ldr     r4, =0xDEADBEEF
    mov     r5, #1024
1:  str     r4, [r3], #4
    subs    r5, r5, #1
    bne     1b

    /* The watchdog: LSI / 64, 4096 counts. */
    ldr     r6, =IWDG
    movw    r1, #0xCCCC
    str     r1, [r6]
    movw    r1, #0x5555
    str     r1, [r6]
    movs    r1, #4
    str     r1, [r6, #4]
    movw    r1, #0xFFF
    str     r1, [r6, #8]

    ldr     r1, =process_stack
    msr     psp, r1
    movs    r1, #2
    msr     control, r1
    isb
    movs    r1, #0xE0
    msr     basepri, r1

    movw    r1, #6399
    str     r1, [r0, #0x14]             /* SYST_RVR */
    movs    r1, #7
    str     r1, [r0, #0x10]
    mov     r1, #1 << (QUADSPI_IRQ % 32)
    movw    r2, #0x100 + 4 * (QUADSPI_IRQ / 32)
    str     r1, [r0, r2]                /* NVIC_ISER */
    cpsie   i

    movw    r2, #0x200 + 4 * (QUADSPI_IRQ / 32)
    ldr     r7, =counters
    movw    r5, #0xAAAA
1:  ldr     r4, [r7]
    adds    r4, r4, #1
    str     r4, [r7]
    str     r5, [r6]                    /* the watchdog is fed */
    str     r1, [r0, r2]                /* NVIC_ISPR: the interrupt of QUADSPI is pending */
    mov     r3, #0x4000                 /* a quarter of a millisecond or so */
2:  subs    r3, r3, #1
    bne     2b
    b       1b

    function tick
    ldr     r0, =counters
    ldr     r1, [r0, #4]
    adds    r1, r1, #1
    str     r1, [r0, #4]
    bx      lr

    function irq
    ldr     r0, =counters
    ldr     r1, [r0, #8]
    adds    r1, r1, #1
    str     r1, [r0, #8]
    bx      lr

    function stray
    b       stray

    .pool

    .data
    .balign 8
    .global counters
    .type   counters, %object
    .size   counters, 12
counters:
    .word   0, 0, 0                     /* turns, ticks, interrupts */
    .balign 8
    .space  256
main_stack:
    .space  256
process_stack:
