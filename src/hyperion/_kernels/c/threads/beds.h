/* Where a worker that slept wakes up. Linux likes to put it on the core of the thread that wakes it, all the more on a
 * virtual machine, where a core that idles looks as if the host had taken it away. There it waits for milliseconds only to
 * find that it would take time from the caller. So a worker takes the caller's core out of its affinity before it sleeps,
 * and puts it back when it is up, before anything else. A caller that is on another core by then says so to the system
 * before it wakes anybody: a system call on a cold core, which is why that is not the usual way. For threads.c alone. */
#ifndef HYP_THREADS_BEDS_H
#define HYP_THREADS_BEDS_H

#include "os.h"

#if defined(HYP_FUTEX)
#include <string.h>

#define BED_CORES 8192 /* the most that Linux is built for */
#define BED_WORD (8 * sizeof(unsigned long))

typedef struct {
    unsigned long words[BED_CORES / BED_WORD];
} core_set;

enum { BED_EMPTY, BED_CHANGING, BED_TAKEN }; /* BED_TAKEN + the core that the sleeper is kept off */

typedef struct {
    hyp_word state;
    int32_t sleeper;         /* its number with the system */
    int confined;            /* to `before`: by somebody, or by what it was born with */
    size_t bytes;            /* of a set of cores in this system */
    core_set before, asleep; /* where it may be */
} bed;

/* Both return whether the system did it: sandboxes may refuse. */
static int get_cores(int32_t thread, core_set *c, size_t *bytes)
{
    memset(c, 0, sizeof *c);
    const long n = syscall(SYS_sched_getaffinity, thread, sizeof *c, c);
    *bytes = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static int set_cores(int32_t thread, const core_set *c, size_t bytes)
{
    return !syscall(SYS_sched_setaffinity, thread, bytes, c);
}

/* Whether a set with `core` taken out of it has any left. */
static int without(core_set *c, uint32_t core)
{
    unsigned long any = 0;
    c->words[core / BED_WORD] &= ~(1ul << core % BED_WORD);
    for (size_t i = 0; i < BED_CORES / BED_WORD; i++) any |= c->words[i];
    return any != 0;
}

/* By the worker. A thread that nobody confined follows its cpuset when that grows; one that was given all the cores of today
 * does not. To tell these apart, it asks for every core there could be and sees what the system makes of that. */
static void bed_enter(bed *b, uint32_t core)
{
    core_set all;
    size_t bytes;
    if (core >= BED_CORES || !get_cores(0, &b->before, &b->bytes)) return;
    b->asleep = b->before;
    if (!without(&b->asleep, core) || !memcmp(&b->asleep, &b->before, sizeof all)) return;
    memset(&all, 0xFF, sizeof all);
    if (!set_cores(0, &all, b->bytes)) return;
    b->confined = !get_cores(0, &all, &bytes) || memcmp(&all, &b->before, sizeof all);
    b->sleeper = (int32_t)syscall(SYS_gettid);
    if (set_cores(0, &b->asleep, b->bytes)) hyp_store(&b->state, BED_TAKEN + core);
    else if (b->confined) set_cores(0, &b->before, b->bytes);
}

/* Whether a thread may still be where it was put: nobody else has changed that. */
static int is_where_put(int32_t thread, const core_set *put)
{
    core_set c;
    size_t bytes;
    return get_cores(thread, &c, &bytes) && !memcmp(&c, put, sizeof c);
}

/* By the caller, from `core`; returns whether the sleeper had to be kept off another core than before. */
static int bed_move(bed *b, uint32_t core)
{
    uint32_t state = hyp_peek(&b->state), now = state;
    if (state < BED_TAKEN || state == BED_TAKEN + core || core >= BED_CORES) return 0;
    if (!hyp_cas(&b->state, &state, BED_CHANGING)) return 0;
    core_set others = b->before;
    if (without(&others, core) && is_where_put(b->sleeper, &b->asleep) && set_cores(b->sleeper, &others, b->bytes)) {
        b->asleep = others;
        now = BED_TAKEN + core;
    }
    hyp_store(&b->state, now);
    return 1;
}

/* By the worker, which is up. Whoever else changed its affinity meanwhile has the last word. */
static void bed_leave(bed *b)
{
    core_set c;
    uint32_t state = hyp_load(&b->state);
    while (state == BED_CHANGING || (state && !hyp_cas(&b->state, &state, BED_EMPTY))) {
        hyp_yield();
        state = hyp_load(&b->state);
    }
    if (!state || !is_where_put(0, &b->asleep)) return;
    memset(&c, 0xFF, sizeof c);
    set_cores(0, b->confined ? &b->before : &c, b->bytes);
}
#else
typedef struct {
    char unused;
} bed;
#define bed_enter(b, core) ((void)(b), (void)(core))
#define bed_move(b, core) ((void)(b), (void)(core), 0)
#define bed_leave(b) ((void)(b))
#endif

#endif
