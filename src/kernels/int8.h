/* The layout of int8 weights, private to src/kernels.
 *
 * A panel holds 16 rows: for every four k, 64 bytes (row 0: k .. k + 3), (row 1: k .. k + 3), ..., each
 * weight as q + 128; then the 16 scales in f32. Rows and k that are not there are q = 0 with scale 0. The
 * bias makes weights the unsigned operand of the dot-product instructions (VNNI's vpdpbusd); x is the signed
 * one, and a block's sum starts at -128 times the sum of its x, which takes the bias out again, exactly.
 *
 * x is cut into tiles of rows as for packed bf16 (packed.h). In a tile, for each block of 64 k: -128 times
 * the sum of each row's q (int32); for every four k, a word of each row; the scale of each row (f32). A word
 * is four int8, or where an instruction set has only products of 16 bits two words take its place, the second
 * after the first of all rows: (k, k + 2) and (k + 1, k + 3).
 *
 * A scale under the least normal number counts as 0, as do then the values: its inverse might overflow.
 *
 * Alternatives: scales for each block of a row, as llama.cpp's Q8_0 has them, would follow the weights better
 * but need a multiply for each block and row; x left in f32 would keep its precision but not the speed,
 * since a product with few rows is bound by multiply-adds from about 8 rows on. */
#ifndef ZEROSEARCH_KERNELS_INT8_H
#define ZEROSEARCH_KERNELS_INT8_H

#include "packed.h"

enum { ZS_INT8_BLOCK = 64 };

static inline int64_t zs_int8_width(int64_t k) { /* k, rounded up */
    return (k + ZS_INT8_BLOCK - 1) / ZS_INT8_BLOCK * ZS_INT8_BLOCK;
}

static inline int64_t zs_int8_panel_bytes(int64_t k) {
    return ZS_PANEL * zs_int8_width(k) + ZS_PANEL * (int64_t)sizeof(float);
}

static inline int64_t zs_int8_x_words(int words) { /* of a row of x in a block; words: of four k */
    return ZS_INT8_BLOCK / 4 * words + 2;
}

#endif
