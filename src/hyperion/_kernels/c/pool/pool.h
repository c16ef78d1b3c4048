/* Blocks of 64-byte alignment from one reserved region, by one of four strategies, with exact counts.
 *
 * The caller serialises the calls on one pool (the extension does so by holding the interpreter's lock). No function calls back:
 * when memory must be had first, hyp_pool_take returns NULL, the caller asks hyp_pool_plan how much, accounts for it, and lets
 * hyp_pool_grow have it. */
#ifndef HYP_POOL_H
#define HYP_POOL_H

#include "spans.h"

enum { HYP_POOL_STATIC = 0, HYP_POOL_POOLED = 1, HYP_POOL_DYNAMIC = 2, HYP_POOL_HYBRID = 3 };

#define HYP_DIRECT_FROM ((size_t)256 << 10) /* HYBRID: blocks from here on are the system's pages, without a pool between */

typedef struct {
    uint64_t current, peak; /* bytes asked for by live blocks: now, and at most at one time */
    uint64_t total, count; /* bytes and number of all blocks ever handed out */
    uint64_t live; /* blocks now */
    uint64_t held; /* bytes that may be resident: committed grains, tables, pages outside the region */
} hyp_account;

typedef struct {
    int strategy;
    int open; /* 2: no more blocks are handed out */
    size_t capacity, block; /* bytes of the region; POOLED: bytes of a slot */
    hyp_account stats, *process; /* the process's account counts along */
    size_t direct; /* bytes of pages outside the region */
    uint64_t blocks, bytes; /* live blocks in the region, and what they asked for */
    /* STATIC and POOLED: memory is committed from the front */
    hyp_pages region, chain_table;
    size_t grain, committed, top;
    uint32_t slots, fresh, free;
    /* DYNAMIC and HYBRID */
    hyp_spans spans;
} hyp_pool;

/* Reserve address space. `block` is a multiple of HYP_SLOT (POOLED only); `keep` bytes stay committed when they fall idle. */
int hyp_pool_open(hyp_pool *p, int strategy, size_t capacity, size_t block, size_t keep, int huge, int count_demand);
/* Give everything back, live blocks included; the counts remain. */
void hyp_pool_close(hyp_pool *p);

uint8_t *hyp_pool_take(hyp_pool *p, size_t bytes);
int hyp_pool_plan(hyp_pool *p, size_t bytes, size_t *more);
int hyp_pool_grow(hyp_pool *p, size_t bytes);
/* `bytes` as they were asked for. HYP_OK, HYP_ERROR_ARGUMENT (no block begins there), HYP_ERROR_RUNTIME (freed already). */
int hyp_pool_give(hyp_pool *p, const uint8_t *at, size_t bytes);
/* Give back to the system what no block needs. */
void hyp_pool_trim(hyp_pool *p);
/* Free all blocks at once and give their memory back. */
int hyp_pool_reset(hyp_pool *p);
/* Bytes that are held once `bytes` of the region are in use: those in whole grains, and the tables for them. */
size_t hyp_pool_cost(const hyp_pool *p, size_t bytes);
/* Recount stats.held; every function here does so that changes it. */
void hyp_pool_settle(hyp_pool *p);
/* Count a block of pages of its own. */
void hyp_pool_direct_taken(hyp_pool *p, size_t bytes, size_t mapped);
void hyp_pool_direct_given(hyp_pool *p, size_t bytes, size_t mapped);
/* Bytes of the largest block that would still fit. */
size_t hyp_pool_largest(const hyp_pool *p);

#endif
