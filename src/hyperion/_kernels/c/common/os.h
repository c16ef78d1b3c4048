/* The few things that C11 leaves to the operating system: threads, locks, positioned reads, a clock. */
#ifndef HYP_OS_H
#define HYP_OS_H

#include "hyp.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#include <process.h>
#include <sys/stat.h>

typedef SRWLOCK hyp_mutex;
typedef CONDITION_VARIABLE hyp_cond;
typedef HANDLE hyp_thread;
typedef unsigned (__stdcall *hyp_thread_entry)(void *);
#define HYP_THREAD_RESULT unsigned __stdcall
#define HYP_THREAD_RETURN return 0

HYP_INLINE void hyp_mutex_init(hyp_mutex *m) { InitializeSRWLock(m); }
HYP_INLINE void hyp_mutex_free(hyp_mutex *m) { (void)m; }
HYP_INLINE void hyp_lock(hyp_mutex *m) { AcquireSRWLockExclusive(m); }
HYP_INLINE void hyp_unlock(hyp_mutex *m) { ReleaseSRWLockExclusive(m); }
HYP_INLINE void hyp_cond_init(hyp_cond *c) { InitializeConditionVariable(c); }
HYP_INLINE void hyp_cond_free(hyp_cond *c) { (void)c; }
HYP_INLINE void hyp_wake_all(hyp_cond *c) { WakeAllConditionVariable(c); }
HYP_INLINE void hyp_wait(hyp_cond *c, hyp_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
HYP_INLINE void hyp_wait_ms(hyp_cond *c, hyp_mutex *m, unsigned ms) { SleepConditionVariableSRW(c, m, ms, 0); }
HYP_INLINE int hyp_thread_start(hyp_thread *t, hyp_thread_entry entry, void *arg)
{
    *t = (HANDLE)_beginthreadex(NULL, 0, entry, arg, 0, NULL);
    return *t ? HYP_OK : HYP_ERROR_MEMORY;
}
HYP_INLINE void hyp_thread_join(hyp_thread t)
{
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
HYP_INLINE int hyp_process_id(void) { return (int)GetCurrentProcessId(); }
HYP_INLINE double hyp_seconds(void)
{
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    return (double)now.QuadPart / (double)frequency.QuadPart;
}

/* Read up to n bytes at an offset; 0 at the end of the file, -1 on error. */
HYP_INLINE int64_t hyp_read_at(int fd, void *buffer, size_t n, uint64_t offset)
{
    OVERLAPPED at = {0};
    DWORD got = 0;
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    if (n > 1u << 30) n = 1u << 30;
    if (!ReadFile((HANDLE)_get_osfhandle(fd), buffer, (DWORD)n, &got, &at))
        return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
    return (int64_t)got;
}
HYP_INLINE void hyp_drop_cache(int fd, uint64_t offset, size_t n) { (void)fd, (void)offset, (void)n; }
HYP_INLINE void hyp_read_in_order(int fd) { (void)fd; }

/* What tells one state of a file from another: size, time of change, links. */
HYP_INLINE int hyp_file_state(int fd, int64_t state[3])
{
    struct _stat64 s;
    if (_fstat64(fd, &s)) return -1;
    state[0] = s.st_size, state[1] = s.st_mtime, state[2] = 1;
    return 0;
}

#else
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef pthread_mutex_t hyp_mutex;
typedef pthread_cond_t hyp_cond;
typedef pthread_t hyp_thread;
typedef void *(*hyp_thread_entry)(void *);
#define HYP_THREAD_RESULT void *
#define HYP_THREAD_RETURN return NULL

HYP_INLINE void hyp_mutex_init(hyp_mutex *m) { pthread_mutex_init(m, NULL); }
HYP_INLINE void hyp_mutex_free(hyp_mutex *m) { pthread_mutex_destroy(m); }
HYP_INLINE void hyp_lock(hyp_mutex *m) { pthread_mutex_lock(m); }
HYP_INLINE void hyp_unlock(hyp_mutex *m) { pthread_mutex_unlock(m); }
HYP_INLINE void hyp_cond_init(hyp_cond *c) { pthread_cond_init(c, NULL); }
HYP_INLINE void hyp_cond_free(hyp_cond *c) { pthread_cond_destroy(c); }
HYP_INLINE void hyp_wake_all(hyp_cond *c) { pthread_cond_broadcast(c); }
HYP_INLINE void hyp_wait(hyp_cond *c, hyp_mutex *m) { pthread_cond_wait(c, m); }
HYP_INLINE void hyp_wait_ms(hyp_cond *c, hyp_mutex *m, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(c, m, &until);
}
HYP_INLINE int hyp_thread_start(hyp_thread *t, hyp_thread_entry entry, void *arg)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    const int failed = pthread_create(t, &attr, entry, arg);
    pthread_attr_destroy(&attr);
    return failed ? HYP_ERROR_MEMORY : HYP_OK;
}
HYP_INLINE void hyp_thread_join(hyp_thread t) { pthread_join(t, NULL); }
HYP_INLINE int hyp_process_id(void) { return (int)getpid(); }
HYP_INLINE double hyp_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Read up to n bytes at an offset; 0 at the end of the file, -1 on error (errno). */
HYP_INLINE int64_t hyp_read_at(int fd, void *buffer, size_t n, uint64_t offset)
{
    ssize_t got;
    do got = pread(fd, buffer, n, (off_t)offset);
    while (got < 0 && errno == EINTR);
    return (int64_t)got;
}
HYP_INLINE void hyp_drop_cache(int fd, uint64_t offset, size_t n)
{
#if defined(POSIX_FADV_DONTNEED)
    posix_fadvise(fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
#else
    (void)fd, (void)offset, (void)n;
#endif
}

/* Reads will go forward: read further ahead. */
HYP_INLINE void hyp_read_in_order(int fd)
{
#if defined(POSIX_FADV_SEQUENTIAL)
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
#else
    (void)fd;
#endif
}

/* What tells one state of a file from another: size, time of change, links. */
HYP_INLINE int hyp_file_state(int fd, int64_t state[3])
{
    struct stat s;
    if (fstat(fd, &s)) return -1;
    state[0] = (int64_t)s.st_size;
#if defined(__APPLE__)
    state[1] = (int64_t)s.st_mtimespec.tv_sec * 1000000000 + s.st_mtimespec.tv_nsec;
#else
    state[1] = (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec;
#endif
    state[2] = s.st_nlink > 0;
    return 0;
}
#endif

#endif
