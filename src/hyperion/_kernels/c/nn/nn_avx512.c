/* Rotations and softmax, AVX-512. Tails take the same instructions under a mask, so that a value does not
 * depend on where in the vector it stands. */
#include "nn/math_avx512.h"

HYP_INLINE __mmask16 tail_mask(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1u);
}

static void hyp_add_avx512(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = tail_mask(n - i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i)));
    }
}

/* Sum of 16 doubles in a fixed order. */
HYP_INLINE double reduce_f64(__m512d a, __m512d b)
{
    HYP_ALIGN64 double s[8];
    _mm512_store_pd(s, _mm512_add_pd(a, b));
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

static void hyp_rope_avx512(float *x, const float *cs, size_t heads, size_t head_dim, size_t rot, int interleaved)
{
    const size_t half = rot / 2;
    const __m512i spread = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    for (size_t h = 0; h < heads; h++, x += head_dim) {
        if (interleaved) {
            for (size_t i = 0; i < half; i += 8) { /* 8 pairs a vector: each cos and sin to both lanes of its pair */
                const size_t left = half - i;
                const __mmask16 pairs = left >= 8 ? (__mmask16)0xff : (__mmask16)((1u << left) - 1u), mask = tail_mask(2 * left);
                const __m512 c = _mm512_permutexvar_ps(spread, _mm512_maskz_loadu_ps(pairs, cs + i));
                const __m512 s = _mm512_permutexvar_ps(spread, _mm512_maskz_loadu_ps(pairs, cs + half + i));
                const __m512 v = _mm512_maskz_loadu_ps(mask, x + 2 * i), swapped = _mm512_permute_ps(v, 0xb1);
                _mm512_mask_storeu_ps(x + 2 * i, mask, _mm512_fmaddsub_ps(v, c, _mm512_mul_ps(swapped, s)));
            }
        } else {
            for (size_t i = 0; i < half; i += 16) {
                const __mmask16 mask = tail_mask(half - i);
                const __m512 c = _mm512_maskz_loadu_ps(mask, cs + i), s = _mm512_maskz_loadu_ps(mask, cs + half + i);
                const __m512 a = _mm512_maskz_loadu_ps(mask, x + i), b = _mm512_maskz_loadu_ps(mask, x + half + i);
                _mm512_mask_storeu_ps(x + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
                _mm512_mask_storeu_ps(x + half + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
            }
        }
    }
}

static void hyp_softmax_avx512(const float *x, size_t n, float *out)
{
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 top = lowest;
    for (size_t i = 0; i < n; i += 16) top = _mm512_max_ps(top, _mm512_mask_loadu_ps(lowest, tail_mask(n - i), x + i));
    const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    __m512d sum0 = _mm512_setzero_pd(), sum1 = sum0;
    for (size_t i = 0; i < n; i += 16) { /* sums in double: a vocabulary has 10^5 terms */
        const __mmask16 mask = tail_mask(n - i);
        const __m512 e = _mm512_maskz_mov_ps(mask, hyp_exp_avx512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), max)));
        _mm512_mask_storeu_ps(out + i, mask, e);
        sum0 = _mm512_add_pd(sum0, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        sum1 = _mm512_add_pd(sum1, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    const __m512 scale = _mm512_set1_ps((float)(1.0 / reduce_f64(sum0, sum1)));
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = tail_mask(n - i);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, out + i), scale));
    }
}

void hyp_nn_fill_avx512(hyp_table *t)
{
    t->rope = hyp_rope_avx512;
    t->add = hyp_add_avx512;
    t->softmax = hyp_softmax_avx512;
    hyp_activations_fill_avx512(t);
    hyp_norms_fill_avx512(t);
    hyp_attn_fill_avx512(t);
}
