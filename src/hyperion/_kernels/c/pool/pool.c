#include "pool.h"

/* Not an enum: its constants are int in C11, and MSVC takes no larger ones. */
#define SLOT_END UINT32_C(0xffffffff)
#define SLOT_LIVE UINT32_C(0xfffffffe)

static int is_spans(const hyp_pool *p) { return p->strategy >= HYP_POOL_DYNAMIC; }

HYP_INLINE void count_taken(hyp_account *a, size_t bytes)
{
    a->current += bytes;
    a->total += bytes;
    a->count++;
    a->live++;
    if (a->current > a->peak) a->peak = a->current;
}

HYP_INLINE void count_given(hyp_account *a, uint64_t bytes, uint64_t blocks)
{
    a->current -= bytes;
    a->live -= blocks;
}

/* Bytes of the slot chain that so many bytes of slots need. */
static size_t chain_bytes(const hyp_pool *p, size_t committed)
{
    const size_t slots = p->strategy == HYP_POOL_POOLED ? committed / p->block : 0;
    return slots ? hyp_pages_rounded(slots * sizeof(uint32_t)) : 0;
}

int hyp_pool_open(hyp_pool *p, int strategy, size_t capacity, size_t block, size_t keep, int huge, int count_demand)
{
    p->strategy = strategy, p->capacity = capacity, p->block = block;
    p->committed = p->top = 0;
    p->fresh = 0, p->free = SLOT_END;
    int status;
    if (is_spans(p)) {
        status = hyp_spans_open(&p->spans, capacity, huge, keep, count_demand);
    } else {
        const size_t slots = strategy == HYP_POOL_POOLED ? capacity / block : 0;
        if (slots >= SLOT_LIVE) return HYP_ERROR_MEMORY;
        status = hyp_region_reserve(&p->region, capacity, huge);
        if (status == HYP_OK && slots) {
            p->slots = (uint32_t)slots;
            status = hyp_region_reserve(&p->chain_table, slots * sizeof(uint32_t), 0);
            if (status != HYP_OK) hyp_pages_unmap(&p->region);
        }
        p->grain = huge && p->region.mapped >= HYP_HUGE_PAGE ? HYP_HUGE_PAGE : (size_t)1 << 16;
    }
    p->open = status == HYP_OK;
    hyp_pool_settle(p);
    return status;
}

static void forget_blocks(hyp_pool *p)
{
    count_given(&p->stats, p->bytes, p->blocks);
    if (p->process) count_given(p->process, p->bytes, p->blocks);
    p->bytes = p->blocks = 0;
}

void hyp_pool_close(hyp_pool *p)
{
    forget_blocks(p);
    if (p->open) {
        if (is_spans(p)) {
            hyp_spans_close(&p->spans);
        } else {
            hyp_pages_unmap(&p->region);
            hyp_pages_unmap(&p->chain_table);
        }
    }
    p->open = 0;
    p->committed = 0;
    hyp_pool_settle(p);
}

void hyp_pool_settle(hyp_pool *p)
{
    size_t held = p->direct;
    if (p->open && is_spans(p)) held += p->spans.committed + hyp_spans_tables(&p->spans, p->spans.frontier, p->spans.slab_frontier);
    else if (p->open) held += p->committed + chain_bytes(p, p->committed);
    if (p->process) p->process->held += held - p->stats.held;
    p->stats.held = held;
}

uint8_t *hyp_pool_take(hyp_pool *p, size_t bytes)
{
    uint8_t *at;
    if (p->open != 1) return NULL;
    if (p->strategy == HYP_POOL_POOLED) {
        uint32_t *const chain = (uint32_t *)p->chain_table.data;
        uint32_t slot = p->free;
        if (slot != SLOT_END) {
            p->free = chain[slot];
        } else {
            slot = p->fresh;
            if (slot >= p->slots || ((size_t)slot + 1) * p->block > p->committed) return NULL;
            p->fresh++;
        }
        chain[slot] = SLOT_LIVE;
        at = p->region.data + slot * p->block;
    } else if (p->strategy == HYP_POOL_STATIC) {
        /* a block of 0 bytes has an address of its own too; the sum cannot overflow, as bytes was compared first */
        const size_t size = (bytes + !bytes + HYP_SLOT - 1) / HYP_SLOT * HYP_SLOT;
        if (bytes > p->committed || size > p->committed - p->top) return NULL;
        at = p->region.data + p->top;
        p->top += size;
    } else {
        at = hyp_spans_take(&p->spans, bytes);
        if (!at) return NULL;
    }
    p->blocks++;
    p->bytes += bytes;
    count_taken(&p->stats, bytes);
    if (p->process) count_taken(p->process, bytes);
    return at;
}

/* STATIC and POOLED: what must be committed for the next block. */
static int target(const hyp_pool *p, size_t bytes, size_t *to)
{
    size_t end;
    if (p->strategy == HYP_POOL_POOLED) {
        if (p->free != SLOT_END || p->fresh >= p->slots) return HYP_ERROR_MEMORY;
        end = ((size_t)p->fresh + 1) * p->block;
    } else {
        if (bytes > p->capacity) return HYP_ERROR_MEMORY;
        end = p->top + (bytes + !bytes + HYP_SLOT - 1) / HYP_SLOT * HYP_SLOT;
        if (end > p->region.mapped) return HYP_ERROR_MEMORY;
    }
    *to = (end + p->grain - 1) / p->grain * p->grain;
    if (*to > p->region.mapped) *to = p->region.mapped;
    return HYP_OK;
}

size_t hyp_pool_cost(const hyp_pool *p, size_t bytes)
{
    const size_t grain = is_spans(p) ? p->spans.grain : p->grain, most = is_spans(p) ? p->spans.region.mapped : p->region.mapped;
    bytes = bytes > most - most % grain ? most : (bytes + grain - 1) / grain * grain;
    if (!is_spans(p)) return bytes + chain_bytes(p, bytes);
    const uint32_t pages = (uint32_t)(bytes / p->spans.page);
    return bytes + hyp_spans_tables(&p->spans, pages, pages);
}

int hyp_pool_plan(hyp_pool *p, size_t bytes, size_t *more)
{
    size_t to;
    if (!p->open) return HYP_ERROR_MEMORY;
    if (is_spans(p) && bytes <= HYP_SMALL) hyp_spans_tune(&p->spans), hyp_pool_settle(p);
    if (is_spans(p)) return hyp_spans_plan(&p->spans, bytes, more);
    if (target(p, bytes, &to) != HYP_OK) return HYP_ERROR_MEMORY;
    *more = to <= p->committed ? 0 : to - p->committed + chain_bytes(p, to) - chain_bytes(p, p->committed);
    return HYP_OK;
}

int hyp_pool_grow(hyp_pool *p, size_t bytes)
{
    int status = HYP_ERROR_MEMORY;
    if (!p->open) return status;
    if (is_spans(p)) {
        status = hyp_spans_grow(&p->spans, bytes);
    } else {
        size_t to;
        status = target(p, bytes, &to);
        if (status == HYP_OK && to > p->committed) {
            const size_t from = chain_bytes(p, p->committed), chain = chain_bytes(p, to);
            status = chain > from ? hyp_region_commit(&p->chain_table, from, chain - from) : HYP_OK;
            if (status == HYP_OK) status = hyp_region_commit(&p->region, p->committed, to - p->committed);
            if (status == HYP_OK) p->committed = to;
        }
    }
    hyp_pool_settle(p);
    return status;
}

int hyp_pool_give(hyp_pool *p, const uint8_t *at, size_t bytes)
{
    if (!p->open) return HYP_ERROR_ARGUMENT;
    if (is_spans(p)) {
        const size_t committed = p->spans.committed;
        const int status = hyp_spans_give(&p->spans, at);
        if (status != HYP_OK) return status;
        if (p->spans.committed != committed) hyp_pool_settle(p);
    } else {
        if (at < p->region.data || at >= p->region.data + p->region.mapped) return HYP_ERROR_ARGUMENT;
        const size_t offset = (size_t)(at - p->region.data);
        if (p->strategy == HYP_POOL_POOLED) {
            uint32_t *const chain = (uint32_t *)p->chain_table.data;
            const size_t slot = offset / p->block;
            if (offset % p->block || slot >= p->fresh) return HYP_ERROR_ARGUMENT;
            if (chain[slot] != SLOT_LIVE) return HYP_ERROR_RUNTIME;
            chain[slot] = p->free;
            p->free = (uint32_t)slot;
        } else {
            if (offset % HYP_SLOT || offset >= p->top) return HYP_ERROR_ARGUMENT;
            if (p->blocks == 1) p->top = 0; /* the last one: all of the region is free together */
        }
    }
    p->blocks--;
    p->bytes -= bytes;
    count_given(&p->stats, bytes, 1);
    if (p->process) count_given(p->process, bytes, 1);
    return HYP_OK;
}

void hyp_pool_trim(hyp_pool *p)
{
    if (!p->open) return;
    if (is_spans(p)) {
        hyp_spans_trim(&p->spans);
    } else if (p->committed) { /* whole grains behind the last one that is in use */
        size_t end = p->strategy == HYP_POOL_STATIC ? p->top : (size_t)p->fresh * p->block;
        if (p->strategy == HYP_POOL_POOLED && !p->blocks) end = 0, p->fresh = 0, p->free = SLOT_END;
        end = (end + p->grain - 1) / p->grain * p->grain;
        if (end < p->committed && hyp_region_decommit(&p->region, end, p->committed - end) == HYP_OK) {
            const size_t from = chain_bytes(p, end), to = chain_bytes(p, p->committed);
            if (to > from) hyp_region_decommit(&p->chain_table, from, to - from);
            p->committed = end;
        }
    }
    hyp_pool_settle(p);
}

int hyp_pool_reset(hyp_pool *p)
{
    int status = HYP_OK;
    forget_blocks(p);
    if (p->open && is_spans(p)) { /* open anew rather than walk over everything that lived */
        hyp_spans *const s = &p->spans;
        const size_t keep = s->keep;
        const int huge = s->grain == HYP_HUGE_PAGE, demand = s->count_demand;
        hyp_spans_close(s);
        status = hyp_spans_open(s, p->capacity, huge, keep, demand);
        p->open = status == HYP_OK;
        hyp_pool_settle(p);
    } else if (p->open) {
        p->top = 0, p->fresh = 0, p->free = SLOT_END;
        hyp_pool_trim(p);
    }
    return status;
}

void hyp_pool_direct_taken(hyp_pool *p, size_t bytes, size_t mapped)
{
    count_taken(&p->stats, bytes);
    if (p->process) count_taken(p->process, bytes);
    p->direct += mapped;
    hyp_pool_settle(p);
}

void hyp_pool_direct_given(hyp_pool *p, size_t bytes, size_t mapped)
{
    count_given(&p->stats, bytes, 1);
    if (p->process) count_given(p->process, bytes, 1);
    p->direct -= mapped;
    hyp_pool_settle(p);
}

size_t hyp_pool_largest(const hyp_pool *p)
{
    if (!p->open) return p->capacity;
    if (is_spans(p)) return hyp_spans_longest(&p->spans) * p->spans.page;
    if (p->strategy == HYP_POOL_POOLED) return p->free != SLOT_END || p->fresh < p->slots ? p->block : 0;
    return p->region.mapped - p->top;
}
