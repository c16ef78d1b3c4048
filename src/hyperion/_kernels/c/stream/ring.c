#include "stream/ring.h"

#include <stdlib.h>

#include "stream/choice.h"
#include "stream/evict.h"

enum { MAX_READERS = 16, POLL_MS = 20 };
#define LEAST_LAG ((uint64_t)4 << 20)

typedef struct {
    uint64_t chunk; /* absolute: pass * chunks + chunk */
    int ready;
    size_t left;    /* pieces not yet released */
} slot_state;

typedef struct {
    hyp_ring *ring;
    hyp_thread thread;
} reader;

struct hyp_ring {
    const hyp_ring_piece *pieces;
    size_t n, chunks;
    size_t *first; /* [chunks + 1]: first piece of each chunk */
    const uint8_t **panels; /* [n]: or rows */
    uint8_t *memory, *temp;
    size_t temp_bytes, slots, slot_bytes, readers, window;
    slot_state *slot;
    hyp_choice choice;            /* of the way to read */
    int way;                      /* of the last chunk begun */
    double active, active_since;  /* seconds in which a reader was busy; since when one is */
    uint64_t lag;                 /* bytes of page cache behind a buffered read that other readers may want */
    hyp_mutex lock;
    hyp_cond filled, freed;
    uint64_t next_fill, next_use; /* absolute chunks: the next to be read, the oldest still in use */
    uint64_t pass;                /* of the consumer */
    size_t expected;              /* the piece that the consumer takes next */
    size_t busy;                  /* readers in the middle of a chunk */
    int stop, pause, started, process;
    int64_t failed_piece;
    int failure;
    int (*poll)(void *);
    void *poll_arg;
    reader reader[MAX_READERS];
    hyp_ring_stats stats;
};

/* Bytes that a worker needs to pack in; none for files of panels. */
static size_t temp_bytes(const hyp_ring_piece *pieces, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].extent.packed) continue;
        const size_t bytes = hyp_panel_bytes(pieces[i].extent.type, pieces[i].extent.cols);
        most = bytes > most ? bytes : most;
    }
    return hyp_temp_bytes(most);
}

size_t hyp_ring_bytes(const hyp_ring_piece *pieces, size_t n, size_t slots, size_t slot_bytes, size_t workers)
{
    return slots * slot_bytes + workers * temp_bytes(pieces, n);
}

static int any_direct(const hyp_ring_piece *pieces, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (pieces[i].extent.file->direct >= 0) return 1;
    return 0;
}

hyp_ring *hyp_ring_create(const hyp_ring_piece *pieces, size_t n, uint8_t *memory, size_t slots, size_t slot_bytes,
                          size_t readers, size_t workers, int io)
{
    if (n == 0 || slots == 0 || readers == 0 || workers == 0) return NULL;
    hyp_ring *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->pieces = pieces, r->n = n, r->chunks = pieces[n - 1].chunk + 1;
    r->temp = memory + slots * slot_bytes;
    if (slots > r->chunks) slots = r->chunks; /* a piece is in the ring once at a time */
    r->memory = memory, r->slots = r->window = slots, r->slot_bytes = slot_bytes;
    r->readers = readers < MAX_READERS ? readers : MAX_READERS;
    const int direct = io != HYP_IO_BUFFERED && any_direct(pieces, n);
    const int allowed[HYP_READ_WAYS] = {direct, direct && hyp_can_evict(), io != HYP_IO_DIRECT || !direct};
    hyp_choice_init(&r->choice, allowed, slot_bytes, slots);
    r->lag = 2 * (uint64_t)slots * slot_bytes;
    if (r->lag < LEAST_LAG) r->lag = LEAST_LAG;
    r->temp_bytes = temp_bytes(pieces, n);
    r->first = calloc(r->chunks + 1, sizeof *r->first);
    r->panels = calloc(n, sizeof *r->panels);
    r->slot = calloc(slots, sizeof *r->slot);
    if (!r->first || !r->panels || !r->slot) {
        free(r->first), free((void *)r->panels), free(r->slot), free(r);
        return NULL;
    }
    for (size_t i = n; i-- > 0;) r->first[pieces[i].chunk] = i;
    r->first[r->chunks] = n;
    r->failed_piece = -1;
    hyp_mutex_init(&r->lock);
    hyp_cond_init(&r->filled);
    hyp_cond_init(&r->freed);
    return r;
}

void hyp_ring_set_poll(hyp_ring *r, int (*poll)(void *), void *arg) { r->poll = poll, r->poll_arg = arg; }

/* ---- readers ------------------------------------------------------------------------------------------------------- */

static int file_changed(const hyp_file *file)
{
    int64_t now[3];
    return hyp_file_state(file->buffered, now) || memcmp(now, file->state, sizeof now);
}

static double active_seconds(const hyp_ring *r) { return r->active + (r->busy ? hyp_seconds() - r->active_since : 0); }

/* Read every piece of a chunk into its slot. The lock is not held. */
static int fill(hyp_ring *r, uint64_t chunk, size_t slot, int way, int64_t *piece, int *error)
{
    const size_t c = (size_t)(chunk % r->chunks);
    for (size_t i = r->first[c]; i < r->first[c + 1]; i++) {
        const hyp_ring_piece *p = &r->pieces[i];
        hyp_read_stats s = {0, 0};
        *piece = (int64_t)i;
        *error = HYP_READ_CHANGED;
        if (i == r->first[c] && file_changed(p->extent.file)) return HYP_ERROR_IO;
        const int direct = way != HYP_READ_BUFFERED && p->extent.file->direct >= 0;
        uint8_t *const buffer = r->memory + slot * r->slot_bytes + p->at;
        hyp_extent extent = p->extent;
        extent.check = chunk < r->chunks; /* the file is checked for changes, so once is enough */
        if (way == HYP_READ_EVICTED) hyp_evict(buffer, hyp_extent_buffer_bytes(hyp_extent_panel_bytes(&extent)));
        const int status = hyp_extent_read(&extent, direct, buffer, NULL, &r->panels[i], &s, error);
        if (status != HYP_OK) return status;
        if (!direct) hyp_drop_behind(&p->extent, r->lag);
        hyp_lock(&r->lock);
        r->stats.bytes_read += s.bytes_read;
        r->stats.bytes_used += hyp_extent_panel_bytes(&p->extent);
        r->stats.read_seconds += s.seconds;
        hyp_unlock(&r->lock);
    }
    return HYP_OK;
}

static HYP_THREAD_RESULT read_on(void *arg)
{
    reader *self = arg;
    hyp_ring *r = self->ring;
    hyp_lock(&r->lock);
    while (!r->stop) {
        if (r->pause || r->failed_piece >= 0 || r->next_fill >= r->next_use + r->window) {
            hyp_wait(&r->freed, &r->lock);
            continue;
        }
        const uint64_t chunk = r->next_fill++;
        const size_t slot = (size_t)(chunk % r->slots);
        const int way = hyp_choice_next(&r->choice, r->stats.bytes_used, active_seconds(r));
        const int turn = way != r->way && (way == HYP_READ_BUFFERED || r->way == HYP_READ_BUFFERED);
        r->way = way;
        if (r->busy++ == 0) r->active_since = hyp_seconds();
        hyp_unlock(&r->lock);
        /* what the system read ahead for nobody would make the next buffered run look fast */
        if (turn) hyp_drop_cache(r->pieces[r->first[chunk % r->chunks]].extent.file->buffered, 0, 0);
        int64_t piece = 0;
        int error = 0;
        const int status = fill(r, chunk, slot, way, &piece, &error);
        hyp_lock(&r->lock);
        if (--r->busy == 0) r->active += hyp_seconds() - r->active_since;
        if (status == HYP_OK) {
            const size_t c = (size_t)(chunk % r->chunks);
            r->slot[slot] = (slot_state){chunk, 1, r->first[c + 1] - r->first[c]};
            r->stats.chunks_filled++;
        } else if (r->failed_piece < 0) {
            r->failed_piece = piece, r->failure = error;
        }
        hyp_wake_all(&r->filled);
    }
    hyp_unlock(&r->lock);
    HYP_THREAD_RETURN;
}

/* Start the readers; in a forked child they do not exist and the locks may be held by nobody. */
static int ensure_started(hyp_ring *r)
{
    if (r->started && r->process == hyp_process_id()) return HYP_OK;
    if (r->started) {
        hyp_mutex_init(&r->lock);
        hyp_cond_init(&r->filled);
        hyp_cond_init(&r->freed);
        r->next_fill = r->next_use = 0;
        r->pass = 0, r->expected = 0, r->busy = 0;
        memset(r->slot, 0, r->slots * sizeof *r->slot);
    }
    r->process = hyp_process_id();
    r->started = 0;
    size_t running = 0;
    for (; running < r->readers; running++) {
        r->reader[running].ring = r;
        if (hyp_thread_start(&r->reader[running].thread, read_on, &r->reader[running]) != HYP_OK) break;
    }
    if (running == 0) return HYP_ERROR_MEMORY;
    r->readers = running;
    r->started = 1;
    return HYP_OK;
}

void hyp_ring_destroy(hyp_ring *r)
{
    if (!r) return;
    if (r->started && r->process == hyp_process_id()) {
        hyp_lock(&r->lock);
        r->stop = 1;
        hyp_wake_all(&r->freed);
        hyp_unlock(&r->lock);
        for (size_t i = 0; i < r->readers; i++) hyp_thread_join(r->reader[i].thread);
    }
    hyp_mutex_free(&r->lock);
    hyp_cond_free(&r->filled);
    hyp_cond_free(&r->freed);
    free(r->first), free((void *)r->panels), free(r->slot), free(r);
}

/* ---- the consumer -------------------------------------------------------------------------------------------------- */

int hyp_ring_acquire(void *self, size_t piece, hyp_taken *taken)
{
    hyp_ring *r = self;
    if (piece >= r->n || piece != r->expected) return HYP_ERROR_RUNTIME;
    int status = ensure_started(r);
    if (status != HYP_OK) return status;
    hyp_lock(&r->lock);
    const uint64_t chunk = r->pass * r->chunks + r->pieces[piece].chunk;
    const slot_state *slot = &r->slot[chunk % r->slots];
    if (!(slot->ready && slot->chunk == chunk)) {
        const double start = hyp_seconds();
        while (!(slot->ready && slot->chunk == chunk)) {
            if (r->failed_piece >= 0 && r->busy == 0) {
                status = HYP_ERROR_IO;
                break;
            }
            hyp_wait_ms(&r->filled, &r->lock, POLL_MS);
            if (r->poll) {
                hyp_unlock(&r->lock);
                const int cancelled = r->poll(r->poll_arg);
                hyp_lock(&r->lock);
                if (cancelled) {
                    status = HYP_CANCELLED;
                    break;
                }
            }
        }
        r->stats.wait_seconds += hyp_seconds() - start;
    }
    if (status == HYP_OK) {
        const uint8_t *const data = r->panels[piece];
        const int packed = r->pieces[piece].extent.packed;
        *taken = (hyp_taken){packed ? data : NULL, packed ? NULL : data, r->temp, r->temp_bytes};
    }
    hyp_unlock(&r->lock);
    return status;
}

void hyp_ring_release(void *self, size_t piece)
{
    hyp_ring *r = self;
    hyp_lock(&r->lock);
    const uint64_t chunk = r->pass * r->chunks + r->pieces[piece].chunk;
    slot_state *slot = &r->slot[chunk % r->slots];
    if (--slot->left == 0) {
        slot->ready = 0;
        r->next_use = chunk + 1;
        hyp_wake_all(&r->freed);
    }
    r->expected = piece + 1;
    if (r->expected == r->n) r->expected = 0, r->pass++, r->stats.passes++;
    hyp_unlock(&r->lock);
}

/* Drop what was read ahead and go on at a chunk; the ring runs in this process. */
static void go_to(hyp_ring *r, size_t chunk)
{
    hyp_lock(&r->lock);
    r->pause = 1;
    while (r->busy) hyp_wait(&r->filled, &r->lock);
    memset(r->slot, 0, r->slots * sizeof *r->slot);
    r->next_fill = r->next_use = chunk;
    r->pass = 0, r->expected = r->first[chunk];
    r->failed_piece = -1;
    r->pause = 0;
    hyp_wake_all(&r->freed);
    hyp_unlock(&r->lock);
}

void hyp_ring_restart(hyp_ring *r)
{
    if (r->started && r->process == hyp_process_id()) go_to(r, 0);
}

int hyp_ring_seek(hyp_ring *r, size_t piece)
{
    if (piece >= r->n) return HYP_ERROR_RUNTIME;
    int status = ensure_started(r);
    if (status != HYP_OK) return status;
    go_to(r, r->pieces[piece].chunk);
    for (size_t i = r->first[r->pieces[piece].chunk]; i < piece; i++) { /* they share the piece's slot */
        hyp_taken taken;
        status = hyp_ring_acquire(r, i, &taken);
        if (status != HYP_OK) return status;
        hyp_ring_release(r, i);
    }
    return HYP_OK;
}

size_t hyp_ring_position(hyp_ring *r)
{
    if (!r->started || r->process != hyp_process_id()) return 0; /* the first piece taken starts the readers */
    hyp_lock(&r->lock);
    const size_t piece = r->expected;
    hyp_unlock(&r->lock);
    return piece;
}

int64_t hyp_ring_failure(hyp_ring *r, int *error)
{
    hyp_lock(&r->lock);
    const int64_t piece = r->failed_piece;
    *error = r->failure;
    hyp_unlock(&r->lock);
    return piece;
}

void hyp_ring_get_stats(hyp_ring *r, hyp_ring_stats *stats)
{
    hyp_lock(&r->lock);
    *stats = r->stats;
    stats->direct_rate = r->choice.rate[HYP_READ_DIRECT];
    stats->evicted_rate = r->choice.rate[HYP_READ_EVICTED];
    stats->buffered_rate = r->choice.rate[HYP_READ_BUFFERED];
    stats->settled = hyp_choice_settled(&r->choice);
    hyp_unlock(&r->lock);
}

void hyp_ring_set_window(hyp_ring *r, size_t slots)
{
    hyp_lock(&r->lock);
    r->window = slots < 1 ? 1 : slots > r->slots ? r->slots : slots;
    hyp_wake_all(&r->freed);
    hyp_unlock(&r->lock);
}

size_t hyp_ring_window(hyp_ring *r)
{
    hyp_lock(&r->lock);
    const size_t window = r->window;
    hyp_unlock(&r->lock);
    return window;
}
