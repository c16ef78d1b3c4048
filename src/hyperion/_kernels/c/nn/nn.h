/* What the element-wise and attention kernels of every instruction set share: constants, and the parts of the table that
 * are filled from a second file.
 *
 * exp(x) = 2^n (1 + (r + r^2 P(r))), n = round(x / ln 2), r = x - n ln 2 in two steps, |r| <= 0.3466. ln 2's high part has
 * 9 bits, so that n * HYP_LN2_HI is exact without fma too. P is the minimax polynomial for the relative error of exp
 * (0.07 * 2^-24 with these rounded coefficients); x is clamped to where the result is 0 or infinity.
 *
 * Bounds, measured against float64 over the whole range (tests/test_nn.py), in units of 2^-24 relative to the result,
 * where the result is a normal float:
 *   exp                  2        exp(0) is exactly 1
 *   silu, gelu           4        below their last normal value (x < -87 and x < -10) the absolute error is < 1e-36
 *   sigmoid              4        below its last normal value (x < -87) the absolute error is < 2e-38
 *   tanh                 6
 *   gelu_erf             8        below x = -13 the absolute error is < 1e-36
 *   softmax              4 + |x - max|   (x - max is rounded once)
 *   rms_norm             4        the sum of squares is kept in double
 *   layer_norm           5 |w z| + |result| + 2^-8 |w|, z the normalized value (not relative); its sums are kept in double
 * NaN comes out as NaN; silu and both gelus of +inf are +inf, of -inf -0. */
#ifndef HYP_NN_H
#define HYP_NN_H

#include "common/table.h"
#include <float.h>
#include <math.h>

#define HYP_LOG2E 1.44269504088896340736f
#define HYP_LN2_HI 0.693359375f
#define HYP_LN2_LO -2.12194440e-4f
#define HYP_EXP_MAX 89.0f   /* exp overflows from 88.73 on */
#define HYP_EXP_MIN -104.0f /* exp rounds to 0 below -103.98 */
#define HYP_EXP_P0 0x1.fffffcp-2f
#define HYP_EXP_P1 0x1.555490p-3f
#define HYP_EXP_P2 0x1.5558f8p-5f
#define HYP_EXP_P3 0x1.123b04p-7f
#define HYP_EXP_P4 0x1.6a2252p-10f

/* tanh GELU: x/2 (1 + tanh u) = x / (1 + exp(-2u)), 2u = x (A + B x^2), A = 2 sqrt(2/pi), B = 0.044715 A. 2u is formed in
 * double and handed to exp in two floats: in the negative tail an error of 2u is a relative error of the result. |x| is
 * clamped to 16 for it, where exp(-2u) is 0 or infinity by far. */
#define HYP_GELU_A 1.5957691216057307118
#define HYP_GELU_B 0.0713548162726009
#define HYP_GELU_CLAMP 16.0f

/* tanh x = m / (m + 2), m = exp(2|x|) - 1 = 2^n p + (2^n - 1), with the sign of x; it rounds to 1 from 9.02 on. */
#define HYP_TANH_CLAMP 9.5f

/* erf GELU: x Phi(x). Phi(-a) = exp(-a^2 / 2) q P(s) for a >= 0, q = 1 / (a + K), s = (a - K) q, and Phi(a) = 1 - Phi(-a).
 * P is the minimax polynomial for the relative error on 0 .. 14.5 (0.6 * 2^-24 with these rounded coefficients); beyond it
 * exp(-a^2 / 2) is 0. a^2 / 2 goes to exp in two floats, as in the other GELU. */
#define HYP_ERF_CLAMP 14.5f
#define HYP_ERF_K 2.5f
#define HYP_ERF_P                                                                                                     \
    {0x1.69cee6p-1f,  -0x1.bc19c2p-2f,  0x1.0e4f2ep-3f,  0x1.2ea478p-7f,   -0x1.0c77f4p-6f,                            \
     -0x1.a3aeacp-10f, 0x1.4abbccp-9f, 0x1.66cb22p-11f, -0x1.45f722p-12f, -0x1.49cfd8p-13f}

/* What a layer norm takes from its row: (x - high - low) * scale; the mean's two parts, and 1 / sqrt(variance + eps). */
typedef struct {
    float high, low, scale;
} hyp_moments;

/* sum, squares: of x - first and of its square over n values. The first value is no further from the mean than sqrt(n) standard
 * deviations, so that the difference of the two costs no more than log2(n + 1) of a double's 53 bits. */
HYP_INLINE hyp_moments hyp_moments_of(double first, double sum, double squares, size_t n, float eps)
{
    const double apart = sum / (double)n, mean = first + apart, spread = squares / (double)n - apart * apart;
    hyp_moments m;
    m.high = (float)mean;
    m.low = (float)(mean - (double)m.high);
    m.scale = (float)(1.0 / sqrt((spread < 0.0 ? 0.0 : spread) + (double)eps));
    return m;
}

/* Memory to prefetch while a product runs: `step` bytes from `at` on for each of its steps; step 0: nothing. */
typedef struct {
    const char *at;
    size_t step;
} hyp_ahead;

void hyp_activations_fill_generic(hyp_table *t);
void hyp_activations_fill_avx2(hyp_table *t);
void hyp_activations_fill_avx512(hyp_table *t);
void hyp_norms_fill_generic(hyp_table *t);
void hyp_norms_fill_avx2(hyp_table *t);
void hyp_norms_fill_avx512(hyp_table *t);
void hyp_attn_fill_generic(hyp_table *t);
void hyp_attn_fill_avx2(hyp_table *t);
void hyp_attn_fill_avx512(hyp_table *t);

#endif
