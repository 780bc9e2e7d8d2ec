/* Which strip kernels this processor runs, and the division of a product into strips. */
#include "rows.h"

#include "zerosearch/kernels.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Best first, among those that may be chosen without being named. */
static const zs_row_kernels *const known[] = {&zs_rows_avx512bf16, &zs_rows_avx512vnni, &zs_rows_avx512,
                                              &zs_rows_avxvnni,    &zs_rows_avx2,       &zs_rows_vector,
                                              &zs_rows_plain};
enum { NUM_KNOWN = sizeof known / sizeof *known };

static const zs_row_kernels *chosen; /* by the first call, or by zs_kernels_use */

#if defined(__x86_64__)
/* By its bit: the compiler's own question for it came later than its code. */
static bool has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

static bool runs_here(const zs_row_kernels *kernels) {
    if (!kernels->f32) return false;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kernels == &zs_rows_avx512bf16)
        return __builtin_cpu_supports("avx512bf16") && runs_here(&zs_rows_avx512vnni);
    if (kernels == &zs_rows_avx512vnni)
        return __builtin_cpu_supports("avx512vnni") && runs_here(&zs_rows_avx512);
    if (kernels == &zs_rows_avxvnni) return has_avxvnni() && runs_here(&zs_rows_avx2);
    if (kernels == &zs_rows_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    if (kernels == &zs_rows_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
#endif
    return true;
}

bool zs_kernels_use(const char *name) {
    for (int i = 0; i < NUM_KNOWN; i++)
        if ((name ? strcmp(known[i]->name, name) == 0 : !known[i]->rounds) && runs_here(known[i])) {
            chosen = known[i];
            return true;
        }
    return false;
}

const zs_row_kernels *zs_kernels_chosen(void) {
    if (!chosen) zs_kernels_use(NULL);
    return chosen;
}

const char *zs_kernels_name(void) {
    return zs_kernels_chosen()->name;
}

void zs_gemm_nt_rows(int64_t m, int64_t n, int64_t k, const float *x, const float *w, float beta, float *y,
                     int threads) {
    const zs_row_kernels *kernels = zs_kernels_chosen();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n; j += ZS_STRIP)
        kernels->f32(m, (int)(n - j < ZS_STRIP ? n - j : ZS_STRIP), n, k, x, w + j * k, beta, y + j);
}

void zs_gemm_nt_rows_bf16(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, float beta,
                          float *y, int threads) {
    const zs_row_kernels *kernels = zs_kernels_chosen();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n; j += ZS_STRIP)
        kernels->bf16(m, (int)(n - j < ZS_STRIP ? n - j : ZS_STRIP), n, k, x, w + j * k, beta, y + j);
}
