/* int8 weights: quantisation, and products with x quantised by blocks. */
#include "int8.h"

#include "rows.h"
#include "zerosearch/kernels.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { STEPS = ZS_INT8_BLOCK / 4, STRIP_PANELS = 4 };

int64_t zs_int8_bytes(int64_t n, int64_t k) {
    return (n + ZS_PANEL - 1) / ZS_PANEL * zs_int8_panel_bytes(k);
}

/* max |x| / 127; NaN if any is NaN or infinite, 0 if it is too small to have an inverse. */
static float scale_of(const zs_int8_kernels *kernels, int64_t count, const float *x) {
    uint32_t bits = kernels->largest(count, x);
    float most;
    memcpy(&most, &bits, sizeof most);
    if (!isfinite(most)) return NAN;
    return most / 127 < FLT_MIN ? 0 : most / 127;
}

/* A block of `count` x by the scale as int8 in words of four k; zeros where x ends, and for a scale 0 or NaN.
 */
static void quantize_block(const zs_int8_kernels *kernels, int64_t count, const float *x, float scale,
                           int8_t to[ZS_INT8_BLOCK]) {
    float padded[ZS_INT8_BLOCK] = {0};
    if (!(scale > 0)) {
        memset(to, 0, ZS_INT8_BLOCK);
        return;
    }
    if (count < ZS_INT8_BLOCK) x = memcpy(padded, x, (size_t)count * sizeof *x);
    kernels->round(x, 1 / scale, to);
}

/* Weights. */

static int64_t at_most_block(int64_t count) {
    return count < ZS_INT8_BLOCK ? count : ZS_INT8_BLOCK;
}

static void quantize_panel(const zs_int8_kernels *kernels, int64_t rows, int64_t k, const float *w,
                           uint8_t *panel) {
    float scales[ZS_PANEL] = {0};
    for (int64_t o = 0; o < rows; o++)
        scales[o] = scale_of(kernels, k, w + o * k);
    for (int64_t p = 0; p < k; p += ZS_INT8_BLOCK)
        for (int64_t o = 0; o < ZS_PANEL; o++) {
            uint32_t words[STEPS];
            int8_t block[ZS_INT8_BLOCK];
            quantize_block(kernels, at_most_block(k - p), w + (o < rows ? o * k + p : 0), scales[o], block);
            memcpy(words, block, sizeof words);
            for (int64_t step = 0; step < STEPS; step++) {
                uint32_t biased = words[step] ^ 0x80808080u;
                memcpy(panel + ZS_PANEL * (p + 4 * step) + 4 * o, &biased, sizeof biased);
            }
        }
    memcpy(panel + ZS_PANEL * zs_int8_width(k), scales, sizeof scales);
}

void zs_quantize_int8(int64_t n, int64_t k, const float *w, uint8_t *to, int threads) {
    const zs_int8_kernels *kernels = &zs_kernels_chosen()->int8;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n; j += ZS_PANEL)
        quantize_panel(kernels, n - j < ZS_PANEL ? n - j : ZS_PANEL, k, w + j * k,
                       to + j / ZS_PANEL * zs_int8_panel_bytes(k));
}

void zs_int8_row(int64_t k, const uint8_t *w, int64_t index, float *out) {
    const uint8_t *panel = w + index / ZS_PANEL * zs_int8_panel_bytes(k);
    int64_t o = index % ZS_PANEL;
    float scale;
    memcpy(&scale, panel + ZS_PANEL * zs_int8_width(k) + o * 4, sizeof scale);
    for (int64_t p = 0; p < k; p++) {
        int q = panel[p / 4 * 64 + o * 4 + p % 4] - 128;
        out[p] = scale * (float)q;
    }
}

/* Products. */

static int32_t sum_of(const int8_t *q) {
    int32_t sum = 0;
    for (int i = 0; i < ZS_INT8_BLOCK; i++)
        sum += q[i];
    return sum;
}

/* Block b of a row of x into place i of its tile of nx rows. */
static void lay_out(const zs_int8_kernels *kernels, int64_t nx, int64_t i, int64_t k, int64_t b,
                    const float *x, int32_t *x_tile) {
    int64_t count = at_most_block(k - b * ZS_INT8_BLOCK);
    int8_t q[ZS_INT8_BLOCK];
    x += b * ZS_INT8_BLOCK;
    float scale = scale_of(kernels, count, x);
    quantize_block(kernels, count, x, scale, q);
    int32_t *to = x_tile + b * nx * zs_int8_x_words(kernels->words) + i, words[STEPS], scale_bits;
    memcpy(words, q, sizeof words);
    memcpy(&scale_bits, &scale, sizeof scale);
    *to = -128 * sum_of(q);
    to += nx;
    for (int step = 0; step < STEPS; step++, to += nx * kernels->words) {
        if (kernels->words == 1) {
            *to = words[step];
        } else {
            const int8_t *four = q + 4 * step;
            to[0] = (int32_t)((uint32_t)four[2] << 16 | (uint16_t)four[0]);
            to[nx] = (int32_t)((uint32_t)four[3] << 16 | (uint16_t)four[1]);
        }
    }
    *to = scale_bits;
}

/* Rows of x that have room in `tiles` together. A turn is a strip of panels with all tiles of x, or where
 * there are more threads than strips, with some of them; each tile's turn fetches its share of the next
 * strip. */
static void multiply_rows(int64_t m, int64_t n, int64_t k, const float *x, const uint8_t *w, float beta,
                          float *y, int32_t *tiles, int threads) {
    const zs_int8_kernels *kernels = &zs_kernels_chosen()->int8;
    int64_t blocks = zs_int8_width(k) / ZS_INT8_BLOCK, row = blocks * zs_int8_x_words(kernels->words);
    int64_t panel = zs_int8_panel_bytes(k), panels = (n + ZS_PANEL - 1) / ZS_PANEL;
    int64_t count = zs_packed_tiles(m, kernels->rows);
    int64_t strip = panels <= threads                                      ? 1
                    : m / count > 5 || panels < 2 * STRIP_PANELS * threads ? 2
                                                                           : STRIP_PANELS;
    int64_t strips = (panels + strip - 1) / strip, parts = strips < threads ? threads / strips : 1;
    parts = parts < count ? parts : count;
#pragma omp parallel num_threads(threads) if (threads > 1 && n * k > 100000)
    {
#pragma omp for schedule(static)
        for (int64_t c = 0; c < count * blocks; c++) {
            int64_t t = c / blocks, begin = zs_packed_tile_begin(m, count, t);
            int64_t nx = zs_packed_tile_begin(m, count, t + 1) - begin;
            for (int64_t i = 0; i < nx; i++)
                lay_out(kernels, nx, i, k, c % blocks, x + (begin + i) * k, tiles + begin * row);
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < strips * parts; c++) {
            int64_t j = c / parts * strip, first = zs_packed_tile_begin(count, parts, c % parts);
            int64_t last = zs_packed_tile_begin(count, parts, c % parts + 1), columns = n - j * ZS_PANEL;
            columns = columns < strip * ZS_PANEL ? columns : strip * ZS_PANEL;
            for (int64_t t = first; t < last; t++) {
                int64_t begin = zs_packed_tile_begin(m, count, t);
                zs_int8_sizes sizes = {n, blocks, panel, beta, t - first, last - first, strip * panel};
                kernels->tile((int)(zs_packed_tile_begin(m, count, t + 1) - begin), (int)columns, &sizes,
                              tiles + begin * row, w + j * panel, y + begin * n + j * ZS_PANEL);
            }
        }
    }
}

/* One row of x with a panel, x quantised meanwhile: for rows so long that not one has room. */
static void multiply_panel(const zs_int8_kernels *kernels, int64_t columns, int64_t k, const float *x,
                           const uint8_t *w, float beta, float *y) {
    float sum[ZS_PANEL] = {0}, scales[ZS_PANEL];
    for (int64_t p = 0; p < k; p += ZS_INT8_BLOCK) {
        int8_t q[ZS_INT8_BLOCK];
        float scale = scale_of(kernels, at_most_block(k - p), x + p);
        quantize_block(kernels, at_most_block(k - p), x + p, scale, q);
        for (int o = 0; o < ZS_PANEL; o++) {
            int32_t acc = -128 * sum_of(q);
            for (int i = 0; i < ZS_INT8_BLOCK; i++)
                acc += q[i] * w[ZS_PANEL * (p + i / 4 * 4) + 4 * o + i % 4];
            sum[o] = fmaf(scale, (float)acc, sum[o]);
        }
    }
    memcpy(scales, w + ZS_PANEL * zs_int8_width(k), sizeof scales);
    for (int64_t o = 0; o < columns; o++)
        y[o] = beta == 0 ? scales[o] * sum[o] : fmaf(beta, y[o], scales[o] * sum[o]);
}

static void multiply_long(int64_t m, int64_t n, int64_t k, const float *x, const uint8_t *w, float beta,
                          float *y, int threads) {
    const zs_int8_kernels *kernels = &zs_kernels_chosen()->int8;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t j = 0; j < n; j += ZS_PANEL)
        for (int64_t i = 0; i < m; i++)
            multiply_panel(kernels, n - j < ZS_PANEL ? n - j : ZS_PANEL, k, x + i * k,
                           w + j / ZS_PANEL * zs_int8_panel_bytes(k), beta, y + i * n + j);
}

void zs_gemm_nt_int8(int64_t m, int64_t n, int64_t k, const float *x, const uint8_t *w, float beta, float *y,
                     float *work, int threads) {
    int64_t row = zs_int8_width(k) / ZS_INT8_BLOCK * zs_int8_x_words(zs_kernels_chosen()->int8.words);
    int64_t room = threads * zs_gemm_bf16_work() / row;
    if (room == 0) {
        multiply_long(m, n, k, x, w, beta, y, threads);
        return;
    }
    int64_t pieces = zs_packed_tiles(m, room);
    for (int64_t c = 0; c < pieces; c++) {
        int64_t i = zs_packed_tile_begin(m, pieces, c);
        multiply_rows(zs_packed_tile_begin(m, pieces, c + 1) - i, n, k, x + i * k, w, beta, y + i * n,
                      (int32_t *)(void *)work, threads);
    }
}
