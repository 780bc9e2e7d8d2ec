/* The packed layout of bf16 weights, private to src/kernels.
 *
 * A matrix [n, k] stands as n / 16 panels of 16 rows, panel after panel, and its last n % 16 rows after them
 * as they were. In a panel, for every two k, 64 bytes hold (row 0: k, k + 1), (row 1: k, k + 1), ...: one
 * 32-bit word a row, the even k in its low half. With odd k the last 16 numbers of a panel stand alone. So
 * the matrix takes the memory that it took, and a vector of words is widened by one shift and one mask.
 *
 * Rows of x are cut into tiles, each laid out [k, rows of the tile]; of m rows all tiles have as many, or one
 * less. Kernels that round (AVX-512 BF16) take a tile as [k / 2 rounded up, rows] words of two bf16, as the
 * panels hold them: one instruction then multiplies both and adds them to the sum. */
#ifndef ZEROSEARCH_KERNELS_PACKED_H
#define ZEROSEARCH_KERNELS_PACKED_H

#include <stdint.h>

enum { ZS_PANEL = 16 };

static inline int64_t zs_packed_tiles(int64_t m, int64_t most_rows) {
    return (m + most_rows - 1) / most_rows;
}

/* First row of tile `t`; of tile `tiles`, the end. */
static inline int64_t zs_packed_tile_begin(int64_t m, int64_t tiles, int64_t t) {
    int64_t more = m % tiles;
    return t * (m / tiles) + (t < more ? t : more);
}

#endif
