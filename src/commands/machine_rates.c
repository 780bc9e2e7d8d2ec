/* What a machine is and what it can do at best: the limits that bench, plan and doctor put things beside. */
#include "machine.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void zs_machine_processor(char out[128]) {
    snprintf(out, 128, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, 128, "%.120s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file) fclose(file);
}

int64_t zs_machine_cache(int level) {
    static const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    long bytes = level >= 1 && level <= 3 ? sysconf(names[level - 1]) : 0;
    return bytes > 0 ? bytes : 0;
}

/* Best GFlop/s of an m x n x k product in 0.08 s, two runs at least. */
static double product_rate(int64_t m, int64_t n, int64_t k) {
    float *a = ZS_NEW(float, m *k), *b = ZS_NEW(float, n *k), *c = ZS_NEW(float, m *n);
    for (int64_t i = 0; i < m * k; i++)
        a[i] = (float)(i % 13) * 0.1f;
    for (int64_t i = 0; i < n * k; i++)
        b[i] = (float)(i % 7) * 0.1f;
    double best = 1e30, begin = zs_seconds();
    for (int run = 0; run < 2 || (run < 200 && zs_seconds() - begin < 0.08); run++) {
        double start = zs_seconds();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)k,
                    0, c, (int)n);
        double spent = zs_seconds() - start;
        best = spent < best ? spent : best;
    }
    zs_free(a);
    zs_free(b);
    zs_free(c);
    return 2e-9 * (double)m * (double)n * (double)k / best;
}

double zs_machine_sgemm_rate(void) {
    static const int64_t shapes[][3] = {
        {512, 512, 512}, {1024, 1024, 1024}, {1024, 4864, 896}, {2048, 2048, 2048}};
    double best = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        /* A slow machine shows its rate in the smaller ones. */
        if (best > 0 && 2e-9 * (double)m * (double)n * (double)k > 0.5 * best) continue;
        double rate = product_rate(m, n, k);
        best = rate > best ? rate : best;
    }
    return best;
}

/* Twice the last cache, so that a run finds nothing of the one before; within a quarter of the memory. */
static int64_t stream_bytes(void) {
    int64_t bytes = 2 * zs_machine_cache(3), memory = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (bytes < INT64_C(256) << 20) bytes = INT64_C(256) << 20;
    return bytes < memory / 4 ? bytes : memory / 4;
}

/* Its memory is mapped and first touched by the threads that read it, and is in no one's count. */
double zs_machine_read_rate(void) {
    const int64_t block = INT64_C(1) << 12, count = stream_bytes() / (int64_t)sizeof(float) / block * block;
    size_t bytes = (size_t)count * sizeof(float);
    float *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return 0;
    madvise(data, bytes, MADV_HUGEPAGE);
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += block)
        memset(data + begin, 0, (size_t)block * sizeof *data);
    double best = 1e30;
    volatile float sink;
    for (int run = 0; run < 4; run++) {
        double start = zs_seconds();
        float sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
        for (int64_t begin = 0; begin < count; begin += block) {
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = begin; i < begin + block; i++)
                part += data[i];
            sum += part;
        }
        sink = sum;
        double spent = zs_seconds() - start;
        best = spent < best ? spent : best;
    }
    (void)sink;
    munmap(data, bytes);
    return 1e-9 * (double)bytes / best;
}
