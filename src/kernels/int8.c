/* int8 weights: quantisation, and products with x quantised by blocks. */
#include "int8.h"

#include "zerosearch/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

int64_t zs_int8_bytes(int64_t n, int64_t k) {
    return (n + ZS_PANEL - 1) / ZS_PANEL * zs_int8_panel_bytes(k);
}

/* max |x| / 127, NaN if any is NaN or infinite. */
static float scale_of(int64_t count, const float *x) {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        finite &= isfinite(x[i]) != 0;
        most = fmaxf(most, fabsf(x[i]));
    }
    return finite ? most / 127 : NAN;
}

static int quantised(float x, float inverse) {
    return (int)rintf(x * inverse);
}

static float inverse_of(float scale) {
    return scale > 0 ? 1 / scale : 0; /* 0 for NaN */
}

static void quantize_panel(int64_t rows, int64_t k, const float *w, uint8_t *panel) {
    float *scales = (float *)(void *)(panel + ZS_PANEL * zs_int8_width(k));
    memset(panel, 128, (size_t)(ZS_PANEL * zs_int8_width(k)));
    for (int64_t o = 0; o < ZS_PANEL; o++) {
        scales[o] = o < rows ? scale_of(k, w + o * k) : 0;
        float inverse = inverse_of(scales[o]);
        for (int64_t p = 0; inverse != 0 && p < k; p++)
            panel[p / 4 * 64 + o * 4 + p % 4] = (uint8_t)(128 + quantised(w[o * k + p], inverse));
    }
}

void zs_quantize_int8(int64_t n, int64_t k, const float *w, uint8_t *to, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n; j += ZS_PANEL)
        quantize_panel(n - j < ZS_PANEL ? n - j : ZS_PANEL, k, w + j * k, to + j / ZS_PANEL * zs_int8_panel_bytes(k));
}

void zs_int8_row(int64_t k, const uint8_t *w, int64_t index, float *out) {
    const uint8_t *panel = w + index / ZS_PANEL * zs_int8_panel_bytes(k);
    int64_t o = index % ZS_PANEL;
    float scale;
    memcpy(&scale, panel + ZS_PANEL * zs_int8_width(k) + o * 4, sizeof scale);
    for (int64_t p = 0; p < k; p++)
        out[p] = scale * (float)(panel[p / 4 * 64 + o * 4 + p % 4] - 128);
}

void zs_gemm_nt_int8(int64_t m, int64_t n, int64_t k, const float *x, const uint8_t *w, float beta, float *y,
                     float *work, int threads) {
    (void)work;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t o = 0; o < n; o++) {
        const uint8_t *panel = w + o / ZS_PANEL * zs_int8_panel_bytes(k);
        float scale;
        memcpy(&scale, panel + ZS_PANEL * zs_int8_width(k) + o % ZS_PANEL * 4, sizeof scale);
        for (int64_t i = 0; i < m; i++) {
            float total = 0;
            for (int64_t b = 0; b < k; b += ZS_INT8_BLOCK) {
                int64_t count = k - b < ZS_INT8_BLOCK ? k - b : ZS_INT8_BLOCK;
                const float *block = x + i * k + b;
                float x_scale = scale_of(count, block), inverse = inverse_of(x_scale);
                int32_t sum = 0;
                for (int64_t p = 0; inverse != 0 && p < count; p++)
                    sum += quantised(block[p], inverse) *
                           (panel[(b + p) / 4 * 64 + o % ZS_PANEL * 4 + p % 4] - 128);
                total = fmaf(x_scale, (float)sum, total);
            }
            y[i * n + o] = beta == 0 ? scale * total : fmaf(beta, y[i * n + o], scale * total);
        }
    }
}
