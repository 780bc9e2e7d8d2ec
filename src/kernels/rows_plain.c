/* Strip kernels in plain C: the twin of the others. */
#include "int8.h"
#include "packed.h"
#include "rows.h"

#include <math.h>
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

/* One row of x with one panel of int8 weights; `columns` of its rows are there. */
static void int8_row(int nx, int columns, const zs_int8_sizes *sizes, const int32_t *x, const uint8_t *w,
                     float *y) {
    float sum[ZS_PANEL] = {0}, scales[ZS_PANEL], x_scale;
    for (int64_t b = 0; b < sizes->blocks; b++) {
        int32_t acc[ZS_PANEL];
        for (int o = 0; o < ZS_PANEL; o++)
            acc[o] = *x;
        x += nx;
        for (int step = 0; step < ZS_INT8_BLOCK / 4; step++, x += nx, w += 4 * ZS_PANEL) {
            int8_t four[4];
            memcpy(four, x, sizeof four);
            for (int o = 0; o < ZS_PANEL; o++)
                for (int byte = 0; byte < 4; byte++)
                    acc[o] += w[4 * o + byte] * four[byte];
        }
        memcpy(&x_scale, x, sizeof x_scale);
        x += nx;
        for (int o = 0; o < ZS_PANEL; o++)
            sum[o] = fmaf(x_scale, (float)acc[o], sum[o]);
    }
    memcpy(scales, w, sizeof scales);
    for (int o = 0; o < columns && o < ZS_PANEL; o++)
        y[o] = sizes->beta == 0 ? scales[o] * sum[o] : fmaf(sizes->beta, y[o], scales[o] * sum[o]);
}

static void tile_int8(int rows, int columns, const zs_int8_sizes *sizes, const int32_t *x_tile,
                      const uint8_t *w, float *y) {
    for (int j = 0; j < columns; j += ZS_PANEL, w += sizes->panel)
        for (int i = 0; i < rows; i++)
            int8_row(rows, columns - j, sizes, x_tile + i, w, y + i * sizes->n + j);
}

static uint32_t largest_bits(int64_t count, const float *x) {
    uint32_t most = 0, bits;
    for (int64_t i = 0; i < count; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

static void round_block(const float *x, float inverse, int8_t *to) {
    for (int i = 0; i < ZS_INT8_BLOCK; i++)
        to[i] = (int8_t)rintf(x[i] * inverse);
}

const zs_row_kernels zs_rows_plain = {
    "plain",   strip_f32, strip_bf16, strip_packed,
    TILE_ROWS, MOST_ROWS, false,      {tile_int8, largest_bits, round_block, TILE_ROWS, 1}};
