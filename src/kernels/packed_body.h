/* The kernel for packed bf16 weights (packed.h) for one instruction set. Its file includes rows_body.h first.
 *
 * An outer product: a line of weights becomes two vectors for each 16 outputs by a shift and a mask, and each
 * meets every row of x in registers, so that there is no sum over lanes at the end and x is read once for
 * all the outputs of a tile. */
#include "packed.h"

/* Rows of a tile and its panels: as many sums as registers hold beside weights and a number of x. */
#if LANES == 16
#define TILE_ROWS    12
#define MOST_ROWS    INT64_MAX
#define PANELS(rows) ((rows) > 5 ? 2 : 4)
#else
#define TILE_ROWS    6
#define MOST_ROWS    64
#define PANELS(rows) ((rows) > 3 ? 1 : 2)
#endif

typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

/* The last number of row i where k is odd. */
static inline float last_of_row(const float *x_tile, int64_t p, int nx, int i) {
#ifdef PAIRS
    uint32_t bits;
    memcpy(&bits, x_tile + p / 2 * nx + i, sizeof bits);
    bits <<= 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#else
    return x_tile[p * nx + i];
#endif
}

#ifdef PAIRS
/* Two k's of each panel and of each row of x. */
static inline __attribute__((always_inline)) void add_pairs(const int nx, const int panels, int64_t panel,
                                                            const float *x_pairs, const uint16_t *w,
                                                            lanes *sum) {
    __m512bh pairs[4];
#pragma GCC unroll 4
    for (int j = 0; j < panels; j++)
        pairs[j] = (__m512bh)_mm512_loadu_si512(w + j * panel);
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++) {
        __m512bh x = (__m512bh)_mm512_set1_ps(x_pairs[i]);
#pragma GCC unroll 4
        for (int j = 0; j < panels; j++)
            sum[i * panels + j] = (lanes)_mm512_dpbf16_ps((__m512)sum[i * panels + j], x, pairs[j]);
    }
}
#endif

/* y [nx, 16 panels] (rows n apart) for `nx` rows of x, tiled as x_tile [k, nx]; nx and panels are constants
 * at each call. `fetch`: the panels after these are wanted soon. */
static inline __attribute__((always_inline)) void packed_tile(const int nx, const int panels, bool fetch,
                                                              int64_t n, int64_t k, const float *x_tile,
                                                              const uint16_t *w, float beta, float *y) {
    const int64_t panel = ZS_PANEL * k;
    lanes sum[4 * TILE_ROWS * PARTS];
#pragma GCC unroll 64
    for (int i = 0; i < nx * panels * PARTS; i++)
        sum[i] = (lanes){0};
    int64_t p = 0;
    for (; p + 2 <= k; p += 2) {
        if (fetch)
#pragma GCC unroll 4
            for (int j = 0; j < panels; j++)
                __builtin_prefetch(w + (j + panels) * panel + p * ZS_PANEL, 0, 2);
#ifdef PAIRS
        add_pairs(nx, panels, panel, x_tile + p / 2 * nx, w + p * ZS_PANEL, sum);
#else
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            lanes even[4], odd[4];
#pragma GCC unroll 4
            for (int j = 0; j < panels; j++) {
                words pairs = *(const words *)(w + j * panel + p * ZS_PANEL + part * 2 * LANES);
                even[j] = (lanes)(pairs << 16);
                odd[j] = (lanes)(pairs & 0xffff0000u);
            }
#pragma GCC unroll 16
            for (int i = 0; i < nx; i++)
#pragma GCC unroll 4
                for (int j = 0; j < panels; j++)
                    sum[(i * panels + j) * PARTS + part] += x_tile[p * nx + i] * even[j];
#pragma GCC unroll 16
            for (int i = 0; i < nx; i++)
#pragma GCC unroll 4
                for (int j = 0; j < panels; j++)
                    sum[(i * panels + j) * PARTS + part] += x_tile[(p + 1) * nx + i] * odd[j];
        }
#endif
    }
    if (p < k)
#pragma GCC unroll 4
        for (int j = 0; j < panels; j++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                lanes last = weights(true, (const char *)(w + j * panel + p * ZS_PANEL), part * LANES);
#pragma GCC unroll 16
                for (int i = 0; i < nx; i++)
                    sum[(i * panels + j) * PARTS + part] += last_of_row(x_tile, p, nx, i) * last;
            }
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++)
#pragma GCC unroll 16
        for (int v = 0; v < panels * PARTS; v++) {
            lanes *to = (lanes *)(y + i * n + v * LANES);
            if (beta != 0) sum[i * panels * PARTS + v] += beta * *to;
            *to = sum[i * panels * PARTS + v];
        }
}

/* One row tile with `count` panels. */
static inline __attribute__((always_inline)) void packed_rows(const int nx, int count, bool fetch, int64_t n,
                                                              int64_t k, const float *x_tile,
                                                              const uint16_t *w, float beta, float *y) {
    int j = 0;
    for (; j + PANELS(nx) <= count; j += PANELS(nx))
        packed_tile(nx, PANELS(nx), fetch, n, k, x_tile, w + j * ZS_PANEL * k, beta, y + j * ZS_PANEL);
    for (; j < count; j++)
        packed_tile(nx, 1, fetch, n, k, x_tile, w + j * ZS_PANEL * k, beta, y + j * ZS_PANEL);
}

static void strip_packed(int64_t m, int count, int64_t n, int64_t k, const float *x_tiles, const uint16_t *w,
                         float beta, float *y) {
    int64_t tiles = zs_packed_tiles(m, TILE_ROWS);
    for (int64_t t = 0; t < tiles; t++) {
        int64_t begin = zs_packed_tile_begin(m, tiles, t);
        const float *x_tile = x_tiles + begin * k;
        float *to = y + begin * n;
        switch (zs_packed_tile_begin(m, tiles, t + 1) - begin) {
#define CASE(rows)                                                                                           \
    case rows:                                                                                               \
        packed_rows(rows, count, t == 0, n, k, x_tile, w, beta, to);                                         \
        break;
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
#if TILE_ROWS == 12
            CASE(7)
            CASE(8)
            CASE(9)
            CASE(10)
            CASE(11)
            CASE(12)
#endif
#undef CASE
        }
    }
}
