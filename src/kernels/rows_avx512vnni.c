/* Strip kernels for AVX-512 with its dot product of int8, VNNI (Intel's Cascade Lake and AMD's Zen 4 and
 * later): f32 and bf16 as without it. */
#if defined(__AVX512VNNI__)
#define LANES 16
#define HELD  16
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_avx512vnni = {"avx512vnni", strip_f32, strip_bf16, strip_packed,
                                           TILE_ROWS,    MOST_ROWS, false,      INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_avx512vnni = {.name = "avx512vnni"};
#endif
