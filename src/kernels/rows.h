/* Products for few rows of x (rows_body.h), built once for each instruction set; private to src/kernels.
 *
 * Every result is summed in one order, whatever the tile and the other rows: element p of a row into running
 * sum p mod 16 from the first on, each a chain of multiply-adds; the sixteen are folded at distances 8, 4, 2
 * and 1; the last k mod 16 elements follow one by one. */
#ifndef ZEROSEARCH_KERNELS_ROWS_H
#define ZEROSEARCH_KERNELS_ROWS_H

#include <stdbool.h>
#include <stdint.h>

/* A strip: y [m, count] (rows n apart) = beta y + x [m, k] w [count, k]^T, count <= ZS_STRIP.
 */
enum { ZS_STRIP = 16 };
typedef void zs_strip_f32(int64_t m, int count, int64_t n, int64_t k, const float *x, const float *w,
                          float beta, float *y);
typedef void zs_strip_bf16(int64_t m, int count, int64_t n, int64_t k, const float *x, const uint16_t *w,
                           float beta, float *y);

/* A strip of packed weights (packed.h): y [m, 16 count] (rows n apart) = beta y + x w^T with `count` panels
 * of w; x lies in tiles of up to packed_rows rows. Every result is one chain of multiply-adds in the order of
 * k; where the kernels round, of dot products of two (packed.h). */
typedef void zs_strip_packed(int64_t m, int count, int64_t n, int64_t k, const float *x_tiles,
                             const uint16_t *w, float beta, float *y);

/* int8 weights (int8.h): y [rows, columns] (rows n apart) = beta y + x w^T for one tile of x. */
typedef struct zs_int8_sizes {
    int64_t n, blocks; /* of k */
    int64_t panel;     /* bytes of one */
    float beta;
    int64_t turn, turns, ahead; /* blocks turn, turn + turns, ...: fetch the weights `ahead` bytes on */
} zs_int8_sizes;
typedef void zs_tile_int8(int rows, int columns, const zs_int8_sizes *sizes, const int32_t *x_tile,
                          const uint8_t *w, float *y);
/* The bits of the largest |x|; those of NaN are above those of infinity. */
typedef uint32_t zs_largest_bits(int64_t count, const float *x);
/* Of 64 x: x inverse to the nearest integers, to even where two are as near; |x inverse| < 127.5. */
typedef void zs_round_block(const float *x, float inverse, int8_t *to);

typedef struct zs_int8_kernels {
    zs_tile_int8 *tile;
    zs_largest_bits *largest;
    zs_round_block *round;
    int rows;  /* of a tile, at most */
    int words; /* of four k of a row of x: 1, or 2 in pairs of 16 bits */
} zs_int8_kernels;

typedef struct zs_row_kernels {
    const char *name;
    zs_strip_f32 *f32;   /* NULL: not built for this architecture */
    zs_strip_bf16 *bf16; /* weights widened exactly: the bits of f32 weights of those values */
    zs_strip_packed *packed;
    int packed_rows;
    int64_t
        packed_most; /* rows of x from which on widening for BLAS is faster, as measured; INT64_MAX: never */
    bool rounds;     /* `packed` takes x rounded to bf16, in pairs: never chosen unless it is named */
    zs_int8_kernels int8;
} zs_row_kernels;

const zs_row_kernels *zs_kernels_chosen(void);

extern const zs_row_kernels zs_rows_avx512bf16, zs_rows_avx512vnni, zs_rows_avx512, zs_rows_avxvnni,
    zs_rows_avx2, zs_rows_vector, zs_rows_plain;

#endif
