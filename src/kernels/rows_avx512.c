/* Strip kernels for AVX-512. */
#if defined(__AVX512F__)
#define LANES 16
#define HELD  16
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_avx512 = {"avx512",  strip_f32, strip_bf16, strip_packed,
                                       TILE_ROWS, MOST_ROWS, false,      INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_avx512 = {.name = "avx512"};
#endif
