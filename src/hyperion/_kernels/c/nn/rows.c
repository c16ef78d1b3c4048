#include "nn/rows.h"

#include <string.h>

#include "quant/pack.h"

#define TASK_BYTES ((size_t)32 << 10) /* packing them takes some 10 us */

typedef struct {
    const hyp_table *table;
    const hyp_product *product;
    const hyp_taken *taken;
    const void *act;
    size_t m;
} rows_job;

static void rows_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const rows_job *job = arg;
    const hyp_weight *w = job->product->weight;
    const size_t row_bytes = hyp_row_bytes(w->type, w->cols), panel = hyp_panel_bytes(w->type, w->cols);
    const size_t most = job->m == 1 ? 1 : HYP_PACKED_TOGETHER; /* one token: the smaller, the nearer the cache */
    uint8_t *const temp = job->taken->temp + worker * job->taken->temp_bytes, *const packed = temp + hyp_whole_lines(panel);
    while (begin < end) {
        const size_t n = end - begin < most ? end - begin : most, first = begin * HYP_PANEL;
        const size_t rows = w->rows - first < n * HYP_PANEL ? w->rows - first : n * HYP_PANEL;
        const uint8_t *const raw = job->taken->rows + first * row_bytes;
        for (size_t i = 0; i < n; i++) { /* of a type that has kernels, so that packing cannot fail */
            const size_t left = rows - i * HYP_PANEL, count = left < HYP_PANEL ? left : HYP_PANEL;
            memcpy(temp, raw + i * HYP_PANEL * row_bytes, count * row_bytes); /* packing reads 16 places at once */
            hyp_pack_panel(w->type, temp, row_bytes, count, w->cols, packed + i * panel);
        }
        job->table->mul[w->type](packed, rows, w->cols, job->act, job->m, job->product->out + first, job->product->ldo);
        begin += n;
    }
}

int hyp_linear_rows(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_product *product,
                    const hyp_taken *taken, const void *act, size_t m)
{
    const hyp_weight *w = product->weight;
    const size_t block = hyp_block_len(w->type), panels = (w->rows + HYP_PANEL - 1) / HYP_PANEL;
    if (block == 0 || w->cols % block != 0 || !t->mul[w->type]) return HYP_ERROR_ARGUMENT;
    if (panels == 0 || m == 0) return HYP_OK;
    rows_job job = {t, product, taken, act, m};
    size_t grain = TASK_BYTES / hyp_panel_bytes(w->type, w->cols);
    if (grain < HYP_PACKED_TOGETHER) grain = m == 1 ? 1 : HYP_PACKED_TOGETHER;
    if (!team) {
        rows_task(&job, 0, panels, 0);
        return HYP_OK;
    }
    return api->run(team, rows_task, &job, panels, grain);
}
