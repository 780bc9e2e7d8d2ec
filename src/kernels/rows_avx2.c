/* Strip kernels for AVX2 and FMA. */
#if defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define HELD  4
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_avx2 = {"avx2",    strip_f32, strip_bf16, strip_packed,
                                     TILE_ROWS, MOST_ROWS, false,      INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_avx2 = {.name = "avx2"};
#endif
