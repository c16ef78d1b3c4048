/* Matrices turned over, from columns that lie side by side to rows: eight by eight in registers, so that a line of memory is read
 * and written in pieces of half its length and not float by float. */
#ifndef HYP_QUANTIZE_TURN_H
#define HYP_QUANTIZE_TURN_H

enum { SQUARE = 8 };

#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)

HYP_INLINE void turn_square(const float *from, ptrdiff_t from_step, float *to, ptrdiff_t to_step)
{
    __m256 a[8], b[8];
    for (int j = 0; j < 4; ++j) { /* halves of columns j and j + 4 meet when they are loaded */
        const float *low = from + j * from_step, *high = from + (j + 4) * from_step;
        a[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        a[j + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    for (int j = 0; j < 8; j += 4) {
        b[j] = _mm256_unpacklo_ps(a[j], a[j + 1]), b[j + 1] = _mm256_unpackhi_ps(a[j], a[j + 1]);
        b[j + 2] = _mm256_unpacklo_ps(a[j + 2], a[j + 3]), b[j + 3] = _mm256_unpackhi_ps(a[j + 2], a[j + 3]);
    }
    for (int j = 0; j < 8; j += 4, to += 4 * to_step) {
        _mm256_storeu_ps(to, _mm256_shuffle_ps(b[j], b[j + 2], 0x44));
        _mm256_storeu_ps(to + to_step, _mm256_shuffle_ps(b[j], b[j + 2], 0xee));
        _mm256_storeu_ps(to + 2 * to_step, _mm256_shuffle_ps(b[j + 1], b[j + 3], 0x44));
        _mm256_storeu_ps(to + 3 * to_step, _mm256_shuffle_ps(b[j + 1], b[j + 3], 0xee));
    }
}

#else

HYP_INLINE void turn_square(const float *from, ptrdiff_t from_step, float *to, ptrdiff_t to_step)
{
    for (int r = 0; r < SQUARE; ++r)
        for (int c = 0; c < SQUARE; ++c) to[r * to_step + c] = from[c * from_step + r];
}

#endif

static void turn(const float *from, ptrdiff_t from_step, size_t rows, size_t columns, float *to, ptrdiff_t to_step)
{
    const size_t high = rows / SQUARE * SQUARE;
    size_t c = 0;
    for (; c + SQUARE <= columns; c += SQUARE) {
        const float *at = from + (ptrdiff_t)c * from_step;
        for (size_t r = 0; r < high; r += SQUARE) {
            for (ptrdiff_t j = SQUARE; r % (2 * SQUARE) == 0 && j < 2 * SQUARE; ++j) lanes_fetch(at + r, j * from_step * (ptrdiff_t)sizeof(float));
            turn_square(at + r, from_step, to + (ptrdiff_t)r * to_step + (ptrdiff_t)c, to_step);
        }
        for (size_t r = high; r < rows; ++r)
            for (ptrdiff_t j = 0; j < SQUARE; ++j) to[(ptrdiff_t)r * to_step + (ptrdiff_t)c + j] = at[(ptrdiff_t)r + j * from_step];
    }
    for (; c < columns; ++c)
        for (size_t r = 0; r < rows; ++r) to[(ptrdiff_t)r * to_step + (ptrdiff_t)c] = from[(ptrdiff_t)r + (ptrdiff_t)c * from_step];
}

#endif
