/* One token times K types: stream the panels at memory speed, which is a matter of who prefetches.
 *
 * Zen 4 reads as fast as its memory gives where few load instructions go on by small steps over one stream of rising addresses, with
 * some work between them, and nothing is prefetched by software. So a record is read once, in the order of its bytes, by loops that
 * stay loops: its head, the scales, is put aside, and the vectors of each plane, the codes' low and high bits, are multiplied as
 * they come. Intel's cores: two panels, for as many reads in flight, and prefetches. */
#include "matmul/kquant_avx512.h"

enum { ACT_RECORD = HYP_BLOCK + 4 + 8, ACT_HALVES = HYP_BLOCK + 4, ACT_PAIR = HYP_BLOCK + 8, MOST_HEAD = 320, HALF_GROUPS = 16 };

/* Unrolled, a loop would have a load instruction for every line, of which no prefetcher sees small steps; those of lines go by two. */
#if defined(__clang__)
#define BY_TWO _Pragma("clang loop unroll_count(2)")
#elif defined(__GNUC__)
#define BY_TWO _Pragma("GCC unroll 2")
#else
#define BY_TWO
#endif

/* Of a code in the plane of low bits. */
HYP_INLINE int low_bits(int type)
{
    return type == HYP_Q2_K || type == HYP_Q3_K ? 2 : 4;
}

/* ---- Codes times activations ------------------------------------------------------------------------------------------
 * Codes stay where they are in their bytes, so that a sum is as many bits up as its codes are. */

/* s[j] += field j, of `bits` bits, of so many vectors times the activations of a group; the fields' groups are `apart`. */
HYP_INLINE void add_lines(int bits, int lines, int apart, const uint8_t *q, const uint8_t *codes, __m512i *s, size_t lead)
{
    BY_TWO
    for (int v = 0; v < lines; v++) {
        const __m512i x = hyp_load_avx512(q + 64 * v);
        if (lead) _mm_prefetch((const char *)q + 64 * v + lead, _MM_HINT_T0);
        HYP_UNROLL
        for (int j = 0; j < 8 / bits; j++) {
            const __m512i field = _mm512_and_si512(x, _mm512_set1_epi8((char)(((1 << bits) - 1) << j * bits)));
            s[j] = _mm512_dpbusd_epi32(s[j], field, hyp_spread_avx512(codes + 4 * v + j * apart * ACT_RECORD));
        }
    }
}

HYP_INLINE void clear(__m512i *s, int n)
{
    HYP_UNROLL
    for (int j = 0; j < n; j++) s[j] = _mm512_setzero_si512();
}

/* To the left, or to the right, where the bits that fall out are zero. */
HYP_INLINE __m512i move_sum(__m512i sum, int left)
{
    return left < 0 ? _mm512_srai_epi32(sum, (unsigned)-left) : _mm512_slli_epi32(sum, (unsigned)left);
}

/* sum - zero * (sum of a half group's activations) */
HYP_INLINE __m512i less_zero(__m512i sum, int zero, int half, const uint8_t *act)
{
    return _mm512_dpwssd_epi32(sum, hyp_spread_avx512(act + ACT_HALVES),
                               _mm512_set1_epi32((int32_t)(half ? hyp_act_words(0, -zero) : hyp_act_words(-zero, 0))));
}

/* ---- The first of two planes -------------------------------------------------------------------------------------------
 * High bits in Q3_K and Q5_K, whose sums go where those of the low bits will start; low bits in Q6_K, whose sums are taken to their
 * value. One a group in Q5_K, else two. */

HYP_INLINE void first_of_q5(const uint8_t *q, const uint8_t *act, __m512i *first, size_t lead)
{
    __m512i s[8];
    clear(s, 8);
    add_lines(1, 8, 1, q, act, s, lead);
    HYP_UNROLL
    for (int g = 0; g < 8; g++) first[g] = move_sum(s[g], 4 - g + 4 * (g & 1));
}

HYP_INLINE void first_of_q3(const uint8_t *q, const uint8_t *act, __m512i *first, size_t lead)
{
    HYP_ROLLED
    for (int half = 0; half < 2; half++) {
        __m512i s[8];
        clear(s, 8);
        add_lines(1, 4, 1, q + 256 * half, act + HYP_BLOCK / 2 * half, s, lead);
        HYP_UNROLL
        for (int g = 0; g < 8; g++) {
            const int place = 2 * (g & 3);
            first[2 * g + half] = less_zero(move_sum(s[g], 2 - g + place), 4 << place, half, act + g * ACT_RECORD);
        }
    }
}

HYP_INLINE void first_of_q6(const uint8_t *q, const uint8_t *act, __m512i *first, size_t lead)
{
    HYP_ROLLED
    for (int r = 0; r < 4; r++) {
        const int g = 2 * (r & 2) + (r & 1); /* and g + 2 */
        const uint8_t *a = act + g * ACT_RECORD;
        HYP_ROLLED
        for (int half = 0; half < 2; half++) {
            __m512i s[2];
            clear(s, 2);
            add_lines(4, 4, 2, q + 512 * r + 256 * half, a + HYP_BLOCK / 2 * half, s, lead);
            first[2 * g + half] = less_zero(s[0], HYP_Q6_ZERO, half, a);
            first[2 * g + 4 + half] = less_zero(move_sum(s[1], -4), HYP_Q6_ZERO, half, a + 2 * ACT_RECORD);
        }
    }
}

/* ---- The last plane, and the scales -------------------------------------------------------------------------------------- */

/* Half a record's sums so far: S by the place of the codes, and M. */
typedef struct {
    __m512i codes[4], mins;
} sums;

HYP_INLINE void add_times(__m512i *to, __m512i scale, __m512i sum)
{
    *to = _mm512_add_epi32(*to, _mm512_mullo_epi32(scale, sum));
}

/* Groups 2n and 2n + 1 of Q4_K and Q5_K; `act`: the first one's. */
HYP_INLINE void pair_times_token(int type, const uint8_t *rec, const uint8_t *head, const __m512i *first, int n, const uint8_t *act,
                                 sums *to, size_t lead)
{
    __m512i s[2], scale[2];
    if (type == HYP_Q5_K) s[0] = first[2 * n], s[1] = first[2 * n + 1];
    else clear(s, 2);
    add_lines(4, 8, 1, rec + hyp_k_low(type) + 512 * n, act, s, lead);
    const __m512i mins = hyp_pair_scales_avx512(head, n, &scale[0], &scale[1]);
    HYP_UNROLL
    for (int j = 0; j < 2; j++) add_times(&to->codes[j], scale[j], s[j]);
    to->mins = _mm512_dpwssd_epi32(to->mins, mins, hyp_spread_avx512(act + ACT_PAIR));
}

/* The scales of both halves of group g of the others, one signed byte a row. */
HYP_INLINE void half_scales(int type, const uint8_t *head, int g, __m128i *s0, __m128i *s1)
{
    const uint8_t *at = head + (type == HYP_Q2_K ? 64 : 32) + 32 * g;
    if (type == HYP_Q3_K) {
        hyp_q3_scales_avx512(head, g, s0, s1);
        return;
    }
    *s0 = hyp_bytes16_avx512(at);
    *s1 = hyp_bytes16_avx512(at + 16);
    if (type == HYP_Q2_K) *s0 = hyp_field_avx512(*s0, 0, 15), *s1 = hyp_field_avx512(*s1, 0, 15);
}

/* Groups 4h to 4h + 3 of the others; `act`: the first one's. */
HYP_INLINE void four_times_token(int type, const uint8_t *rec, const uint8_t *head, const __m512i *first, int h, const uint8_t *act,
                                 sums *to, size_t lead)
{
    const uint8_t *q = rec + (type == HYP_Q6_K ? hyp_k_high(type) : hyp_k_low(type)) + 512 * h;
    __m128i scale[2][4];
    HYP_UNROLL
    for (int j = 0; j < 4; j++) half_scales(type, head, 4 * h + j, &scale[0][j], &scale[1][j]);
    HYP_ROLLED
    for (int half = 0; half < 2; half++) {
        const __m512i *before = first + 8 * h + half;
        __m512i s[4];
        HYP_UNROLL
        for (int j = 0; j < 4; j++) s[j] = type == HYP_Q3_K ? before[2 * j] : _mm512_setzero_si512();
        add_lines(2, 4, 1, q + 256 * half, act + HYP_BLOCK / 2 * half, s, lead);
        HYP_UNROLL
        for (int j = 0; j < 4; j++) {
            if (type == HYP_Q6_K) s[j] = _mm512_add_epi32(before[2 * j], move_sum(s[j], 4 - 2 * j));
            add_times(&to->codes[type == HYP_Q6_K ? 0 : j], hyp_widen_signed_avx512(scale[half][j]), s[j]);
        }
    }
    HYP_UNROLL
    for (int j = 0; type == HYP_Q2_K && j < 4; j++)
        to->mins = _mm512_dpwssd_epi32(to->mins, hyp_q2_mins_avx512(head, 4 * h + j), hyp_spread_avx512(act + j * ACT_RECORD + ACT_HALVES));
}

/* Half h of a record; `act`: its activations. */
HYP_INLINE __m512 half_times_token(int type, const uint8_t *rec, const uint8_t *head, const __m512i *first, int h, const uint8_t *act,
                                   __m512 acc, size_t lead)
{
    const __m512 da = hyp_spread_f32_avx512(act + HYP_BLOCK);
    sums s = {.mins = _mm512_setzero_si512()};
    clear(s.codes, 4);
    if (type == HYP_Q4_K || type == HYP_Q5_K) {
        HYP_ROLLED
        for (int u = 0; u < 2; u++) pair_times_token(type, rec, head, first, 2 * h + u, act + 2 * u * ACT_RECORD, &s, lead);
    } else four_times_token(type, rec, head, first, h, act, &s, lead);
    __m512i sum = s.codes[0];
    HYP_UNROLL
    for (int j = 1; j < 4; j++) sum = _mm512_add_epi32(sum, move_sum(s.codes[j], -j * low_bits(type))); /* what is not there is zero */
    return hyp_add_half_avx512(type, hyp_half16_avx512(head), hyp_half16_avx512(head + 32), da, sum, s.mins, acc);
}

/* ---- A record ------------------------------------------------------------------------------------------------------------ */

HYP_INLINE void put_head_aside(int type, const uint8_t *rec, uint8_t *head, size_t lead)
{
    const size_t bytes = type == HYP_Q3_K || type == HYP_Q5_K ? hyp_k_high(type) : hyp_k_low(type), lines = bytes / 64 * 64;
    HYP_ROLLED
    for (size_t i = 0; i < lines; i += 64) {
        if (lead) _mm_prefetch((const char *)rec + i + lead, _MM_HINT_T0);
        _mm512_store_si512((void *)(head + i), hyp_load_avx512(rec + i));
    }
    if (bytes > lines)
        _mm256_store_si256((__m256i *)(void *)(head + lines), _mm256_loadu_si256((const __m256i *)(const void *)(rec + lines)));
}

HYP_INLINE __m512 record_times_token(int type, const uint8_t *rec, const uint8_t *act, __m512 acc, size_t lead)
{
    HYP_ALIGN64 uint8_t head[MOST_HEAD];
    __m512i first[HALF_GROUPS];
    put_head_aside(type, rec, head, lead);
    if (type == HYP_Q3_K) first_of_q3(rec + hyp_k_high(type), act, first, lead);
    if (type == HYP_Q5_K) first_of_q5(rec + hyp_k_high(type), act, first, lead);
    if (type == HYP_Q6_K) first_of_q6(rec + hyp_k_low(type), act, first, lead);
    HYP_ROLLED
    for (int h = 0; h < 2; h++) acc = half_times_token(type, rec, head, first, h, act + 4 * h * ACT_RECORD, acc, lead);
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
    return intel ? HYP_PANEL * hyp_block_bytes(type) + 256 : 0;
}

#include "matmul/gemv_avx512.h"
HYP_TYPES_OF_256_AVX512(GEMV)
