/* Matrix products of attention's tiles: at most 64 wide, any depth, operands where they lie.
 *
 * BLAS copies its operands into its own order first, which for matrices this small takes as long as the
 * product; and it always computes a whole tile, of which the causal mask throws half away on the diagonal. */
#ifndef ZEROSEARCH_TILE_PRODUCT_H
#define ZEROSEARCH_TILE_PRODUCT_H

#include <stdbool.h>
#include <stdint.h>

/* 16 floats: one register with AVX-512, two with AVX, four with SSE. Loads need no alignment. */
typedef float zs_lanes __attribute__((vector_size(64), aligned(4), may_alias));

/* c [m, n] (+)= a [m, k] b [k, n]; element (i, p) of a is a[i a_row + p a_col], so that a transposed operand
 * is only another pair of strides. Rows of b and c are contiguous, ldb and ldc apart. */
void zs_tile_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                     const float *b, int64_t ldb, bool add, float *c, int64_t ldc);

/* to [cols, rows] = scale * from [rows, cols]^T, rows ld_from and ld_to apart. */
void zs_tile_transpose(int64_t rows, int64_t cols, float scale, const float *from, int64_t ld_from, float *to,
                       int64_t ld_to);

#endif
