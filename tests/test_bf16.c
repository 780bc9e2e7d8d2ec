/* bf16 weights: the kernels against plain twins and against f32 kernels on widened weights, the model and the
 * engine against f32 models of the same values and against PyTorch's numbers. */
#include "zerosearch/engine.h"
#include "zerosearch/hf.h"
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include "../src/engine/internal.h"

#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A matrix of random bf16 numbers that begins at a chosen 2-byte address, and the same in f32. */
typedef struct pair {
    uint16_t *memory, *bf16;
    float *f32;
} pair;

static pair make_pair(int64_t count, int64_t shift, int64_t key) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, key, count, shift);
    pair p = {.memory = ZS_NEW(uint16_t, count + shift), .f32 = ZS_NEW(float, count)};
    p.bf16 = p.memory + shift;
    for (int64_t i = 0; i < count; i++) {
        p.bf16[i] = zs_f32_to_bf16((float)zs_rng_normal(&rng));
        p.f32[i] = zs_bf16_to_f32(p.bf16[i]);
    }
    return p;
}

static void free_pair(pair p) {
    zs_free(p.memory);
    zs_free(p.f32);
}

static float *random_floats(int64_t count, int64_t key) {
    zs_rng rng = zs_rng_make(4, ZS_STREAM_TEST, key, count, 0);
    float *x = ZS_NEW(float, count);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)zs_rng_normal(&rng);
    return x;
}

/* The twin: y = beta y0 + a b^T in doubles, and how large the terms are. */
static void assert_product(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float beta,
                           const float *y0, const float *y) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = beta == 0 ? 0 : (double)beta * y0[i * n + j], size = fabs(sum);
            for (int64_t p = 0; p < k; p++) {
                sum += (double)a[i * k + p] * b[j * k + p];
                size += fabs((double)a[i * k + p] * b[j * k + p]);
            }
            if (!(fabs(y[i * n + j] - sum) <= 1e-6 * size + 1e-6))
                fail_msg("%lld x %lld x %lld: [%lld, %lld] is %.9g, expected %.9g", (long long)m,
                         (long long)n, (long long)k, (long long)i, (long long)j, (double)y[i * n + j], sum);
        }
}

/* Kernels. */

/* Every bf16 number by its definition: sign, 8 bits of exponent, 7 of mantissa. */
static void test_widening(void **state) {
    (void)state;
    uint16_t all[65536 + 1], *from = all + 1;
    float *wide = ZS_NEW(float, 65536);
    for (int i = 0; i < 65536; i++)
        from[i] = (uint16_t)i;
    zs_widen_bf16(65536, from, wide);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 7 & 255, mantissa = i & 127;
        double want = exponent == 0     ? ldexp(mantissa, -133)
                      : exponent == 255 ? (mantissa ? NAN : INFINITY)
                                        : ldexp(128 + mantissa, exponent - 134);
        if (isnan(want))
            assert_true(isnan(wide[i]));
        else
            assert_true((double)wide[i] == (i & 0x8000 ? -want : want));
        assert_int_equal(signbit(wide[i]) != 0, i >> 15);
    }
    zs_free(wide);
}

/* Few rows: the bits of the f32 kernel on widened weights, whichever rows stand beside. */
static void test_row_gemm(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{1, 1},   {3, 5},    {16, 16},   {17, 33},
                                {64, 48}, {61, 100}, {130, 257}, {515, 896}};
    enum { ROWS = ZS_ROWS_BF16 };
    const float betas[] = {0, 1, 0.5f};
    int threads = omp_get_max_threads();
    float *work = ZS_NEW(float, threads *zs_gemm_bf16_work());
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s][0], k = sizes[s][1];
        pair w = make_pair(n * k, (int64_t)s % 3, 1);
        float *x = random_floats(ROWS * k, 2), *before = random_floats(ROWS * n, 3);
        float *narrow = ZS_NEW(float, ROWS *n), *wide = ZS_NEW(float, ROWS *n), *alone = ZS_NEW(float, n);
        for (int64_t m = 1; m <= ROWS; m += m < 16 ? 1 : 15) {
            float beta = betas[m % 3];
            memcpy(narrow, before, (size_t)(m * n) * sizeof(float));
            memcpy(wide, before, (size_t)(m * n) * sizeof(float));
            zs_row_gemm(m, n, k, x, (zs_matrix){.bf16 = w.bf16}, beta, narrow, work, threads);
            for (int64_t i = 0; i < m; i += ZS_ROWS_F32)
                zs_row_gemm(m - i < ZS_ROWS_F32 ? m - i : ZS_ROWS_F32, n, k, x + i * k,
                            (zs_matrix){.f32 = w.f32}, beta, wide + i * n, work, threads);
            assert_memory_equal(narrow, wide, (size_t)(m * n) * sizeof(float));
            assert_product(m, n, k, x, w.f32, beta, before, narrow);
            for (int64_t i = 0; i < m; i++) {
                memcpy(alone, before + i * n, (size_t)n * sizeof(float));
                zs_row_gemm(1, n, k, x + i * k, (zs_matrix){.bf16 = w.bf16}, beta, alone, work, 1);
                assert_memory_equal(alone, narrow + i * n, (size_t)n * sizeof(float));
            }
        }
        float *all[] = {x, before, narrow, wide, alone};
        for (int i = 0; i < 5; i++)
            zs_free(all[i]);
        free_pair(w);
    }
    zs_free(work);
}

/* Each instruction set against the order of sums that kernels.h and rows.h tell of, to the bit where it fuses
 * multiply and add (plain C on x86 does not): odd sizes, odd addresses, values over the range of f32. */
static float ordered_sum(int64_t k, const float *x, const float *w) {
    float sum[16] = {0};
    int64_t p = 0;
    for (; p + 16 <= k; p += 16)
        for (int lane = 0; lane < 16; lane++)
            sum[lane] = fmaf(x[p + lane], w[p + lane], sum[lane]);
    for (int apart = 8; apart > 0; apart /= 2)
        for (int lane = 0; lane < apart; lane++)
            sum[lane] += sum[lane + apart];
    for (; p < k; p++)
        sum[0] = fmaf(x[p], w[p], sum[0]);
    return sum[0];
}

static float odd_value(int64_t i, float normal) {
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e-40f, -1e-44f, 3e38f, -0.0f, 1e-30f};
    return i % 4 == 3 && i / 4 % 29 < 8 ? odd[i / 4 % 29] : normal;
}

static void test_instruction_sets(void **state) {
    (void)state;
    static const char *const names[] = {"avx512", "avx2", "vector", "plain"};
    enum { M = 19, N = 35, K = 85 };
    assert_false(zs_kernels_use("none"));
    for (int c = 0; c < 4 * 2 * 2 * M; c++) {
        bool bf16 = c / 4 % 2, odd = c / 8 % 2;
        int64_t m = 1 + c / 16, n = N - m, k = K - 4 * m;
        if (!zs_kernels_use(names[c % 4])) continue;
        pair w = make_pair(N * K, c % 3, 1);
        float *x = random_floats(M * K + 1, 2) + 1, *y = ZS_NEW(float, M *N), *y0 = random_floats(M * N, 3);
        for (int64_t i = 0; odd && i < M * K; i++)
            x[i] = odd_value(i, x[i]);
        float beta = m % 2 ? 0.5f : 0;
        memcpy(y, y0, M * N * sizeof *y);
        if (bf16)
            zs_gemm_nt_rows_bf16(m, n, k, x, w.bf16, beta, y, 1);
        else
            zs_gemm_nt_rows(m, n, k, x, w.f32, beta, y, 1);
        for (int64_t i = 0; i < m * n; i++) {
            float sum = ordered_sum(k, x + i / n * k, w.f32 + i % n * k);
            float want = beta == 0 ? sum : fmaf(beta, y0[i], sum);
            bool same = isnan(want) ? isnan(y[i]) : y[i] == want;
            if (c % 4 > 1 && isfinite(want)) same = fabsf(y[i] - want) <= 1e-4f + 1e-5f * fabsf(want);
            if (!same)
                fail_msg("%s %s m %lld: [%lld] is %.9g, expected %.9g", names[c % 4], bf16 ? "bf16" : "f32",
                         (long long)m, (long long)i, (double)y[i], (double)want);
        }
        zs_free(x - 1);
        zs_free(y);
        zs_free(y0);
        free_pair(w);
    }
    assert_true(zs_kernels_use(NULL));
}

/* Packed weights: each product a chain of multiply-adds in the order of k, on every instruction set, to the
 * bit where it fuses them; so nothing depends on the other rows or the threads. Rows of tiles of every
 * height, rows left over from panels, odd k, odd addresses, values over the range of f32; packing takes no
 * more memory. */
static void test_packed(void **state) {
    (void)state;
    static const char *const names[] = {"avx512", "avx2", "vector", "plain"};
    const int64_t sizes[][2] = {{5, 7}, {16, 33}, {35, 64}, {48, 1}, {101, 85}, {160, 300}};
    enum { M = 70, THREADS = 3 };
    for (int c = 0; c < 4 * 6 * 2; c++) {
        int64_t n = sizes[c / 4 % 6][0], k = sizes[c / 4 % 6][1];
        bool odd = c / 24;
        if (!zs_kernels_use(names[c % 4])) continue;
        pair w = make_pair(n * k + 1, c % 3, 1);
        w.bf16[n * k] = 0x1234;
        uint16_t *scratch = ZS_NEW(uint16_t, THREADS * zs_pack_bf16_work(k));
        float *x = random_floats(M * k + 1, 2) + 1, *y = ZS_NEW(float, M *n), *y0 = random_floats(M * n, 3);
        float *work = ZS_NEW(float, THREADS *zs_gemm_bf16_work()), *row = ZS_NEW(float, k);
        for (int64_t i = 0; odd && i < M * k; i++)
            x[i] = odd_value(i, x[i]);
        zs_pack_bf16(n, k, w.bf16, scratch, THREADS);
        assert_int_equal(w.bf16[n * k], 0x1234);
        for (int64_t j = 0; j < n; j++) {
            zs_packed_row(n, k, w.bf16, j, row);
            assert_memory_equal(row, w.f32 + j * k, (size_t)k * sizeof(float));
        }
        for (int64_t m = 1; m <= M; m += m < 27 ? 1 : 43) {
            float beta = m % 2 ? 0.5f : 0;
            memcpy(y, y0, (size_t)(m * n) * sizeof *y);
            zs_gemm_nt_packed(m, n, k, x, w.bf16, beta, y, work, 1 + (int)(m % THREADS));
            bool exact = c % 4 == 0 || (c % 4 == 1 && m <= 64); /* else the compiler's choice, or BLAS */
            for (int64_t i = 0; i < m * n; i++) {
                const float *a = x + i / n * k, *b = w.f32 + i % n * k;
                float sum = 0;
                for (int64_t p = 0; p < k; p++)
                    sum = fmaf(a[p], b[p], sum);
                if (i % n >= n / 16 * 16) sum = ordered_sum(k, a, b);
                float want = beta == 0 ? sum : fmaf(beta, y0[i], sum);
                bool same = isnan(want) ? isnan(y[i]) : y[i] == want;
                if (!exact && (!isfinite(want) || fabsf(want) > 1e30f))
                    continue; /* may overflow on the way */
                if (!exact) same = fabsf(y[i] - want) <= 1e-4f + 1e-5f * fabsf(want);
                if (!same)
                    fail_msg("%s n %lld k %lld m %lld: [%lld] is %.9g, expected %.9g", names[c % 4],
                             (long long)n, (long long)k, (long long)m, (long long)i, (double)y[i],
                             (double)want);
            }
        }
        float *all[] = {x - 1, y, y0, work, row};
        for (int i = 0; i < 5; i++)
            zs_free(all[i]);
        zs_free(scratch);
        free_pair(w);
    }
    assert_true(zs_kernels_use(NULL));
}

/* AVX-512's dot product of bf16, which is only taken when it is named: x is rounded first, as zs_from_f32
 * does, and the rest agrees with sums in f64 to what f32 sums may be off. A row's bits do not depend on the
 * others. */
static void test_packed_pairs(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{16, 33}, {35, 64}, {48, 1}, {101, 85}, {160, 300}};
    enum { M = 40, THREADS = 2 };
    if (!zs_kernels_use("avx512bf16")) skip();
    for (int c = 0; c < 5; c++) {
        int64_t n = sizes[c][0], k = sizes[c][1];
        pair w = make_pair(n * k, c, 1);
        uint16_t *scratch = ZS_NEW(uint16_t, THREADS * zs_pack_bf16_work(k)),
                 *halves = ZS_NEW(uint16_t, M * k);
        float *x = random_floats(M * k, 2), *rounded = ZS_NEW(float, M *k), *y = ZS_NEW(float, M *n);
        float *alone = ZS_NEW(float, n), *work = ZS_NEW(float, THREADS *zs_gemm_bf16_work());
        zs_from_f32(ZS_BF16, x, M * k, halves);
        zs_to_f32(ZS_BF16, halves, M * k, rounded);
        zs_pack_bf16(n, k, w.bf16, scratch, THREADS);
        zs_gemm_nt_packed(M, n, k, x, w.bf16, 0, y, work, THREADS);
        for (int64_t i = 0; i < M; i++) {
            zs_gemm_nt_packed(1, n, k, x + i * k, w.bf16, 0, alone, work, 1);
            assert_memory_equal(alone, y + i * n, (size_t)n * sizeof *y);
            for (int64_t j = 0; j < n; j++) {
                const float *a = (j < n / 16 * 16 ? rounded : x) + i * k, *b = w.f32 + j * k;
                double sum = 0, size = 0;
                for (int64_t p = 0; p < k; p++) {
                    sum += (double)a[p] * b[p];
                    size += fabs((double)a[p] * b[p]);
                }
                if (fabs(y[i * n + j] - sum) > 1e-6 * size + 1e-30)
                    fail_msg("n %lld k %lld: [%lld, %lld] is %.9g, expected %.9g", (long long)n, (long long)k,
                             (long long)i, (long long)j, (double)y[i * n + j], sum);
            }
        }
        float *all[] = {x, rounded, y, alone, work};
        for (int i = 0; i < 5; i++)
            zs_free(all[i]);
        zs_free(scratch);
        zs_free(halves);
        free_pair(w);
    }
    assert_true(zs_kernels_use(NULL));
}

/* Of packed weights, by BLAS: sizes below, at and past the edges of a piece; rows left over from panels. */
static void test_packed_blas(void **state) {
    (void)state;
    const int64_t sizes[][3] = {{1, 1, 1},       {17, 3, 5},     {20, 64, 512},  {33, 65, 513},
                                {130, 513, 130}, {7, 1100, 600}, {300, 20, 1025}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int threads = 1; threads <= 3; threads += 2) {
            int64_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
            float beta = threads == 1 ? 0 : 0.5f;
            pair w = make_pair(n * k, threads / 2, 4);
            uint16_t *scratch = ZS_NEW(uint16_t, zs_pack_bf16_work(k));
            float *a = random_floats(m * k, 5), *before = random_floats(m * n, 6);
            float *y = ZS_NEW(float, m *n), *work = ZS_NEW(float, threads *zs_gemm_bf16_work());
            memcpy(y, before, (size_t)(m * n) * sizeof(float));
            zs_pack_bf16(n, k, w.bf16, scratch, 1);
            zs_gemm_nt_packed_blas(m, n, k, a, w.bf16, beta, y, work, threads);
            assert_product(m, n, k, a, w.f32, beta, before, y);
            float *all[] = {a, before, y, work};
            for (int i = 0; i < 4; i++)
                zs_free(all[i]);
            zs_free(scratch);
            free_pair(w);
        }
}

/* Many rows, by widened pieces: sizes below, at and past the edges of a piece; more threads than blocks. */
static void test_gemm(void **state) {
    (void)state;
    const int64_t sizes[][3] = {{1, 1, 1},     {17, 3, 5},      {20, 64, 512},  {33, 65, 513},
                                {40, 512, 40}, {130, 513, 130}, {7, 1100, 600}, {300, 20, 1025}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int threads = 1; threads <= 5; threads += 2) {
            int64_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
            float beta = threads == 1 ? 0 : threads == 3 ? 1 : 0.5f;
            pair w = make_pair(n * k, threads / 2, 4);
            float *a = random_floats(m * k, 5), *before = random_floats(m * n, 6);
            float *y = ZS_NEW(float, m *n), *work = ZS_NEW(float, threads *zs_gemm_bf16_work());
            memcpy(y, before, (size_t)(m * n) * sizeof(float));
            if (beta == 0) y[0] = NAN; /* not read then */
            zs_gemm_nt_bf16(m, n, k, a, w.bf16, beta, y, work, threads);
            assert_product(m, n, k, a, w.f32, beta, before, y);
            float *all[] = {a, before, y, work};
            for (int i = 0; i < 4; i++)
                zs_free(all[i]);
            free_pair(w);
        }
}

/* Numbers at the ends of the range reach the result in both kernels, wherever in a row they stand. */
static void test_special_values(void **state) {
    (void)state;
    enum { N = 20, K = 37, M = 24 };
    const uint16_t values[] = {0x7f80, 0xff80, 0x7fc0, 0x0001, 0x8040, 0x7f7f, 0x8000};
    int threads = omp_get_max_threads();
    float *work = ZS_NEW(float, threads *zs_gemm_bf16_work());
    for (size_t v = 0; v < sizeof values / sizeof *values; v++)
        for (int64_t place = 0; place < K; place += 9) {
            uint16_t w[N * K] = {0};
            float x[M * K], y[M * N], want = zs_bf16_to_f32(values[v]);
            for (int64_t j = 0; j < N; j++)
                w[j * K + place] = values[v];
            for (int64_t i = 0; i < M * K; i++)
                x[i] = 1;
            for (int64_t m = 1; m <= M; m += 23) {
                zs_row_gemm(m, N, K, x, (zs_matrix){.bf16 = w}, 0, y, work, threads);
                for (int64_t i = 0; i < m * N; i++)
                    assert_true(isnan(want) ? isnan(y[i]) : y[i] == want);
            }
        }
    zs_free(work);
}

/* Model and engine. */

static zs_model *make_model(bool qwen) {
    zs_model_config config = {.architecture = qwen ? ZS_QWEN2 : ZS_LLAMA,
                              .vocab_size = 203,
                              .hidden_size = 72,
                              .intermediate_size = 152,
                              .num_hidden_layers = 3,
                              .num_attention_heads = 6,
                              .num_key_value_heads = 2,
                              .head_dim = 12,
                              .max_position_embeddings = 512,
                              .rms_norm_eps = 1e-6,
                              .rope_theta = 10000,
                              .attention_bias = qwen,
                              .tie_word_embeddings = qwen,
                              .bos_token_id = -1};
    zs_model *model = zs_model_create(&config);
    zs_model_init(model, 7);
    zs_rng rng = zs_rng_make(8, ZS_STREAM_TEST, 0, 0, 0);
    for (int t = 0; t < model->num_tensors; t++) {
        const zs_tensor *tensor = &model->tensors[t];
        float *data = model->params + tensor->offset;
        for (int64_t i = 0; i < tensor->rows * tensor->cols; i++)
            data[i] = tensor->num_dims == 2 ? 4 * data[i] : data[i] + (float)(0.1 * zs_rng_normal(&rng));
    }
    return model;
}

/* A bf16 model and an f32 one of the same values. */
static zs_model *narrow_twin(const zs_model *model) {
    zs_model *narrow = zs_model_create_narrow(&model->config, ZS_BF16);
    zs_model_narrow(model, narrow);
    return narrow;
}

static zs_model *wide_twin(const zs_model *narrow) {
    zs_model *wide = zs_model_create(&narrow->config);
    for (int64_t i = 0; i < narrow->num_params; i++)
        wide->params[i] = zs_bf16_to_f32(narrow->params_bf16[i]);
    return wide;
}

static void random_ids(int32_t *ids, int64_t count, int64_t vocab, int64_t key) {
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, key, 0, 0);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)zs_rng_below(&rng, vocab);
}

typedef struct outputs {
    float *logits, *log_prob, *entropy;
} outputs;

static outputs run_forward(const zs_model *model, const zs_batch *batch) {
    int64_t tokens = batch->num_tokens;
    outputs out = {ZS_NEW(float, tokens * model->config.vocab_size), ZS_NEW(float, tokens),
                   ZS_NEW(float, tokens)};
    zs_workspace *workspace = zs_workspace_create(&model->config, tokens, false, false);
    zs_model_forward(model, workspace, batch);
    zs_model_logits(model, workspace, batch, out.logits);
    zs_model_head(model, workspace, batch, 1, out.log_prob, out.entropy, NULL, NULL);
    zs_workspace_destroy(workspace);
    return out;
}

static void free_outputs(outputs out) {
    zs_free(out.logits);
    zs_free(out.log_prob);
    zs_free(out.entropy);
}

static double largest_gap(int64_t count, const float *a, const float *b) {
    double gap = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        gap = d <= gap ? gap : isnan(d) ? INFINITY : d;
    }
    return gap;
}

static void test_model(void **state) {
    (void)state;
    enum { TOKENS = 150 };
    for (int qwen = 0; qwen < 2; qwen++) {
        zs_model *model = make_model(qwen), *narrow = narrow_twin(model), *wide = wide_twin(narrow);
        int32_t ids[TOKENS];
        const int64_t offsets[] = {0, 1, 40, 40, TOKENS};
        random_ids(ids, TOKENS, model->config.vocab_size, qwen);
        zs_batch batch = {4, TOKENS, offsets, ids};
        outputs f = run_forward(model, &batch), n = run_forward(narrow, &batch),
                w = run_forward(wide, &batch);
        assert_true(largest_gap(TOKENS * model->config.vocab_size, n.logits, w.logits) <= 1e-4);
        assert_true(largest_gap(TOKENS, n.log_prob, w.log_prob) <= 1e-4);
        assert_true(largest_gap(TOKENS, n.entropy, w.entropy) <= 1e-4);
        /* Rounding the weights moves each by up to 2^-9 of itself: seen, and small. */
        double drift = largest_gap(TOKENS, f.log_prob, n.log_prob);
        print_message("  log-probabilities move by up to %.3g\n", drift);
        assert_true(drift > 1e-4 && drift < 0.2);
        free_outputs(f);
        free_outputs(n);
        free_outputs(w);
        zs_model_destroy(model);
        zs_model_destroy(narrow);
        zs_model_destroy(wide);
    }
}

enum { COUNT = 8, PROMPT = 50, FRESH = 30, LENGTH = PROMPT + FRESH };

typedef struct generated {
    int32_t ids[COUNT][LENGTH];
    float log_prob[COUNT][LENGTH];
} generated;

/* COUNT samples of one prompt, `together` at a time. */
static void generate(const zs_model *model, int64_t together, int64_t chunk, bool shared, generated *out) {
    int32_t prompt[PROMPT];
    random_ids(prompt, PROMPT, model->config.vocab_size, 9);
    zs_engine_options options = {
        .max_batch = together, .cache_tokens = COUNT * 128, .prefill_chunk = chunk, .max_length = LENGTH};
    zs_engine *engine = zs_engine_create(model, NULL, &options);
    for (int i = 0; i < COUNT; i++) {
        zs_sequence_request request = {.prompt = prompt,
                                       .prompt_length = PROMPT,
                                       .prompt_group = shared ? 0 : -1,
                                       .max_new_tokens = FRESH,
                                       .max_length = LENGTH,
                                       .sampling = {.temperature = 1, .top_p = 1},
                                       .rng = zs_rng_make(11, ZS_STREAM_POLICY, 0, 0, i)};
        assert_int_equal(zs_engine_submit(engine, &request), i);
    }
    while (zs_engine_step(engine) > 0)
        ;
    for (int i = 0; i < COUNT; i++) {
        zs_sequence_view view = zs_engine_view(engine, i);
        assert_int_equal(view.length, LENGTH);
        memcpy(out->ids[i], view.ids, sizeof out->ids[i]);
        memcpy(out->log_prob[i], view.log_prob, sizeof out->log_prob[i]);
    }
    zs_engine_destroy(engine);
}

/* Steps of at most 16 rows: the same bits alone, together, with shared pages, and as f32 weights give.
 * Larger chunks go through BLAS and agree to rounding. */
static void test_engine(void **state) {
    (void)state;
    for (int qwen = 0; qwen < 2; qwen++) {
        zs_model *model = make_model(qwen), *narrow = narrow_twin(model), *wide = wide_twin(narrow);
        static generated first, other;
        generate(narrow, 1, 8, false, &first);
        assert_true(memcmp(first.ids[0], first.ids[1], sizeof first.ids[0]) != 0);
        generate(narrow, COUNT, 8, false, &other);
        assert_memory_equal(&first, &other, sizeof first);
        generate(narrow, COUNT, 8, true, &other);
        assert_memory_equal(&first, &other, sizeof first);
        generate(wide, COUNT, 8, true, &other);
        assert_memory_equal(&first, &other, sizeof first);
        zs_model *packed = zs_model_clone(narrow);
        static generated alone;
        zs_model_pack(packed, 0, 1);
        generate(packed, 1, 8, false, &alone);
        generate(packed, COUNT, 8, true, &other);
        assert_memory_equal(&alone, &other, sizeof alone);
        for (int i = 0; i < COUNT; i++) { /* another order of sums: near, and what it draws may differ */
            const int64_t offsets[] = {0, LENGTH};
            zs_batch batch = {1, LENGTH, offsets, alone.ids[i]};
            outputs plain = run_forward(narrow, &batch), out = run_forward(packed, &batch);
            assert_true(largest_gap(FRESH, plain.log_prob + PROMPT, alone.log_prob[i] + PROMPT) <= 1e-4);
            assert_true(largest_gap(LENGTH, plain.log_prob, out.log_prob) <= 1e-4);
            free_outputs(plain);
            free_outputs(out);
        }
        zs_model_destroy(packed);
        generate(narrow, COUNT, 0, true, &other);
        assert_memory_equal(first.ids, other.ids, sizeof first.ids);
        assert_true(largest_gap(COUNT * LENGTH, first.log_prob[0], other.log_prob[0]) <= 1e-4);
        for (int i = 0; i < COUNT; i++) { /* and the log-probabilities are those of the forward pass */
            const int64_t offsets[] = {0, LENGTH};
            zs_batch batch = {1, LENGTH, offsets, first.ids[i]};
            outputs out = run_forward(narrow, &batch);
            assert_true(largest_gap(FRESH, out.log_prob + PROMPT, first.log_prob[i] + PROMPT) <= 1e-4);
            free_outputs(out);
        }
        zs_model_destroy(model);
        zs_model_destroy(narrow);
        zs_model_destroy(wide);
    }
}

/* Against PyTorch: golden folders whose files are BF16, kept as BF16. */

static const zs_st_tensor *find(const zs_safetensors *file, const char *name, int index) {
    char full[80];
    snprintf(full, sizeof full, index < 0 ? "%s" : "%s.%d", name, index);
    return zs_safetensors_find(file, full);
}

static zs_model *load_narrow(const char *path) {
    zs_error err = {0};
    zs_hf_folder *folder;
    if (zs_hf_open(path, &folder, &err) != ZS_OK) fail_msg("%s", err.text);
    zs_model *model = NULL;
    if (zs_hf_dtype(folder) == ZS_BF16) {
        model = zs_model_create_narrow(&zs_hf_layout(folder)->config, ZS_BF16);
        zs_status status = zs_hf_read(folder, 0, model->num_params, ZS_BF16, model->params_bf16, &err);
        if (status != ZS_OK) fail_msg("%s", err.text);
        zs_model_widen_vectors(model);
    }
    zs_hf_close(folder);
    return model;
}

static void check_greedy(const zs_model *model, const zs_st_tensor *greedy) {
    zs_engine_options options = {.max_batch = 1, .max_length = greedy->count};
    zs_engine *engine = zs_engine_create(model, NULL, &options);
    zs_sequence_request request = {.prompt = greedy->data,
                                   .prompt_length = 8,
                                   .prompt_group = -1,
                                   .max_new_tokens = greedy->count - 8,
                                   .max_length = greedy->count,
                                   .sampling = {.temperature = 0, .top_p = 1}};
    int64_t handle = zs_engine_submit(engine, &request);
    while (zs_engine_step(engine) > 0)
        ;
    zs_sequence_view view = zs_engine_view(engine, handle);
    assert_int_equal(view.length, greedy->count);
    assert_memory_equal(view.ids, greedy->data, (size_t)greedy->count * sizeof(int32_t));
    const int64_t offsets[] = {0, view.length};
    zs_batch batch = {1, view.length, offsets, view.ids};
    outputs out = run_forward(model, &batch);
    assert_true(largest_gap(view.length - 8, out.log_prob + 8, view.log_prob + 8) <= 2e-4);
    free_outputs(out);
    zs_engine_destroy(engine);
}

static void check_folder(const char *path) {
    zs_error err = {0};
    zs_model *model = load_narrow(path);
    if (!model) return;
    char name[1600];
    zs_safetensors *expected;
    snprintf(name, sizeof name, "%s/expected.safetensors", path);
    if (zs_safetensors_open(name, &expected, &err) != ZS_OK) fail_msg("%s", err.text);
    const zs_st_tensor *ids;
    double gap = 0;
    int sequences = 0;
    for (; (ids = find(expected, "input_ids", sequences)); sequences++) {
        const int64_t offsets[] = {0, ids->count};
        zs_batch batch = {1, ids->count, offsets, ids->data};
        outputs out = run_forward(model, &batch);
        const zs_st_tensor *logits = find(expected, "logits", sequences);
        gap = fmax(gap, largest_gap(logits->count, out.logits, logits->data));
        gap = fmax(gap, largest_gap(ids->count, out.log_prob, find(expected, "logprobs", sequences)->data));
        gap = fmax(gap, largest_gap(ids->count, out.entropy, find(expected, "entropy", sequences)->data));
        free_outputs(out);
    }
    print_message("  %s: %d sequences, off by %.3g\n", strrchr(path, '/') + 1, sequences, gap);
    assert_true(sequences > 0 && gap <= 2e-4);
    const zs_st_tensor *greedy = find(expected, "greedy", -1);
    if (greedy && greedy->count > 8) check_greedy(model, greedy);
    zs_safetensors_close(expected);
    zs_model_destroy(model);
}

static void test_golden(void **state) {
    (void)state;
    const char *golden = getenv("ZS_GOLDEN"), *shared = getenv("ZS_SHARED");
    char models[1100], path[1400];
    if (golden && *golden)
        snprintf(models, sizeof models, "%.1000s/models", golden);
    else
        snprintf(models, sizeof models, "%.1000s/golden/models", shared && *shared ? shared : "../shared");
    DIR *folder = opendir(models);
    if (!folder) {
        print_message("no folder %s\n", models);
        skip();
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", models, entry->d_name);
        check_folder(path);
    }
    closedir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_widening),
                                       cmocka_unit_test(test_row_gemm),
                                       cmocka_unit_test(test_instruction_sets),
                                       cmocka_unit_test(test_gemm),
                                       cmocka_unit_test(test_packed),
                                       cmocka_unit_test(test_packed_pairs),
                                       cmocka_unit_test(test_packed_blas),
                                       cmocka_unit_test(test_special_values),
                                       cmocka_unit_test(test_model),
                                       cmocka_unit_test(test_engine),
                                       cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
