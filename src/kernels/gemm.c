/* GEMM by CBLAS, row-major. */
#include "zerosearch/kernels.h"

#include <cblas.h>

static void gemm(enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *y) {
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, ta, tb, (blasint)m, (blasint)n, (blasint)k, 1.0f, a, (blasint)lda, b,
                (blasint)ldb, beta, y, (blasint)n);
}

void zs_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float beta, float *y) {
    gemm(CblasNoTrans, CblasTrans, m, n, k, a, k, b, k, beta, y);
}

void zs_gemm_nn(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float beta, float *y) {
    gemm(CblasNoTrans, CblasNoTrans, m, n, k, a, k, b, n, beta, y);
}

void zs_gemm_tn(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float beta, float *y) {
    gemm(CblasTrans, CblasNoTrans, m, n, k, a, m, b, n, beta, y);
}
