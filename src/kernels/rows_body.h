/* The strip kernels of rows.h for one instruction set. Its file defines LANES (floats of a vector) and HELD
 * (running sums of 16 that the registers hold beside what they are made from) and includes this.
 *
 * A BLAS spends its time packing w; here w streams once from memory and each of its rows meets up to eight
 * rows of x in registers. Every tile has sixteen running sums of 16 lanes, folded together by one tree into a
 * vector of sixteen results, so that a result's arithmetic is the same in every tile shape. */
#include "rows.h"

#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define WIDE  16 /* lanes of a running sum */
#define PARTS (WIDE / LANES)
typedef float zs_wide __attribute__((vector_size(4 * WIDE), aligned(4)));
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* as loaded */
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define SUMS 16

/* Said outright where the compiler could choose: it fused the tail of one tile shape and not of another. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Element p, or sixteen from it, of a row of weights. Widening bf16 is a shift, and exact: from there on both
 * precisions take the same sums. `bf16` is a constant at each call. */
static inline __attribute__((always_inline)) float weight(const bool bf16, const char *row, int64_t p) {
    float value;
    if (!bf16) {
        memcpy(&value, row + p * (int64_t)sizeof(float), sizeof value);
        return value;
    }
    uint16_t half;
    memcpy(&half, row + p * (int64_t)sizeof half, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline __attribute__((always_inline)) lanes weights(const bool bf16, const char *row, int64_t p) {
    if (!bf16) return *(const lanes *)(row + p * (int64_t)sizeof(float));
    halves half = *(const halves *)(row + p * (int64_t)sizeof(uint16_t));
#if LANES == 16 /* one instruction each, which gcc 12 does not see in the lines below */
    return (lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)half), 16);
#elif LANES == 8
    return (lanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)half), 16);
#else
    typedef uint32_t words __attribute__((vector_size(4 * LANES)));
    return (lanes)(__builtin_convertvector(half, words) << 16);
#endif
}

/* Folds a and b and puts their halves side by side, at four widths. */
static inline zs_wide fold16(zs_wide a, zs_wide b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
static inline zs_wide fold8(zs_wide a, zs_wide b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
static inline zs_wide fold4(zs_wide a, zs_wide b) {
    return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}
static inline zs_wide fold2(zs_wide a, zs_wide b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Element i of the result is the sum of the lanes of s[i]. */
static inline zs_wide fold_all(zs_wide *s) {
#pragma GCC unroll 16
    for (int i = 0; i < 8; i++)
        s[i] = fold16(s[2 * i], s[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++)
        s[i] = fold8(s[2 * i], s[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < 2; i++)
        s[i] = fold4(s[2 * i], s[2 * i + 1]);
    return fold2(s[0], s[1]);
}

/* Bytes that a row on its own fetches ahead; the row length up to which two or more rows of x stay in the
 * first cache beside them. */
enum { FETCH_AHEAD = 8192, STREAM_DEPTH = 2048 };

/* sums[i * apart + j] = the sixteen running sums of row i of x with row j of w, nx rows with nw, both
 * constants at each call, at most HELD sums. `fetch`: what memory gives next is wanted soon: the nw rows
 * after these, or where there is one row alone, what lies a fixed way on. */
static inline __attribute__((always_inline)) void
held_sums(const bool bf16, const bool fetch, const int nx, const int nw, int64_t k,
          const float *const *x_rows, const char *const *w_rows, zs_wide *sums, const int apart) {
    const int64_t size = bf16 ? 2 : 4, per_line = 64 / size, next = nw == 1 ? FETCH_AHEAD : nw * k * size;
    lanes sum[HELD * PARTS];
#pragma GCC unroll 64
    for (int i = 0; i < nx * nw * PARTS; i++)
        sum[i] = (lanes){0};
    for (int64_t p = 0; p + WIDE <= k; p += WIDE) {
        /* Rows are too short for the hardware to see where the reading goes next. */
        if (fetch && p % per_line == 0)
#pragma GCC unroll 16
            for (int j = 0; j < nw; j++)
                __builtin_prefetch(w_rows[j] + next + p * size);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            lanes xv[8];
#pragma GCC unroll 16
            for (int i = 0; i < nx; i++)
                xv[i] = *(const lanes *)(x_rows[i] + p + part * LANES);
#if LANES == 16 /* gcc would read x again for every row of w */
            if (nw > 1)
#pragma GCC unroll 16
                for (int i = 0; i < nx; i++)
                    __asm__("" : "+v"(xv[i]));
#endif
#pragma GCC unroll 16
            for (int j = 0; j < nw; j++) {
                lanes wv = weights(bf16, w_rows[j], p + part * LANES);
#pragma GCC unroll 16
                for (int i = 0; i < nx; i++)
                    sum[(i * nw + j) * PARTS + part] += xv[i] * wv;
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++)
#pragma GCC unroll 16
        for (int j = 0; j < nw; j++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++)
                *(lanes *)((float *)&sums[i * apart + j] + part * LANES) = sum[(i * nw + j) * PARTS + part];
}

/* The same for any number of sums, as many at a time as registers hold. */
static inline __attribute__((always_inline)) void
run_sums(const bool bf16, const bool fetch, const int nx, const int nw, int64_t k, const float *const *x_rows,
         const char *const *w_rows, zs_wide *sums, const int apart) {
    const int rows = nx * nw <= HELD ? nx : nx < 2 ? nx : 2, columns = nx * nw <= HELD ? nw : HELD / rows;
#pragma GCC unroll 16
    for (int j = 0; j < nw; j += columns)
#pragma GCC unroll 16
        for (int i = 0; i < nx; i += rows)
            held_sums(bf16, fetch && i == 0, rows, columns, k, x_rows + i, w_rows + j, sums + i * apart + j,
                      apart);
}

/* `nx` rows of x with 16 / nx rows of w; nx is a constant at each call. Rows of x and w past the ends are
 * given as repeats of the last (used_x, used_w say how many count). `streams`: w comes from memory row after
 * row, which it does fastest when it is read so; else all rows of w at once, which reads x less often. */
static inline __attribute__((always_inline)) void tile(const bool bf16, const bool streams, bool fetch,
                                                       const int nx, int used_x, int used_w, int64_t n,
                                                       int64_t k, const float *x, const char *w, float beta,
                                                       float *y) {
    const int nw = SUMS / nx;
    const int64_t size = bf16 ? 2 : 4;
    const float *x_rows[8];
    const char *w_rows[SUMS];
    zs_wide sum[SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++)
        x_rows[i] = x + (i < used_x ? i : used_x - 1) * k;
#pragma GCC unroll 16
    for (int j = 0; j < nw; j++)
        w_rows[j] = w + (j < used_w ? j : used_w - 1) * k * size;
    if (streams)
        for (int j = 0; j < nw; j++)
            run_sums(bf16, true, nx, 1, k, x_rows, w_rows + j, sum + j, nw);
    else if (fetch)
        run_sums(bf16, true, nx, nw, k, x_rows, w_rows, sum, nw);
    else
        run_sums(bf16, false, nx, nw, k, x_rows, w_rows, sum, nw);
    int64_t p = k / WIDE * WIDE;
    float total[SUMS];
    zs_wide folded = fold_all(sum);
    memcpy(total, &folded, sizeof total);
    for (; p < k; p++)
        for (int i = 0; i < SUMS; i++)
            total[i] = MULTIPLY_ADD(x_rows[i / nw][p], weight(bf16, w_rows[i % nw], p), total[i]);
    if (used_w == nw) /* the common case: constant widths */
        for (int i = 0; i < used_x; i++) {
            float row[SUMS];
            memcpy(row, y + i * n, (size_t)nw * sizeof(float));
            for (int j = 0; j < nw; j++)
                row[j] = beta == 0 ? total[i * nw + j] : MULTIPLY_ADD(beta, row[j], total[i * nw + j]);
            memcpy(y + i * n, row, (size_t)nw * sizeof(float));
        }
    else
        for (int i = 0; i < used_x; i++)
            for (int j = 0; j < used_w; j++)
                y[i * n + j] =
                    beta == 0 ? total[i * nw + j] : MULTIPLY_ADD(beta, y[i * n + j], total[i * nw + j]);
}

/* All rows of x with `count` <= 16 rows of w. Rows of w are the outer loop: what came from memory is used up
 * while it is near. */
static inline __attribute__((always_inline)) void strip(const bool bf16, int64_t m, int count, int64_t n,
                                                        int64_t k, const float *x, const char *w, float beta,
                                                        float *y) {
    const int64_t row_bytes = k * (bf16 ? 2 : 4);
    if (m == 1) {
        tile(bf16, true, true, 1, 1, count, n, k, x, w, beta, y);
    } else if (m == 2) {
        for (int j = 0; j < count; j += 8)
            tile(bf16, k <= STREAM_DEPTH, true, 2, 2, count - j < 8 ? count - j : 8, n, k, x,
                 w + j * row_bytes, beta, y + j);
    } else if (m <= 4) {
        for (int j = 0; j < count; j += 4)
            tile(bf16, !bf16 && k <= STREAM_DEPTH, true, 4, (int)m, count - j < 4 ? count - j : 4, n, k, x,
                 w + j * row_bytes, beta, y + j);
    } else if (m <= 8 && !bf16) { /* in one pass; bf16 would be widened for fewer products each */
        for (int j = 0; j < count; j += 2)
            tile(bf16, false, true, 8, (int)m, count - j < 2 ? count - j : 2, n, k, x, w + j * row_bytes,
                 beta, y + j);
    } else {
        for (int j = 0; j < count; j += 4)
            for (int64_t i = 0; i < m; i += 4)
                tile(bf16, false, i == 0, 4, m - i < 4 ? (int)(m - i) : 4, count - j < 4 ? count - j : 4, n,
                     k, x + i * k, w + j * row_bytes, beta, y + i * n + j);
    }
}

static void strip_f32(int64_t m, int count, int64_t n, int64_t k, const float *x, const float *w, float beta,
                      float *y) {
    strip(false, m, count, n, k, x, (const char *)w, beta, y);
}

static void strip_bf16(int64_t m, int count, int64_t n, int64_t k, const float *x, const uint16_t *w,
                       float beta, float *y) {
    strip(true, m, count, n, k, x, (const char *)w, beta, y);
}
