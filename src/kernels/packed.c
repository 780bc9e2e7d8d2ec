/* Packed bf16 weights: the packing, and products with few rows of x. */
#include "packed.h"

#include "rows.h"
#include "zerosearch/kernels.h"

#include <omp.h>
#include <stdbool.h>
#include <string.h>

int64_t zs_pack_bf16_work(int64_t k) {
    return ZS_PANEL * k;
}

static void pack_panel(int64_t k, uint16_t *panel, uint16_t *rows) {
    memcpy(rows, panel, (size_t)(ZS_PANEL * k) * sizeof *rows);
    int64_t p = 0;
    for (; p + 2 <= k; p += 2)
        for (int64_t o = 0; o < ZS_PANEL; o++) {
            uint32_t pair = rows[o * k + p] | (uint32_t)rows[o * k + p + 1] << 16;
            memcpy(panel + p * ZS_PANEL + 2 * o, &pair, sizeof pair);
        }
    for (int64_t o = 0; p < k && o < ZS_PANEL; o++)
        panel[p * ZS_PANEL + o] = rows[o * k + p];
}

void zs_pack_bf16(int64_t n, int64_t k, uint16_t *w, uint16_t *work, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n * k > 100000)
    for (int64_t j = 0; j < n / ZS_PANEL; j++)
        pack_panel(k, w + j * ZS_PANEL * k, work + omp_get_thread_num() * zs_pack_bf16_work(k));
}

void zs_packed_row(int64_t n, int64_t k, const uint16_t *w, int64_t index, float *out) {
    if (index >= n / ZS_PANEL * ZS_PANEL) {
        zs_widen_bf16(k, w + index * k, out);
        return;
    }
    const uint16_t *panel = w + index / ZS_PANEL * ZS_PANEL * k;
    int64_t o = index % ZS_PANEL, p = 0;
    for (; p + 2 <= k; p += 2) {
        uint32_t pair, bits[2];
        memcpy(&pair, panel + p * ZS_PANEL + 2 * o, sizeof pair);
        bits[0] = pair << 16;
        bits[1] = pair & 0xffff0000u;
        memcpy(out + p, bits, sizeof bits);
    }
    if (p < k) zs_widen_bf16(1, panel + p * ZS_PANEL + o, out + p);
}

enum { COLUMNS = 128, STRIP_PANELS = 4 }; /* a thread's turn in laying out x, and in the product */

/* Columns [begin, end) of a tile of nx rows. */
static void lay_out(int64_t nx, int64_t k, int64_t begin, int64_t end, const float *x, float *x_tile) {
    for (int64_t i = 0; i < nx; i++)
        for (int64_t p = begin; p < end; p++)
            x_tile[p * nx + i] = x[i * k + p];
}

/* To nearest even; NaN stays NaN. */
static uint32_t round_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return nan ? bits >> 16 | 0x40 : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

/* The same as pairs of rounded numbers; begin is even. */
static void lay_out_pairs(int64_t nx, int64_t k, int64_t begin, int64_t end, const float *x, float *x_tile) {
    for (int64_t i = 0; i < nx; i++)
        for (int64_t p = begin; p < end; p += 2) {
            uint32_t pair = round_bf16(x[i * k + p]);
            if (p + 1 < k) pair |= round_bf16(x[i * k + p + 1]) << 16;
            memcpy(x_tile + p / 2 * nx + i, &pair, sizeof pair);
        }
}

/* `tiles`: room for x. */
static void few_rows(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, float beta, float *y,
                     float *tiles, int threads) {
    const zs_row_kernels *kernels = zs_kernels_chosen();
    int64_t count = zs_packed_tiles(m, kernels->packed_rows), panels = n / ZS_PANEL;
    int64_t columns = (k + COLUMNS - 1) / COLUMNS, end = panels * ZS_PANEL;
    int64_t strip = m / count > 5 ? 2 : STRIP_PANELS;
    bool as_it_is = m == 1 && !kernels->rounds;
#pragma omp parallel num_threads(threads) if (threads > 1 && n * k > 100000)
    {
        if (!as_it_is) {
#pragma omp for schedule(static)
            for (int64_t c = 0; c < count * columns; c++) {
                int64_t t = c / columns, p = c % columns * COLUMNS, row = zs_packed_tile_begin(m, count, t);
                (kernels->rounds ? lay_out_pairs : lay_out)(zs_packed_tile_begin(m, count, t + 1) - row, k, p,
                                                            p + COLUMNS < k ? p + COLUMNS : k, x + row * k,
                                                            tiles + row * k);
            }
        }
#pragma omp for schedule(static)
        for (int64_t j = 0; j < panels; j += strip)
            kernels->packed(m, (int)(panels - j < strip ? panels - j : strip), n, k, as_it_is ? x : tiles,
                            w + j * ZS_PANEL * k, beta, y + j * ZS_PANEL);
    }
    if (end < n) /* as they were: by the kernel for rows, whose strips are 16 wide */
        kernels->bf16(m, (int)(n - end), n, k, x, w + end * k, beta, y + end);
}

void zs_gemm_nt_packed(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, float beta,
                       float *y, float *work, int threads) {
    if (m > zs_kernels_chosen()->packed_most) {
        zs_gemm_nt_packed_blas(m, n, k, x, w, beta, y, work, threads);
        return;
    }
    int64_t room = threads * zs_gemm_bf16_work() / k;
    room = room < 1 ? 1 : room;
    for (int64_t i = 0; i < m; i += room)
        few_rows(m - i < room ? m - i : room, n, k, x + i * k, w, beta, y + i * n, work, threads);
}
