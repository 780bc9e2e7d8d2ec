/* bench: what one rank computes. */
#include "bench.h"
#include "machine.h"

#include "zerosearch/engine.h"
#include "zerosearch/kernels.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <string.h>

/* Weights that take part in a matrix product for each token; the embedding is looked up, the head is not. */
static double matrix_params(const zs_model_config *c) {
    double qkv = (double)(c->num_attention_heads + 2 * c->num_key_value_heads) * (double)c->head_dim;
    double layer = (double)c->hidden_size * (qkv + (double)(c->num_attention_heads * c->head_dim) +
                                             3.0 * (double)c->intermediate_size);
    return layer * (double)c->num_hidden_layers + (double)(c->hidden_size * c->vocab_size);
}

/* Bytes that these weights are kept in. */
static double matrix_bytes(const zs_model_config *c, zs_dtype dtype) {
    if (dtype != ZS_INT8) return matrix_params(c) * (double)zs_dtype_size(dtype);
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    int64_t layer = zs_int8_bytes(q + 2 * c->num_key_value_heads * c->head_dim, h) + zs_int8_bytes(h, q) +
                    zs_int8_bytes(2 * wide, h) + zs_int8_bytes(h, wide);
    return (double)(c->num_hidden_layers * layer + zs_int8_bytes(c->vocab_size, h));
}

/* Multiply-adds of attention for one token that sees `keys` keys, twice. */
static double attention_flops(const zs_model_config *c, double keys) {
    return 4.0 * (double)(c->num_hidden_layers * c->num_attention_heads * c->head_dim) * keys;
}

static void random_ids(int32_t *ids, int64_t count, int64_t vocab) {
    zs_rng rng = zs_rng_make(1, ZS_STREAM_TEST, 0, 0, 0);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)zs_rng_below(&rng, vocab);
}

/* Numbers are made where they are wanted, by all threads: drawing them as `init` does would take longer than
 * the measurement, and an f32 model to round would be the larger part of the memory. Elements [begin, end) of
 * the flat layout into `wide` or, rounded, `narrow`. */
static void fill(const zs_model *model, int64_t begin, int64_t end, float *wide, uint16_t *narrow) {
    for (int t = 0; t < model->num_tensors; t++) {
        const zs_tensor *tensor = &model->tensors[t];
        bool norm = strstr(tensor->name, "norm") != NULL, matrix = tensor->num_dims == 2;
        int64_t first = tensor->offset, stop = first + tensor->rows * tensor->cols;
        if (first < begin) first = begin;
        if (stop > end) stop = end;
#pragma omp parallel for schedule(static) if (stop > first)
        for (int64_t i = first; i < stop; i++) {
            uint32_t hash = ((uint32_t)i * 2654435761u) ^ 0x9e3779b9u;
            float uniform = (float)(hash >> 8) * 0x1p-24f - 0.5f;
            float value = matrix ? 0.07f * uniform : norm ? 1.0f : 0.0f;
            if (narrow)
                narrow[i - begin] = zs_f32_to_bf16(value);
            else
                wide[i - begin] = value;
        }
    }
}

static void fill_int8(zs_model *model) {
    const int64_t most = 1 << 20;
    float *wide = ZS_NEW(float, zs_model_piece_params(model, most));
    for (zs_model_piece p = {0}; zs_model_next_piece(model, most, &p);) {
        fill(model, p.begin, p.end, wide, NULL);
        zs_model_quantize_piece(model, &p, wide);
    }
    zs_free(wide);
}

static zs_model *random_model(const zs_bench *bench, zs_dtype dtype) {
    zs_model *model =
        dtype == ZS_F32 ? zs_model_create(&bench->config) : zs_model_create_narrow(&bench->config, dtype);
    if (dtype == ZS_INT8)
        fill_int8(model);
    else
        fill(model, 0, model->num_params, model->params, model->params_bf16);
    zs_model_widen_vectors(model);
    zs_model_pack(model, 0, 1);
    model->config.num_eos = 0; /* nothing ends early */
    return model;
}

/* Gemm: each product of a layer, at the row counts of a training batch and of the decode batches. Weights
 * come from memory, as in a model: calls go through a pool that no cache holds. */

typedef struct gemm_pool { /* of weights, and work memory of a bf16 or int8 product */
    zs_dtype dtype;
    int64_t bytes;
    char *weights; /* [bytes]; zeros are as fast as any numbers */
    float *work;
    int threads;
} gemm_pool;

typedef struct gemm_work {
    const gemm_pool *pool;
    int64_t m, n, k, bytes, begin; /* bytes: of the weights; begin: where in the pool the next are */
    float *a, *c;
    int repeats;
} gemm_work;

static int64_t matrix_size(zs_dtype dtype, int64_t n, int64_t k) {
    return dtype == ZS_INT8 ? zs_int8_bytes(n, k) : n * k * zs_dtype_size(dtype);
}

static void one_gemm(void *context) {
    gemm_work *w = context;
    const gemm_pool *pool = w->pool;
    for (int i = 0; i < w->repeats; i++) {
        if (w->begin + w->bytes > pool->bytes) w->begin = 0;
        const char *b = pool->weights + w->begin;
        w->begin += w->bytes;
        if (pool->dtype == ZS_BF16)
            zs_gemm_nt_packed(w->m, w->n, w->k, w->a, (const uint16_t *)b, 0, w->c, pool->work,
                              pool->threads);
        else if (pool->dtype == ZS_INT8)
            zs_gemm_nt_int8(w->m, w->n, w->k, w->a, (const uint8_t *)b, 0, w->c, pool->work, pool->threads);
        else
            zs_gemm_nt(w->m, w->n, w->k, w->a, (const float *)b, 0, w->c);
    }
}

static void gemm_row(const zs_bench *bench, const gemm_pool *pool, const char *what, int64_t m, int64_t n,
                     int64_t k) {
    double flops = 2.0 * (double)m * (double)n * (double)k;
    gemm_work w = {.pool = pool, .m = m, .n = n, .k = k, .repeats = 1 + (int)(3e7 / flops)};
    w.bytes = matrix_size(pool->dtype, n, k);
    zs_memory_reset_peak();
    w.a = ZS_NEW(float, m *k);
    w.c = ZS_NEW(float, m *n);
    for (int64_t i = 0; i < m * k; i++) /* a block of zeros would be quantised at once */
        w.a[i] = (float)(i % 61 - 30);
    double seconds = zs_bench_time(one_gemm, &w, 3, 9, 0.2).wall / w.repeats;
    double bytes = (double)w.bytes;
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(pool->dtype)},
                               {"rows", (double)m},
                               {"out", (double)n},
                               {"in", (double)k},
                               {"gflops", flops / seconds * 1e-9},
                               {"gb_per_s", bytes / seconds * 1e-9},
                               {"of_best_gemm", flops / seconds * 1e-9 / bench->best_gflops},
                               {"of_best_read", bytes / seconds * 1e-9 / bench->best_read}};
    zs_bench_report(bench, what, fields, 8);
    zs_free(w.a);
    zs_free(w.c);
}

typedef struct gemm_shape {
    const char *name;
    int64_t n, k;
} gemm_shape;
enum { NUM_SHAPES = 5 };

static void gemm_shapes(const zs_model_config *c, gemm_shape out[NUM_SHAPES]) {
    int64_t heads = c->num_attention_heads * c->head_dim, kv_heads = c->num_key_value_heads * c->head_dim;
    out[0] = (gemm_shape){"gemm_qkv", heads + 2 * kv_heads, c->hidden_size};
    out[1] = (gemm_shape){"gemm_o", c->hidden_size, heads};
    out[2] = (gemm_shape){"gemm_up", 2 * c->intermediate_size, c->hidden_size};
    out[3] = (gemm_shape){"gemm_down", c->hidden_size, c->intermediate_size};
    out[4] = (gemm_shape){"gemm_head", c->vocab_size, c->hidden_size};
}

static void gemm_dtype(const zs_bench *bench, zs_dtype dtype) {
    gemm_shape shapes[NUM_SHAPES];
    gemm_shapes(&bench->config, shapes);
    gemm_pool pool = {.dtype = dtype, .threads = bench->threads, .bytes = 2 * zs_machine_cache(3)};
    for (int s = 0; s < NUM_SHAPES; s++) {
        int64_t bytes = matrix_size(dtype, shapes[s].n, shapes[s].k);
        if (pool.bytes < bytes) pool.bytes = bytes;
    }
    pool.weights = zs_alloc(pool.bytes, 1);
    pool.work = ZS_NEW(float, dtype == ZS_F32 ? 0 : zs_gemm_bf16_work() * pool.threads);
    for (int i = -1; i < bench->num_batches; i++)
        for (int s = 0; s < NUM_SHAPES; s++)
            gemm_row(bench, &pool, shapes[s].name, i < 0 ? bench->seq : bench->batches[i], shapes[s].n,
                     shapes[s].k);
    zs_free(pool.weights);
    zs_free(pool.work);
}

zs_status zs_bench_gemm(zs_bench *bench, zs_error *err) {
    (void)err;
    for (int d = 0; d < bench->num_dtypes; d++)
        gemm_dtype(bench, bench->dtypes[d]);
    return ZS_OK;
}

/* Train: forward, head, backward, optimizer. */

typedef struct train_work {
    zs_model *model;
    zs_workspace *workspace;
    zs_batch batch;
    float *coefficient, *grads, *m, *v;
    int64_t step;
} train_work;

static void one_update(void *context) {
    train_work *w = context;
    memset(w->grads, 0, (size_t)w->model->num_params * sizeof(float));
    zs_model_forward(w->model, w->workspace, &w->batch);
    zs_model_head(w->model, w->workspace, &w->batch, 1, NULL, NULL, w->coefficient, w->grads);
    zs_model_backward(w->model, w->workspace, &w->batch, w->grads, NULL, NULL);
    zs_adamw settings = {1e-6, 0.9, 0.999, 1e-8, 0.01};
    zs_adamw_update(w->model->num_params, ++w->step, settings, 1, w->grads, w->model->params, w->m, w->v);
}

zs_status zs_bench_train(zs_bench *bench, zs_error *err) {
    (void)err;
    zs_model *model = random_model(bench, ZS_F32);
    for (int b = 0; b < bench->num_batches; b++) {
        int64_t sequences = bench->batches[b], tokens = sequences * bench->seq;
        zs_memory_reset_peak();
        int64_t *offsets = ZS_NEW(int64_t, sequences + 1);
        int32_t *ids = ZS_NEW(int32_t, tokens);
        for (int64_t i = 0; i <= sequences; i++)
            offsets[i] = i * bench->seq;
        random_ids(ids, tokens, bench->config.vocab_size);
        train_work w = {.model = model,
                        .workspace = zs_workspace_create(&bench->config, tokens, true, false),
                        .batch = {sequences, tokens, offsets, ids},
                        .coefficient = ZS_NEW(float, tokens),
                        .grads = ZS_NEW(float, model->num_params),
                        .m = ZS_NEW(float, model->num_params),
                        .v = ZS_NEW(float, model->num_params)};
        for (int64_t i = 0; i < tokens; i++)
            w.coefficient[i] = -1.0f / (float)tokens;
        /* CPU seconds are what a busy machine does not stretch */
        zs_bench_seconds seconds = zs_bench_time(one_update, &w, 3, 15, 2);
        double flops = 3 * (double)tokens *
                       (2 * matrix_params(&bench->config) +
                        attention_flops(&bench->config, (double)(bench->seq + 1) / 2));
        zs_bench_field fields[] = {{"batch", (double)sequences},
                                   {"seq", (double)bench->seq},
                                   {"tokens_per_s", (double)tokens / seconds.wall},
                                   {"tokens_per_cpu_s", (double)tokens / seconds.cpu},
                                   {"gflops", flops / seconds.wall * 1e-9},
                                   {"of_best_gemm", flops / seconds.wall * 1e-9 / bench->best_gflops}};
        zs_bench_report(bench, "train", fields, 6);
        zs_workspace_destroy(w.workspace);
        float *all[] = {w.coefficient, w.grads, w.m, w.v};
        for (int i = 0; i < 4; i++)
            zs_free(all[i]);
        zs_free(ids);
        zs_free(offsets);
    }
    zs_model_destroy(model);
    return ZS_OK;
}

/* Prefill and decode. */

typedef struct generation {
    const zs_bench *bench;
    zs_engine *engine;
    int32_t *prompt;
    int64_t length;
} generation;

static generation start_generation(const zs_bench *bench, const zs_model *model, int64_t batch,
                                   int64_t fresh) {
    generation g = {.bench = bench, .length = bench->prompt + fresh};
    zs_engine_options options = {
        .max_batch = batch, .max_length = g.length, .cache_dtype = bench->cache_dtype};
    options.cache_tokens = batch * (g.length + 16); /* whole pages each, and a shared tail */
    g.engine = zs_engine_create(model, NULL, &options);
    g.prompt = ZS_NEW(int32_t, bench->prompt);
    random_ids(g.prompt, bench->prompt, bench->config.vocab_size);
    return g;
}

static void submit(const zs_bench *bench, generation *g, int64_t group, int64_t sample, int64_t fresh) {
    zs_sequence_request request = {.prompt = g->prompt,
                                   .prompt_length = bench->prompt,
                                   .prompt_group = group,
                                   .max_new_tokens = fresh,
                                   .max_length = g->length,
                                   .sampling = {.temperature = 1, .top_p = 1},
                                   .rng = zs_rng_make(1, ZS_STREAM_TEST, 0, 0, sample)};
    zs_engine_submit(g->engine, &request);
}

static void end_generation(generation *g) {
    zs_engine_destroy(g->engine);
    zs_free(g->prompt);
}

static void one_prefill(void *context) {
    generation *g = context;
    submit(g->bench, g, -1, 0, 1);
    while (zs_engine_step(g->engine) > 0)
        ;
    zs_engine_release(g->engine, zs_engine_next_finished(g->engine, NULL));
}

static void prefill(const zs_bench *bench, zs_dtype dtype) {
    zs_memory_reset_peak();
    zs_model *model = random_model(bench, dtype);
    generation g = start_generation(bench, model, 1, 1);
    double seconds = zs_bench_time(one_prefill, &g, 4, 15, 2).wall;
    double head = (double)(bench->config.hidden_size * bench->config.vocab_size);
    double flops =
        (double)bench->prompt * (2 * (matrix_params(&bench->config) - head) +
                                 attention_flops(&bench->config, (double)(bench->prompt + 1) / 2)) +
        2 * head;
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(dtype)},
                               {"cache_bytes", (double)zs_dtype_size(bench->cache_dtype)},
                               {"prompt", (double)bench->prompt},
                               {"tokens_per_s", (double)bench->prompt / seconds},
                               {"gflops", flops / seconds * 1e-9},
                               {"of_best_gemm", flops / seconds * 1e-9 / bench->best_gflops}};
    zs_bench_report(bench, "prefill", fields, 6);
    end_generation(&g);
    zs_model_destroy(model);
}

zs_status zs_bench_prefill(zs_bench *bench, zs_error *err) {
    (void)err;
    for (int d = 0; d < bench->num_dtypes; d++)
        prefill(bench, bench->dtypes[d]);
    return ZS_OK;
}

/* Sequences of one shared prompt, timed from when all of them decode, step by step; sampling counts too. A
 * slow machine stops early. */
static void decode(zs_bench *bench, zs_dtype dtype, const zs_model *model, int64_t batch) {
    const zs_model_config *c = &bench->config;
    enum { LEAST_STEPS = 8, SECONDS = 12 };
    int64_t fresh = bench->fresh + 2, steps = 0;
    zs_memory_reset_peak();
    double *seconds = ZS_NEW(double, fresh);
    bench->best_read = zs_machine_read_rate();
    generation g = start_generation(bench, model, batch, fresh);
    for (int64_t i = 0; i < batch; i++)
        submit(bench, &g, 0, i, fresh);
    while (zs_engine_get_stats(g.engine).decode_tokens < batch)
        zs_engine_step(g.engine);
    double begin = zs_seconds(), start = begin;
    while ((steps < LEAST_STEPS || start - begin < SECONDS) && zs_engine_step(g.engine) == batch) {
        double now = zs_seconds();
        seconds[steps++] = now - start;
        start = now;
    }
    double step = zs_bench_median(seconds, steps);
    double keys = (double)bench->prompt + (double)steps / 2;
    double flops = (double)batch * (2 * matrix_params(c) + attention_flops(c, keys));
    double bytes =
        matrix_bytes(c, dtype) + 2 * (double)(zs_dtype_size(bench->cache_dtype) * batch) * keys *
                                     (double)(c->num_hidden_layers * c->num_key_value_heads * c->head_dim);
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(dtype)},
                               {"cache_bytes", (double)zs_dtype_size(bench->cache_dtype)},
                               {"batch", (double)batch},
                               {"prompt", (double)bench->prompt},
                               {"new", (double)steps},
                               {"tokens_per_s", (double)batch / step},
                               {"ms_per_step", step * 1e3},
                               {"gflops", flops / step * 1e-9},
                               {"gb_per_s", bytes / step * 1e-9},
                               {"of_best_gemm", flops / step * 1e-9 / bench->best_gflops},
                               {"of_best_read", bytes / step * 1e-9 / bench->best_read}};
    zs_bench_report(bench, "decode", fields, 11);
    zs_free(seconds);
    end_generation(&g);
}

zs_status zs_bench_decode(zs_bench *bench, zs_error *err) {
    (void)err;
    for (int d = 0; d < bench->num_dtypes; d++) {
        zs_model *model = random_model(bench, bench->dtypes[d]);
        for (int b = 0; b < bench->num_batches; b++)
            decode(bench, bench->dtypes[d], model, bench->batches[b]);
        zs_model_destroy(model);
    }
    return ZS_OK;
}
