/*
 * Four tasks, preempted by a tick and switched by PendSV, kept as FreeRTOS keeps them: the same
 * names, lists, control blocks and saved contexts (FreeRTOS reference manual, "Task Control
 * Blocks"; its port for the Cortex-M7).  Nothing of the kernel itself is here.
 */
#include "firmware.h"

enum { PRIORITIES = 5, STACK_WORDS = 256, NEVER = 0xFFFFFFFF };

struct item {
    uint32_t xItemValue;
    struct item *pxNext, *pxPrevious;
    void *pvOwner;
    struct list *pxContainer;
};

struct list {
    uint32_t uxNumberOfItems;
    struct item *pxIndex;
    struct {
        uint32_t xItemValue;
        struct item *pxNext, *pxPrevious;
    } xListEnd;
};

struct tcb {
    volatile uint32_t *pxTopOfStack;
    struct item xStateListItem, xEventListItem;
    uint32_t uxPriority;
    uint32_t *pxStack;
    char pcTaskName[16];
};

struct tcb *volatile pxCurrentTCB;
static struct list pxReadyTasksLists[PRIORITIES];
static struct list xDelayedTaskList1, xDelayedTaskList2;
static struct list *volatile pxDelayedTaskList __attribute__((used));
static struct list xPendingReadyList, xSuspendedTaskList, xTasksWaitingTermination;
static volatile uint32_t uxCurrentNumberOfTasks, uxTopReadyPriority, xSchedulerRunning;
static volatile uint32_t xTickCount;

static struct tcb tcbs[4];
static uint32_t stacks[4][STACK_WORDS] __attribute__((aligned(8)));

volatile uint32_t idled, blinked, rested;
volatile float sum;
volatile uint32_t resting;

/* --- Lists ------------------------------------------------------------------------------------ */

static void initialise(struct list *list)
{
    struct item *end = (struct item *)&list->xListEnd;
    list->uxNumberOfItems = 0;
    list->pxIndex = end;
    end->xItemValue = NEVER;
    end->pxNext = end->pxPrevious = end;
}

static void append(struct list *list, struct item *item)
{
    struct item *end = (struct item *)&list->xListEnd;
    item->pxNext = end;
    item->pxPrevious = end->pxPrevious;
    end->pxPrevious->pxNext = item;
    end->pxPrevious = item;
    item->pxContainer = list;
    list->uxNumberOfItems++;
}

static void take_out(struct item *item)
{
    struct list *list = item->pxContainer;
    if (list->pxIndex == item)
        list->pxIndex = item->pxPrevious;
    item->pxNext->pxPrevious = item->pxPrevious;
    item->pxPrevious->pxNext = item->pxNext;
    list->uxNumberOfItems--;
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static void yield(void)
{
    REG(0xE000ED04) = 1 << 28; /* ICSR.PENDSVSET */
    __asm__ volatile("dsb\n isb" ::: "memory");
}

static void masked_move(struct list *list)
{
    __asm__ volatile("cpsid i" ::: "memory");
    take_out(&pxCurrentTCB->xStateListItem);
    append(list, &pxCurrentTCB->xStateListItem);
    __asm__ volatile("cpsie i" ::: "memory");
    yield();
}

__attribute__((noinline)) void delay(uint32_t duration)
{
    pxCurrentTCB->xStateListItem.xItemValue = xTickCount + duration;
    masked_move(&xDelayedTaskList1);
}

__attribute__((noinline)) void suspend(void)
{
    masked_move(&xSuspendedTaskList);
}

__attribute__((noinline)) void blink(uint32_t times)
{
    blinked += times;
}

__attribute__((noinline)) void rest(uint32_t for_how_long)
{
    resting = for_how_long;
    suspend();
    rested++;
}

static void idle_task(void)
{
    for (;;)
        idled++;
}

static void blink_task(void)
{
    for (;;) {
        blink(1);
        delay(3);
    }
}

/* Registers that a switch has to keep: s20 holds 1.5 for ever, r8 holds 0x88888888. */
static void maths_task(void)
{
    __asm__ volatile("vmov.f32 s20, #1.5\n ldr r8, =0x88888888" ::: "s20", "r8");
    for (;;) {
        float term;
        __asm__ volatile("vmov.f32 %0, s20" : "=t"(term));
        sum += term;
        if (sum > 3000.0f)
            sum = 0;
        if (xTickCount % 4 == 0)
            delay(2);
    }
}

static void rest_task(void)
{
    for (;;)
        rest(7);
}

static void create(uint32_t number, const char *name, uint32_t priority, void (*task)(void))
{
    struct tcb *tcb = &tcbs[number];
    uint32_t *top = &stacks[number][STACK_WORDS];
    *--top = 1 << 24;                /* xPSR: Thumb */
    *--top = (uint32_t)task & ~1u;   /* pc */
    *--top = 0xFFFFFFFE;             /* lr: where nothing returns to */
    top -= 5;                        /* r12, r3-r0 */
    *--top = 0xFFFFFFFD;             /* EXC_RETURN: to thread mode, process stack, no FP frame */
    top -= 8;                        /* r11-r4 */
    tcb->pxTopOfStack = top;
    tcb->pxStack = stacks[number];
    tcb->uxPriority = priority;
    for (uint32_t i = 0; i < 15 && name[i]; i++)
        tcb->pcTaskName[i] = name[i];
    tcb->xStateListItem.pvOwner = tcb->xEventListItem.pvOwner = tcb;
    append(&pxReadyTasksLists[priority], &tcb->xStateListItem);
    uxCurrentNumberOfTasks++;
    if (priority >= uxTopReadyPriority) {
        uxTopReadyPriority = priority;
        pxCurrentTCB = tcb;
    }
}

/* --- Switching -------------------------------------------------------------------------------- */

__attribute__((used)) static void choose_task(void)
{
    uint32_t priority = PRIORITIES - 1;
    while (pxReadyTasksLists[priority].uxNumberOfItems == 0)
        priority--;
    struct list *list = &pxReadyTasksLists[priority];
    list->pxIndex = list->pxIndex->pxNext;
    if (list->pxIndex == (struct item *)&list->xListEnd)
        list->pxIndex = list->pxIndex->pxNext;
    uxTopReadyPriority = priority;
    pxCurrentTCB = list->pxIndex->pvOwner;
}

static void tick(void)
{
    xTickCount++;
    struct item *end = (struct item *)&xDelayedTaskList1.xListEnd;
    for (struct item *item = end->pxNext; item != end;) {
        struct item *next = item->pxNext;
        if (item->xItemValue <= xTickCount) {
            struct tcb *tcb = item->pvOwner;
            take_out(item);
            append(&pxReadyTasksLists[tcb->uxPriority], item);
        }
        item = next;
    }
    yield();
}

__attribute__((naked)) static void switch_tasks(void)
{
    __asm__ volatile(
        "mrs r0, psp\n"
        "tst lr, #0x10\n"
        "it eq\n"
        "vstmdbeq r0!, {s16-s31}\n"
        "stmdb r0!, {r4-r11, lr}\n"
        "ldr r4, =pxCurrentTCB\n"
        "ldr r1, [r4]\n"
        "str r0, [r1]\n"
        "cpsid i\n"
        "bl choose_task\n"
        "cpsie i\n"
        "b go_on\n");
}

__attribute__((naked)) static void go_on(void)
{
    __asm__ volatile(
        "ldr r0, =pxCurrentTCB\n"
        "ldr r0, [r0]\n"
        "ldr r0, [r0]\n"
        "ldmia r0!, {r4-r11, lr}\n"
        "tst lr, #0x10\n"
        "it eq\n"
        "vldmiaeq r0!, {s16-s31}\n"
        "msr psp, r0\n"
        "isb\n"
        "bx lr\n");
}

static void fault(void)
{
    for (;;)
        ;
}

typedef void (*vector)(void);

extern uint32_t _stack_top;

__attribute__((aligned(128), used)) static const vector vectors[16] = {
    [0] = (vector)&_stack_top,
    [2] = fault,
    [3] = fault,
    [4] = fault,
    [5] = fault,
    [6] = fault,
    [11] = go_on,
    [14] = switch_tasks,
    [15] = tick,
};

int main(void)
{
    REG(0xE000ED08) = (uint32_t)vectors; /* VTOR */
    REG(0xE000ED20) = 0xFFFF0000;        /* SHPR3: SysTick and PendSV below all else */
    for (uint32_t i = 0; i < PRIORITIES; i++)
        initialise(&pxReadyTasksLists[i]);
    initialise(&xDelayedTaskList1);
    initialise(&xDelayedTaskList2);
    initialise(&xPendingReadyList);
    initialise(&xSuspendedTaskList);
    initialise(&xTasksWaitingTermination);
    pxDelayedTaskList = &xDelayedTaskList1;
    create(0, "idle", 0, idle_task);
    create(1, "blinker", 2, blink_task);
    create(2, "maths", 1, maths_task);
    create(3, "rester", 3, rest_task);
    xSchedulerRunning = 1;
    start_ticks();
    __asm__ volatile("svc 0");
    for (;;)
        ;
}
