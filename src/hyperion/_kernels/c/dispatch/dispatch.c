/* CPUID, XGETBV and the tables. Baseline code: it runs before anything is known of the processor.
 *
 * setup.py defines HYP_HAVE_<file> for each instruction-set file that was built and HYP_BUILT_<isa> where there is any,
 * so that a level whose kernels are not in this build is absent and nothing undefined is linked. */
#include "dispatch/dispatch.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define HYP_X86 1
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#ifdef HYP_X86
typedef struct {
    uint32_t eax, ebx, ecx, edx;
} cpuid_regs;

static cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
    cpuid_regs r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int regs[4];
    __cpuidex(regs, (int)leaf, (int)subleaf);
    r.eax = (uint32_t)regs[0], r.ebx = (uint32_t)regs[1], r.ecx = (uint32_t)regs[2], r.edx = (uint32_t)regs[3];
#else
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
    return r;
}

/* XCR0: which registers the operating system saves on a context switch. */
static uint64_t xcr0(void)
{
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* _xgetbv() would need -mxsave */
    return ((uint64_t)high << 32) | low;
#endif
}

/* Since Linux 5.16 a process must ask for the 8 KiB of tile registers before their first use; elsewhere there is no way
 * that we have tested, so AMX counts as absent. Every signal stack must then hold them, the host program's too, so a build
 * that has no use for them does not ask. */
static int amx_permitted(void)
{
#if !defined(HYP_BUILT_amx)
    return 1;
#elif defined(__linux__) && defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

static int bit(uint32_t word, int n)
{
    return (int)((word >> n) & 1u);
}

static void detect_x86(hyp_features *f)
{
    const uint32_t last = cpuid(0, 0).eax;
    if (last < 1) return;
    const cpuid_regs one = cpuid(1, 0);
    f->sse4_2 = bit(one.ecx, 20);
    const int osxsave = bit(one.ecx, 27);
    const uint64_t saved = osxsave ? xcr0() : 0;
    if ((saved & 0x6u) != 0x6u || !bit(one.ecx, 28)) return; /* no AVX, so none of what follows */
    f->avx = 1;
    f->fma = bit(one.ecx, 12);
    f->f16c = bit(one.ecx, 29);
    if (last < 7) return;
    const cpuid_regs seven = cpuid(7, 0), seven_1 = seven.eax >= 1 ? cpuid(7, 1) : (cpuid_regs){0, 0, 0, 0};
    f->avx2 = bit(seven.ebx, 5);
    f->avx_vnni = f->avx2 && bit(seven_1.eax, 4);
    if ((saved & 0xe6u) == 0xe6u && bit(seven.ebx, 16)) {
        f->avx512f = 1;
        f->avx512dq = bit(seven.ebx, 17);
        f->avx512bw = bit(seven.ebx, 30);
        f->avx512vl = bit(seven.ebx, 31);
        f->avx512_vnni = bit(seven.ecx, 11);
        f->avx512_bf16 = bit(seven_1.eax, 5);
    }
    const uint64_t tiles = (uint64_t)3 << 17;
    if ((saved & tiles) == tiles && bit(seven.edx, 24) && amx_permitted()) {
        f->amx_tile = 1;
        f->amx_int8 = bit(seven.edx, 25);
        f->amx_bf16 = bit(seven.edx, 22);
    }
}
#endif

void hyp_detect(hyp_features *features)
{
    memset(features, 0, sizeof *features);
#ifdef HYP_X86
    detect_x86(features);
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    features->neon = 1;
#endif
}

const char *hyp_level_name(int level)
{
    static const char *const names[HYP_LEVELS] = {"generic", "avx2", "avxvnni", "avx512", "amx"};
    return level >= 0 && level < HYP_LEVELS ? names[level] : NULL;
}

/* Whether this build has kernels of a level. */
static int built(int level)
{
    switch (level) {
    case HYP_LEVEL_GENERIC: return 1;
#ifdef HYP_BUILT_avx2
    case HYP_LEVEL_AVX2: return 1;
#endif
#ifdef HYP_BUILT_avxvnni
    case HYP_LEVEL_AVXVNNI: return 1;
#endif
#ifdef HYP_BUILT_avx512
    case HYP_LEVEL_AVX512: return 1;
#endif
#ifdef HYP_BUILT_amx
    case HYP_LEVEL_AMX: return 1;
#endif
    default: return 0;
    }
}

int hyp_level_present(const hyp_features *f, int level)
{
    const int avx2 = f->avx2 && f->fma && f->f16c;
    const int avx512 = avx2 && f->avx512f && f->avx512bw && f->avx512vl && f->avx512dq && f->avx512_vnni;
    if (!built(level)) return 0;
    switch (level) {
    case HYP_LEVEL_AVX2: return avx2;
    case HYP_LEVEL_AVXVNNI: return avx2 && f->avx_vnni;
    case HYP_LEVEL_AVX512: return avx512;
    case HYP_LEVEL_AMX: return avx512 && f->amx_tile && f->amx_int8;
    default: return 1;
    }
}

static void fill_generic(hyp_table *t)
{
    (void)t;
#ifdef HYP_HAVE_matmul_generic
    hyp_matmul_fill_generic(t);
#endif
#ifdef HYP_HAVE_gemm_generic
    hyp_gemm_fill_generic(t);
#endif
#ifdef HYP_HAVE_nn_generic
    hyp_nn_fill_generic(t);
#endif
#ifdef HYP_HAVE_quantize_generic
    hyp_quantize_fill_generic(t);
#endif
#ifdef HYP_HAVE_sparse_generic
    hyp_sparse_fill_generic(t);
#endif
}

static void fill_avx2(hyp_table *t)
{
    (void)t;
#ifdef HYP_HAVE_matmul_avx2
    hyp_matmul_fill_avx2(t);
#endif
#ifdef HYP_HAVE_gemm_avx2
    hyp_gemm_fill_avx2(t);
#endif
#ifdef HYP_HAVE_nn_avx2
    hyp_nn_fill_avx2(t);
#endif
#ifdef HYP_HAVE_quantize_avx2
    hyp_quantize_fill_avx2(t);
#endif
#ifdef HYP_HAVE_sparse_avx2
    hyp_sparse_fill_avx2(t);
#endif
}

static void fill_avxvnni(hyp_table *t)
{
    (void)t;
#ifdef HYP_HAVE_matmul_avxvnni
    hyp_matmul_fill_avxvnni(t);
#endif
}

static void fill_avx512(hyp_table *t)
{
    (void)t;
#ifdef HYP_HAVE_matmul_avx512
    hyp_matmul_fill_avx512(t);
#endif
#ifdef HYP_HAVE_gemm_avx512
    hyp_gemm_fill_avx512(t);
#endif
#ifdef HYP_HAVE_nn_avx512
    hyp_nn_fill_avx512(t);
#endif
#ifdef HYP_HAVE_quantize_avx512
    hyp_quantize_fill_avx512(t);
#endif
#ifdef HYP_HAVE_sparse_avx512
    hyp_sparse_fill_avx512(t);
#endif
}

static void fill_amx(hyp_table *t)
{
    (void)t;
#ifdef HYP_HAVE_matmul_amx
    hyp_matmul_fill_amx(t);
#endif
}

int hyp_level_table(const hyp_features *features, int level, hyp_table *table)
{
    if (!hyp_level_present(features, level)) return HYP_ERROR_ARGUMENT;
    memset(table, 0, sizeof *table);
    fill_generic(table);
    if (level >= HYP_LEVEL_AVX2) fill_avx2(table);
    if (level == HYP_LEVEL_AVXVNNI) fill_avxvnni(table); /* 256-bit: avx512 does not build on it */
    if (level >= HYP_LEVEL_AVX512) fill_avx512(table);
    if (level == HYP_LEVEL_AMX) fill_amx(table);
    table->level = level;
    return HYP_OK;
}
