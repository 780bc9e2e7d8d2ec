/* Strip kernels in plain C: the twin of the others. */
#include "packed.h"
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
                      float *y) {
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < m; i++)
            put(beta, dot(k, x + i * k, w + j * k), y + i * n + j);
}

static void strip_bf16(int64_t m, int count, int64_t n, int64_t k, const float *x, const uint16_t *w,
                       float beta, float *y) {
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < m; i++)
            put(beta, dot_bf16(k, x + i * k, w + j * k), y + i * n + j);
}

/* One row of x with one panel. */
static void panel_row(int nx, int64_t k, const float *x, const uint16_t *w, float beta, float *y) {
    float sum[ZS_PANEL] = {0};
    int64_t p = 0;
    for (; p + 2 <= k; p += 2)
        for (int o = 0; o < ZS_PANEL; o++) {
            uint32_t pair, bits[2];
            memcpy(&pair, w + p * ZS_PANEL + 2 * o, sizeof pair);
            bits[0] = pair << 16;
            bits[1] = pair & 0xffff0000u;
            float both[2];
            memcpy(both, bits, sizeof both);
            sum[o] += x[p * nx] * both[0];
            sum[o] += x[(p + 1) * nx] * both[1];
        }
    for (int o = 0; o < ZS_PANEL; o++) {
        if (p < k) sum[o] += x[p * nx] * widen(w[p * ZS_PANEL + o]);
        put(beta, sum[o], y + o);
    }
}

enum { TILE_ROWS = 4, MOST_ROWS = 16 };

static void strip_packed(int64_t m, int count, int64_t n, int64_t k, const float *x_tiles, const uint16_t *w,
                         float beta, float *y) {
    int64_t tiles = zs_packed_tiles(m, TILE_ROWS);
    for (int64_t j = 0; j < count; j++)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t begin = zs_packed_tile_begin(m, tiles, t);
            int nx = (int)(zs_packed_tile_begin(m, tiles, t + 1) - begin);
            for (int i = 0; i < nx; i++)
                panel_row(nx, k, x_tiles + begin * k + i, w + j * ZS_PANEL * k, beta,
                          y + (begin + i) * n + j * ZS_PANEL);
        }
}

const zs_row_kernels zs_rows_plain = {"plain",   strip_f32, strip_bf16, strip_packed,
                                      TILE_ROWS, MOST_ROWS, false};
