/* Strip kernels for the vectors of other architectures, which the compiler knows (NEON, VSX, SVE). */
#if !defined(__x86_64__)
#define LANES 4
#define HELD  4
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_vector = {"vector",  strip_f32, strip_bf16, strip_packed,
                                       TILE_ROWS, MOST_ROWS, false,      INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_vector = {.name = "vector"};
#endif
