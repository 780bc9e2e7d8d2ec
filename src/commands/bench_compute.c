/* bench: what one rank computes. */
#include "bench.h"

#include "zerosearch/engine.h"
#include "zerosearch/kernels.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Weights that take part in a matrix product for each token; the embedding is looked up, the head is not. */
static double matrix_params(const zs_model_config *c) {
    double qkv = (double)(c->num_attention_heads + 2 * c->num_key_value_heads) * (double)c->head_dim;
    double layer = (double)c->hidden_size * (qkv + (double)(c->num_attention_heads * c->head_dim) +
                                             3.0 * (double)c->intermediate_size);
    return layer * (double)c->num_hidden_layers + (double)(c->hidden_size * c->vocab_size);
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

/* bf16 numbers are made in place: an f32 model to round would be the larger part of the memory. */
static void fill_bf16(zs_model *model) {
    for (int t = 0; t < model->num_tensors; t++) {
        const zs_tensor *tensor = &model->tensors[t];
        bool norm = strstr(tensor->name, "norm") != NULL, matrix = tensor->num_dims == 2;
        uint16_t *to = model->params_bf16 + tensor->offset;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < tensor->rows * tensor->cols; i++) {
            uint32_t hash = ((uint32_t)(tensor->offset + i) * 2654435761u) ^ 0x9e3779b9u;
            float uniform = (float)(hash >> 8) * 0x1p-24f - 0.5f;
            to[i] = zs_f32_to_bf16(matrix ? 0.07f * uniform : norm ? 1.0f : 0.0f);
        }
    }
    zs_model_widen_vectors(model);
}

static zs_model *random_model(const zs_bench *bench, zs_dtype dtype) {
    zs_model *model =
        dtype == ZS_BF16 ? zs_model_create_bf16(&bench->config) : zs_model_create(&bench->config);
    if (dtype == ZS_BF16)
        fill_bf16(model);
    else
        zs_model_init(model, 1);
    model->config.num_eos = 0; /* nothing ends early */
    return model;
}

/* Gemm: each product of a layer, at the row counts of a training batch and of the decode batches. */

typedef struct gemm_work {
    int64_t m, n, k;
    float *a, *b, *c;
    int repeats;
} gemm_work;

static void one_gemm(void *context) {
    const gemm_work *w = context;
    for (int i = 0; i < w->repeats; i++)
        zs_gemm_nt(w->m, w->n, w->k, w->a, w->b, 0, w->c);
}

static void gemm_row(const zs_bench *bench, const char *what, int64_t m, int64_t n, int64_t k) {
    gemm_work w = {.m = m, .n = n, .k = k};
    double flops = 2.0 * (double)m * (double)n * (double)k;
    w.repeats = 1 + (int)(1e8 / flops);
    w.a = ZS_NEW(float, m *k);
    w.b = ZS_NEW(float, n *k);
    w.c = ZS_NEW(float, m *n);
    double seconds = zs_bench_best(one_gemm, &w, 5) / w.repeats;
    zs_bench_field fields[] = {{"rows", (double)m},
                               {"out", (double)n},
                               {"in", (double)k},
                               {"gflops", flops / seconds * 1e-9},
                               {"of_best_gemm", flops / seconds * 1e-9 / bench->best_gflops}};
    zs_bench_report(bench, what, fields, 5);
    zs_free(w.a);
    zs_free(w.b);
    zs_free(w.c);
}

zs_status zs_bench_gemm(zs_bench *bench, zs_error *err) {
    (void)err;
    const zs_model_config *c = &bench->config;
    int64_t heads = c->num_attention_heads * c->head_dim;
    int64_t rows[BENCH_MAX_BATCHES + 1] = {bench->seq}, num_rows = 1;
    for (int i = 0; i < bench->num_batches; i++)
        rows[num_rows++] = bench->batches[i];
    for (int64_t i = 0; i < num_rows; i++) {
        gemm_row(bench, "gemm_qkv", rows[i], heads + 2 * c->num_key_value_heads * c->head_dim,
                 c->hidden_size);
        gemm_row(bench, "gemm_o", rows[i], c->hidden_size, heads);
        gemm_row(bench, "gemm_up", rows[i], 2 * c->intermediate_size, c->hidden_size);
        gemm_row(bench, "gemm_down", rows[i], c->hidden_size, c->intermediate_size);
        gemm_row(bench, "gemm_head", rows[i], c->vocab_size, c->hidden_size);
    }
    return ZS_OK;
}

/* Train: forward, head, backward, optimizer. */

typedef struct train_work {
    zs_model *model;
    zs_workspace *workspace;
    zs_batch batch;
    float *coefficient, *grads, *m, *v;
    int64_t step;
    double cpu; /* least CPU seconds of an update, all threads: what a busy machine does not stretch */
} train_work;

static void one_update(void *context) {
    train_work *w = context;
    clock_t start = clock();
    memset(w->grads, 0, (size_t)w->model->num_params * sizeof(float));
    zs_model_forward(w->model, w->workspace, &w->batch);
    zs_model_head(w->model, w->workspace, &w->batch, 1, NULL, NULL, w->coefficient, w->grads);
    zs_model_backward(w->model, w->workspace, &w->batch, w->grads, NULL, NULL);
    zs_adamw settings = {1e-6, 0.9, 0.999, 1e-8, 0.01};
    zs_adamw_update(w->model->num_params, ++w->step, settings, 1, w->grads, w->model->params, w->m, w->v);
    w->cpu = fmin(w->cpu, (double)(clock() - start) / CLOCKS_PER_SEC);
}

zs_status zs_bench_train(zs_bench *bench, zs_error *err) {
    (void)err;
    zs_model *model = random_model(bench, ZS_F32);
    for (int b = 0; b < bench->num_batches; b++) {
        int64_t sequences = bench->batches[b], tokens = sequences * bench->seq;
        int64_t *offsets = ZS_NEW(int64_t, sequences + 1);
        int32_t *ids = ZS_NEW(int32_t, tokens);
        for (int64_t i = 0; i <= sequences; i++)
            offsets[i] = i * bench->seq;
        random_ids(ids, tokens, bench->config.vocab_size);
        train_work w = {.model = model,
                        .workspace = zs_workspace_create(&bench->config, tokens, true, false),
                        .batch = {sequences, tokens, offsets, ids},
                        .cpu = INFINITY,
                        .coefficient = ZS_NEW(float, tokens),
                        .grads = ZS_NEW(float, model->num_params),
                        .m = ZS_NEW(float, model->num_params),
                        .v = ZS_NEW(float, model->num_params)};
        for (int64_t i = 0; i < tokens; i++)
            w.coefficient[i] = -1.0f / (float)tokens;
        double seconds = zs_bench_best(one_update, &w, 2); /* the first one meets fresh pages */
        seconds =
            fmin(seconds, zs_bench_best(one_update, &w, seconds < 0.3 ? (int)(1 / (seconds + 0.02)) : 1));
        double flops = 3 * (double)tokens *
                       (2 * matrix_params(&bench->config) +
                        attention_flops(&bench->config, (double)(bench->seq + 1) / 2));
        zs_bench_field fields[] = {{"batch", (double)sequences},
                                   {"seq", (double)bench->seq},
                                   {"tokens_per_s", (double)tokens / seconds},
                                   {"tokens_per_cpu_s", (double)tokens / w.cpu},
                                   {"gflops", flops / seconds * 1e-9},
                                   {"of_best_gemm", flops / seconds * 1e-9 / bench->best_gflops}};
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
    zs_engine *engine;
    int32_t *prompt;
    int64_t length;
} generation;

static generation start_generation(const zs_bench *bench, const zs_model *model, int64_t batch,
                                   int64_t fresh) {
    generation g = {.length = bench->prompt + fresh};
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

static void prefill(const zs_bench *bench, zs_dtype dtype) {
    zs_model *model = random_model(bench, dtype);
    generation g = start_generation(bench, model, 1, 1);
    double best = INFINITY;
    for (int i = 0; i < 4; i++) {
        submit(bench, &g, -1, i, 1);
        double start = zs_seconds();
        while (zs_engine_step(g.engine) > 0)
            ;
        double seconds = zs_seconds() - start;
        best = seconds < best ? seconds : best;
        zs_engine_release(g.engine, zs_engine_next_finished(g.engine, NULL));
    }
    double head = (double)(bench->config.hidden_size * bench->config.vocab_size);
    double flops =
        (double)bench->prompt * (2 * (matrix_params(&bench->config) - head) +
                                 attention_flops(&bench->config, (double)(bench->prompt + 1) / 2)) +
        2 * head;
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(dtype)},
                               {"cache_bytes", (double)zs_dtype_size(bench->cache_dtype)},
                               {"prompt", (double)bench->prompt},
                               {"tokens_per_s", (double)bench->prompt / best},
                               {"gflops", flops / best * 1e-9},
                               {"of_best_gemm", flops / best * 1e-9 / bench->best_gflops}};
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

/* Sequences of one shared prompt, timed from when all of them decode. */
static void decode(const zs_bench *bench, zs_dtype dtype, const zs_model *model, int64_t batch) {
    const zs_model_config *c = &bench->config;
    int64_t fresh = bench->fresh + 2, steps = 0, tokens = 0;
    generation g = start_generation(bench, model, batch, fresh);
    for (int64_t i = 0; i < batch; i++)
        submit(bench, &g, 0, i, fresh);
    while (zs_engine_get_stats(g.engine).decode_tokens < batch)
        zs_engine_step(g.engine);
    double start = zs_seconds();
    for (int64_t computed; (computed = zs_engine_step(g.engine)) == batch; steps++)
        tokens += computed;
    double seconds = zs_seconds() - start;
    double keys = (double)bench->prompt + (double)bench->fresh / 2;
    double flops = (double)tokens * (2 * matrix_params(c) + attention_flops(c, keys));
    double bytes = (double)zs_dtype_size(dtype) * (double)steps * matrix_params(c) +
                   2 * (double)(zs_dtype_size(bench->cache_dtype) * tokens) * keys *
                       (double)(c->num_hidden_layers * c->num_key_value_heads * c->head_dim);
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(dtype)},
                               {"cache_bytes", (double)zs_dtype_size(bench->cache_dtype)},
                               {"batch", (double)batch},
                               {"prompt", (double)bench->prompt},
                               {"tokens_per_s", (double)tokens / seconds},
                               {"ms_per_step", seconds / (double)steps * 1e3},
                               {"gflops", flops / seconds * 1e-9},
                               {"gb_per_s", bytes / seconds * 1e-9},
                               {"of_best_gemm", flops / seconds * 1e-9 / bench->best_gflops},
                               {"of_best_read", bytes / seconds * 1e-9 / bench->best_read}};
    zs_bench_report(bench, "decode", fields, 10);
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
