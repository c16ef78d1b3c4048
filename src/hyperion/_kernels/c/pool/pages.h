/* Anonymous memory straight from the system: zeroed, page-aligned, given back to it when freed. */
#ifndef HYP_PAGES_H
#define HYP_PAGES_H

#include "common/hyp.h"

#define HYP_HUGE_PAGE ((size_t)2 << 20)

typedef struct {
    uint8_t *data;
    size_t bytes; /* asked for */
    size_t mapped; /* held: bytes rounded up to pages, at least one page */
} hyp_pages;

size_t hyp_page_size(void);

/* What hyp_pages_map holds for `bytes`, or 0 when that overflows. */
size_t hyp_pages_rounded(size_t bytes);

/* huge: ask for huge pages from HYP_HUGE_PAGE bytes on, the start then aligned to one. They cover whole huge pages only, so
 * resident memory never exceeds `mapped`. Without it, huge pages are declined: memory becomes resident a page at a time.
 * Returns HYP_OK or HYP_ERROR_MEMORY. */
int hyp_pages_map(hyp_pages *p, size_t bytes, int huge);

void hyp_pages_unmap(hyp_pages *p);

/* Give the whole pages inside [offset, offset + bytes) back to the system; they read as zeros and stay usable. */
int hyp_pages_discard(hyp_pages *p, size_t offset, size_t bytes);

/* Address space alone, rounded up to pages (with `huge` and HYP_HUGE_PAGE bytes: aligned to a huge page and advised): no byte of it
 * may be touched before it is committed. Freed with hyp_pages_unmap. */
int hyp_region_reserve(hyp_pages *p, size_t bytes, int huge);

/* Make a range of whole pages usable; what was committed before keeps its content. */
int hyp_region_commit(const hyp_pages *p, size_t offset, size_t bytes);

/* Give a range of whole pages back to the system; it reads as zeros once it is committed again. */
int hyp_region_decommit(const hyp_pages *p, size_t offset, size_t bytes);

#endif
