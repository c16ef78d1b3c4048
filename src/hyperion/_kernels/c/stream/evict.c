#include "stream/evict.h"

enum { LINE = 64 };

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>

int hyp_can_evict(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 23 & 1); /* CLFLUSHOPT: flushes do not wait for each other */
}

__attribute__((target("clflushopt"))) void hyp_evict(const uint8_t *memory, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) _mm_clflushopt((void *)(memory + i));
    _mm_sfence();
}
#elif defined(_M_X64)
#include <intrin.h>
#include <immintrin.h>

int hyp_can_evict(void)
{
    int r[4];
    __cpuidex(r, 7, 0);
    return r[1] >> 23 & 1;
}

void hyp_evict(const uint8_t *memory, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) _mm_clflushopt((void *)(memory + i));
    _mm_sfence();
}
#else
int hyp_can_evict(void) { return 0; }
void hyp_evict(const uint8_t *memory, size_t n) { (void)memory, (void)n; }
#endif
