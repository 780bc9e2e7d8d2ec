/* Strip kernels in plain C: the twin of the others. */
#include "rows.h"

#include <string.h>

static float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float dot(int64_t k, const float *x, const float *w) {
    float sum[16] = {0};
    int64_t p = 0;
    for (; p + 16 <= k; p += 16)
        for (int lane = 0; lane < 16; lane++)
            sum[lane] += x[p + lane] * w[p + lane];
    for (int apart = 8; apart > 0; apart /= 2)
        for (int lane = 0; lane < apart; lane++)
            sum[lane] += sum[lane + apart];
    float total = sum[0];
    for (; p < k; p++)
        total += x[p] * w[p];
    return total;
}

/* The same with w in bf16. */
static float dot_bf16(int64_t k, const float *x, const uint16_t *w) {
    float sum[16] = {0};
    int64_t p = 0;
    for (; p + 16 <= k; p += 16)
        for (int lane = 0; lane < 16; lane++)
            sum[lane] += x[p + lane] * widen(w[p + lane]);
    for (int apart = 8; apart > 0; apart /= 2)
        for (int lane = 0; lane < apart; lane++)
            sum[lane] += sum[lane + apart];
    float total = sum[0];
    for (; p < k; p++)
        total += x[p] * widen(w[p]);
    return total;
}

static void put(float beta, float total, float *y) {
    *y = beta == 0 ? total : beta * *y + total;
}

static void strip_f32(int64_t m, int count, int64_t n, int64_t k, const float *x, const float *w, float beta,
                      float *y, float *work) {
    (void)work;
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < m; i++)
            put(beta, dot(k, x + i * k, w + j * k), y + i * n + j);
}

static void strip_bf16(int64_t m, int count, int64_t n, int64_t k, const float *x, const uint16_t *w,
                       float beta, float *y, float *work) {
    (void)work;
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < m; i++)
            put(beta, dot_bf16(k, x + i * k, w + j * k), y + i * n + j);
}

const zs_row_kernels zs_rows_plain = {"plain", strip_f32, strip_bf16};
