/* From file to memory: packed panels, rows as they are, or rows that become panels with no second copy, packed in place one
 * panel at a time. */
#ifndef HYP_READER_H
#define HYP_READER_H

#include "common/panel.h"

#define HYP_DIRECT_ALIGN 4096

typedef struct {
    int buffered, direct;    /* descriptors; direct is -1 where the system has no such reads */
    int64_t state[3];        /* hyp_file_state when the file was opened */
    uint64_t dropped;        /* the page cache before this offset has been given back */
} hyp_file;

/* A run of rows of one matrix. `rows` past the end of the matrix do not exist; the last panel may be short. */
typedef struct {
    hyp_file *file;
    uint64_t offset; /* of the first row */
    int type, packed; /* packed: the file holds panels already */
    int check;        /* look for scales (float types: values) that are not finite, and compare checksums */
    size_t rows, cols;
    const uint32_t *sums; /* packed: a checksum for each panel of the run, or NULL */
    const uint64_t *offsets; /* packed, sparse: where the run's panels and its end are, counted from any place; or NULL */
} hyp_extent;

typedef struct {
    uint64_t bytes_read; /* asked of the system, alignment included */
    double seconds;
} hyp_read_stats;

/* Bytes that the rows take in memory, as panels. */
size_t hyp_extent_panel_bytes(const hyp_extent *e);

/* Bytes of buffer that a read of so many bytes of panels needs: with slack for a direct read's alignment. */
size_t hyp_extent_buffer_bytes(size_t panel_bytes);

/* Read and pack. buffer is 4096-aligned for direct reads; temp has a panel's bytes, or is NULL: then rows stay as they are.
 * *panels is where the panels, or rows, start (in buffer). On failure *error is errno, 0 where the file ended early, or one of these. */
enum { HYP_READ_CHANGED = -1, HYP_READ_NOT_FINITE = -2, HYP_READ_DAMAGED = -3, HYP_READ_UNSOUND = -4 };
int hyp_extent_read(const hyp_extent *e, int direct, uint8_t *buffer, uint8_t *temp, const uint8_t **panels,
                    hyp_read_stats *stats, int *error);

/* Give the page cache behind a buffered read of an extent back, all but the last `lag` bytes, which other readers may still
 * want. The kernel reads ahead in large folios: dropping every read at once would split each of them, which costs several
 * times what the read does. */
void hyp_drop_behind(const hyp_extent *e, uint64_t lag);

/* Testing: let the nth read from now on fail with this errno (0: a short file); n = 0 switches it off. */
void hyp_reader_inject(int64_t n, int error);

#endif
