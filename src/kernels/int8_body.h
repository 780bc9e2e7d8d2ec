/* The kernels for int8 weights (int8.h) for one instruction set. Its file includes rows_body.h first.
 *
 * An outer product, as for packed bf16 (packed_body.h), with four k at a time: a line of weights meets a word
 * of each row of x, and a block's integer sums stay in registers. They are the same on every instruction set,
 * and the f32 sums that blocks are added to follow by fused multiply-adds, so that all give the same bits. */
#include "int8.h"
#include "rows.h"

#include <math.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Rows of a tile and its panels: as many sums as registers hold beside weights and a word of x. */
#if LANES == 16
#define INT8_ROWS         12
#define INT8_PANELS(rows) ((rows) > 5 ? 2 : 4)
#else
#define INT8_ROWS         6
#define INT8_PANELS(rows) ((rows) > 3 ? 1 : 2)
#endif

/* Words that a row of x takes for four k: one of bytes (k .. k + 3), or where there is only a product of
 * pairs of 16 bits, two: (k, k + 2) and (k + 1, k + 3). */
#if (LANES == 16 && defined(__AVX512VNNI__)) || (LANES == 8 && defined(__AVXVNNI__)) || LANES == 4
#define INT8_WORDS 1
#else
#define INT8_WORDS 2
#endif

static inline ints spread(int32_t word) {
#if LANES == 16
    return (ints)_mm512_set1_epi32(word);
#elif LANES == 8
    return (ints)_mm256_set1_epi32(word);
#else
    return (ints){0} + word;
#endif
}

static inline lanes fused(lanes a, lanes b, lanes c) {
#if LANES == 16
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8
    return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int i = 0; i < LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

/* The weights of a line as the products want them. */
typedef struct int8_line {
    ints part[INT8_WORDS];
} int8_line;

static inline __attribute__((always_inline)) int8_line load_line(const uint8_t *w) {
    ints line = *(const ints *)w;
#if INT8_WORDS == 1
    return (int8_line){{line}};
#elif LANES == 16
    __m512i even = _mm512_and_si512((__m512i)line, _mm512_set1_epi16(255));
    return (int8_line){{(ints)even, (ints)_mm512_srli_epi16((__m512i)line, 8)}};
#else
    __m256i even = _mm256_and_si256((__m256i)line, _mm256_set1_epi16(255));
    return (int8_line){{(ints)even, (ints)_mm256_srli_epi16((__m256i)line, 8)}};
#endif
}

/* acc + products of weights (part `part` of their line) with a word of x, spread. */
static inline __attribute__((always_inline)) ints add_products(ints acc, ints w, ints x) {
#if LANES == 16 && INT8_WORDS == 1
    return (ints)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
#elif LANES == 16
    return acc + (ints)_mm512_madd_epi16((__m512i)w, (__m512i)x);
#elif LANES == 8 && INT8_WORDS == 1
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)x);
#elif LANES == 8
    return acc + (ints)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#else
#pragma GCC unroll 4
    for (int byte = 0; byte < 4; byte++)
        acc += (w >> 8 * byte & 255) * (x << (24 - 8 * byte) >> 24);
    return acc;
#endif
}

/* Adds a block to sum [nx, panels, 16]; nx and panels are constants at each call. `x`: corrections, words,
 * scales of the rows (int8.h). What lies `ahead` bytes on is wanted soon. */
static inline __attribute__((always_inline)) void add_block(const int nx, const int panels, int64_t panel,
                                                            int64_t ahead, const int32_t *x, const uint8_t *w,
                                                            lanes *sum) {
    ints acc[4 * INT8_ROWS * PARTS];
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++)
#pragma GCC unroll 16
        for (int v = 0; v < panels * PARTS; v++)
            acc[i * panels * PARTS + v] = spread(x[i]);
    x += nx;
    for (int step = 0; step < ZS_INT8_BLOCK / 4; step++) {
#pragma GCC unroll 4
        for (int j = 0; j < panels; j++)
            __builtin_prefetch(w + j * panel + ahead, 0, 2);
        int8_line line[4 * PARTS];
#pragma GCC unroll 16
        for (int v = 0; v < panels * PARTS; v++)
            line[v] = load_line(w + v / PARTS * panel + v % PARTS * 4 * LANES);
#pragma GCC unroll 2
        for (int part = 0; part < INT8_WORDS; part++)
#pragma GCC unroll 16
            for (int i = 0; i < nx; i++) {
                ints word = spread(x[part * nx + i]);
#if LANES == 16 /* gcc would read x again for every panel */
                __asm__("" : "+v"(word));
#endif
#pragma GCC unroll 16
                for (int v = 0; v < panels * PARTS; v++)
                    acc[i * panels * PARTS + v] =
                        add_products(acc[i * panels * PARTS + v], line[v].part[part], word);
            }
        x += nx * INT8_WORDS;
        w += 4 * ZS_PANEL;
    }
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++) {
        lanes scale = (lanes)spread(x[i]);
#pragma GCC unroll 16
        for (int v = 0; v < panels * PARTS; v++) {
            int at = i * panels * PARTS + v;
            sum[at] = fused(scale, __builtin_convertvector(acc[at], lanes), sum[at]);
        }
    }
}

/* y = beta y + w_scale sum. */
static inline __attribute__((always_inline)) void put_panel(const uint8_t *scales, float beta,
                                                            const lanes *sum, float *y) {
    int32_t bits;
    memcpy(&bits, &beta, sizeof bits);
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; part++) {
        lanes *to = (lanes *)y + part, value = ((const lanes *)(const void *)scales)[part] * sum[part];
        *to = beta == 0 ? value : fused((lanes)spread(bits), *to, value);
    }
}

/* y [nx, columns] (rows n apart) for one tile of x; nx and panels are constants at each call. */
static inline __attribute__((always_inline)) void int8_tile(const int nx, const int panels, int columns,
                                                            const zs_int8_sizes *sizes, const int32_t *x_tile,
                                                            const uint8_t *w, float *y) {
    const int64_t panel = sizes->panel, n = sizes->n;
    lanes sum[4 * INT8_ROWS * PARTS] __attribute__((aligned(64)));
#pragma GCC unroll 64
    for (int i = 0; i < nx * panels * PARTS; i++)
        sum[i] = (lanes){0};
    int64_t next = sizes->turn;
    for (int64_t b = 0; b < sizes->blocks; b++) {
        bool fetch = b == next;
        if (fetch) next += sizes->turns;
        if (nx * panels * PARTS > LANES / 2) /* sums stay in memory: registers hold those of the block */
            __asm__ volatile("" ::"r"(sum) : "memory");
        add_block(nx, panels, panel, fetch ? sizes->ahead : 0, x_tile + b * nx * zs_int8_x_words(INT8_WORDS),
                  w + b * ZS_INT8_BLOCK * ZS_PANEL, sum);
    }
    const uint8_t *scales = w + sizes->blocks * ZS_INT8_BLOCK * ZS_PANEL;
#pragma GCC unroll 16
    for (int i = 0; i < nx; i++)
#pragma GCC unroll 4
        for (int j = 0; j < panels; j++) {
            float last[ZS_PANEL], *to = y + i * n + j * ZS_PANEL;
            size_t bytes =
                sizeof(float) * (size_t)(columns - j * ZS_PANEL); /* fewer than 16: through `last` */
            bool whole = bytes >= sizeof last;
            if (!whole) memcpy(last, to, bytes);
            put_panel(scales + j * panel, sizes->beta, sum + (i * panels + j) * PARTS, whole ? to : last);
            if (!whole) memcpy(to, last, bytes);
        }
}

/* One tile with all the panels of `columns`. */
static inline __attribute__((always_inline)) void int8_panels(const int nx, int columns,
                                                              const zs_int8_sizes *sizes,
                                                              const int32_t *x_tile, const uint8_t *w,
                                                              float *y) {
    int j = 0;
    for (; j + ZS_PANEL * (INT8_PANELS(nx) - 1) < columns; j += ZS_PANEL * INT8_PANELS(nx))
        int8_tile(nx, INT8_PANELS(nx), columns - j, sizes, x_tile, w + j / ZS_PANEL * sizes->panel, y + j);
    for (; j < columns; j += ZS_PANEL)
        int8_tile(nx, 1, columns - j, sizes, x_tile, w + j / ZS_PANEL * sizes->panel, y + j);
}

static void tile_int8(int rows, int columns, const zs_int8_sizes *sizes, const int32_t *x_tile,
                      const uint8_t *w, float *y) {
    switch (rows) {
#define CASE(rows)                                                                                           \
    case rows:                                                                                               \
        int8_panels(rows, columns, sizes, x_tile, w, y);                                                     \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
#if INT8_ROWS == 12
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

/* The bits of the largest |x|; those of NaN are above those of infinity. */
static uint32_t largest_bits(int64_t count, const float *x) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return (uint32_t)most;
}

/* A block to the nearest integers, to even where two are as near; |x inverse| < 127.5. */
static void round_block(const float *x, float inverse, int8_t *to) {
#if LANES == 16
    for (int i = 0; i < ZS_INT8_BLOCK; i += 16) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(void *)(to + i), _mm512_cvtepi32_epi8(q));
    }
#elif LANES == 8
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packs work within halves */
    for (int i = 0; i < ZS_INT8_BLOCK; i += 32) {
        __m256i q[4];
        for (int j = 0; j < 4; j++)
            q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), _mm256_set1_ps(inverse)));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        _mm256_storeu_si256((__m256i *)(void *)(to + i), _mm256_permutevar8x32_epi32(bytes, order));
    }
#else
    for (int i = 0; i < ZS_INT8_BLOCK; i++)
        to[i] = (int8_t)rintf(x[i] * inverse);
#endif
}

#define INT8_KERNELS                                                                                         \
    { tile_int8, largest_bits, round_block, INT8_ROWS, INT8_WORDS }
