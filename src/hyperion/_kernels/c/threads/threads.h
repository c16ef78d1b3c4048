/* One thread team: lazy start, the caller takes part, chunks from an atomic counter, bounded spin and then a wait, safe
 * after fork. A team is an object; there is no global one in C. */
#ifndef HYP_THREADS_H
#define HYP_THREADS_H

#include "common/hyp.h"

typedef struct hyp_team hyp_team;

/* Work on items [begin, end); worker is 0 (the caller) .. threads-1. */
typedef void (*hyp_task_fn)(void *arg, size_t begin, size_t end, size_t worker);

/* Asked by the calling thread between chunks, at most every ~20 ms; nonzero cancels the region. */
typedef int (*hyp_poll_fn)(void *arg);

typedef struct {
    hyp_team *(*create)(size_t threads);             /* NULL without memory; no thread starts before the first run */
    void (*destroy)(hyp_team *team);                  /* joins */
    size_t (*size)(const hyp_team *team);
    void (*set_poll)(hyp_team *team, hyp_poll_fn poll, void *arg);
    /* Run task over items 0..n-1 in chunks of `grain`; returns HYP_OK or HYP_CANCELLED (some chunks were not run). Worker
     * numbers are unique within a region. A second caller does its chunks itself until the team is free. A region of one
     * chunk, of a team of one, or inside another region's task runs in the calling thread with no synchronisation. */
    int (*run)(hyp_team *team, hyp_task_fn task, void *arg, size_t n, size_t grain);
} hyp_threads_api;

const hyp_threads_api *hyp_threads_get_api(void);

#endif
