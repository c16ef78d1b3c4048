/* Fork: the child has none of the workers, and locks may be held by threads that no longer exist. Each team notices at its
 * next use, by a count that the child's fork handler raises, and starts anew. For threads.c alone: the count is its own. */
#ifndef HYP_THREADS_FORKS_H
#define HYP_THREADS_FORKS_H

#include "os.h"

#if defined(_WIN32)
#define fork_watch() ((void)0)
#define fork_generation() 0u
#define fork_lock() ((void)0)
#define fork_unlock() ((void)0)
#else
static hyp_word forks;
static pthread_mutex_t forks_lock = PTHREAD_MUTEX_INITIALIZER; /* one reset at a time, none during a fork */
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&forks_lock); }
static void after_fork_parent(void) { pthread_mutex_unlock(&forks_lock); }
static void after_fork_child(void)
{
    hyp_add(&forks, 1);
    pthread_mutex_unlock(&forks_lock);
}
static void install_fork_handlers(void) { pthread_atfork(before_fork, after_fork_parent, after_fork_child); }
static void fork_watch(void) { pthread_once(&forks_once, install_fork_handlers); }
static uint32_t fork_generation(void) { return hyp_peek(&forks); }
static void fork_lock(void) { pthread_mutex_lock(&forks_lock); }
static void fork_unlock(void) { pthread_mutex_unlock(&forks_lock); }
#endif

#endif
