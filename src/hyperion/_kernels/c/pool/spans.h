/* Runs of pages in one region, and slabs of equal slots on top of them: what the DYNAMIC and HYBRID pools are made of.
 *
 * Nothing is written into memory that is free: every table lies outside the region, so that a write past a block can damage data
 * but not the allocator. The tables are indexed by page and become memory only as far as pages were ever used (`frontier`).
 *
 * Runs   Free runs are coalesced with their neighbours at once (both ends of a free run name its length), and kept in bins of
 *        sizes, eight to a doubling: finding, splitting and merging take the same few steps however many runs there are.
 * Slabs  A run cut into slots of one size class; a chain of slot numbers lists the free ones.
 * Grains What is made usable and given back: a page group, or a whole huge page where the region is advised to use those, since
 *        one touched byte makes all of it resident. `committed` counts exactly what may be resident. */
#ifndef HYP_SPANS_H
#define HYP_SPANS_H

#include "pages.h"

#define HYP_SLOT 64 /* alignment of every block, and the unit of size classes: a cache line, an AVX-512 vector */
#define HYP_SMALL ((size_t)32 << 10) /* larger blocks are runs of pages of their own */
#define HYP_SMALL_UNITS (HYP_SMALL / HYP_SLOT)
#define HYP_CLASSES 128
#define HYP_BINS 248
#define HYP_NO_PAGE UINT32_MAX

typedef struct {
    uint32_t kind; /* what begins here (or, for free runs and slabs, lies here) */
    uint32_t length; /* pages of a run: at its first page, of a free one at its last page too */
    uint32_t next, prev; /* free runs of a bin */
    uint32_t head; /* first page of the slab that the page belongs to */
} hyp_page;

typedef struct {
    uint32_t size, count; /* bytes of a slot, slots */
    uint32_t used, fresh; /* slots in use, slots ever used */
    uint32_t free; /* first of the chain of free slots */
    uint32_t next, prev; /* slabs of the class that have free slots */
    uint32_t pages, cls;
} hyp_slab;

typedef struct {
    uint32_t size; /* 0: the entry is free */
    uint32_t partial; /* first slab with free slots */
    uint32_t slabs; /* all of them */
    int active; /* whether new blocks come from it; a class that is not keeps its slabs until they are empty */
} hyp_class;

typedef struct {
    hyp_pages region;
    size_t page, grain; /* bytes */
    uint32_t pages; /* of the region */
    uint32_t frontier; /* pages from here on were never used */
    uint32_t slab_frontier; /* or never by a slab */
    hyp_pages tables[3]; /* hyp_page, hyp_slab a page; slot chains */
    uint8_t *grains; /* 1: committed */
    size_t grain_count;
    size_t committed; /* bytes */
    size_t idle; /* committed bytes of grains that are wholly free */
    size_t keep; /* at most so many stay idle */
    uint32_t bins[HYP_BINS];
    uint64_t map[(HYP_BINS + 63) / 64];
    hyp_class classes[HYP_CLASSES];
    uint8_t class_of[HYP_SMALL_UNITS + 1]; /* by size in units, rounded up */
    int count_demand;
    uint64_t demand[HYP_SMALL_UNITS + 1], demanded, tune_at;
    unsigned tunings;
} hyp_spans;

/* Reserve address space for `bytes`; nothing becomes memory. HYP_OK or HYP_ERROR_MEMORY. */
int hyp_spans_open(hyp_spans *s, size_t bytes, int huge, size_t keep, int count_demand);
void hyp_spans_close(hyp_spans *s);

/* A block, or NULL when hyp_spans_grow must come first. */
uint8_t *hyp_spans_take(hyp_spans *s, size_t bytes);

/* How many bytes more the process would hold after hyp_spans_grow; HYP_ERROR_MEMORY when no room is left. */
int hyp_spans_plan(const hyp_spans *s, size_t bytes, size_t *more);

/* Make the next hyp_spans_take of this size succeed. */
int hyp_spans_grow(hyp_spans *s, size_t bytes);

/* Take a block back: HYP_OK, HYP_ERROR_ARGUMENT (not the address of a block) or HYP_ERROR_RUNTIME (it is free already). */
int hyp_spans_give(hyp_spans *s, const uint8_t *p);

/* Give all idle memory back to the system. */
void hyp_spans_trim(hyp_spans *s);

/* Bytes that the tables may have made resident, for these frontiers. */
size_t hyp_spans_tables(const hyp_spans *s, uint32_t frontier, uint32_t slab_frontier);

/* Pages of the longest free run, the never used ones included. */
uint32_t hyp_spans_longest(const hyp_spans *s);

/* When it is due: add size classes for what is asked for most, and retire those added earlier that are not any more. */
void hyp_spans_tune(hyp_spans *s);

/* Bytes of the block that a request takes from a slab; 0 when it gets pages. */
size_t hyp_spans_class_size(const hyp_spans *s, size_t bytes);

#endif
