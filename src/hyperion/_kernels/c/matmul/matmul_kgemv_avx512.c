/* One token times K types: stream the panels at memory speed, which is a matter of who prefetches.
 *
 * Records are not read in the order of their bytes, which costs the hardware's prefetch up to two thirds; so it is done by software,
 * three records ahead on Zen 4, one panel at a time. Intel's cores: two panels, for as many reads in flight. */
#include "matmul/kquant_avx512.h"

enum { ACT_RECORD = HYP_BLOCK + 4 + 8, ACT_HALVES = HYP_BLOCK + 4, ACT_PAIR = HYP_BLOCK + 8, MOST_GROUPS = 4 };

/* Q2_K and Q3_K do not look products up here: their codes stay where they lie in the byte, `place` bits up, which takes one or
 * three operations a vector, and each place has a sum of its own until the half record's end. */
HYP_INLINE int place(int type, int j)
{
    return type == HYP_Q2_K ? 2 * j : type == HYP_Q3_K ? (j == 3 ? 5 : 2 * j) : 0;
}

HYP_INLINE int zero_of(int type, int j)
{
    return type == HYP_Q3_K ? 4 << place(type, j) : type == HYP_Q6_K ? HYP_Q6_ZERO : 0;
}

/* Where the integer sum of half a group starts. */
HYP_INLINE __m512i start(int type, int j, int half, const uint8_t *act)
{
    const int zero = zero_of(type, j);
    if (zero == 0) return _mm512_setzero_si512();
    return _mm512_madd_epi16(hyp_spread_avx512(act + ACT_HALVES),
                             _mm512_set1_epi32((int32_t)(half ? hyp_act_words(0, -zero) : hyp_act_words(-zero, 0))));
}

/* ---- A part of a record ------------------------------------------------------------------------------------------------
 * A run is 8 vectors one after another, which hold 2 groups (4 in Q2_K and Q3_K) in different bits: each vector is read once.
 * Runs are loops on purpose, but for their four vectors: unrolled, no load sees the small steps from one address to the next that
 * the processor's prefetcher follows. And gcc gathers the prefetches of unrolled code into one burst, which costs half of the
 * bandwidth; what is volatile it leaves apart. */

#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define ROLLED _Pragma("GCC unroll 1")
#else
#define ROLLED
#endif

#if defined(__GNUC__)
#define PREFETCH(p) __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)(p)))
#else
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#endif

/* Groups of a part: the runs whose groups follow each other. */
HYP_INLINE int part_groups(int type)
{
    return type == HYP_Q4_K || type == HYP_Q5_K ? 2 : 4;
}

/* Right by how much the high bits of group j of part u have to be rotated. */
HYP_INLINE int high_turn(int type, int u, int j)
{
    return type == HYP_Q3_K ? 4 * u + j - place(type, j) - 2 : type == HYP_Q5_K ? 2 * u + j - 4 : 2 * j - 4;
}

/* A vector of group j of a part, from its low bits and its high bits, which are `turn` left of their place. */
HYP_INLINE __m512i codes_of(int type, int j, __m512i x, __m512i h, __m512i turn)
{
    const int at = place(type, j);
    const int upper = type == HYP_Q6_K ? j >> 1 : j; /* the upper nibble */
    if (type == HYP_Q2_K) return _mm512_and_si512(x, _mm512_set1_epi8((char)(3 << at)));
    if (type == HYP_Q3_K) x = _mm512_and_si512(j == 3 ? _mm512_srli_epi32(x, 1) : x, _mm512_set1_epi8((char)(3 << at)));
    else x = upper ? hyp_high4_avx512(x) : hyp_low4_avx512(x);
    if (type == HYP_Q4_K) return x;
    const int mask = type == HYP_Q3_K ? 4 << at : type == HYP_Q5_K ? 16 : 0x30;
    return hyp_or_and_avx512(x, _mm512_rorv_epi32(h, turn), _mm512_set1_epi8((char)mask));
}

/* Half a record's sums so far: S by place, M. */
typedef struct {
    __m512i sum[MOST_GROUPS], mins;
} sums;

/* The sums of part u's groups under their scales. */
HYP_INLINE void add_scaled(int type, const uint8_t *rec, int u, const uint8_t *act, __m512i sum[MOST_GROUPS][2], sums *to)
{
    if (type == HYP_Q4_K || type == HYP_Q5_K) {
        __m512i s[2];
        const __m512i mins = hyp_pair_scales_avx512(rec, u, &s[0], &s[1]);
        HYP_UNROLL
        for (int j = 0; j < 2; j++)
            to->sum[j] = _mm512_add_epi32(to->sum[j], _mm512_mullo_epi32(s[j], _mm512_add_epi32(sum[j][0], sum[j][1])));
        to->mins = _mm512_dpwssd_epi32(to->mins, mins, hyp_spread_avx512(act + ACT_PAIR));
        return;
    }
    HYP_UNROLL
    for (int j = 0; j < 4; j++) {
        const int g = 4 * u + j;
        const uint8_t *s = rec + (type == HYP_Q2_K ? 64 : 32) + 32 * g;
        __m128i s0 = hyp_bytes16_avx512(s), s1 = hyp_bytes16_avx512(s + 16);
        if (type == HYP_Q2_K) {
            to->mins = _mm512_dpwssd_epi32(to->mins, hyp_q2_mins_avx512(rec, g), hyp_spread_avx512(act + j * ACT_RECORD + ACT_HALVES));
            s0 = hyp_field_avx512(s0, 0, 15), s1 = hyp_field_avx512(s1, 0, 15);
        }
        if (type == HYP_Q3_K) hyp_q3_scales_avx512(rec, g, &s0, &s1);
        const __m512i low = _mm512_mullo_epi32(hyp_widen_signed_avx512(s0), sum[j][0]);
        const __m512i high = _mm512_mullo_epi32(hyp_widen_signed_avx512(s1), sum[j][1]);
        to->sum[j] = _mm512_add_epi32(to->sum[j], _mm512_add_epi32(low, high));
    }
}

/* Part u: the integer sums of its groups in two loops, then their scales. */
HYP_INLINE void part_times_token(int type, const uint8_t *rec, int u, const uint8_t *act, sums *to, size_t lead)
{
    const int n = part_groups(type), runs = type == HYP_Q6_K ? 2 : 1;
    const int step = HYP_PANEL * (int)hyp_block_bytes(type) / (8 * runs * 8 / n); /* bytes of a record for each vector */
    const uint8_t *q = rec + hyp_k_low(type) + 512 * runs * u, *next = rec + lead + 8 * runs * u * step;
    __m512i sum[MOST_GROUPS][2];
    ROLLED
    for (int r = 0; r < runs; r++) {
        const uint8_t *h = rec + hyp_k_high(type) + (type == HYP_Q6_K ? 512 * u : 0), *codes = act;
        ROLLED
        for (int half = 0; half < 2; half++) {
            __m512i s[MOST_GROUPS], turn[MOST_GROUPS];
            HYP_UNROLL
            for (int j = 0; j < n; j += runs) {
                turn[j] = _mm512_set1_epi32(high_turn(type, u, j + r));
                s[j] = start(type, j, half, act + (j + r) * ACT_RECORD);
            }
            HYP_UNROLL
            for (int v = 0; v < 4; v++, q += 64, h += 64, codes += 4, next += step) {
                const __m512i x = hyp_load_avx512(q);
                const __m512i b = type == HYP_Q2_K || type == HYP_Q4_K ? x : hyp_load_avx512(h);
                HYP_UNROLL
                for (int line = 0; lead && line < step; line += 64) PREFETCH(next + line);
                HYP_UNROLL
                for (int j = 0; j < n; j += runs)
                    s[j] = _mm512_dpbusd_epi32(s[j], codes_of(type, j, x, b, turn[j]),
                                               hyp_spread_avx512(codes + (j + r) * ACT_RECORD));
            }
            HYP_UNROLL
            for (int j = 0; j < n; j += runs) sum[j + r][half] = s[j];
        }
    }
    add_scaled(type, rec, u, act, sum, to);
}

/* Half h of a record; `act`: its activations. */
HYP_INLINE __m512 half_times_token(int type, const uint8_t *rec, int h, const uint8_t *act, __m512 acc, size_t lead)
{
    const int n = part_groups(type);
    const __m512 da = hyp_spread_f32_avx512(act + HYP_BLOCK);
    sums s;
    HYP_UNROLL
    for (int j = 0; j < MOST_GROUPS; j++) s.sum[j] = _mm512_setzero_si512();
    s.mins = _mm512_setzero_si512();
    ROLLED
    for (int u = 0; u < 4 / n; u++) part_times_token(type, rec, 4 / n * h + u, act + u * n * ACT_RECORD, &s, lead);
    __m512i sum = s.sum[0];
    HYP_UNROLL
    for (int j = 1; j < n; j++) sum = _mm512_add_epi32(sum, _mm512_srai_epi32(s.sum[j], (unsigned)place(type, j)));
    acc = hyp_add_sum_avx512(hyp_half16_avx512(rec), da, sum, acc);
    return hyp_has_mins(type) ? hyp_add_mins_avx512(hyp_half16_avx512(rec + 32), da, s.mins, acc) : acc;
}

HYP_INLINE __m512 record_times_token(int type, const uint8_t *rec, const uint8_t *act, __m512 acc, size_t lead)
{
    ROLLED
    for (int h = 0; h < 2; h++) acc = half_times_token(type, rec, h, act + 4 * h * ACT_RECORD, acc, lead);
    return acc;
}

/* `panels` (1 or 2) panels of `stride` bytes; rows: those left from the first of them on. */
HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const uint8_t *act,
                            float *out, size_t lead)
{
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < k; i += HYP_SUPER, w += HYP_PANEL * hyp_block_bytes(type), act += 8 * ACT_RECORD) {
        acc[0] = record_times_token(type, w, act, acc[0], lead);
        if (panels == 2) acc[1] = record_times_token(type, w + stride, act, acc[1], lead);
    }
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE size_t gemv_lead(int type, int intel)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    return intel ? record + 256 : 3 * record;
}

#include "matmul/gemv_avx512.h"
HYP_TYPES_OF_256_AVX512(GEMV)
