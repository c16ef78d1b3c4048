/* The thread team.
 *
 * A region is n items in `chunks` chunks. Two words carry it: `left`, the chunks nobody has taken, and `pending`, the
 * chunks not finished. Taking a chunk is a compare-and-swap of left to left - 1. That alone makes late workers harmless:
 * whoever succeeds holds a chunk of the region that is running now, and that region cannot end, nor its description
 * change, before the chunk is finished. So the caller waits only for chunks that were taken; a worker that the system
 * has not scheduled yet is never waited for, and the caller does its share.
 *
 * Waiting is a bounded spin, then sleep. How long the spin is follows the last wait: after one that was longer than the
 * spin could cover, spinning is a waste (idle, or the core is needed by somebody else), and the next one is short.
 *
 * A worker that shares the caller's core, because the others are taken or because the system put it there, gives way. One
 * that sleeps is kept from being woken there: see beds.h.
 *
 * A worker that loses its core in the middle of a chunk holds up the region for a time slice, some milliseconds. So the
 * caller keeps an account: what workers save is its income, such waits are its spending. When that is overdrawn, other
 * processes need the cores; the team then does without one more worker for a multiple of the wait, and tries again.
 */
#include "threads.h"
#include "beds.h"
#include "forks.h"
#include "os.h"

#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#endif

#define SPIN_LONG 200000u /* ns; the serial gaps between two regions of one token are well below */
#define SPIN_SHORT 10000u
#define POLL_EVERY 20000000u
#define YIELDED 5000u /* ns: somebody else ran meanwhile */
#define GIVE_WAY 4    /* times in one region */
#define PAUSES 16 /* between two looks at the clock */
#define SAVINGS_MAX 4000000 /* ns: one wait for a time slice is forgiven, a series is not */
#define REST_FACTOR 16      /* the share of time that waits may cost is at most one in this many */
#define REST_MAX 500000000u
#define MOVING 20000u /* ns that a caller spends at most on where its workers wake up */

typedef struct {
    hyp_team *team;
    size_t id;
    hyp_thread thread;
    uint32_t region, gave_way; /* how often in that region; its own */
    bed bed;
} member;

struct hyp_team {
    /* One cache line goes to a worker that takes a chunk: the word it takes it from, and what to do. */
    HYP_ALIGN64 hyp_word left;
    hyp_word active; /* workers 1..active may take chunks; the others sleep on it */
    hyp_word core;   /* that the caller is on */
    hyp_word region; /* a running number */
    uint32_t chunks;
    hyp_task_fn task;
    void *arg;
    size_t first, n, grain; /* items first..n-1 */
    HYP_ALIGN64 hyp_word pending;
    hyp_word caller_sleeps;
    HYP_ALIGN64 hyp_word epoch; /* workers sleep on it */
    hyp_word workers_sleep;     /* some worker sleeps, or is about to */
    hyp_word stop;
    HYP_ALIGN64 hyp_word busy; /* a caller has the workers */
    hyp_word generation; /* of fork */
    /* The rest belongs to that caller, but for the size and the poll, which are set once. */
    size_t threads;
    size_t wanted, started; /* workers; wanted shrinks to what the system gave */
    member *members;        /* threads - 1 */
    int caller_slow;
    int64_t savings;   /* ns */
    uint64_t rest, rest_end; /* ns: the last one's length, and when to try one more worker */
    hyp_poll_fn poll;
    void *poll_arg;
    hyp_lot lot;
};

/* Worker number + 1 of the region this thread is in; a region started inside another runs serially. */
static HYP_THREAD_LOCAL size_t inside;

/* When this thread was last asked for signals, and when its last region ended. Per thread, as the others cannot answer for the
 * main one. */
static HYP_THREAD_LOCAL uint64_t polled, ended;

/* A team begins anew: when it is made, and in the child of a fork. */
static void reset(hyp_team *t)
{
    hyp_store(&t->left, 0);
    hyp_store(&t->pending, 0);
    hyp_store(&t->caller_sleeps, 0);
    hyp_store(&t->workers_sleep, 0);
    hyp_store(&t->stop, 0);
    hyp_store(&t->busy, 0);
    t->wanted = t->threads - 1;
    t->started = 0;
    t->caller_slow = 0;
    t->savings = 0;
    t->rest = t->rest_end = 0;
    hyp_store(&t->active, (uint32_t)t->wanted);
    hyp_lot_init(&t->lot);
}

static void notice_fork(hyp_team *t)
{
    if (hyp_peek(&t->generation) == fork_generation()) return;
    fork_lock();
    if (hyp_load(&t->generation) != fork_generation()) {
        reset(t);
        hyp_store(&t->generation, fork_generation());
    }
    fork_unlock();
}

/* ---- Chunks ------------------------------------------------------------------------------------------------------ */
static uint32_t take(hyp_team *t)
{
    uint32_t left = hyp_peek(&t->left);
    while (left && !hyp_cas(&t->left, &left, left - 1)) {}
    return left;
}

static void work(hyp_team *t, uint32_t left, size_t worker)
{
    const size_t begin = t->first + (size_t)(t->chunks - left) * t->grain, rest = t->n - begin;
    t->task(t->arg, begin, begin + (rest < t->grain ? rest : t->grain), worker);
}

/* ---- Workers ----------------------------------------------------------------------------------------------------- */
static int has_news(const member *self)
{
    hyp_team *const t = self->team;
    return (hyp_peek(&t->left) && self->id <= hyp_peek(&t->active)) || hyp_peek(&t->stop);
}

/* A worker on the caller's core can only take time from the caller: it lets the others have the core, and stays runnable so
 * that the system can move it to one with nothing to do. Not for ever: if nobody else ran then the caller is elsewhere by
 * now, and if that was again not the caller then a long region needs all hands. */
static int gives_way(member *self)
{
    hyp_team *const t = self->team;
    const int32_t core = hyp_core();
    const uint32_t region = hyp_peek(&t->region);
    if (core < 0 || hyp_peek(&t->core) != (uint32_t)core) return 0;
    if (self->region != region) self->region = region, self->gave_way = 0;
    if (self->gave_way++ >= GIVE_WAY) return 0;
    const uint64_t start = hyp_now();
    hyp_yield();
    return hyp_now() - start > YIELDED;
}

/* A chunk for a worker. */
static uint32_t take_share(member *self)
{
    hyp_team *const t = self->team;
    return self->id <= hyp_peek(&t->active) && hyp_peek(&t->left) && !gives_way(self) ? take(t) : 0;
}

/* Wait for a region. *slow is this worker's memory of its last wait. */
static void idle(member *self, int *slow)
{
    hyp_team *const t = self->team;
    const uint64_t start = hyp_now(), limit = *slow ? SPIN_SHORT : SPIN_LONG;
    uint32_t active;
    while (self->id > (active = hyp_load(&t->active)) && !hyp_load(&t->stop))
        hyp_sleep(&t->lot, &t->active, active, HYP_FOREVER);
    do {
        for (int i = 0; i < PAUSES; i++) {
            if (has_news(self)) {
                *slow = 0;
                return;
            }
            hyp_pause();
        }
    } while (hyp_now() - start < limit);
    const uint32_t epoch = hyp_load(&t->epoch);
    /* The flag is raised before the last look, and the caller publishes before it looks at the flag. */
    hyp_store(&t->workers_sleep, 1);
    bed_enter(&self->bed, hyp_peek(&t->core));
    while (hyp_load(&t->epoch) == epoch && !hyp_load(&t->left) && !hyp_load(&t->stop))
        hyp_sleep(&t->lot, &t->epoch, epoch, HYP_FOREVER);
    bed_leave(&self->bed);
    *slow = hyp_now() - start > SPIN_LONG;
}

static HYP_THREAD_FN(worker_main, arg)
{
    member *const self = arg;
    hyp_team *const t = self->team;
    int slow = 0;
    inside = self->id + 1;
    while (!hyp_peek(&t->stop)) {
        uint32_t left, done = 0;
        while ((left = take_share(self)) != 0) {
            work(t, left, self->id);
            done++;
        }
        if (done && hyp_add(&t->pending, 0u - done) == done && hyp_load(&t->caller_sleeps)) {
            hyp_wake(&t->lot, &t->pending);
        }
        idle(self, &slow);
    }
    HYP_THREAD_END;
}

static void start_workers(hyp_team *t)
{
    while (t->started < t->wanted) {
        member *const m = &t->members[t->started];
        m->team = t;
        m->id = t->started + 1;
        memset((void *)&m->bed, 0, sizeof m->bed);
        if (hyp_thread_start(&m->thread, worker_main, m)) { /* no more to be had: the others do the work */
            t->wanted = t->started;
            hyp_store(&t->active, (uint32_t)t->wanted);
            break;
        }
        t->started++;
    }
}

/* ---- The caller -------------------------------------------------------------------------------------------------- */
static int ask(hyp_team *t, uint64_t now)
{
    if (now - polled < POLL_EVERY) return 0;
    polled = now;
    return t->poll ? t->poll(t->poll_arg) : 0;
}

/* Tell the workers where the caller is: see gives_way(). */
static void show_core(hyp_team *t)
{
    const uint32_t core = (uint32_t)hyp_core();
    if (hyp_peek(&t->core) != core) hyp_store(&t->core, core);
}

static void wake_workers(hyp_team *t)
{
    const uint32_t core = (uint32_t)hyp_core();
    uint64_t start = 0;
    hyp_store(&t->workers_sleep, 0);
    for (size_t i = 0; i < t->started; i++) {
        if (!bed_move(&t->members[i].bed, core)) continue;
        if (!start) start = hyp_now();
        else if (hyp_now() - start > MOVING) break;
    }
    hyp_add(&t->epoch, 1);
    hyp_wake(&t->lot, &t->epoch);
}

/* Looks at the clock once in `stride` chunks, so that short ones do not pay for it. */
typedef struct {
    uint32_t count, stride;
    uint64_t seen;
} pace;

static int ask_between(hyp_team *t, pace *p)
{
    if (++p->count < p->stride) return 0;
    const uint64_t now = hyp_now(), took = now - p->seen;
    if (took < POLL_EVERY / 80) p->stride *= p->stride < 1024 ? 2 : 1;
    else p->stride = p->stride > 4 ? p->stride / 4 : 1;
    p->count = 0;
    p->seen = now;
    return ask(t, now);
}

/* One chunk in the calling thread, which advances *begin. */
static void step(hyp_task_fn task, void *arg, size_t *begin, size_t n, size_t grain, size_t worker)
{
    const size_t end = n - *begin < grain ? n : *begin + grain;
    task(arg, *begin, end, worker);
    *begin = end;
}

static int run_alone(hyp_team *t, hyp_task_fn task, void *arg, size_t begin, size_t n, size_t grain)
{
    pace p = {0, 2, hyp_now()};
    while (begin < n) {
        step(task, arg, &begin, n, grain, 0);
        if (ask_between(t, &p)) return HYP_CANCELLED;
    }
    return HYP_OK;
}

/* Wait until no taken chunk is unfinished; *waited is 0 when that was a matter of microseconds. */
static int finish(hyp_team *t, int status, uint32_t generation, uint64_t *waited)
{
    uint32_t pending;
    for (int i = 0; i < PAUSES; i++) { /* the usual case ends here, and needs no clock */
        if (!hyp_peek(&t->pending)) return status;
        hyp_pause();
    }
    const uint64_t start = hyp_now(), limit = t->caller_slow ? SPIN_SHORT : SPIN_LONG;
    do {
        for (int i = 0; i < PAUSES; i++) {
            if (!hyp_peek(&t->pending)) {
                t->caller_slow = 0;
                return status;
            }
            hyp_pause();
        }
    } while (hyp_now() - start < limit);
    /* A worker holds a long chunk, or lost its core in the middle of one. Sleeping may give it ours. */
    hyp_store(&t->caller_sleeps, 1);
    while ((pending = hyp_load(&t->pending)) != 0) {
        hyp_sleep(&t->lot, &t->pending, pending, POLL_EVERY / 1000000);
        if (status == HYP_OK && hyp_load(&t->pending) && ask(t, hyp_now())) status = HYP_CANCELLED;
        if (generation != fork_generation()) return HYP_ERROR_RUNTIME;
    }
    hyp_store(&t->caller_sleeps, 0);
    *waited = hyp_now() - start;
    t->caller_slow = *waited > SPIN_LONG;
    return status;
}

/* Book a region that took the caller `took` ns for all but `others` of its chunks, and a wait for these. */
static void settle(hyp_team *t, uint64_t took, uint32_t mine, uint32_t others, uint64_t waited)
{
    /* Half, because where memory is the bound a worker's chunk slows down the caller's; and no more than a share of a
     * long region, as its length may be time that the caller itself was off its core. */
    const uint64_t chunk = took / mine, saved = chunk * others / 2, most = took / 8 > 100000 ? took / 8 : 100000;
    t->savings += (int64_t)(saved < most ? saved : most);
    if (t->savings >= SAVINGS_MAX) {
        t->savings = SAVINGS_MAX;
        if (hyp_peek(&t->active) == t->wanted) t->rest = 0; /* the cores are ours again */
    }
    if (waited <= 2 * chunk) return; /* chunks that end unevenly */
    t->savings -= (int64_t)(waited - 2 * chunk);
    if (t->savings >= 0) return;
    const uint32_t active = hyp_load(&t->active);
    t->savings = 0;
    t->rest = 2 * t->rest > REST_FACTOR * waited ? 2 * t->rest : REST_FACTOR * waited;
    if (t->rest > REST_MAX) t->rest = REST_MAX;
    if (active) hyp_store(&t->active, active - 1);
    t->rest_end = hyp_now() + t->rest;
}

static void end_of_rest(hyp_team *t, uint64_t now)
{
    const uint32_t active = hyp_load(&t->active);
    if (active >= t->wanted || now < t->rest_end) return;
    t->rest_end = now + t->rest; /* for the next one */
    hyp_store(&t->active, active + 1);
    hyp_wake(&t->lot, &t->active);
}

static int run_region(hyp_team *t, hyp_task_fn task, void *arg, size_t first, size_t n, size_t grain)
{
    const uint32_t chunks = (uint32_t)((n - first - 1) / grain + 1);
    const uint32_t generation = fork_generation();
    const uint64_t start = hyp_now();
    uint64_t waited = 0;
    uint32_t left = chunks, done = 0;
    int status = HYP_OK;
    pace p = {0, 2, start};
    if (start - ended >= POLL_EVERY) polled = start; /* whoever was that long without regions asks, or waits, elsewhere */
    if (t->started < t->wanted) start_workers(t);
    if (t->rest_end) end_of_rest(t, start);
    if (chunks == 1 || !hyp_peek(&t->active)) {
        inside = 1;
        status = run_alone(t, task, arg, first, n, grain);
        inside = 0;
        ended = hyp_now();
        return generation == fork_generation() ? status : HYP_ERROR_RUNTIME;
    }
    t->task = task;
    t->arg = arg;
    t->first = first;
    t->n = n;
    t->grain = grain;
    t->chunks = chunks;
    show_core(t);
    hyp_put(&t->region, hyp_peek(&t->region) + 1);
    hyp_put(&t->pending, chunks); /* ordered by the next one, which is what workers look at */
    hyp_store(&t->left, chunks - 1);
    if (hyp_load(&t->workers_sleep)) wake_workers(t);
    inside = 1;
    do { /* the first chunk is the caller's own: it need not fetch the word back from the workers that spin on it */
        work(t, left, 0);
        done++;
        show_core(t);
        if (ask_between(t, &p)) {
            status = HYP_CANCELLED;
            done += hyp_swap(&t->left, 0);
            break;
        }
    } while ((left = take(t)) != 0);
    const uint64_t end = hyp_now();
    if (status == HYP_OK && ask(t, end)) status = HYP_CANCELLED;
    /* After a fork inside a task or the poll the child has no workers, whose chunks would never be finished. */
    if (generation != fork_generation()) {
        status = HYP_ERROR_RUNTIME;
    } else if (hyp_add(&t->pending, 0u - done) != done) {
        status = finish(t, status, generation, &waited);
    }
    inside = 0;
    ended = end;
    if (chunks > done && status == HYP_OK) settle(t, end - start, done, chunks - done, waited);
    return status;
}

/* ---- The contract ------------------------------------------------------------------------------------------------ */
static int team_run(hyp_team *t, hyp_task_fn task, void *arg, size_t n, size_t grain)
{
    if (!n) return HYP_OK;
    if (!grain) grain = 1;
    if (n <= grain) {
        task(arg, 0, n, inside ? inside - 1 : 0);
        return HYP_OK;
    }
    size_t begin = 0;
    if (inside) {
        while (begin < n) step(task, arg, &begin, n, grain, inside - 1);
        return HYP_OK;
    }
    if (t->threads == 1) return run_alone(t, task, arg, 0, n, grain);
    if ((n - 1) / grain >= 1u << 30) grain *= (n - 1) / grain / (1u << 30) + 1; /* chunks are counted in 32 bits */
    notice_fork(t);
    const uint32_t generation = fork_generation();
    pace p = {0, 2, 0};
    uint32_t idle_team = 0;
    /* While another caller has the workers, this one is a thread of its own: it does chunks and looks again. */
    while (hyp_peek(&t->busy) || !hyp_cas(&t->busy, &idle_team, 1)) {
        idle_team = 0;
        if (!p.seen) p.seen = hyp_now();
        inside = 1;
        step(task, arg, &begin, n, grain, 0);
        const int cancelled = ask_between(t, &p);
        inside = 0;
        if (generation != fork_generation()) return HYP_ERROR_RUNTIME;
        if (cancelled) return HYP_CANCELLED;
        if (begin == n) return HYP_OK;
    }
    const int status = run_region(t, task, arg, begin, n, grain);
    if (status != HYP_ERROR_RUNTIME) hyp_store(&t->busy, 0);
    return status;
}

static hyp_team *team_create(size_t threads)
{
    hyp_team *t;
    if (threads < 1) threads = 1;
    if (threads > 4096) return NULL;
#if defined(_WIN32)
    t = _aligned_malloc(sizeof *t, 64);
    if (!t) return NULL;
#else
    void *memory;
    if (posix_memalign(&memory, 64, sizeof *t)) return NULL;
    t = memory;
#endif
    memset((void *)t, 0, sizeof *t);
    t->members = calloc(threads, sizeof *t->members);
    if (!t->members) {
#if defined(_WIN32)
        _aligned_free(t);
#else
        free(t);
#endif
        return NULL;
    }
    fork_watch();
    t->threads = threads;
    reset(t);
    hyp_store(&t->generation, fork_generation());
    return t;
}

static void team_destroy(hyp_team *t)
{
    if (!t) return;
    notice_fork(t);
    hyp_store(&t->stop, 1);
    hyp_add(&t->epoch, 1);
    hyp_add(&t->active, 1); /* sleepers look again only at words that changed */
    hyp_wake(&t->lot, &t->epoch);
    hyp_wake(&t->lot, &t->active);
    for (size_t i = 0; i < t->started; i++) hyp_thread_join(t->members[i].thread);
    hyp_lot_free(&t->lot);
    free(t->members);
#if defined(_WIN32)
    _aligned_free(t);
#else
    free(t);
#endif
}

static size_t team_size(const hyp_team *t)
{
    return t->threads;
}

static void team_set_poll(hyp_team *t, hyp_poll_fn poll, void *arg)
{
    t->poll_arg = arg;
    t->poll = poll;
}

static const hyp_threads_api API = {team_create, team_destroy, team_size, team_set_poll, team_run};

const hyp_threads_api *hyp_threads_get_api(void)
{
    return &API;
}
