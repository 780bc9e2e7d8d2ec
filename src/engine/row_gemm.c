/* y = x w^T for few rows of x, where a BLAS spends its time packing w: w streams once from memory, each of
 * its rows meets up to four rows of x in registers. */
#include "internal.h"

#include "zerosearch/kernels.h"

#define FEW_ROWS 8
#define W_ROWS   4

/* W_ROWS rows of w with `mx` rows of x; mx is a constant at each call. */
static inline __attribute__((always_inline)) void tile(const int mx, const int nw, int64_t n, int64_t k,
                                                       const float *x, const float *w, float beta, float *y) {
    zs_v16 sum[W_ROWS][4];
    for (int j = 0; j < nw; j++)
        for (int i = 0; i < mx; i++)
            sum[j][i] = (zs_v16){0};
    int64_t p = 0;
    for (; p + ZS_LANES <= k; p += ZS_LANES) {
        zs_v16 xv[4];
        for (int i = 0; i < mx; i++)
            memcpy(&xv[i], x + i * k + p, sizeof xv[i]);
        for (int j = 0; j < nw; j++) {
            zs_v16 wv;
            memcpy(&wv, w + j * k + p, sizeof wv);
            for (int i = 0; i < mx; i++)
                sum[j][i] += xv[i] * wv;
        }
    }
    for (int j = 0; j < nw; j++)
        for (int i = 0; i < mx; i++) {
            float s = zs_v16_sum(sum[j][i]);
            for (int64_t q = p; q < k; q++)
                s += x[i * k + q] * w[j * k + q];
            float *out = y + i * n + j;
            *out = beta == 0 ? s : s + beta * *out;
        }
}

static void tile_rows(int64_t m, const int nw, int64_t n, int64_t k, const float *x, const float *w,
                      float beta, float *y) {
    for (int64_t i = 0; i < m; i += 4) {
        int64_t left = m - i;
        const float *xi = x + i * k;
        float *yi = y + i * n;
        if (nw == W_ROWS && left >= 4)
            tile(4, W_ROWS, n, k, xi, w, beta, yi);
        else if (nw == W_ROWS && left == 3)
            tile(3, W_ROWS, n, k, xi, w, beta, yi);
        else if (nw == W_ROWS && left == 2)
            tile(2, W_ROWS, n, k, xi, w, beta, yi);
        else if (nw == W_ROWS)
            tile(1, W_ROWS, n, k, xi, w, beta, yi);
        else
            for (int64_t r = 0; r < left && r < 4; r++)
                for (int j = 0; j < nw; j++)
                    tile(1, 1, n, k, xi + r * k, w + j * k, beta, yi + r * n + j);
    }
}

void zs_row_gemm(int64_t m, int64_t n, int64_t k, const float *x, const float *w, float beta, float *y,
                 int threads) {
    if (m > FEW_ROWS) {
        zs_gemm_nt(m, n, k, x, w, beta, y);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n; j += W_ROWS)
        tile_rows(m, (int)(n - j < W_ROWS ? n - j : W_ROWS), n, k, x, w + j * k, beta, y + j);
}
