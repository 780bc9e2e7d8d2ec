/* Outer-product kernels that keep a block of c in registers. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* a * b + c in one instruction, which ISO mode switches off */
#endif
#include "tile_product.h"

/* gcc would read b again for every row, and loads, not products, would set the pace. */
#ifdef __AVX512F__
#define PIN(x, count)                                                                                        \
    for (int pin = 0; pin < (count); pin++)                                                                  \
    __asm__("" : "+v"((x)[pin]))
#else
#define PIN(x, count) (void)0
#endif

/* `rows` and `vectors` are constants once inlined, so the loops unroll and `sum` lives in registers. */
static inline __attribute__((always_inline)) void block(const int rows, const int vectors, int64_t k,
                                                        const float *a, int64_t a_row, int64_t a_col,
                                                        const float *b, int64_t ldb, bool add, float *c,
                                                        int64_t ldc) {
    zs_lanes sum[8][4];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? *(const zs_lanes *)(c + i * ldc + 16 * v) : (zs_lanes){0};
    for (int64_t p = 0; p < k; p++) {
        zs_lanes right[4];
        for (int v = 0; v < vectors; v++)
            right[v] = *(const zs_lanes *)(b + p * ldb + 16 * v);
        PIN(right, vectors);
        for (int i = 0; i < rows; i++) {
            float left = a[i * a_row + p * a_col];
            for (int v = 0; v < vectors; v++)
                sum[i][v] = left * right[v] + sum[i][v];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            *(zs_lanes *)(c + i * ldc + 16 * v) = sum[i][v];
}

/* All rows of a strip of c that is `vectors` wide: blocks of `rows`, then single ones. */
static inline __attribute__((always_inline)) void strip(const int rows, const int vectors, int64_t m,
                                                        int64_t k, const float *a, int64_t a_row,
                                                        int64_t a_col, const float *b, int64_t ldb, bool add,
                                                        float *c, int64_t ldc) {
    int64_t i = 0;
    for (; i + rows <= m; i += rows)
        block(rows, vectors, k, a + i * a_row, a_row, a_col, b, ldb, add, c + i * ldc, ldc);
    for (; i < m; i++)
        block(1, vectors, k, a + i * a_row, a_row, a_col, b, ldb, add, c + i * ldc, ldc);
}

/* The last n < 16 columns. */
static void narrow_strip(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                         const float *b, int64_t ldb, bool add, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++) {
        float sum[16] = {0};
        for (int64_t p = 0; p < k; p++) {
            float left = a[i * a_row + p * a_col];
            for (int64_t j = 0; j < n; j++)
                sum[j] += left * b[p * ldb + j];
        }
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = sum[j] + (add ? c[i * ldc + j] : 0.0f);
    }
}

void zs_tile_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                     const float *b, int64_t ldb, bool add, float *c, int64_t ldc) {
    while (n > 0) {
        int64_t width = n >= 64 ? 64 : n >= 16 ? n / 16 * 16 : n;
        switch (width) {
        case 64:
            strip(4, 4, m, k, a, a_row, a_col, b, ldb, add, c, ldc);
            break;
        case 48:
            strip(4, 3, m, k, a, a_row, a_col, b, ldb, add, c, ldc);
            break;
        case 32:
            strip(8, 2, m, k, a, a_row, a_col, b, ldb, add, c, ldc);
            break;
        case 16:
            strip(8, 1, m, k, a, a_row, a_col, b, ldb, add, c, ldc);
            break;
        default:
            narrow_strip(m, width, k, a, a_row, a_col, b, ldb, add, c, ldc);
        }
        n -= width;
        b += width;
        c += width;
    }
}

/* 16 x 16 in registers: at each of four stages pairs of rows trade the quarters that lie across. */
static void transpose_16(float scale, const float *from, int64_t ld_from, float *to, int64_t ld_to) {
#ifdef __clang__
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            to[j * ld_to + i] = scale * from[i * ld_from + j];
#else
    typedef float lanes __attribute__((vector_size(64)));
    typedef int32_t places __attribute__((vector_size(64)));
    static const places low[4] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
        {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
        {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
        {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
    };
    static const places high[4] = {
        {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31},
        {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31},
        {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31},
        {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31},
    };
    lanes row[16];
    for (int i = 0; i < 16; i++)
        row[i] = scale * *(const zs_lanes *)(from + i * ld_from);
    for (int stage = 0, apart = 8; stage < 4; stage++, apart /= 2)
        for (int i = 0; i < 16; i++) {
            if (i & apart) continue;
            lanes a = row[i], b = row[i + apart];
            row[i] = __builtin_shuffle(a, b, low[stage]);
            row[i + apart] = __builtin_shuffle(a, b, high[stage]);
        }
    for (int i = 0; i < 16; i++)
        *(zs_lanes *)(to + i * ld_to) = row[i];
#endif
}

void zs_tile_transpose(int64_t rows, int64_t cols, float scale, const float *from, int64_t ld_from, float *to,
                       int64_t ld_to) {
    for (int64_t i = 0; i < rows; i += 16)
        for (int64_t j = 0; j < cols; j += 16) {
            if (i + 16 <= rows && j + 16 <= cols) {
                transpose_16(scale, from + i * ld_from + j, ld_from, to + j * ld_to + i, ld_to);
                continue;
            }
            for (int64_t r = i; r < rows && r < i + 16; r++)
                for (int64_t c = j; c < cols && c < j + 16; c++)
                    to[c * ld_to + r] = scale * from[r * ld_from + c];
        }
}
