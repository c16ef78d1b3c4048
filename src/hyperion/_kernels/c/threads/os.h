/* The few things of an operating system that threads need: 32-bit atomics, sleeping on a word, threads, a clock.
 * Sleeping is a futex on Linux, WaitOnAddress on Windows and one lock with one condition (a `hyp_lot`) elsewhere. */
#ifndef HYP_THREADS_OS_H
#define HYP_THREADS_OS_H

#include "common/hyp.h"

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#include <process.h>
#if defined(_MSC_VER)
#include <intrin.h>
#pragma comment(lib, "synchronization.lib")
#endif
#else
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) && defined(__LP64__)
#define HYP_FUTEX 1
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#endif

#if defined(_MSC_VER)
#define HYP_THREAD_LOCAL __declspec(thread)
#else
#define HYP_THREAD_LOCAL _Thread_local
#endif

/* ---- Atomics: sequentially consistent but for hyp_peek (acquire, for spinning) and hyp_put (no order) -------------- */
#if defined(_MSC_VER)
typedef volatile long hyp_word;

HYP_INLINE uint32_t hyp_peek(hyp_word *w)
{
    const uint32_t v = (uint32_t)__iso_volatile_load32((volatile int *)w);
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#else
    _ReadWriteBarrier();
#endif
    return v;
}
HYP_INLINE void hyp_put(hyp_word *w, uint32_t v) { __iso_volatile_store32((volatile int *)w, (int)v); }
HYP_INLINE uint32_t hyp_load(hyp_word *w) { return (uint32_t)_InterlockedOr(w, 0); }
HYP_INLINE void hyp_store(hyp_word *w, uint32_t v) { (void)_InterlockedExchange(w, (long)v); }
HYP_INLINE uint32_t hyp_swap(hyp_word *w, uint32_t v) { return (uint32_t)_InterlockedExchange(w, (long)v); }
HYP_INLINE uint32_t hyp_add(hyp_word *w, uint32_t v) { return (uint32_t)_InterlockedExchangeAdd(w, (long)v); }
HYP_INLINE int hyp_cas(hyp_word *w, uint32_t *expected, uint32_t v)
{
    const uint32_t old = (uint32_t)_InterlockedCompareExchange(w, (long)v, (long)*expected);
    const int done = old == *expected;
    *expected = old;
    return done;
}
#else
#include <stdatomic.h>
typedef _Atomic uint32_t hyp_word;

HYP_INLINE uint32_t hyp_peek(hyp_word *w) { return atomic_load_explicit(w, memory_order_acquire); }
HYP_INLINE void hyp_put(hyp_word *w, uint32_t v) { atomic_store_explicit(w, v, memory_order_relaxed); }
HYP_INLINE uint32_t hyp_load(hyp_word *w) { return atomic_load(w); }
HYP_INLINE void hyp_store(hyp_word *w, uint32_t v) { atomic_store(w, v); }
HYP_INLINE uint32_t hyp_swap(hyp_word *w, uint32_t v) { return atomic_exchange(w, v); }
HYP_INLINE uint32_t hyp_add(hyp_word *w, uint32_t v) { return atomic_fetch_add(w, v); }
HYP_INLINE int hyp_cas(hyp_word *w, uint32_t *expected, uint32_t v)
{
    return atomic_compare_exchange_strong(w, expected, v);
}
#endif

/* Tell the core that this is a spin: frees the sibling hyperthread and avoids the memory-order flush at the exit. */
HYP_INLINE void hyp_pause(void)
{
#if defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores; isb really waits some 10 ns */
#endif
}

/* Nanoseconds of a clock that never goes back. */
HYP_INLINE uint64_t hyp_now(void)
{
#if defined(_WIN32)
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    const uint64_t c = (uint64_t)count.QuadPart, f = (uint64_t)frequency.QuadPart;
    return c / f * 1000000000u + c % f * 1000000000u / f;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

/* The core that this thread is on, a matter of nanoseconds; -1 where the system does not tell. */
#if defined(HYP_FUTEX)
int sched_getcpu(void); /* <sched.h> shows it to those only who ask for GNU's extensions before the first header */
HYP_INLINE int32_t hyp_core(void) { return sched_getcpu(); }
#elif defined(_WIN32)
HYP_INLINE int32_t hyp_core(void) { return (int32_t)GetCurrentProcessorNumber(); }
#else
HYP_INLINE int32_t hyp_core(void) { return -1; }
#endif

/* Let another thread that waits for this core have it. */
HYP_INLINE void hyp_yield(void)
{
#if defined(_WIN32)
    SwitchToThread();
#else
    sched_yield();
#endif
}

/* ---- Sleeping on a word ------------------------------------------------------------------------------------------
 * hyp_sleep returns when the word differs from `seen`, when woken, after `ms` milliseconds (HYP_FOREVER: never), or for
 * no reason; callers look again. A waker changes the word first, then calls hyp_wake. */
#define HYP_FOREVER UINT32_MAX

#if defined(_WIN32)
typedef struct { char unused; } hyp_lot;
HYP_INLINE void hyp_lot_init(hyp_lot *lot) { (void)lot; }
HYP_INLINE void hyp_lot_free(hyp_lot *lot) { (void)lot; }
HYP_INLINE void hyp_sleep(hyp_lot *lot, hyp_word *w, uint32_t seen, uint32_t ms)
{
    (void)lot;
    WaitOnAddress((volatile void *)w, &seen, sizeof seen, ms == HYP_FOREVER ? INFINITE : ms);
}
HYP_INLINE void hyp_wake(hyp_lot *lot, hyp_word *w)
{
    (void)lot;
    WakeByAddressAll((void *)w);
}
#elif defined(HYP_FUTEX)
typedef struct { char unused; } hyp_lot;
HYP_INLINE void hyp_lot_init(hyp_lot *lot) { (void)lot; }
HYP_INLINE void hyp_lot_free(hyp_lot *lot) { (void)lot; }
HYP_INLINE void hyp_sleep(hyp_lot *lot, hyp_word *w, uint32_t seen, uint32_t ms)
{
    (void)lot;
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    syscall(SYS_futex, w, FUTEX_WAIT_PRIVATE, seen, ms == HYP_FOREVER ? NULL : &t, NULL, 0);
}
HYP_INLINE void hyp_wake(hyp_lot *lot, hyp_word *w)
{
    (void)lot;
    syscall(SYS_futex, w, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
} hyp_lot;
HYP_INLINE void hyp_lot_init(hyp_lot *lot)
{
    pthread_mutex_init(&lot->mutex, NULL);
#if defined(__APPLE__)
    pthread_cond_init(&lot->cond, NULL);
#else
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&lot->cond, &attr);
    pthread_condattr_destroy(&attr);
#endif
}
HYP_INLINE void hyp_lot_free(hyp_lot *lot)
{
    pthread_cond_destroy(&lot->cond);
    pthread_mutex_destroy(&lot->mutex);
}
HYP_INLINE void hyp_sleep(hyp_lot *lot, hyp_word *w, uint32_t seen, uint32_t ms)
{
    pthread_mutex_lock(&lot->mutex);
    if (hyp_load(w) == seen) {
        if (ms == HYP_FOREVER) {
            pthread_cond_wait(&lot->cond, &lot->mutex);
        } else {
#if defined(__APPLE__)
            struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
            pthread_cond_timedwait_relative_np(&lot->cond, &lot->mutex, &t);
#else
            const uint64_t until = hyp_now() + (uint64_t)ms * 1000000u;
            struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
            pthread_cond_timedwait(&lot->cond, &lot->mutex, &t);
#endif
        }
    }
    pthread_mutex_unlock(&lot->mutex);
}
HYP_INLINE void hyp_wake(hyp_lot *lot, hyp_word *w)
{
    (void)w;
    pthread_mutex_lock(&lot->mutex);
    pthread_cond_broadcast(&lot->cond);
    pthread_mutex_unlock(&lot->mutex);
}
#endif

/* ---- Threads: `fn` has the signature that HYP_THREAD_FN declares ------------------------------------------------- */
#if defined(_WIN32)
typedef HANDLE hyp_thread;
#define HYP_THREAD_FN(name, arg) unsigned __stdcall name(void *arg)
#define HYP_THREAD_END return 0
HYP_INLINE int hyp_thread_start(hyp_thread *t, unsigned(__stdcall *fn)(void *), void *arg)
{
    *t = (HANDLE)_beginthreadex(NULL, 1 << 20, fn, arg, 0, NULL);
    return *t ? 0 : -1;
}
HYP_INLINE void hyp_thread_join(hyp_thread t)
{
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
#else
typedef pthread_t hyp_thread;
#define HYP_THREAD_FN(name, arg) void *name(void *arg)
#define HYP_THREAD_END return NULL
HYP_INLINE int hyp_thread_start(hyp_thread *t, void *(*fn)(void *), void *arg)
{
    /* Signals are for the threads of the interpreter, except the synchronous ones (faulthandler). A stack of 1 MiB,
     * not the platform's default: musl's is 128 KiB, and one of 2 MiB or more may be backed by a whole huge page. */
    sigset_t all, before;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr)) return -1;
    pthread_attr_setstacksize(&attr, (size_t)1 << 20);
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(t, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return failed ? -1 : 0;
}
HYP_INLINE void hyp_thread_join(hyp_thread t) { pthread_join(t, NULL); }
#endif

#endif
