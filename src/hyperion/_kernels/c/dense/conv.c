#include "dense/conv.h"

#include "dense/cut.h"

#define LINE 16                  /* floats */
#define ROW_COLS 512             /* windows of a group of one filter that go together */
#define AHEAD 128                /* bytes of a row to the next windows or those after them */
#define TILE 512                 /* floats of a tile at most */
#define PANELS 16                /* of filters a task at most */
#define PIECE 4096               /* places of a channel's planes that are filled, or terms of a panel that are packed, together */
#define OWN (1u << 15)           /* places of a group of one filter that a thread fills for itself, in its own caches */
#define FILL_VALUES (1u << 14)   /* that a task of filling planes moves, at least */
#define LEAST_WORK (1u << 18)    /* multiplications of a task */
#define MOST_WORK (1u << 27)     /* and at most, but for one panel, so that a signal is seen soon */

typedef struct {
    size_t planes, size; /* of one dimension, and places of each */
} axis;

typedef struct {
    const hyp_table *t;
    const hyp_conv *conv;
    axis axis[2];
    size_t terms, each, depth; /* of a filter; filters and channels of a group */
    size_t plane, windows; /* places of a plane; windows, with those that run over */
    int lies; /* the image itself is a plane */
    int own;  /* each thread fills the planes of one group of one filter, and multiplies them */
    const float *planes;
    ptrdiff_t channel;   /* floats from a channel's planes to the next one's */
    size_t filled_channels; /* that stand in memory together */
    float *filled, *packed;
    size_t panels, panel, block; /* panels of a group's filters, floats of one; depth of a block */
    ptrdiff_t *places;
    size_t width, tiles;  /* windows that go together, and how many times */
    size_t ahead;         /* bytes to windows that are asked for, 0 for no prefetching */
    size_t share, parts;  /* panels that go together, and tasks that a group's filters are */
} conv_job;

/* After so many places of the kernel their planes repeat. */
static size_t period(const hyp_conv_dim *d)
{
    size_t a = d->step, b = d->gap % d->step;
    while (b) {
        const size_t rest = a % b;
        a = b, b = rest;
    }
    return d->step / a;
}

static axis axis_of(const hyp_conv_dim *d)
{
    const size_t reach = (d->kernel - 1) * d->gap / d->step;
    return (axis){least(d->kernel, period(d)), d->out + reach};
}

static void plan(conv_job *job, const hyp_table *t, const hyp_conv *conv, size_t threads)
{
    const hyp_conv_dim *row = &conv->dim[0], *col = &conv->dim[1];
    job->t = t, job->conv = conv;
    job->axis[0] = axis_of(row), job->axis[1] = axis_of(col);
    job->each = conv->filters / conv->groups, job->depth = conv->channels / conv->groups;
    job->terms = job->depth * row->kernel * col->kernel;
    job->plane = job->axis[0].size * job->axis[1].size;
    job->windows = (row->out - 1) * job->axis[1].size + col->out;
    job->lies = row->pad == 0 && col->pad == 0 && row->step == 1 && col->step == 1 && conv->x_at[1] == 1 &&
                (conv->x_at[0] == (ptrdiff_t)job->axis[1].size || row->in == 1);
    job->channel = job->lies ? conv->x_channel : (ptrdiff_t)round_up(job->plane * job->axis[0].planes * job->axis[1].planes, LINE);
    job->own = job->each == 1 && !job->lies && (size_t)job->channel <= OWN / job->depth;
    job->filled_channels = job->lies ? 0 : job->own ? threads * job->depth : conv->channels;
    job->panels = job->each == 1 ? 0 : parts(job->each, t->gemm.mr);
    job->panel = round_up(job->terms * t->gemm.mr, LINE);
}

static size_t filled_floats(const conv_job *job) { return job->lies ? 0 : (size_t)job->channel * job->filled_channels; }
static size_t packed_floats(const conv_job *job) { return job->conv->groups * job->panels * job->panel; }

size_t hyp_conv_buffer(const hyp_table *t, const hyp_conv *conv, size_t threads)
{
    conv_job job;
    plan(&job, t, conv, threads);
    return sizeof(float) * (filled_floats(&job) + packed_floats(&job)) + sizeof(ptrdiff_t) * job.terms;
}

/* Where each term of the first window is, from a group's first channel on. */
static void list_places(conv_job *job)
{
    const hyp_conv_dim *row = &job->conv->dim[0], *col = &job->conv->dim[1];
    const size_t row_period = period(row), col_period = period(col);
    ptrdiff_t *place = job->places;
    for (size_t c = 0; c < job->depth; c++)
        for (size_t y = 0; y < row->kernel; y++)
            for (size_t x = 0; x < col->kernel; x++) {
                const size_t plane = y % row_period * job->axis[1].planes + x % col_period;
                const size_t at = y * row->gap / row->step * job->axis[1].size + x * col->gap / col->step;
                *place++ = (ptrdiff_t)c * job->channel + (ptrdiff_t)(plane * job->plane + at);
            }
}

/* ---- Filling planes and packing filters ---------------------------------------------------------------------------- */

/* Columns begin..end of row r, so far of zeros, of the plane whose places begin at (y, x) of the image with its border. */
static void fill_row(const conv_job *job, const float *channel, size_t y, size_t x, size_t r, size_t begin, size_t end, float *to)
{
    const hyp_conv_dim *row = &job->conv->dim[0], *col = &job->conv->dim[1];
    const size_t line = r * row->step + y, margin = x >= col->pad ? 0 : parts(col->pad - x, col->step);
    const size_t first = margin > begin ? margin : begin;
    const ptrdiff_t stride = job->conv->x_at[1], step = (ptrdiff_t)col->step * stride;
    if (line < row->pad || line - row->pad >= row->in || col->pad + col->in <= x) return;
    const size_t last = least(end, parts(col->pad + col->in - x, col->step));
    if (first >= last) return;
    const float *from = channel + (ptrdiff_t)(line - row->pad) * job->conv->x_at[0];
    from += ((ptrdiff_t)(first * col->step + x) - (ptrdiff_t)col->pad) * stride;
    to += first - begin;
    if (step == 1) memcpy(to, from, (last - first) * sizeof(float));
    else
        for (size_t i = 0; i < last - first; i++) to[i] = from[(ptrdiff_t)i * step];
}

/* Places begin..end of the planes of a channel, which stand at `to`, wherever rows and planes end. */
static void fill_piece(const conv_job *job, size_t channel, size_t begin, size_t end, float *to)
{
    const hyp_conv_dim *row = &job->conv->dim[0], *col = &job->conv->dim[1];
    const size_t line = job->axis[1].size, rows = job->axis[0].size, planes = job->axis[1].planes;
    const float *from = job->conv->x + (ptrdiff_t)channel * job->conv->x_channel;
    size_t plane = begin / job->plane, r = begin % job->plane / line, first = begin % line;
    to += begin;
    memset(to, 0, (end - begin) * sizeof(float));
    end = least(end, job->plane * job->axis[0].planes * planes); /* the next channel begins at a line of the cache */
    for (; begin < end; plane++, r = 0) {
        const size_t y = plane / planes * row->gap % row->step, x = plane % planes * col->gap % col->step;
        for (size_t n; r < rows && begin < end; r++, first = 0, begin += n, to += n) {
            n = least(line - first, end - begin);
            fill_row(job, from, y, x, r, first, first + n, to);
        }
    }
}

/* Terms begin..end of a panel of filters; panels are counted through the groups. */
static void pack_piece(const conv_job *job, size_t panel, size_t begin, size_t end)
{
    const size_t mr = job->t->gemm.mr, group = panel / job->panels, first = panel % job->panels * mr;
    const float *from = job->conv->filter + (group * job->each + first) * job->terms + begin;
    job->t->gemm.pack(from, (ptrdiff_t)job->terms, least(mr, job->each - first), end - begin, mr,
                      job->packed + panel * job->panel + begin * mr);
}

/* Pieces of all channels, then of all panels. */
static void prepare_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const conv_job *job = arg;
    const size_t size = (size_t)job->channel, pieces = parts(size, PIECE), filled = job->lies ? 0 : job->filled_channels * pieces;
    const size_t packs = parts(job->terms, PIECE);
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const size_t piece = i < filled ? i % pieces * PIECE : (i - filled) % packs * PIECE;
        if (i < filled) fill_piece(job, i / pieces, piece, least(piece + PIECE, size), job->filled + i / pieces * size);
        else pack_piece(job, (i - filled) / packs, piece, least(piece + PIECE, job->terms));
    }
}

/* ---- Multiplying --------------------------------------------------------------------------------------------------- */

/* Rows of results for windows first.. to where they belong, without those that run over. */
static void put(const conv_job *job, const float *tile, size_t width, size_t filter, size_t rows, size_t first, size_t count)
{
    const hyp_conv *conv = job->conv;
    const size_t line = job->axis[1].size, cols = conv->dim[1].out;
    for (size_t done = 0, run; done < count; done += run) {
        const size_t y = (first + done) / line, x = (first + done) % line;
        const size_t kept = x < cols ? least(cols - x, count - done) : 0;
        run = least(line - x, count - done);
        for (size_t i = 0; i < rows; i++) {
            const float *from = tile + i * width + done;
            float *to = conv->out + (ptrdiff_t)(filter + i) * conv->out_filter + (ptrdiff_t)y * conv->out_row + (ptrdiff_t)x;
            if (conv->bias) {
                const float bias = conv->bias[filter + i];
                for (size_t j = 0; j < kept; j++) to[j] = from[j] + bias;
            } else {
                memcpy(to, from, kept * sizeof(float));
            }
        }
    }
}

/* Blocks of terms after one another, into a tile of results. */
static void sum_terms(const conv_job *job, hyp_tile tile, size_t rows, size_t cols)
{
    const float *a = tile.a;
    for (size_t p = 0; p < job->terms; p += job->block) {
        tile.k = least(job->block, job->terms - p), tile.first = p == 0;
        tile.a = a + (ptrdiff_t)p * tile.a_col, tile.places = job->places + p;
        if (job->each == 1) job->t->gemm.row(cols, &tile);
        else job->t->gemm.tile(rows, cols, &tile);
    }
}

/* Windows of a group of one filter, whose first channel's planes stand at `planes`. */
static void multiply_row(const conv_job *job, const float *planes, size_t group, size_t window, float *results)
{
    const size_t cols = least(job->width, job->windows - window);
    const hyp_tile tile = {.a = job->conv->filter + group * job->terms, .a_col = 1, .b = planes + window, .c = results};
    sum_terms(job, tile, 1, cols);
    put(job, results, job->width, group, 1, window, cols);
}

/* Windows of some filters: those of one line straight to where they belong. */
static void multiply_tile(const conv_job *job, hyp_tile tile, size_t filter, size_t rows, size_t window, size_t cols)
{
    const hyp_conv *conv = job->conv;
    const size_t y = window / job->axis[1].size, x = window % job->axis[1].size;
    HYP_ALIGN64 float results[TILE];
    if (x + cols > conv->dim[1].out) {
        tile.c = results, tile.c_row = (ptrdiff_t)job->width;
        sum_terms(job, tile, rows, cols);
        put(job, results, job->width, filter, rows, window, cols);
        return;
    }
    tile.c = conv->out + (ptrdiff_t)filter * conv->out_filter + (ptrdiff_t)y * conv->out_row + (ptrdiff_t)x;
    tile.c_row = conv->out_filter;
    sum_terms(job, tile, rows, cols);
    for (size_t i = 0; conv->bias && i < rows; i++)
        for (size_t j = 0; j < cols; j++) tile.c[(ptrdiff_t)i * tile.c_row + (ptrdiff_t)j] += conv->bias[filter + i];
}

static void multiply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const conv_job *job = arg;
    const size_t mr = job->t->gemm.mr, width = job->width;
    HYP_ALIGN64 float results[TILE];
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const size_t part = item % job->parts, window = item / job->parts % job->tiles * width;
        const size_t group = item / job->parts / job->tiles, cols = least(width, job->windows - window);
        const float *planes = job->planes + (ptrdiff_t)(group * job->depth) * job->channel;
        if (job->each == 1) {
            multiply_row(job, planes, group, window, results);
            continue;
        }
        hyp_tile tile = {.a_row = 1, .a_col = (ptrdiff_t)mr, .b = planes + window};
        const size_t last = least((part + 1) * job->share, job->panels);
        for (size_t panel = part * job->share; panel < last; panel++) {
            const size_t rows = least(mr, job->each - panel * mr);
            tile.a = job->packed + (group * job->panels + panel) * job->panel;
            tile.ahead = panel == part * job->share ? job->ahead : 0; /* of the next windows, once */
            multiply_tile(job, tile, group * job->each + panel * mr, rows, window, cols);
        }
    }
}

static void own_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const conv_job *job = arg;
    const size_t size = (size_t)job->channel;
    float *planes = job->filled + worker * job->depth * size;
    HYP_ALIGN64 float results[TILE];
    for (size_t group = begin; group < end; group++) {
        for (size_t c = 0; c < job->depth; c++) fill_piece(job, group * job->depth + c, 0, size, planes + c * size);
        for (size_t window = 0; window < job->windows; window += job->width) multiply_row(job, planes, group, window, results);
    }
}

int hyp_conv_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_conv *conv, const hyp_blocks *blocks,
                 void *buffer)
{
    conv_job job;
    plan(&job, t, conv, api->size(team));
    job.filled = buffer, job.packed = job.filled + filled_floats(&job);
    job.places = (ptrdiff_t *)(void *)(job.packed + packed_floats(&job));
    job.planes = job.lies ? conv->x : job.filled;
    job.block = blocks->depth;
    job.width = job.each == 1 ? ROW_COLS : t->gemm.nr;
    job.tiles = parts(job.windows, job.width), job.ahead = blocks->ahead ? AHEAD : 0;
    list_places(&job);
    const size_t work = least(job.each, t->gemm.mr) * job.terms * job.width; /* of a panel */
    if (job.own) return api->run(team, own_task, &job, conv->groups, LEAST_WORK / (job.tiles * work) + 1);
    const size_t pieces = job.filled_channels * parts((size_t)job.channel, PIECE);
    const size_t todo = pieces + conv->groups * job.panels * parts(job.terms, PIECE);
    const size_t values = least(PIECE, pieces ? (size_t)job.channel : job.terms * t->gemm.mr);
    const int status = todo ? api->run(team, prepare_task, &job, todo, FILL_VALUES / values) : HYP_OK;
    if (status != HYP_OK) return status;
    job.share = job.each == 1 ? 1 : least(least(job.panels, PANELS), MOST_WORK / work + 1);
    job.parts = job.each == 1 ? 1 : parts(job.panels, job.share);
    return api->run(team, multiply_task, &job, conv->groups * job.tiles * job.parts, LEAST_WORK / (job.share * work) + 1);
}
