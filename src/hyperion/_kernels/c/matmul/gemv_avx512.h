/* Every row of a matrix times one token. Included once by each AVX-512 file of such products, after its gemv_panels and gemv_lead
 * (bytes by which weights are fetched ahead, 0 for none): Intel's memory likes two streams, AMD's one. */
HYP_INLINE void gemv(int type, const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int intel)
{
    const size_t stride = hyp_panel_bytes(type, k), lead = gemv_lead(type, intel);
    size_t row = 0;
    for (; intel && row + HYP_PANEL < rows; row += 2 * HYP_PANEL)
        gemv_panels(type, 2, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, lead);
    for (; row < rows; row += HYP_PANEL)
        gemv_panels(type, 1, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, lead);
}

#define GEMV(name, type)                                                                                                \
    void hyp_gemv_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int intel)      \
    {                                                                                                                   \
        if (intel) gemv(type, w, rows, k, act, out, 1);                                                                 \
        else gemv(type, w, rows, k, act, out, 0);                                                                       \
    }
