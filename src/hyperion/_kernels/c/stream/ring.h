/* The ring: reader threads fill slots with the pieces of a schedule, over and over, in the order in which a forward pass
 * uses them; the pass takes pieces by number and gives them back. Reading goes on across the end of a pass, so the
 * first pieces of the next token are there when it starts. Readers do nothing but read: what the file holds as rows is packed by
 * who multiplies with it. */
#ifndef HYP_RING_H
#define HYP_RING_H

#include "common/os.h"
#include "common/source.h"
#include "stream/reader.h"

typedef struct hyp_ring hyp_ring;

enum { HYP_IO_DIRECT = 1, HYP_IO_BUFFERED = 2, HYP_IO_AUTO = 3 };

typedef struct {
    hyp_extent extent;
    size_t chunk;  /* pieces of one chunk are read into one slot; chunks count up from 0 */
    size_t at;     /* where the piece's buffer starts in its slot: a multiple of 4096 */
} hyp_ring_piece;

typedef struct {
    uint64_t passes, chunks_filled, bytes_read, bytes_used;
    double read_seconds;   /* summed over the readers */
    double wait_seconds;   /* that the consumer waited for data */
    /* bytes a second of all readers when last measured, 0 where not tried; evicted: direct, into lines that no cache holds */
    double direct_rate, evicted_rate, buffered_rate;
    int settled; /* every way that is open has been measured */
} hyp_ring_stats;

/* pieces and memory (hyp_ring_bytes, 4096-aligned) stay the caller's and must outlive the ring. NULL without memory. */
hyp_ring *hyp_ring_create(const hyp_ring_piece *pieces, size_t n, uint8_t *memory, size_t slots, size_t slot_bytes,
                          size_t readers, size_t workers, int io);
void hyp_ring_destroy(hyp_ring *ring);

/* Bytes of memory that a ring needs: its slots, and room for each worker of the pass to pack in. */
size_t hyp_ring_bytes(const hyp_ring_piece *pieces, size_t n, size_t slots, size_t slot_bytes, size_t workers);

/* Asked by a waiting consumer at least every 20 ms; nonzero ends the wait with HYP_CANCELLED. */
void hyp_ring_set_poll(hyp_ring *ring, int (*poll)(void *), void *arg);

/* The two functions of a hyp_source; self is the ring. Pieces must be taken in order. */
int hyp_ring_acquire(void *self, size_t piece, hyp_taken *taken);
void hyp_ring_release(void *self, size_t piece);

/* Go back to the start of the schedule, after a pass that was not finished; reads under way are waited for. */
void hyp_ring_restart(hyp_ring *ring);

/* Go on at a piece in the middle of the schedule: layers that are run again take their weights once more. What was read
 * ahead is dropped, reads under way are waited for. */
int hyp_ring_seek(hyp_ring *ring, size_t piece);

/* The piece that has to be taken next. */
size_t hyp_ring_position(hyp_ring *ring);

/* What went wrong: the piece and errno (0: the file ended early, -1: the file has changed); -1 where nothing did. */
int64_t hyp_ring_failure(hyp_ring *ring, int *error);

/* How many slots are filled ahead, 1 to all of them; fewer leave the disk to others. */
void hyp_ring_set_window(hyp_ring *ring, size_t slots);
size_t hyp_ring_window(hyp_ring *ring);

void hyp_ring_get_stats(hyp_ring *ring, hyp_ring_stats *stats);

#endif
