/* What the machine can do at most, by loops that do nothing else: reading memory, and arithmetic in registers.
 *
 * Built for this machine by `limits.py`. Every thread waits at a barrier, so that starting it is not timed; a
 * run lasts from the barrier to the last thread's end. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { READ, VNNI, AVX2, FMA };

typedef struct {
    int what;
    const char *data;
    size_t bytes, rounds;
    atomic_int *waiting;
    double begin, end, amount;
    pthread_t thread;
} job;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef uint64_t line __attribute__((vector_size(64)));

static void read_once(const char *data, size_t bytes)
{
    line sum[4] = {{0}};
    for (size_t i = 0; i + 256 <= bytes; i += 256) {
        const line *at = (const line *)(data + i);
        sum[0] ^= at[0];
        sum[1] ^= at[1];
        sum[2] ^= at[2];
        sum[3] ^= at[3];
    }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    __asm__ volatile("" : : "m"(sum) : "memory");
}

/* ---- Arithmetic: 12 independent chains cover the latency. They are variables, not an array, which would be in memory, and
 * the empty asm keeps the compiler from folding them. -------------------------------------------------------------------- */
#define CHAINS 12
#define EACH(X) X(c0) X(c1) X(c2) X(c3) X(c4) X(c5) X(c6) X(c7) X(c8) X(c9) X(c10) X(c11)
#if defined(__aarch64__)
#define KEEP(c) __asm__ volatile("" : "+w"(c));
#else
#define KEEP(c) __asm__ volatile("" : "+v"(c));
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
static double vnni_ops(size_t rounds)
{
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1), c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11;
#define START(c) c = _mm512_setzero_si512();
    EACH(START)
    for (size_t n = 0; n < rounds; n++) {
#define STEP(c) c = _mm512_dpbusd_epi32(c, a, b);
        EACH(STEP)
        EACH(KEEP)
    }
    EACH(KEEP)
    return 2.0 * 64 * CHAINS * (double)rounds;
#undef START
#undef STEP
}
#elif defined(__AVXVNNI__)
static double vnni_ops(size_t rounds)
{
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1), c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11;
#define START(c) c = _mm256_setzero_si256();
    EACH(START)
    for (size_t n = 0; n < rounds; n++) {
#define STEP(c) c = _mm256_dpbusd_avx_epi32(c, a, b);
        EACH(STEP)
        EACH(KEEP)
    }
    EACH(KEEP)
    return 2.0 * 32 * CHAINS * (double)rounds;
#undef START
#undef STEP
}
#else
static double vnni_ops(size_t rounds) { return 0.0 * (double)rounds; }
#endif

#if defined(__AVX2__)
/* Products as the AVX2 kernels have to make them: vpmaddubsw, vpmaddwd, vpaddd. */
static double avx2_ops(size_t rounds)
{
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1), c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11;
#define START(c) c = _mm256_setzero_si256();
    EACH(START)
    for (size_t n = 0; n < rounds; n++) {
#define STEP(c)                                                                                                         \
    {                                                                                                                   \
        KEEP(a)                                                                                                         \
        const __m256i p = _mm256_maddubs_epi16(a, b);                                                                   \
        c = _mm256_add_epi32(c, _mm256_madd_epi16(p, one));                                                             \
        KEEP(c)                                                                                                         \
    }
        EACH(STEP)
    }
    EACH(KEEP)
    return 2.0 * 32 * CHAINS * (double)rounds;
#undef START
#undef STEP
}
#else
static double avx2_ops(size_t rounds) { return 0.0 * (double)rounds; }
#endif

#if defined(__AVX512F__)
typedef float lanes __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float lanes __attribute__((vector_size(32)));
#else
typedef float lanes __attribute__((vector_size(16)));
#endif

static double fma_ops(size_t rounds)
{
    lanes a = {0}, b = {0}, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11;
#define START(c) c = a;
    EACH(START)
    for (size_t n = 0; n < rounds; n++) {
#define STEP(c) c = a * b + c;
        EACH(STEP)
        EACH(KEEP)
    }
    EACH(KEEP)
    return 2.0 * (double)(sizeof(lanes) / 4) * CHAINS * (double)rounds;
#undef START
#undef STEP
}

static double work(const job *j)
{
    switch (j->what) {
    case READ: read_once(j->data, j->bytes); return (double)j->bytes;
    case VNNI: return vnni_ops(j->rounds);
    case AVX2: return avx2_ops(j->rounds);
    default: return fma_ops(j->rounds);
    }
}

static void *run_job(void *arg)
{
    job *j = arg;
    atomic_fetch_sub(j->waiting, 1);
    while (atomic_load(j->waiting) > 0) {}
    j->begin = seconds();
    j->amount = work(j);
    j->end = seconds();
    return NULL;
}

/* Bytes or operations a second of `threads` (at most 64) threads, each on its part of the data; 0 where the processor or the
 * compiler does not have it, or the system has no such threads. */
double limits_rate(int what, int threads, const char *data, size_t bytes, size_t rounds)
{
    job jobs[64];
    atomic_int waiting = threads;
    const size_t part = bytes / (size_t)threads / 4096 * 4096;
    int started = 0;
    while (started < threads) {
        jobs[started] = (job){.what = what, .data = data + (size_t)started * part, .bytes = part, .rounds = rounds, .waiting = &waiting};
        if (pthread_create(&jobs[started].thread, NULL, run_job, &jobs[started])) break;
        started++;
    }
    atomic_fetch_sub(&waiting, threads - started);
    double begin = 0, end = 0, amount = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(jobs[i].thread, NULL);
        if (i == 0 || jobs[i].begin < begin) begin = jobs[i].begin;
        if (jobs[i].end > end) end = jobs[i].end;
        amount += jobs[i].amount;
    }
    return started == threads ? amount / (end - begin) : 0;
}
