#include "stream/reader.h"

#include "common/os.h"
#include "quant/pack.h"
#include "stream/verify.h"

#if defined(_WIN32)
#include <errno.h>
static volatile LONG64 inject_after;
#define COUNT_DOWN(counter) InterlockedDecrement64(&(counter))
#else
static volatile int64_t inject_after;
#define COUNT_DOWN(counter) __atomic_sub_fetch(&(counter), 1, __ATOMIC_RELAXED)
#endif
static int inject_error;

void hyp_reader_inject(int64_t n, int error)
{
    inject_error = error;
    inject_after = n;
}

size_t hyp_extent_panel_bytes(const hyp_extent *e)
{
    const size_t panels = (e->rows + HYP_PANEL - 1) / HYP_PANEL;
    return e->offsets ? (size_t)(e->offsets[panels] - e->offsets[0]) : panels * hyp_panel_bytes(e->type, e->cols);
}

static size_t file_bytes(const hyp_extent *e)
{
    return e->packed ? hyp_extent_panel_bytes(e) : e->rows * hyp_row_bytes(e->type, e->cols);
}

size_t hyp_extent_buffer_bytes(size_t panel_bytes)
{
    const size_t n = panel_bytes + 2 * HYP_DIRECT_ALIGN;
    return (n + HYP_DIRECT_ALIGN - 1) / HYP_DIRECT_ALIGN * HYP_DIRECT_ALIGN;
}

/* Read all of [offset, offset + n), or as far as the file goes if that is at least `need`. */
static int read_all(int fd, uint8_t *buffer, size_t n, size_t need, uint64_t offset, int *error)
{
    size_t done = 0;
    while (done < n) {
        if (inject_after > 0 && COUNT_DOWN(inject_after) == 0) {
            *error = inject_error;
            return HYP_ERROR_IO;
        }
        const int64_t got = hyp_read_at(fd, buffer + done, n - done, offset + done);
        if (got < 0) {
            *error = errno;
            return HYP_ERROR_IO;
        }
        if (got == 0) break;
        done += (size_t)got;
        /* a direct read may go on only from an aligned place: an unaligned end is the file's */
        if (done >= need && done % HYP_DIRECT_ALIGN) break;
    }
    *error = 0;
    return done >= need ? HYP_OK : HYP_ERROR_IO;
}

static int check_rows(const hyp_extent *e, const uint8_t *raw, size_t rows, int *error)
{
    if (!e->check || hyp_find_nonfinite(e->type, raw, rows * (e->cols / hyp_block_len(e->type))) < 0) return HYP_OK;
    *error = HYP_READ_NOT_FINITE;
    return HYP_ERROR_IO;
}

/* Raw rows at raw become panels at dst <= raw; each panel's rows leave before anything is written over them. */
static int pack_in_place(const hyp_extent *e, const uint8_t *raw, uint8_t *dst, uint8_t *temp, int *error)
{
    const size_t row = hyp_row_bytes(e->type, e->cols), panel = HYP_PANEL * row;
    for (size_t r = 0; r < e->rows; r += HYP_PANEL) {
        const size_t rows = e->rows - r < HYP_PANEL ? e->rows - r : HYP_PANEL;
        memcpy(temp, raw + r * row, rows * row);
        int status = check_rows(e, temp, rows, error);
        if (status == HYP_OK) status = hyp_pack_panel(e->type, temp, row, rows, e->cols, dst + r / HYP_PANEL * panel);
        if (status != HYP_OK) return status;
    }
    return HYP_OK;
}

/* The panels of a sparse run have sound lists of blocks and finite scales. */
static int check_sparse_panel(const hyp_extent *e, const uint8_t *panel, size_t bytes)
{
    const uint64_t offsets[2] = {0, bytes};
    if (!hyp_sparse_is_sound(e->type, panel, bytes, e->cols)) return HYP_READ_UNSOUND;
    const hyp_sparse_panel s = hyp_sparse_panel_at(e->type, panel, offsets, 0);
    return hyp_panel_is_nonfinite(e->type, s.records, s.n * HYP_BLOCK) ? HYP_READ_NOT_FINITE : 0;
}

/* Panels as the file holds them: each against its checksum, and for scales that are not finite while it is in the cache. */
static int check_panels(const hyp_extent *e, const uint8_t *panels, int *error)
{
    const size_t dense = hyp_panel_bytes(e->type, e->cols), n = (e->rows + HYP_PANEL - 1) / HYP_PANEL;
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = e->offsets ? (size_t)(e->offsets[i + 1] - e->offsets[i]) : dense;
        int wrong = 0;
        if (e->sums && hyp_find_damaged_panel(panels, bytes, 1, e->sums + i) >= 0) wrong = HYP_READ_DAMAGED;
        else if (e->offsets) wrong = check_sparse_panel(e, panels, bytes);
        else if (hyp_panel_is_nonfinite(e->type, panels, e->cols)) wrong = HYP_READ_NOT_FINITE;
        panels += bytes;
        if (wrong) {
            *error = wrong;
            return HYP_ERROR_IO;
        }
    }
    return HYP_OK;
}

void hyp_drop_behind(const hyp_extent *e, uint64_t lag)
{
#if defined(_WIN32)
    (void)e, (void)lag;
#else
    enum { RUN = 2 << 20 };
    hyp_file *file = e->file;
    const uint64_t end = e->offset + file_bytes(e);
    uint64_t from = __atomic_load_n(&file->dropped, __ATOMIC_RELAXED), to = e->offset / RUN * RUN;
    const int back = end + lag < from; /* the next pass has begun */
    if (!back) {
        if (end < from + lag + RUN) return;
        to = (end - lag) / RUN * RUN;
    }
    if (__atomic_compare_exchange_n(&file->dropped, &from, to, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        hyp_drop_cache(file->buffered, from, back ? 0 : (size_t)(to - from)); /* 0: to the end of the file */
#endif
}

int hyp_extent_read(const hyp_extent *e, int direct, uint8_t *buffer, uint8_t *temp, const uint8_t **panels,
                    hyp_read_stats *stats, int *error)
{
    const size_t n = file_bytes(e);
    const double start = hyp_seconds();
    size_t shift = 0, whole = n;
    int status;
    direct = direct && e->file->direct >= 0;
    if (direct) {
        shift = (size_t)(e->offset % HYP_DIRECT_ALIGN);
        whole = (shift + n + HYP_DIRECT_ALIGN - 1) / HYP_DIRECT_ALIGN * HYP_DIRECT_ALIGN;
        status = read_all(e->file->direct, buffer, whole, shift + n, e->offset - shift, error);
    } else {
        status = read_all(e->file->buffered, buffer, n, n, e->offset, error);
    }
    stats->bytes_read = whole;
    stats->seconds = hyp_seconds() - start;
    if (status != HYP_OK) return status;
    *panels = e->packed || !temp ? buffer + shift : buffer;
    if (!e->packed) return temp ? pack_in_place(e, buffer + shift, buffer, temp, error) : check_rows(e, *panels, e->rows, error);
    return e->check ? check_panels(e, *panels, error) : HYP_OK;
}
