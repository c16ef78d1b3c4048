#include "spans.h"

#include <stdlib.h>

enum { PAGE_OTHER = 0, PAGE_FREE, PAGE_RUN, PAGE_SLAB };
enum { SLOT_END = 0xffff, SLOT_LIVE = 0xfffe, SLOTS_MOST = 0xfff0 };

HYP_INLINE hyp_page *page_table(const hyp_spans *s) { return (hyp_page *)s->tables[0].data; }
HYP_INLINE hyp_slab *slab_table(const hyp_spans *s) { return (hyp_slab *)s->tables[1].data; }
HYP_INLINE uint16_t *slots_of(const hyp_spans *s, uint32_t head)
{
    return (uint16_t *)s->tables[2].data + (size_t)head * (s->page / HYP_SLOT);
}

static size_t table_entry(const hyp_spans *s, int table)
{
    return table == 0 ? sizeof(hyp_page) : table == 1 ? sizeof(hyp_slab) : s->page / HYP_SLOT * sizeof(uint16_t);
}

/* Bytes of a table that reaches up to a page; runs need the first one only. */
static size_t table_bytes(const hyp_spans *s, int table, uint32_t frontier)
{
    return frontier ? hyp_pages_rounded(frontier * table_entry(s, table)) : 0;
}

size_t hyp_spans_tables(const hyp_spans *s, uint32_t frontier, uint32_t slab_frontier)
{
    return s->grain_count + table_bytes(s, 0, frontier) + table_bytes(s, 1, slab_frontier) + table_bytes(s, 2, slab_frontier);
}

static int move_table(hyp_spans *s, int table, uint32_t from, uint32_t to)
{
    const size_t old = table_bytes(s, table, from), now = table_bytes(s, table, to);
    if (now > old) return hyp_region_commit(&s->tables[table], old, now - old);
    return hyp_region_decommit(&s->tables[table], now, old - now);
}

/* ---- bins of free runs ---- */

static unsigned bit_length(uint32_t n)
{
    unsigned bits = 0;
    for (unsigned step = 16; step; step >>= 1)
        if (n >> step) n >>= step, bits += step;
    return bits + (n != 0);
}

/* The bin that a run of n pages belongs to: one a length up to 15, then eight to a doubling. */
static unsigned bin_of(uint32_t n)
{
    if (n < 16) return n;
    const unsigned bits = bit_length(n);
    return 16 + (bits - 5) * 8 + ((n >> (bits - 4)) & 7);
}

/* The first bin all of whose runs have at least n pages. */
static unsigned bin_above(uint32_t n)
{
    const unsigned bin = bin_of(n);
    if (n < 16) return bin;
    const uint32_t low = (uint32_t)1 << (bit_length(n) - 4);
    return n & (low - 1) ? bin + 1 : bin;
}

static void bin_add(hyp_spans *s, uint32_t first, uint32_t n)
{
    hyp_page *const pages = page_table(s);
    const unsigned bin = bin_of(n);
    pages[first + n - 1].kind = PAGE_FREE, pages[first + n - 1].length = n;
    pages[first].kind = PAGE_FREE, pages[first].length = n;
    pages[first].prev = HYP_NO_PAGE, pages[first].next = s->bins[bin];
    if (s->bins[bin] != HYP_NO_PAGE) pages[s->bins[bin]].prev = first;
    s->bins[bin] = first;
    s->map[bin / 64] |= (uint64_t)1 << bin % 64;
}

static void bin_remove(hyp_spans *s, uint32_t first)
{
    hyp_page *const pages = page_table(s), *const run = &pages[first];
    const unsigned bin = bin_of(run->length);
    if (run->prev == HYP_NO_PAGE) s->bins[bin] = run->next;
    else pages[run->prev].next = run->next;
    if (run->next != HYP_NO_PAGE) pages[run->next].prev = run->prev;
    if (s->bins[bin] == HYP_NO_PAGE) s->map[bin / 64] &= ~((uint64_t)1 << bin % 64);
    pages[first + run->length - 1].kind = PAGE_OTHER;
    run->kind = PAGE_OTHER;
}

/* Pages of the free run that ends at the frontier. */
static uint32_t tail(const hyp_spans *s)
{
    const hyp_page *const last = s->frontier ? &page_table(s)[s->frontier - 1] : NULL;
    return last && last->kind == PAGE_FREE ? last->length : 0;
}

/* Where a run of n pages can begin: a free run or the frontier. Runs that were used before come first, the fewest large enough. */
static uint32_t find(const hyp_spans *s, uint32_t n)
{
    for (unsigned bin = bin_above(n), word = bin / 64; word < sizeof s->map / sizeof *s->map; word++) {
        uint64_t bits = s->map[word];
        if (word == bin / 64) bits &= ~(uint64_t)0 << bin % 64;
        if (!bits) continue;
        bin = word * 64;
        for (; !(bits & 1); bits >>= 1) bin++;
        return s->bins[bin];
    }
    const uint32_t before = tail(s);
    if (n <= before + (s->pages - s->frontier)) return s->frontier - before;
    if (n >= 16) /* only the bin that n itself falls into is left: some of its runs may be long enough */
        for (uint32_t p = s->bins[bin_of(n)]; p != HYP_NO_PAGE; p = page_table(s)[p].next)
            if (page_table(s)[p].length >= n) return p;
    return HYP_NO_PAGE;
}

uint32_t hyp_spans_longest(const hyp_spans *s)
{
    uint32_t longest = tail(s) + (s->pages - s->frontier);
    for (unsigned bin = HYP_BINS; bin-- > 0;) {
        if (s->bins[bin] == HYP_NO_PAGE) continue;
        for (uint32_t p = s->bins[bin]; p != HYP_NO_PAGE; p = page_table(s)[p].next)
            if (page_table(s)[p].length > longest) longest = page_table(s)[p].length;
        break;
    }
    return longest;
}

/* ---- grains ---- */

typedef struct {
    size_t first, end;
} range;

/* Grains that a run of pages touches. */
static range touched(const hyp_spans *s, uint32_t first, uint32_t n)
{
    const size_t per = s->grain / s->page;
    return (range){first / per, ((size_t)first + n + per - 1) / per};
}

/* Of those, the ones that lie wholly in the free pages [from, to). The last grain may be cut off by the region's end. */
static range inside(const hyp_spans *s, range r, uint32_t from, uint32_t to)
{
    const size_t per = s->grain / s->page;
    if (r.first * per < from) r.first++;
    if (r.end > r.first && (r.end * per > s->pages ? s->pages : r.end * per) > to) r.end--;
    if (r.end < r.first) r.end = r.first;
    return r;
}

static size_t grain_bytes(const hyp_spans *s, size_t g)
{
    const size_t end = (g + 1) * s->grain;
    return (end > s->region.mapped ? s->region.mapped : end) - g * s->grain;
}

static size_t bytes_in(const hyp_spans *s, range r, int committed)
{
    size_t bytes = 0;
    for (size_t g = r.first; g < r.end; g++)
        if (s->grains[g] == committed) bytes += grain_bytes(s, g);
    return bytes;
}

static int commit(hyp_spans *s, range r)
{
    for (size_t g = r.first; g < r.end; g++) {
        size_t end = g, bytes = 0;
        while (end < r.end && !s->grains[end]) bytes += grain_bytes(s, end++);
        if (end == g) continue;
        if (hyp_region_commit(&s->region, g * s->grain, bytes) != HYP_OK) return HYP_ERROR_MEMORY;
        memset(s->grains + g, 1, end - g);
        s->committed += bytes;
        s->idle += bytes; /* a grain with a page in use is committed already: this one is wholly free, until carve() */
        g = end;
    }
    return HYP_OK;
}

static void decommit(hyp_spans *s, range r)
{
    for (size_t g = r.first; g < r.end; g++) {
        size_t end = g, bytes = 0;
        while (end < r.end && s->grains[end]) bytes += grain_bytes(s, end++);
        if (end == g) continue;
        if (hyp_region_decommit(&s->region, g * s->grain, bytes) == HYP_OK) {
            memset(s->grains + g, 0, end - g);
            s->committed -= bytes, s->idle -= bytes;
        }
        g = end;
    }
}

/* Where the free pages end that begin at (or before) `first`. */
static uint32_t free_end(const hyp_spans *s, uint32_t first)
{
    if (first == s->frontier) return s->pages;
    const uint32_t end = first + page_table(s)[first].length;
    return end == s->frontier ? s->pages : end;
}

/* Move the frontier: the pages up to it become a free run, or part of the one before them. */
static int extend(hyp_spans *s, uint32_t frontier)
{
    const uint32_t before = tail(s), first = s->frontier - before;
    if (frontier <= s->frontier) return HYP_OK;
    if (move_table(s, 0, s->frontier, frontier) != HYP_OK) return HYP_ERROR_MEMORY;
    if (before) bin_remove(s, first);
    bin_add(s, first, frontier - first);
    s->frontier = frontier;
    return HYP_OK;
}

/* Take n pages from the front of a free run; their grains are committed. */
static void carve(hyp_spans *s, uint32_t first, uint32_t n)
{
    const range r = inside(s, touched(s, first, n), first, free_end(s, first));
    const uint32_t length = page_table(s)[first].length;
    s->idle -= bytes_in(s, r, 1);
    bin_remove(s, first);
    if (length > n) bin_add(s, first + n, length - n);
}

static void release(hyp_spans *s, uint32_t first, uint32_t n)
{
    hyp_page *const pages = page_table(s);
    uint32_t from = first, to = first + n;
    pages[first].kind = PAGE_OTHER;
    if (from && pages[from - 1].kind == PAGE_FREE) {
        from -= pages[from - 1].length;
        bin_remove(s, from);
    }
    if (to < s->frontier && pages[to].kind == PAGE_FREE) {
        const uint32_t length = pages[to].length;
        bin_remove(s, to);
        to += length;
    }
    bin_add(s, from, to - from);
    const range r = inside(s, touched(s, first, n), from, to == s->frontier ? s->pages : to);
    s->idle += bytes_in(s, r, 1);
    if (s->idle > s->keep) decommit(s, r);
}

/* Give the pages of an empty slab back to the runs. */
static void drop_slab(hyp_spans *s, uint32_t head)
{
    hyp_slab *const slab = &slab_table(s)[head];
    hyp_class *const cls = &s->classes[slab->cls];
    if (slab->prev == HYP_NO_PAGE) cls->partial = slab->next;
    else slab_table(s)[slab->prev].next = slab->next;
    if (slab->next != HYP_NO_PAGE) slab_table(s)[slab->next].prev = slab->prev;
    if (!--cls->slabs && !cls->active) cls->size = 0;
    for (uint32_t i = 0; i < slab->pages; i++) page_table(s)[head + i].kind = PAGE_OTHER;
    release(s, head, slab->pages);
}

/* The empty slab that a class keeps for its next block. */
static void drop_empty(hyp_spans *s, const hyp_class *cls)
{
    for (uint32_t head = cls->size ? cls->partial : HYP_NO_PAGE, next; head != HYP_NO_PAGE; head = next) {
        next = slab_table(s)[head].next;
        if (!slab_table(s)[head].used) drop_slab(s, head);
    }
}

void hyp_spans_trim(hyp_spans *s)
{
    for (unsigned c = 0; c < HYP_CLASSES; c++) drop_empty(s, &s->classes[c]);
    for (unsigned bin = 0; bin < HYP_BINS; bin++)
        for (uint32_t p = s->bins[bin]; p != HYP_NO_PAGE; p = page_table(s)[p].next)
            decommit(s, inside(s, touched(s, p, page_table(s)[p].length), p, free_end(s, p)));
    /* Free pages before the frontier become pages that were never used, and their tables go back too. */
    const uint32_t behind = tail(s), before = s->frontier;
    if (!behind) return;
    bin_remove(s, before - behind);
    s->frontier -= behind;
    move_table(s, 0, before, s->frontier);
    if (s->slab_frontier > s->frontier) {
        for (int t = 1; t < 3; t++) move_table(s, t, s->slab_frontier, s->frontier);
        s->slab_frontier = s->frontier;
    }
}

/* ---- slabs ---- */

static uint32_t slab_pages(const hyp_spans *s, size_t size)
{
    const size_t one = (size + s->page - 1) / s->page;
    size_t most = s->region.mapped / 32 / s->page;
    size_t best = one, best_waste = one * s->page % size;
    if (most > 64) most = 64;
    for (size_t n = one; n <= most && n * (s->page / HYP_SLOT) <= SLOTS_MOST; n++) {
        const size_t waste = n * s->page % size;
        if (waste * best < best_waste * n) best = n, best_waste = waste; /* the smaller share */
        if (n * s->page >= 8 * size && best * s->page >= 4 * size && best_waste * 16 <= best * s->page) break;
    }
    /* at least eight slots where the region has the room */
    while (best * s->page < 8 * size && best * 2 <= most && best * 2 * (s->page / HYP_SLOT) <= SLOTS_MOST) best *= 2;
    return (uint32_t)best;
}

static int pages_for(const hyp_spans *s, size_t bytes, uint32_t *n, uint32_t *first)
{
    if (bytes <= HYP_SMALL) {
        const size_t size = hyp_spans_class_size(s, bytes);
        *n = slab_pages(s, size);
        *first = find(s, *n);
        if (*first == HYP_NO_PAGE) { /* nearly full: as few pages as hold one slot */
            *n = (uint32_t)((size + s->page - 1) / s->page);
            *first = find(s, *n);
        }
    } else {
        if ((bytes - 1) / s->page >= s->pages) return HYP_ERROR_MEMORY;
        *n = (uint32_t)((bytes - 1) / s->page + 1);
        *first = find(s, *n);
    }
    return *first == HYP_NO_PAGE ? HYP_ERROR_MEMORY : HYP_OK;
}

int hyp_spans_plan(const hyp_spans *s, size_t bytes, size_t *more)
{
    uint32_t n, first;
    if (pages_for(s, bytes, &n, &first) != HYP_OK) return HYP_ERROR_MEMORY;
    const uint32_t end = first + n, slab_end = bytes <= HYP_SMALL ? end : 0;
    *more = bytes_in(s, touched(s, first, n), 0);
    *more += hyp_spans_tables(s, end > s->frontier ? end : s->frontier, slab_end > s->slab_frontier ? slab_end : s->slab_frontier);
    *more -= hyp_spans_tables(s, s->frontier, s->slab_frontier);
    return HYP_OK;
}

int hyp_spans_grow(hyp_spans *s, size_t bytes)
{
    uint32_t n, first;
    if (pages_for(s, bytes, &n, &first) != HYP_OK) return HYP_ERROR_MEMORY;
    if (extend(s, first + n) != HYP_OK || commit(s, touched(s, first, n)) != HYP_OK) return HYP_ERROR_MEMORY;
    if (bytes > HYP_SMALL) return HYP_OK;
    if (first + n > s->slab_frontier) {
        for (int t = 1; t < 3; t++)
            if (move_table(s, t, s->slab_frontier, first + n) != HYP_OK) return HYP_ERROR_MEMORY;
        s->slab_frontier = first + n;
    }

    const uint32_t c = s->class_of[(bytes + HYP_SLOT - 1) / HYP_SLOT];
    hyp_class *const cls = &s->classes[c];
    carve(s, first, n);
    for (uint32_t i = 0; i < n; i++) page_table(s)[first + i].kind = PAGE_SLAB, page_table(s)[first + i].head = first;
    slab_table(s)[first] = (hyp_slab){
        .size = cls->size, .count = (uint32_t)(n * s->page / cls->size), .free = SLOT_END, .next = cls->partial,
        .prev = HYP_NO_PAGE, .pages = n, .cls = c};
    if (cls->partial != HYP_NO_PAGE) slab_table(s)[cls->partial].prev = first;
    cls->partial = first;
    cls->slabs++;
    return HYP_OK;
}

uint8_t *hyp_spans_take(hyp_spans *s, size_t bytes)
{
    if (bytes <= HYP_SMALL) {
        const size_t units = (bytes + HYP_SLOT - 1) / HYP_SLOT;
        hyp_class *const cls = &s->classes[s->class_of[units]];
        const uint32_t head = cls->partial;
        if (head == HYP_NO_PAGE) return NULL;
        hyp_slab *const slab = &slab_table(s)[head];
        uint16_t *const slots = slots_of(s, head);
        uint32_t slot = slab->free;
        if (slot == SLOT_END) slot = slab->fresh++;
        else slab->free = slots[slot];
        slots[slot] = SLOT_LIVE;
        if (++slab->used == slab->count) {
            cls->partial = slab->next;
            if (slab->next != HYP_NO_PAGE) slab_table(s)[slab->next].prev = HYP_NO_PAGE;
        }
        if (s->count_demand) s->demand[units]++, s->demanded++;
        return s->region.data + head * s->page + (size_t)slot * slab->size;
    }
    uint32_t n, first;
    if (pages_for(s, bytes, &n, &first) != HYP_OK || first + n > s->frontier || bytes_in(s, touched(s, first, n), 0)) return NULL;
    carve(s, first, n);
    page_table(s)[first].kind = PAGE_RUN, page_table(s)[first].length = n;
    return s->region.data + first * s->page;
}

static int give_slot(hyp_spans *s, uint32_t page, const uint8_t *p)
{
    const uint32_t head = page_table(s)[page].head;
    hyp_slab *const slab = &slab_table(s)[head];
    hyp_class *const cls = &s->classes[slab->cls];
    uint16_t *const slots = slots_of(s, head);
    const uint32_t offset = (uint32_t)(p - (s->region.data + head * s->page)), slot = offset / slab->size;
    if (slot * slab->size != offset || slot >= slab->fresh) return HYP_ERROR_ARGUMENT;
    if (slots[slot] != SLOT_LIVE) return HYP_ERROR_RUNTIME;
    slots[slot] = (uint16_t)slab->free;
    slab->free = slot;
    if (slab->used-- == slab->count) {
        slab->prev = HYP_NO_PAGE, slab->next = cls->partial;
        if (cls->partial != HYP_NO_PAGE) slab_table(s)[cls->partial].prev = head;
        cls->partial = head;
    }
    if (slab->used) return HYP_OK;
    /* One empty slab a class stays, or a block taken and given in turn would cut a slab each time. */
    if (cls->active && cls->partial == head && slab->next == HYP_NO_PAGE) return HYP_OK;
    drop_slab(s, head);
    return HYP_OK;
}

int hyp_spans_give(hyp_spans *s, const uint8_t *p)
{
    if (p < s->region.data || p >= s->region.data + s->region.mapped) return HYP_ERROR_ARGUMENT;
    const size_t offset = (size_t)(p - s->region.data);
    const uint32_t page = (uint32_t)(offset / s->page);
    if (page >= s->frontier) return HYP_ERROR_ARGUMENT;
    const hyp_page *const info = &page_table(s)[page];
    if (info->kind == PAGE_SLAB) return give_slot(s, page, p);
    if (offset % s->page) return HYP_ERROR_ARGUMENT;
    if (info->kind != PAGE_RUN) return info->kind == PAGE_FREE ? HYP_ERROR_RUNTIME : HYP_ERROR_ARGUMENT;
    release(s, page, info->length);
    return HYP_OK;
}

/* ---- size classes ---- */

size_t hyp_spans_class_size(const hyp_spans *s, size_t bytes)
{
    return bytes > HYP_SMALL ? 0 : s->classes[s->class_of[(bytes + HYP_SLOT - 1) / HYP_SLOT]].size;
}

/* Multiples of 64 up to 512, then four to a doubling: rounding up wastes a fifth at most. */
static unsigned default_units(uint32_t *units)
{
    unsigned n = 0;
    for (uint32_t u = 1; u <= 8; u++) units[n++] = u;
    for (uint32_t base = 8; base < HYP_SMALL_UNITS; base *= 2)
        for (uint32_t step = 1; step <= 4; step++) units[n++] = base + base / 4 * step;
    return n;
}

/* Make the classes those of `chosen` (chosen[u] != 0: a class of u units). */
static void set_classes(hyp_spans *s, const uint8_t *chosen)
{
    uint8_t id[HYP_SMALL_UNITS + 1];
    for (unsigned c = 0; c < HYP_CLASSES; c++) s->classes[c].active = 0;
    for (uint32_t u = 1; u <= HYP_SMALL_UNITS; u++) { /* those that exist first, so that none is made twice */
        id[u] = HYP_CLASSES;
        for (unsigned c = 0; chosen[u] && c < HYP_CLASSES; c++)
            if (s->classes[c].size == u * HYP_SLOT) id[u] = (uint8_t)c, s->classes[c].active = 1;
    }
    for (unsigned c = 0; c < HYP_CLASSES; c++)
        if (!s->classes[c].active && !s->classes[c].slabs) s->classes[c].size = 0;
    for (uint32_t u = HYP_SMALL_UNITS; u > 0; u--) { /* downwards: the largest class always finds an entry */
        for (unsigned c = 0; chosen[u] && id[u] == HYP_CLASSES && c < HYP_CLASSES; c++) {
            if (s->classes[c].size) continue;
            s->classes[c] = (hyp_class){.size = u * HYP_SLOT, .partial = HYP_NO_PAGE, .active = 1};
            id[u] = (uint8_t)c;
        }
        s->class_of[u] = id[u] < HYP_CLASSES ? id[u] : s->class_of[u + 1];
    }
    s->class_of[0] = s->class_of[1];
    for (unsigned c = 0; c < HYP_CLASSES; c++)
        if (!s->classes[c].active) drop_empty(s, &s->classes[c]);
}

void hyp_spans_tune(hyp_spans *s)
{
    if (!s->count_demand || s->demanded < s->tune_at) return;
    uint8_t chosen[HYP_SMALL_UNITS + 2] = {0};
    uint64_t below[HYP_SMALL_UNITS + 2]; /* requests of fewer than u units */
    uint32_t units[64];
    const unsigned n = default_units(units);
    for (unsigned i = 0; i < n; i++) chosen[units[i]] = 1;
    below[0] = below[1] = s->demand[0];
    for (uint32_t u = 1; u <= HYP_SMALL_UNITS; u++) below[u + 1] = below[u] + s->demand[u];
    /* Add the class that saves most, again and again: one of g units saves (next class - g) for each request it takes over. */
    for (unsigned added = 0; added < n; added++) {
        uint64_t best = 0;
        uint32_t best_units = 0, lower = 0, upper = 0;
        for (uint32_t g = 1; g < HYP_SMALL_UNITS; g++) {
            if (chosen[g]) {
                lower = g;
                continue;
            }
            if (upper <= g)
                for (upper = g + 1; !chosen[upper];) upper++;
            const uint64_t saved = (below[g + 1] - below[lower + 1]) * (upper - g);
            if (saved > best) best = saved, best_units = g;
        }
        if (!best || best * 1024 < s->demanded) break; /* less than a thousandth of a unit a request */
        chosen[best_units] = 1;
    }
    set_classes(s, chosen);
    s->demanded = 0;
    for (uint32_t u = 0; u <= HYP_SMALL_UNITS; u++) s->demanded += s->demand[u] /= 2; /* what is long ago counts less */
    s->tunings++;
    s->tune_at = s->demanded + ((uint64_t)1024 << (s->tunings < 10 ? s->tunings : 10));
}

/* ---- opening ---- */

int hyp_spans_open(hyp_spans *s, size_t bytes, int huge, size_t keep, int count_demand)
{
    memset(s, 0, sizeof *s);
    s->page = hyp_page_size();
    if (bytes / s->page >= HYP_NO_PAGE - 1 || hyp_region_reserve(&s->region, bytes, huge) != HYP_OK) return HYP_ERROR_MEMORY;
    s->pages = (uint32_t)(s->region.mapped / s->page);
    if (huge && s->region.mapped >= HYP_HUGE_PAGE) s->grain = HYP_HUGE_PAGE;
    else s->grain = s->region.mapped >= ((size_t)1 << 20) && s->page < ((size_t)1 << 16) ? (size_t)1 << 16 : s->page;
    s->grain_count = (s->region.mapped + s->grain - 1) / s->grain;
    s->grains = calloc(s->grain_count, 1);
    int failed = !s->grains;
    for (int t = 0; t < 3 && !failed; t++)
        failed = hyp_region_reserve(&s->tables[t], s->pages * table_entry(s, t), 0) != HYP_OK;
    if (failed) {
        hyp_spans_close(s);
        return HYP_ERROR_MEMORY;
    }
    s->keep = keep;
    s->count_demand = count_demand;
    s->tune_at = 1024;
    for (unsigned bin = 0; bin < HYP_BINS; bin++) s->bins[bin] = HYP_NO_PAGE;
    uint8_t chosen[HYP_SMALL_UNITS + 1] = {0};
    uint32_t units[64];
    for (unsigned i = 0, n = default_units(units); i < n; i++) chosen[units[i]] = 1;
    set_classes(s, chosen);
    return HYP_OK;
}

void hyp_spans_close(hyp_spans *s)
{
    hyp_pages_unmap(&s->region);
    for (int t = 0; t < 3; t++) hyp_pages_unmap(&s->tables[t]);
    free(s->grains);
    s->grains = NULL;
}
