/*
 * The resident call queue, checksums, and what feeds internal flash: our own code on the core.
 *
 * gdbserver/loader/resident.py describes the ring and each routine; call_queue.py is the host's half.
 * Position independent: the host puts the image anywhere (DTCM: no wait states), the stack
 * pointer elsewhere, and starts `run`.  No FPU, no interrupts, nothing outside the image is
 * written but the ring and what the caller names.
 *
 * What every queue needs comes first.  From `feed` on the host brings code when it is first
 * called, and has the tables' memory only from when they are needed.
 */
    .syntax unified
    .thumb

    /* The ring's header, then 32-byte records. */
#define DONE 4
#define STATE 8
#define LAST_RESULT 12
#define CAPACITY 16
#define STATIC_BASE 20
#define WINDOW_WATCHDOG 24
#define INDEPENDENT_WATCHDOG 28
#define RECORDS 32

#define FUNCTION 0
#define ARGUMENTS 4
#define RESULT 4
#define CHECK 20
#define EXPECTED 24
#define NUMBER 28

#define WAITING 0
#define CALLING 1
#define STOPPED 2
#define ENDED 3

    .macro  routine name
    .global \name
    .type   \name, %function
    .thumb_func
\name:
    .endm

    .text

/*
 * A program's watchdogs cannot be stopped, and count while the core runs.  The ring has the word
 * that keeps one of them from biting, or 0 where it does not run.  Clobbers r0 and r1.
 */
    .macro  feed_watchdog food, register
    ldr     r0, .Lring
    ldr     r0, [r0, #\food]
    cbz     r0, .Lno_watchdog\@
    movw    r1, #\register & 0xFFFF
    movt    r1, #\register >> 16
    str     r0, [r1]
.Lno_watchdog\@:
    .endm

#define WWDG1_CR 0x50003000
#define IWDG1_KR 0x58004800

/* The record whose turn it is: r5, after r6 of them, in the ring at r4. */
    .macro  find_record using
    ldr     \using, [r4, #CAPACITY]
    subs    \using, #1
    ands    \using, r6
    add     r5, r4, #RECORDS
    add     r5, r5, \using, lsl #5
    .endm

/*
 * run(r0 = ring): never returns.  r4 ring, r5 record, r6 records done, r7 the number that is
 * waited for, then the function, r8 turns.
 *
 * A routine ought to preserve these, and the stack pointer, and not every one does: so what is
 * needed after a call is in memory, and each call begins at the stack pointer of the first.
 */
routine run
    adr     r1, .Lring
    mov     r2, sp
    strd    r0, r2, [r1]
    mov     r4, r0
.Lnext:
    movs    r0, #WAITING
    str     r0, [r4, #STATE]
    ldr     r6, [r4, #DONE]
    find_record r0
    adds    r7, r6, #1
.Lfeed:
    bl      feed_watchdogs
    mov     r8, #0x10000            @ a few milliseconds, whatever the clock
.Lwait:
    ldr     r0, [r5, #NUMBER]
    cmp     r0, r7
    beq     .Lcall
    subs    r8, #1
    bne     .Lwait
    b       .Lfeed
.Lcall:
    dmb                             @ the rest of the record was written before its number was
    ldr     r7, [r5, #FUNCTION]
    movs    r0, #ENDED
    cbz     r7, .Lstop

    movs    r0, #CALLING
    str     r0, [r4, #STATE]
    ldr     r9, [r4, #STATIC_BASE]
    ldrd    r0, r1, [r5, #ARGUMENTS]
    ldrd    r2, r3, [r5, #ARGUMENTS + 8]
    blx     r7

    adr     r1, .Lring
    ldrd    r4, r1, [r1]
    mov     sp, r1
    ldr     r6, [r4, #DONE]
    find_record r1
    str     r0, [r5, #RESULT]
    str     r0, [r4, #LAST_RESULT]
    dmb                             @ whoever sees the new count sees the result
    adds    r6, #1
    str     r6, [r4, #DONE]
    ldr     r1, [r5, #CHECK]
    cmp     r1, #0
    beq     .Lnext
    ldr     r1, [r5, #EXPECTED]
    cmp     r0, r1
    beq     .Lnext
    movs    r0, #STOPPED
.Lstop:
    str     r0, [r4, #STATE]
    dsb
.Lhalted:
    bkpt    #0
    b       .Lhalted
    .size   run, . - run

/* At any time after `run` began. */
feed_watchdogs:
    feed_watchdog WINDOW_WATCHDOG, WWDG1_CR
    feed_watchdog INDEPENDENT_WATCHDOG, IWDG1_KR
    bx      lr

/*
 * crc32(r0 = address, r1 = length) -> r0, as zlib's: half a byte at a time, which takes a table
 * of 64 bytes and ten instructions a byte.
 */
routine crc32
    adr     r2, .Lhalf_bytes
    mov     r3, #-1
    b       .Lhalf_bytes_left
.Lhalf_byte:
    ldrb    r12, [r0], #1
    eor     r3, r3, r12
    and     r12, r3, #15
    ldr     r12, [r2, r12, lsl #2]
    eor     r3, r12, r3, lsr #4
    and     r12, r3, #15
    ldr     r12, [r2, r12, lsl #2]
    eor     r3, r12, r3, lsr #4
.Lhalf_bytes_left:
    subs    r1, #1
    bhs     .Lhalf_byte
    mvns    r0, r3
    bx      lr
    .size   crc32, . - crc32

    .align  2
.Lhalf_bytes:
    .word   0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC
    .word   0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C
    .word   0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C
    .word   0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C

    .align  2
.Lring:
    .word   0
    .word   0                       @ and the stack pointer
.Lpolynomial:
    .word   0xEDB88320
.Ltables_offset:
    .word   .Ltables - (.Lhere + 4)
.Ltables_ready:                       @ in the image, so that an upload forgets the tables
    .word   0

/*
 * crc32_quick(r0 = address, r1 = length) -> r0, the same: four look-ups per word ("slicing"), in
 * four tables of 1 KiB that the first call fills.
 * r2, r8, r12, lr: the tables; r3: the remainder.
 */
    .macro  take_word word
    eor     r3, r3, \word
    uxtb    r4, r3
    ubfx    r5, r3, #8, #8
    ubfx    r6, r3, #16, #8
    lsrs    r3, r3, #24
    ldr     r4, [lr, r4, lsl #2]
    ldr     r5, [r12, r5, lsl #2]
    ldr     r6, [r8, r6, lsl #2]
    ldr     r3, [r2, r3, lsl #2]
    eors    r4, r5
    eors    r3, r6
    eors    r3, r4
    .endm

routine crc32_quick
    push    {r4-r11, lr}
    ldr     r4, .Ltables_offset
.Lhere:
    add     r4, pc
    mov     r2, r4
    ldr     r3, .Ltables_ready
    cbnz    r3, .Lready
    bl      make_tables
.Lready:
    add     r8, r2, #1024
    add     r12, r2, #2048
    mov     r3, #-1

.Lhead:                               @ up to the first aligned word
    tst     r0, #3
    beq     .Laligned
    cmp     r1, #0
    beq     .Ldone
    bl      .Lbyte
    b       .Lhead
.Laligned:
    add     lr, r2, #3072
    subs    r1, #16
    blo     .Lfew
.Lwords:
    ldmia   r0!, {r7, r9, r10, r11}
    take_word r7
    take_word r9
    take_word r10
    take_word r11
    subs    r1, #16
    bhs     .Lwords
.Lfew:
    adds    r1, #16
.Lword_left:
    subs    r1, #4
    blo     .Ltail
    ldr     r7, [r0], #4
    take_word r7
    b       .Lword_left
.Ltail:
    adds    r1, #4
.Lrest:
    cbz     r1, .Ldone
    bl      .Lbyte
    b       .Lrest
.Ldone:
    mvns    r0, r3
    pop     {r4-r11, pc}

/* One byte: the remainder moves on by eight bits.   */
.Lbyte:
    ldrb    r4, [r0], #1
    eors    r4, r3
    uxtb    r4, r4
    ldr     r4, [r2, r4, lsl #2]
    eor     r3, r4, r3, lsr #8
    subs    r1, #1
    bx      lr
    .size   crc32_quick, . - crc32_quick

/* Fill the tables at r2: table[0] byte by byte, table[k] is table[k - 1] with one more zero byte. */
make_tables:
    push    {r0, r1, lr}
    ldr     r7, .Lpolynomial
    movs    r3, #0
.Lfirst:
    mov     r4, r3
    movs    r5, #8
.Lbit:
    lsrs    r4, #1
    it      cs
    eorcs   r4, r7
    subs    r5, #1
    bne     .Lbit
    str     r4, [r2, r3, lsl #2]
    adds    r3, #1
    cmp     r3, #256
    bne     .Lfirst
    mov     r3, r2
    add     r5, r2, #3072
.Lmore:
    ldr     r4, [r3], #4
    uxtb    r6, r4
    ldr     r6, [r2, r6, lsl #2]
    eor     r4, r6, r4, lsr #8
    str     r4, [r3, #1020]
    cmp     r3, r5
    bne     .Lmore
    adr     r4, .Ltables_ready
    str     r7, [r4]
    pop     {r0, r1, pc}

/*
 * crc32_each(r0 = start, r1 = size, r2 = count, r3 = results) -> 0
 * crc32_spread(r0 = start, r1 = stride, r2 = count, r3 = results) -> 0: of 1 KiB every `stride`.
 *
 * Much of a flash is blank, and blank blocks have one CRC: it is computed once, and kept in r10.
 * r4 block, r5 size, r6 blocks left, r7 where the next CRC goes, r9 stride.
 */
#define SPREAD_SIZE 1024

routine crc32_spread
    push    {r4-r11, lr}
    mov     r5, #SPREAD_SIZE
    b       .Lmany
routine crc32_each
    push    {r4-r11, lr}
    mov     r5, r1
.Lmany:
    mov     r9, r1
    mov     r4, r0
    mov     r6, r2
    mov     r7, r3
    mov     r11, #0                 @ whether r10 is known
.Leach:
    cbz     r6, .Lall
    orr     r0, r4, r5
    lsls    r0, #28                 @ whole lines of 16 bytes?
    bne     .Lcompute
    mov     r0, r4
    add     r1, r4, r5
    bl      are_blank
    beq     .Lblank
.Lcompute:
    mov     r0, r4
    mov     r1, r5
    bl      crc32_quick
    b       .Lstore
.Lblank:
    mov     r0, r10
    cmp     r11, #0
    bne     .Lstore
    mov     r0, r4
    mov     r1, r5
    bl      crc32_quick
    mov     r10, r0
    mov     r11, #1
.Lstore:
    str     r0, [r7], #4
    add     r4, r9
    subs    r6, #1
    b       .Leach
.Lall:
    movs    r0, #0
    pop     {r4-r11, pc}
    .size   crc32_each, . - crc32_each

/* EQ if all from r0 to r1 is blank, which is whole lines of 16 bytes.  Clobbers r2, r3, r8, r12. */
are_blank:
    cmp     r0, r1
    beq     .Ltold
    ldmia   r0!, {r2, r3, r8, r12}
    ands    r2, r3
    and     r2, r8
    and     r2, r12
    adds    r2, #1
    beq     are_blank
.Ltold:
    bx      lr

/* blank_spread(r0 = start, r1 = stride, r2 = count, r3 = size) -> how many are blank, up to the
   first that is not.  r4 block, r5 stride, r6 blocks left, r7 size, r9 count. */
routine blank_spread
    push    {r4-r9, lr}
    mov     r4, r0
    mov     r5, r1
    mov     r6, r2
    mov     r7, r3
    mov     r9, r2
.Llook:
    cbz     r6, .Llooked
    mov     r0, r4
    add     r1, r4, r7
    bl      are_blank
    bne     .Llooked
    add     r4, r5
    subs    r6, #1
    b       .Llook
.Llooked:
    sub     r0, r9, r6
    pop     {r4-r9, pc}
    .size   blank_spread, . - blank_spread

    .align  2                       @ here begins what comes later
/*
 * feed(r0 = feeder) -> 0, once the host has written its first word: keeps both banks of internal
 * flash programming, from buffers in RAM.
 *
 * gdbserver/flash/feeder.py is the host's half and describes feeder, lanes and jobs.  A bank gets
 * two flash words at a time, which is what it takes without holding the bus, and only when it
 * has nothing to do: so the core never waits for one while the other could go on.
 * RM0433, "FLASH program operations".
 *
 * FLASH_SR is looked at rarely, because on a simulated board a look takes as long as thousands of
 * instructions.  Between two looks a loop counts down.  How many of its turns two flash words take
 * is learned, so neither the core's clock nor the pace of the flash need be known: a bank that is
 * still busy is looked at again a little later, and the next time only after as long as this time;
 * one that is ready at the first look, a little earlier the next time.
 */
#define LANE_A 32
#define LANE_B 352

#define STATUS_AT 0
#define ON 4
#define SEEN 8
#define JOBS_DONE 12
#define TROUBLE 16
#define SOURCE 20
#define DESTINATION 24
#define LEFT 28
#define DUE 32                          /* turns until the next look */
#define USUAL 36                        /* turns from two flash words to the first look */
#define WAITED 40                       /* turns from them to the look that is due */

#define JOB_SOURCE 64
#define JOB_PACKED 72
#define JOB_ROOM 76
#define JOB_LENGTH 80
#define JOBS 8

#define FLASH_WORD 32
#define CCR_BFHFNMIGN 0x100
#define FLASH_SR_ONGOING 7              /* BSY, WBNE, QW */
#define FLASH_SR_ERRORS 0x17EE0000

#define IDLE_TURNS 8192                 /* before a lane without a job is looked at again */
#define LEAST_TURNS 64
#define ROUNDS 32                       /* from one feeding of the watchdogs to the next */

routine feed
    push    {r3-r11, lr}
    mov     r11, r0
.Lfeed_both:
    bl      feed_watchdogs
    mov     r10, #ROUNDS
.Lround:
    ldr     r0, [r11]
    cbnz    r0, .Lfed
    add     r4, r11, #LANE_A
    bl      feed_lane
    mov     r9, r0
    addw    r4, r11, #LANE_B
    bl      feed_lane
    mov     r2, r0                  @ the nearer look
    cmp     r2, r9
    it      hi
    movhi   r2, r9
    subs    r0, r2
    str     r0, [r4, #DUE]
    sub     r9, r2
    str     r9, [r11, #LANE_A + DUE]
.Lturn:
    subs    r2, #1
    bne     .Lturn
    subs    r10, #1
    bne     .Lround
    b       .Lfeed_both
.Lfed:
    movs    r0, #0
    pop     {r3-r11, pc}
    .size   feed, . - feed

/*
 * r4: the lane -> r0: turns until it is to be looked at, one at least.  Nothing else is kept in
 * registers between two rounds; r9 to r11 are left alone.
 */
feed_lane:
    ldr     r0, [r4, #ON]
    str     r0, [r4, #SEEN]
    cmp     r0, #0
    beq     .Lidle
    ldr     r5, [r4, #LEFT]
    cbnz    r5, .Lgoing
    ldr     r0, [r4, #JOBS_DONE]
    and     r0, #JOBS - 1
    add     r6, r4, r0, lsl #5
    ldr     r5, [r6, #JOB_LENGTH]
    cmp     r5, #0
    beq     .Lidle
    dmb                             @ the rest of the job was written before its length was
    movs    r0, #0
    str     r0, [r6, #JOB_LENGTH]
    ldrd    r0, r7, [r6, #JOB_SOURCE]
    cmp     r0, #0
    beq     .Lread_all
    ldrd    r1, r8, [r6, #JOB_PACKED]
    cbz     r1, .Lplain
    mov     r2, r8
    mov     r3, r5
    push    {r2, lr}
    bl      unpack                  @ (from, length, to, room)
    pop     {r2, lr}
    cmp     r0, r5
    bne     .Lbroken
    mov     r0, r8
.Lplain:
    strd    r0, r7, [r4, #SOURCE]
    str     r5, [r4, #LEFT]
.Lgoing:
    ldr     r0, [r4, #DUE]
    cmp     r0, #0
    bne     .Lnot_now
    ldr     r0, [r4, #STATUS_AT]
    ldr     r0, [r0]
    movw    r1, #FLASH_SR_ERRORS >> 16
    tst     r1, r0, lsr #16
    bne     .Ltrouble
    ldrd    r2, r3, [r4, #USUAL]
    tst     r0, #FLASH_SR_ONGOING
    bne     .Lbusy
    cmp     r2, r3
    it      eq
    subeq   r3, r3, r3, lsr #6      @ ready at the first look: was it for long?
    cmp     r3, #LEAST_TURNS
    it      lo
    movlo   r3, #LEAST_TURNS
    mov     r2, r3
    strd    r2, r3, [r4, #USUAL]
    ldrd    r6, r7, [r4, #SOURCE]
    mov     r8, #2
.Lword:                               @ eight plain stores: a block store may begin anew
    ldmia   r6!, {r0-r3}
    str     r0, [r7], #4
    str     r1, [r7], #4
    str     r2, [r7], #4
    str     r3, [r7], #4
    ldmia   r6!, {r0-r3}
    str     r0, [r7], #4
    str     r1, [r7], #4
    str     r2, [r7], #4
    str     r3, [r7], #4
    dsb                             @ and all of them are there before SR is looked at
    subs    r5, #FLASH_WORD
    beq     .Ljob_done
    subs    r8, #1
    bne     .Lword
.Ltaken:
    strd    r6, r7, [r4, #SOURCE]
    str     r5, [r4, #LEFT]
    ldr     r0, [r4, #USUAL]
    bx      lr
.Ljob_done:
    ldr     r0, [r4, #JOBS_DONE]
    adds    r0, #1
    str     r0, [r4, #JOBS_DONE]
    b       .Ltaken
/*
 * A job without a source: read each flash word, r5 bytes from r7, and leave it to the controller to
 * flag those whose ECC is wrong.  Their bus errors are ignored: DDI 0403E, "Configuration and Control
 * Register, CCR", BFHFNMIGN.  What a load that failed does to its registers is not relied on.
 */
.Lread_all:
    movw    r2, #0xED14             @ CCR
    movt    r2, #0xE000
    ldr     r3, [r2]
    orr     r0, r3, #CCR_BFHFNMIGN
    cpsid   f
    str     r0, [r2]
    dsb
    isb
.Lread_one:
    ldr     r0, [r7]
    adds    r7, #FLASH_WORD
    subs    r5, #FLASH_WORD
    bne     .Lread_one
    dsb
    str     r3, [r2]
    dsb
    cpsie   f
    isb
    ldr     r0, [r4, #JOBS_DONE]
    adds    r0, #1
    str     r0, [r4, #JOBS_DONE]
    b       .Lidle
.Lbusy:                               @ the further from what was usual, the longer the step
    subs    r0, r3, r2
    lsrs    r0, r0, #2
    add     r0, r0, r3, lsr #9
    adds    r0, #4
    add     r3, r0
    str     r3, [r4, #WAITED]
    bx      lr
.Lbroken:
    movs    r0, #1                  @ no error flag: what came does not unpack
.Ltrouble:
    str     r0, [r4, #TROUBLE]
.Lidle:
    ldr     r0, [r4, #DUE]          @ of the bank's last two flash words, where it is not over
    cbnz    r0, .Lnot_now
    mov     r0, #IDLE_TURNS
.Lnot_now:
    bx      lr

    .bss
    .align  2
.Ltables:
    .space  4 * 1024
