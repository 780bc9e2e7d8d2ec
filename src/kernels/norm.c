/* RMSNorm, bias and residual: the row-wise operations beside the GEMMs. */
#include "zerosearch/kernels.h"

#include <math.h>
#include <string.h>

/* Below this many elements a parallel region costs more than it saves. */
#define SERIAL_BELOW 32768
/* Columns that one thread sums at a time, so that a column sum has a fixed order on any number of threads. */
#define STRIPE 64

void zs_rmsnorm_forward(int64_t rows, int64_t d, double eps, const float *x, const float *weight, float *y,
                        float *inv_rms) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t t = 0; t < rows; t++) {
        const float *xt = x + t * d;
        float *yt = y + t * d;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < d; i++)
            sum += xt[i] * xt[i];
        float inv = (float)(1.0 / sqrt((double)sum / (double)d + eps));
        inv_rms[t] = inv;
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            yt[i] = xt[i] * inv * weight[i];
    }
}

void zs_rmsnorm_again(int64_t rows, int64_t d, const float *x, const float *weight, const float *inv_rms,
                      float *y) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t t = 0; t < rows; t++) {
        const float *xt = x + t * d;
        float *yt = y + t * d;
        float inv = inv_rms[t];
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            yt[i] = xt[i] * inv * weight[i];
    }
}

/* y_i = x_i r w_i with r = (mean x^2 + eps)^(-1/2), so dr/dx_j = -r^3 x_j / d and
 * dx_j = r w_j dy_j - r^3 x_j / d * sum_i(w_i dy_i x_i). */
void zs_rmsnorm_backward(int64_t rows, int64_t d, const float *x, const float *weight, const float *inv_rms,
                         const float *dy, float *dx, float *dweight) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t t = 0; t < rows; t++) {
        const float *xt = x + t * d, *dyt = dy + t * d;
        float *dxt = dx + t * d;
        float dot = 0, inv = inv_rms[t];
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < d; i++)
            dot += weight[i] * dyt[i] * xt[i];
        float back = dot * inv * inv * inv / (float)d;
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            dxt[i] += inv * weight[i] * dyt[i] - back * xt[i];
    }
    if (!dweight) return;
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t begin = 0; begin < d; begin += STRIPE) {
        int64_t width = d - begin < STRIPE ? d - begin : STRIPE;
        float sum[STRIPE] = {0};
        for (int64_t t = 0; t < rows; t++) {
            const float *xt = x + t * d + begin, *dyt = dy + t * d + begin;
            float inv = inv_rms[t];
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                sum[i] += dyt[i] * xt[i] * inv;
        }
        for (int64_t i = 0; i < width; i++)
            dweight[begin + i] += sum[i];
    }
}

void zs_bias_forward(int64_t rows, int64_t d, const float *bias, float *x) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t t = 0; t < rows; t++) {
        float *xt = x + t * d;
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            xt[i] += bias[i];
    }
}

void zs_bias_backward(int64_t rows, int64_t d, const float *dx, float *dbias) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t begin = 0; begin < d; begin += STRIPE) {
        int64_t width = d - begin < STRIPE ? d - begin : STRIPE;
        float sum[STRIPE] = {0};
        for (int64_t t = 0; t < rows; t++) {
            const float *dxt = dx + t * d + begin;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                sum[i] += dxt[i];
        }
        for (int64_t i = 0; i < width; i++)
            dbias[begin + i] += sum[i];
    }
}

void zs_embed_forward(int64_t rows, int64_t d, const int32_t *ids, const float *table, float *x) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t t = 0; t < rows; t++)
        memcpy(x + t * d, table + ids[t] * d, (size_t)d * sizeof(float));
}

/* Threads divide the columns, not the tokens: two tokens of one batch often share a row of the table. */
void zs_embed_backward(int64_t rows, int64_t d, const int32_t *ids, const float *dx, float *dtable) {
#pragma omp parallel for schedule(static) if (rows * d > SERIAL_BELOW)
    for (int64_t begin = 0; begin < d; begin += STRIPE) {
        int64_t width = d - begin < STRIPE ? d - begin : STRIPE;
        for (int64_t t = 0; t < rows; t++) {
            const float *dxt = dx + t * d + begin;
            float *out = dtable + ids[t] * d + begin;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                out[i] += dxt[i];
        }
    }
}
