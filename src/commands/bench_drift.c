/* bench drift: what rounding a model's weights, or its keys and values, to bf16 does to the log-probabilities
 * of its own text.
 *
 * Text is sampled from the f32 model, so that means over it are expectations under that model, and is then
 * scored by both. The KL divergence is estimated by r - 1 - log r with r = q(token) / p(token), which has the
 * right mean and, unlike -log r, cannot be negative (Schulman 2020, "Approximating KL divergence").
 * A rounded cache has no forward pass of its own: there text is drawn over such a cache, as in a rollout,
 * with the log-probabilities that the engine records, and is scored by the f32 model, as by a learner. */
#include "bench.h"

#include "zerosearch/engine.h"
#include "zerosearch/hf.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <string.h>

typedef struct text { /* `count` sequences of `length` tokens, one after another */
    int64_t count, length;
    int32_t *ids;
    float *log_prob; /* as the engine recorded them */
} text;

typedef struct drift { /* sums over tokens: p is what the text was drawn from, q the other */
    double count, log_p, shift, absolute, largest, kl;
} drift;

/* A beginning that the model knows, where it has one; else any token. */
static int32_t first_token(const zs_model_config *c, zs_rng *rng) {
    if (c->bos_token_id >= 0) return c->bos_token_id;
    return c->num_eos ? c->eos_token_ids[0] : (int32_t)zs_rng_below(rng, c->vocab_size);
}

static text sample_text(int64_t tokens, zs_model *model, zs_dtype cache_dtype) {
    const zs_model_config config = model->config;
    text t = {.length = tokens < 256 ? tokens : 256};
    t.length = t.length < config.max_position_embeddings ? t.length : config.max_position_embeddings;
    t.length = t.length > 2 ? t.length : 2;
    t.count = (tokens + t.length - 1) / t.length;
    t.ids = ZS_NEW(int32_t, t.count * t.length);
    t.log_prob = ZS_NEW(float, t.count *t.length);
    zs_engine_options options = {
        .max_batch = t.count < 32 ? t.count : 32, .max_length = t.length, .cache_dtype = cache_dtype};
    options.cache_tokens = options.max_batch * (t.length + 16);
    model->config.num_eos = 0; /* all sequences are of one length */
    zs_engine *engine = zs_engine_create(model, NULL, &options);
    for (int64_t i = 0; i < t.count; i++) {
        zs_rng rng = zs_rng_make(1, ZS_STREAM_TEST, 1, 0, i);
        int32_t first = first_token(&config, &rng);
        zs_sequence_request request = {.prompt = &first,
                                       .prompt_length = 1,
                                       .prompt_group = -1,
                                       .max_new_tokens = t.length,
                                       .max_length = t.length,
                                       .sampling = {.temperature = 1, .top_p = 1},
                                       .rng = rng};
        zs_engine_submit(engine, &request);
    }
    for (int64_t done = 0; done < t.count;) {
        zs_engine_step(engine);
        for (int64_t h; (h = zs_engine_next_finished(engine, NULL)) >= 0; done++) {
            zs_sequence_view view = zs_engine_view(engine, h);
            memcpy(t.ids + done * t.length, view.ids, (size_t)t.length * sizeof *t.ids);
            memcpy(t.log_prob + done * t.length, view.log_prob, (size_t)t.length * sizeof *t.log_prob);
            zs_engine_release(engine, h);
        }
    }
    zs_engine_destroy(engine);
    return t;
}

static void score(const zs_model *model, zs_workspace *workspace, const int32_t *ids, int64_t length,
                  float *log_prob) {
    const int64_t offsets[] = {0, length};
    zs_batch batch = {1, length, offsets, ids};
    zs_model_forward(model, workspace, &batch);
    zs_model_head(model, workspace, &batch, 1, log_prob, NULL, NULL, NULL);
}

static void free_text(text *t) {
    zs_free(t->ids);
    zs_free(t->log_prob);
}

/* Tokens 1 .. length-1: nothing tells of the first. */
static void add_drift(drift *sums, int64_t length, const float *p, const float *q) {
    for (int64_t i = 1; i < length; i++) {
        double d = (double)q[i] - p[i];
        sums->count++;
        sums->log_p += p[i];
        sums->shift += d;
        sums->absolute += fabs(d);
        sums->largest = fmax(sums->largest, fabs(d));
        sums->kl += expm1(d) - d;
    }
}

static zs_status report(const zs_bench *bench, zs_dtype weights, zs_dtype cache, const drift *sums,
                        zs_error *err) {
    if (isnan(sums->log_p) || isnan(sums->shift))
        return zs_fail(err, ZS_FAILED, "the model gives no probabilities but NaN; are its weights damaged?");
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(weights)},
                               {"cache_bytes", (double)zs_dtype_size(cache)},
                               {"tokens", sums->count},
                               {"perplexity", exp(-sums->log_p / sums->count)},
                               {"mean_abs", sums->absolute / sums->count},
                               {"max_abs", sums->largest},
                               {"kl", sums->kl / sums->count},
                               {"perplexity_change", expm1(-sums->shift / sums->count)}};
    zs_bench_report(bench, "drift", fields, 8);
    return ZS_OK;
}

/* Text of the f32 model, scored with f32 and with narrow weights. */
static zs_status weights_drift(const zs_bench *bench, zs_model *wide, const zs_model *narrow, zs_error *err) {
    text t = sample_text(bench->tokens, wide, ZS_F32);
    zs_workspace *workspace = zs_workspace_create(&wide->config, t.length, false, false);
    float *p = ZS_NEW(float, t.length), *q = ZS_NEW(float, t.length);
    drift sums = {0};
    for (int64_t s = 0; s < t.count; s++) {
        score(wide, workspace, t.ids + s * t.length, t.length, p);
        score(narrow, workspace, t.ids + s * t.length, t.length, q);
        add_drift(&sums, t.length, p, q);
    }
    zs_free(p);
    zs_free(q);
    zs_workspace_destroy(workspace);
    free_text(&t);
    return report(bench, zs_model_dtype(narrow), ZS_F32, &sums, err);
}

/* Text drawn from `model` over a cache in bf16, scored by the f32 model's forward pass. */
static zs_status cache_drift(const zs_bench *bench, zs_model *model, const zs_model *wide, zs_error *err) {
    text t = sample_text(bench->tokens, model, ZS_BF16);
    zs_workspace *workspace = zs_workspace_create(&wide->config, t.length, false, false);
    float *q = ZS_NEW(float, t.length);
    drift sums = {0};
    for (int64_t s = 0; s < t.count; s++) {
        score(wide, workspace, t.ids + s * t.length, t.length, q);
        add_drift(&sums, t.length, t.log_prob + s * t.length, q);
    }
    zs_free(q);
    zs_workspace_destroy(workspace);
    free_text(&t);
    return report(bench, zs_model_dtype(model), ZS_BF16, &sums, err);
}

zs_status zs_bench_drift(zs_bench *bench, zs_error *err) {
    zs_model *wide = NULL;
    if (bench->config.value_head)
        return zs_fail(err, ZS_FAILED, "%s has a value head: it gives values, not log-probabilities",
                       bench->model);
    if (bench->model) {
        zs_status status = zs_hf_load(bench->model, &wide, err);
        if (status != ZS_OK) return status;
    } else {
        wide = zs_model_create(&bench->config);
        zs_model_init(wide, 1);
    }
    zs_model *narrow = zs_model_create_narrow(&wide->config, bench->dtype == ZS_INT8 ? ZS_INT8 : ZS_BF16);
    zs_model_narrow(wide, narrow);
    zs_status status = weights_drift(bench, wide, narrow, err);
    bool cache = bench->cache_dtype == ZS_BF16;
    if (status == ZS_OK && cache) status = cache_drift(bench, wide, wide, err);
    if (status == ZS_OK && cache) status = cache_drift(bench, narrow, wide, err);
    zs_model_destroy(narrow);
    zs_model_destroy(wide);
    return status;
}
