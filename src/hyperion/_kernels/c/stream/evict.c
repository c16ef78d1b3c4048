#include "stream/evict.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>

enum { LINE = 64 };

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define CLFLUSHOPT

static unsigned leaf_7_ebx(void)
{
    int r[4];
    __cpuid(r, 0);
    if (r[0] < 7) return 0;
    __cpuidex(r, 7, 0);
    return (unsigned)r[1];
}
#else
#include <cpuid.h>
#define CLFLUSHOPT __attribute__((target("clflushopt")))

static unsigned leaf_7_ebx(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? b : 0;
}
#endif

int hyp_can_evict(void) { return leaf_7_ebx() >> 23 & 1; } /* CLFLUSHOPT: flushes do not wait for each other */

CLFLUSHOPT void hyp_evict(const uint8_t *memory, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) _mm_clflushopt((void *)(memory + i));
    _mm_sfence();
}
#else
int hyp_can_evict(void) { return 0; }
void hyp_evict(const uint8_t *memory, size_t n) { (void)memory, (void)n; }
#endif
