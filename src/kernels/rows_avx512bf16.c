/* Strip kernels for AVX-512 with its dot product of bf16, which wants both sides in bf16: x is rounded. On
 * some processors it does twice what multiply-adds of f32 do (AMD's Zen 4 and later), on others half. */
#if defined(__AVX512BF16__)
#include <immintrin.h>
#define LANES 16
#define HELD  16
#define PAIRS
#include "rows_body.h"

#include "int8_body.h"
#include "packed_body.h"
const zs_row_kernels zs_rows_avx512bf16 = {"avx512bf16", strip_f32, strip_bf16, strip_packed,
                                           TILE_ROWS,    MOST_ROWS, true,       INT8_KERNELS};
#else
#include "rows.h"
const zs_row_kernels zs_rows_avx512bf16 = {.name = "avx512bf16", .rounds = true};
#endif
