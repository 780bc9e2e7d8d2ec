/* Products of a step by whichever kernel is faster for its rows. */
#include "internal.h"

#include "zerosearch/kernels.h"

void zs_row_gemm(int64_t m, int64_t n, int64_t k, const float *x, zs_matrix w, float beta, float *y,
                 float *work, int threads) {
    if (w.packed) {
        zs_gemm_nt_packed(m, n, k, x, w.bf16, beta, y, work, threads);
    } else if (w.int8) {
        zs_gemm_nt_int8(m, n, k, x, w.int8, beta, y, work, threads);
    } else if (m > (w.f32 ? ZS_ROWS_F32 : ZS_ROWS_BF16)) { /* measured: from here on packing pays */
        if (w.f32)
            zs_gemm_nt(m, n, k, x, w.f32, beta, y);
        else
            zs_gemm_nt_bf16(m, n, k, x, w.bf16, beta, y, work, threads);
    } else if (w.f32) {
        zs_gemm_nt_rows(m, n, k, x, w.f32, beta, y, threads);
    } else {
        zs_gemm_nt_rows_bf16(m, n, k, x, w.bf16, beta, y, threads);
    }
}
