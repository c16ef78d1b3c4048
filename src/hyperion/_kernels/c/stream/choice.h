/* Which way to read: each way gets a run of chunks now and then, and the fastest of late gets all the others, because disks
 * change their mind. A way that loses is tried again at growing distances, the further the more it lost. */
#ifndef HYP_CHOICE_H
#define HYP_CHOICE_H

#include "common/hyp.h"

enum { HYP_READ_DIRECT, HYP_READ_EVICTED, HYP_READ_BUFFERED, HYP_READ_WAYS }; /* evicted: direct, into lines that no cache holds */

typedef struct {
    int allowed[HYP_READ_WAYS], best, now;
    double rate[HYP_READ_WAYS];        /* bytes a second when last measured, 0 where not tried */
    uint64_t due[HYP_READ_WAYS], every[HYP_READ_WAYS]; /* the chunk of the next trial; chunks between trials */
    uint64_t chunk, length, mark, end; /* chunks begun, in a run; where the run is measured from, and ends */
    uint64_t mark_bytes;
    double mark_seconds;
} hyp_choice;

/* At least one way is allowed. */
void hyp_choice_init(hyp_choice *c, const int allowed[HYP_READ_WAYS], size_t chunk_bytes, size_t in_flight);

/* The way for the next chunk. bytes and seconds: what has been read so far, and for how long anything was being read. */
int hyp_choice_next(hyp_choice *c, uint64_t bytes, double seconds);

/* Every way that is allowed has been measured. */
int hyp_choice_settled(const hyp_choice *c);

#endif
