/* Rotations, softmax and the KV store, AVX2. Tails take the same instructions under a mask, so that a value
 * does not depend on where in the vector it stands. */
#include "nn/kv_store.h"
#include "nn/math_avx2.h"

static void hyp_add_avx2(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        hyp_store_avx2(x + i, n - i, _mm256_add_ps(hyp_load_avx2(x + i, n - i), hyp_load_avx2(y + i, n - i)));
    }
}

/* Sum of 8 doubles in a fixed order. */
HYP_INLINE double reduce_f64(__m256d a, __m256d b)
{
    double s[4];
    _mm256_storeu_pd(s, _mm256_add_pd(a, b));
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static void hyp_rope_avx2(float *x, const float *cs, size_t heads, size_t head_dim, size_t rot, int interleaved)
{
    const size_t half = rot / 2;
    const __m256i spread = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (size_t h = 0; h < heads; h++, x += head_dim) {
        if (interleaved) {
            for (size_t i = 0; i < half; i += 4) { /* 4 pairs a vector: each cos and sin to both lanes of its pair */
                const size_t left = half - i, pairs = left < 4 ? left : 4; /* 4 lanes: nothing past cos, or past sin, is read */
                const __m256 c = _mm256_permutevar8x32_ps(hyp_load_avx2(cs + i, pairs), spread);
                const __m256 s = _mm256_permutevar8x32_ps(hyp_load_avx2(cs + half + i, pairs), spread);
                const __m256 v = hyp_load_avx2(x + 2 * i, 2 * left), swapped = _mm256_permute_ps(v, 0xb1);
                hyp_store_avx2(x + 2 * i, 2 * left, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
            }
        } else {
            for (size_t i = 0; i < half; i += 8) {
                const size_t left = half - i;
                const __m256 c = hyp_load_avx2(cs + i, left), s = hyp_load_avx2(cs + half + i, left);
                const __m256 a = hyp_load_avx2(x + i, left), b = hyp_load_avx2(x + half + i, left);
                hyp_store_avx2(x + i, left, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
                hyp_store_avx2(x + half + i, left, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
            }
        }
    }
}

static void hyp_softmax_avx2(const float *x, size_t n, float *out)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 top = lowest;
    for (size_t i = 0; i < n; i += 8) {
        const __m256 v = hyp_load_avx2(x + i, n - i);
        top = _mm256_max_ps(top, n - i < 8 ? _mm256_blendv_ps(lowest, v, _mm256_castsi256_ps(hyp_tail_avx2(n - i))) : v);
    }
    const __m256 max = _mm256_set1_ps(hyp_reduce_max_avx2(top));
    __m256d sum0 = _mm256_setzero_pd(), sum1 = sum0;
    for (size_t i = 0; i < n; i += 8) { /* sums in double: a vocabulary has 10^5 terms */
        __m256 e = hyp_exp_avx2(_mm256_sub_ps(hyp_load_avx2(x + i, n - i), max));
        if (n - i < 8) e = _mm256_and_ps(e, _mm256_castsi256_ps(hyp_tail_avx2(n - i)));
        hyp_store_avx2(out + i, n - i, e);
        sum0 = _mm256_add_pd(sum0, _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
        sum1 = _mm256_add_pd(sum1, _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
    }
    const __m256 scale = _mm256_set1_ps((float)(1.0 / reduce_f64(sum0, sum1)));
    for (size_t i = 0; i < n; i += 8) hyp_store_avx2(out + i, n - i, _mm256_mul_ps(hyp_load_avx2(out + i, n - i), scale));
}

static void hyp_kv_store_f16_avx2(void *k_cache, void *v_cache, size_t head_dim, size_t pos, const float *k,
                                  const float *v)
{
    uint16_t *keys = (uint16_t *)k_cache + (pos / HYP_KV_TILE * head_dim) * HYP_KV_TILE + pos % HYP_KV_TILE;
    uint16_t *values = (uint16_t *)v_cache + pos * head_dim;
    for (size_t d = 0; d < head_dim; d += 8) {
        const size_t left = head_dim - d < 8 ? head_dim - d : 8;
        uint16_t half[8];
        _mm_storeu_si128((__m128i *)half, _mm256_cvtps_ph(hyp_load_avx2(v + d, left), _MM_FROUND_TO_NEAREST_INT));
        memcpy(values + d, half, 2 * left);
        _mm_storeu_si128((__m128i *)half, _mm256_cvtps_ph(hyp_load_avx2(k + d, left), _MM_FROUND_TO_NEAREST_INT));
        for (size_t i = 0; i < left; i++) keys[(d + i) * HYP_KV_TILE] = half[i];
    }
}

static void hyp_kv_store_q8_0_avx2(void *kc, void *vc, size_t hd, size_t pos, const float *k, const float *v)
{
    kv_store_quantized(HYP_KV_Q8_0, kc, vc, hd, pos, k, v);
}

static void hyp_kv_store_q4_0_avx2(void *kc, void *vc, size_t hd, size_t pos, const float *k, const float *v)
{
    kv_store_quantized(HYP_KV_Q4_0, kc, vc, hd, pos, k, v);
}

void hyp_nn_fill_avx2(hyp_table *t)
{
    t->kv_store[HYP_KV_F16] = hyp_kv_store_f16_avx2;
    t->kv_store[HYP_KV_Q8_0] = hyp_kv_store_q8_0_avx2;
    t->kv_store[HYP_KV_Q4_0] = hyp_kv_store_q4_0_avx2;
    t->rope = hyp_rope_avx2;
    t->add = hyp_add_avx2;
    t->softmax = hyp_softmax_avx2;
    hyp_activations_fill_avx2(t);
    hyp_norms_fill_avx2(t);
    hyp_attn_fill_avx2(t);
}
