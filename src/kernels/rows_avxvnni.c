/* Strip kernels for AVX2 with the dot product of int8 of processors that have no AVX-512, AVX-VNNI. */
#if defined(__AVXVNNI__)
#define LANES 8
#define HELD  4
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_avxvnni = {"avxvnni", strip_f32, strip_bf16, strip_packed,
                                        TILE_ROWS, MOST_ROWS, false,      INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_avxvnni = {.name = "avxvnni"};
#endif
