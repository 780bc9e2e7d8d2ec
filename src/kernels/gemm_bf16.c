/* GEMM with bf16 weights: pieces of them are widened to f32 where they stay in the second cache, and
 * multiplied there by the f32 BLAS.
 *
 * BLAS libraries have a bf16 GEMM only for processors with instructions for it, and it rounds the activations
 * too; widening is exact, so this gives what f32 arithmetic gives on the same weights. A piece costs one
 * store and one load for each 2 m floating-point operations, so it shows only at small m. Each thread takes
 * its own pieces and runs BLAS alone in them: one BLAS call on all threads would have them wait for each
 * other at every piece. */
#include "packed.h"
#include "zerosearch/kernels.h"

#include <cblas.h>
#include <omp.h>
#include <string.h>

/* PIECE_STRIDE: lines of a packed piece's columns would share a few sets of the cache. */
enum { PIECE_ROWS = 512, PIECE_DEPTH = 512, PIECE_STRIDE = PIECE_ROWS + 16, LEAST_ROWS = 64 };

int64_t zs_gemm_bf16_work(void) {
    return PIECE_STRIDE * PIECE_DEPTH;
}

void zs_widen_bf16(int64_t count, const uint16_t *from, float *to) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&to[i], &bits, sizeof bits);
    }
}

static int64_t divide_up(int64_t x, int64_t by) {
    return (x + by - 1) / by;
}

/* The result in blocks: at least one a thread where it is large enough, and as many for each. */
typedef struct blocks {
    int64_t rows, columns;           /* of a block */
    int64_t row_count, column_count; /* of blocks */
} blocks;

static blocks divide(int64_t m, int64_t n, int threads) {
    int64_t columns = divide_up(divide_up(n, PIECE_ROWS), threads) * threads;
    columns = divide_up(divide_up(n, columns), 16) * 16;
    columns = columns < LEAST_ROWS ? LEAST_ROWS : columns;
    blocks b = {.columns = columns, .column_count = divide_up(n, columns), .row_count = 1};
    if (b.column_count < threads) {
        int64_t most = divide_up(m, LEAST_ROWS);
        b.row_count = divide_up(threads, b.column_count);
        b.row_count = b.row_count < most ? b.row_count : most;
    }
    b.rows = divide_up(m, b.row_count);
    return b;
}

/* A piece of packed weights, [depth, columns], from row j on, which is a panel's first; p is even. */
static void widen_panels(int64_t n, int64_t k, const uint16_t *b, int64_t j, int64_t columns, int64_t p,
                         int64_t depth, float *piece) {
    int64_t packed = n / ZS_PANEL * ZS_PANEL - j;
    packed = packed < columns ? packed : columns;
    for (int64_t c = 0; c < packed; c += ZS_PANEL) {
        const uint16_t *from = b + (j + c) * k + p * ZS_PANEL;
        int64_t q = 0;
        for (; q + 2 <= depth; q += 2)
            for (int64_t o = 0; o < ZS_PANEL; o++) {
                uint32_t pair, low, high;
                memcpy(&pair, from + q * ZS_PANEL + 2 * o, sizeof pair);
                low = pair << 16;
                high = pair & 0xffff0000u;
                memcpy(piece + q * PIECE_STRIDE + c + o, &low, sizeof low);
                memcpy(piece + (q + 1) * PIECE_STRIDE + c + o, &high, sizeof high);
            }
        if (q < depth) zs_widen_bf16(ZS_PANEL, from + q * ZS_PANEL, piece + q * PIECE_STRIDE + c);
    }
    for (int64_t c = packed; c < columns; c++)
        for (int64_t q = 0; q < depth; q++)
            zs_widen_bf16(1, b + (j + c) * k + p + q, piece + q * PIECE_STRIDE + c);
}

/* y [m, columns] of a block of the packed b [n, k] from row j on. */
static void multiply_packed_block(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b,
                                  int64_t j, int64_t columns, float beta, float *y, float *piece) {
    for (int64_t p = 0; p < k; p += PIECE_DEPTH) {
        int64_t depth = k - p < PIECE_DEPTH ? k - p : PIECE_DEPTH;
        widen_panels(n, k, b, j, columns, p, depth, piece);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)columns, (blasint)depth,
                    1.0f, a + p, (blasint)k, piece, PIECE_STRIDE, p == 0 ? beta : 1.0f, y, (blasint)n);
    }
}

/* y [m, n] of a block, whose rows lie ldy apart. */
static void multiply_block(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b, float beta,
                           float *y, int64_t ldy, float *piece) {
    for (int64_t p = 0; p < k; p += PIECE_DEPTH) {
        int64_t depth = k - p < PIECE_DEPTH ? k - p : PIECE_DEPTH;
        for (int64_t j = 0; j < n; j++)
            zs_widen_bf16(depth, b + j * k + p, piece + j * depth);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)depth, 1.0f,
                    a + p, (blasint)k, piece, (blasint)depth, p == 0 ? beta : 1.0f, y, (blasint)ldy);
    }
}

static void multiply(bool packed, int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b,
                     float beta, float *y, float *work, int threads) {
    if (m == 0 || n == 0) return;
    blocks d = divide(m, n, threads);
    int64_t count = d.row_count * d.column_count;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && count > 1)
    for (int64_t block = 0; block < count; block++) {
        int64_t i = block / d.column_count * d.rows, j = block % d.column_count * d.columns;
        int64_t rows = m - i < d.rows ? m - i : d.rows, columns = n - j < d.columns ? n - j : d.columns;
        float *piece = work + omp_get_thread_num() * zs_gemm_bf16_work();
        if (rows <= 0) continue; /* fewer rows than blocks of the rounded height would take */
        if (packed)
            multiply_packed_block(rows, n, k, a + i * k, b, j, columns, beta, y + i * n + j, piece);
        else
            multiply_block(rows, columns, k, a + i * k, b + j * k, beta, y + i * n + j, n, piece);
    }
}

void zs_gemm_nt_bf16(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b, float beta, float *y,
                     float *work, int threads) {
    multiply(false, m, n, k, a, b, beta, y, work, threads);
}

void zs_gemm_nt_packed_blas(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b, float beta,
                            float *y, float *work, int threads) {
    multiply(true, m, n, k, a, b, beta, y, work, threads);
}
