/* The whole model: shapes, layout, initialisation, gradients by differences, packing, recomputation. */
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"
#include "zerosearch/model.h"
#include "zerosearch/rng.h"

#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Helpers: a small model with large weights, a packed batch, its loss. */

static zs_model_config small_config(zs_architecture architecture) {
    zs_model_config c;
    assert_true(zs_model_shape("tiny", &c));
    c.architecture = architecture;
    c.vocab_size = 97;
    c.attention_bias = architecture == ZS_QWEN2;
    c.tie_word_embeddings = architecture == ZS_QWEN2;
    c.head_dim = 12; /* heads x head_dim differs from hidden */
    if (architecture == ZS_LLAMA) {
        c.rope_llama3 = true;
        c.rope_factor = 8, c.rope_low_freq_factor = 1, c.rope_high_freq_factor = 4;
        c.rope_original_max_position = 32;
    }
    return c;
}

/* Weights large enough that attention is not flat and norms and biases matter. */
static zs_model *small_model(zs_architecture architecture) {
    zs_model_config config = small_config(architecture);
    zs_model *model = zs_model_create(&config);
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, 0, 0, 0);
    zs_model_init(model, 3);
    for (int64_t i = 0; i < model->num_params; i++)
        model->params[i] += (float)(0.15 * zs_rng_normal(&rng));
    return model;
}

enum { SEQUENCES = 5, TOKENS = 190 };
static const int64_t offsets[SEQUENCES + 1] = {0, 1, 71, 71, 80, 190};

typedef struct fixture {
    zs_model *model;
    int32_t ids[TOKENS];
    float coefficient[TOKENS];
    zs_batch batch;
    zs_workspace *workspace;
} fixture;

static void fixture_open(fixture *f, zs_architecture architecture, bool recompute) {
    zs_rng rng = zs_rng_make(6, ZS_STREAM_TEST, 0, 0, 0);
    f->model = small_model(architecture);
    for (int i = 0; i < TOKENS; i++) {
        f->ids[i] = (int32_t)zs_rng_below(&rng, f->model->config.vocab_size);
        f->coefficient[i] = i % 3 == 0 ? 0 : (float)zs_rng_normal(&rng);
    }
    f->batch = (zs_batch){SEQUENCES, TOKENS, offsets, f->ids};
    f->workspace = zs_workspace_create(&f->model->config, TOKENS, true, recompute);
}

static void fixture_close(fixture *f) {
    zs_workspace_destroy(f->workspace);
    zs_model_destroy(f->model);
}

static bool is_first(int64_t t) {
    for (int s = 0; s < SEQUENCES; s++)
        if (offsets[s] == t) return true;
    return false;
}

static const float temperature = 0.8f;

static double loss_of(fixture *f) {
    float log_prob[TOKENS];
    double sum = 0;
    zs_model_forward(f->model, f->workspace, &f->batch);
    zs_model_head(f->model, f->workspace, &f->batch, temperature, log_prob, NULL, NULL, NULL);
    for (int64_t t = 0; t < TOKENS; t++)
        sum += is_first(t) ? 0 : (double)f->coefficient[t] * log_prob[t];
    return sum;
}

static void gradient_of(fixture *f, float *grads) {
    zs_model_forward(f->model, f->workspace, &f->batch);
    zs_model_head(f->model, f->workspace, &f->batch, temperature, NULL, NULL, f->coefficient, grads);
    zs_model_backward(f->model, f->workspace, &f->batch, grads, NULL, NULL);
}

/* Shapes and layout. */

/* Parameter counts as the publishers state them; the demo's as its recipe does. */
static void shapes_have_the_published_sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t params;
    } known[] = {
        {"qwen2.5-0.5b", 494032768},  {"qwen2.5-1.5b", 1543714304},
        {"qwen2.5-3b", 3085938688},   {"qwen2.5-7b", 7615616512},
        {"qwen2.5-14b", 14770033664}, {"llama3.2-1b", 1235814400},
        {"llama3.2-3b", 3212749824},  {"demo", 879232},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        zs_model_config c;
        assert_true(zs_model_shape(known[i].name, &c));
        zs_model *layout = zs_model_layout(&c);
        assert_null(layout->params);
        assert_int_equal(layout->num_params, known[i].params);
        assert_non_null(strstr(zs_model_shape_names, known[i].name));
        zs_model_destroy(layout);
    }
    zs_model_config c;
    assert_false(zs_model_shape("qwen2.5-0.6b", &c));
    assert_true(zs_model_shape("tiny", &c));
}

static void the_layout_has_no_holes(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        zs_model_config c = small_config(architecture ? ZS_QWEN2 : ZS_LLAMA);
        zs_model *model = zs_model_layout(&c);
        int64_t at = 0;
        for (int i = 0; i < model->num_tensors; i++) {
            const zs_tensor *t = &model->tensors[i];
            assert_int_equal(t->offset, at);
            at += t->rows * t->cols;
            assert_ptr_equal(zs_model_find(model, t->name), t);
        }
        assert_int_equal(at, model->num_params);
        const zs_tensor *q = zs_model_find(model, "model.layers.1.self_attn.q_proj.weight");
        const zs_tensor *down = zs_model_find(model, "model.layers.1.mlp.down_proj.weight");
        assert_int_equal(q->offset, model->layers[1].qkv);
        assert_int_equal(q->rows, c.num_attention_heads * c.head_dim);
        assert_int_equal(q->cols, c.hidden_size);
        assert_int_equal(q->layer, 1);
        assert_int_equal(down->rows, c.hidden_size);
        assert_true((zs_model_find(model, "lm_head.weight") == NULL) == c.tie_word_embeddings);
        assert_true((zs_model_find(model, "model.layers.0.self_attn.k_proj.bias") != NULL) ==
                    c.attention_bias);
        assert_null(zs_model_find(model, "model.layers.2.self_attn.q_proj.weight"));
        zs_model_destroy(model);
    }
}

static void bad_configs_are_refused_by_field(void **state) {
    (void)state;
    static const struct {
        size_t field;
        int64_t value;
        const char *named;
    } bad[] = {
        {offsetof(zs_model_config, vocab_size), 0, "vocab_size"},
        {offsetof(zs_model_config, hidden_size), -1, "hidden_size"},
        {offsetof(zs_model_config, num_hidden_layers), 0, "num_hidden_layers"},
        {offsetof(zs_model_config, num_key_value_heads), 3, "num_key_value_heads"},
        {offsetof(zs_model_config, head_dim), 7, "head_dim"},
        {offsetof(zs_model_config, intermediate_size), (int64_t)1 << 40, "intermediate_size"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        zs_model_config c = small_config(ZS_QWEN2);
        zs_error err = {0};
        assert_int_equal(zs_model_config_check(&c, &err), ZS_OK);
        memcpy((char *)&c + bad[i].field, &bad[i].value, sizeof(int64_t));
        assert_int_not_equal(zs_model_config_check(&c, &err), ZS_OK);
        assert_non_null(strstr(err.text, bad[i].named));
    }
}

static void initial_weights(void **state) {
    (void)state;
    zs_model_config c;
    zs_model_shape("demo", &c);
    c.attention_bias = true;
    zs_model *model = zs_model_create(&c), *same = zs_model_create(&c), *other = zs_model_create(&c);
    zs_model_init(model, 11);
    zs_model_init(same, 11);
    zs_model_init(other, 12);
    assert_memory_equal(model->params, same->params, (size_t)model->num_params * sizeof(float));
    assert_memory_not_equal(model->params, other->params, (size_t)model->num_params * sizeof(float));
    for (int i = 0; i < model->num_tensors; i++) {
        const zs_tensor *t = &model->tensors[i];
        int64_t n = t->rows * t->cols;
        double mean = 0, square = 0, spread = 0.02;
        for (int64_t e = 0; e < n; e++) {
            mean += model->params[t->offset + e];
            square += pow(model->params[t->offset + e], 2);
        }
        mean /= (double)n, square /= (double)n;
        if (t->num_dims == 1) {
            assert_true(mean == (strstr(t->name, "norm") ? 1 : 0) && square == mean);
            continue;
        }
        if (strstr(t->name, "o_proj") || strstr(t->name, "down_proj")) spread /= sqrt(8);
        /* five standard errors */
        assert_true(fabs(mean) < 5 * spread / sqrt((double)n));
        assert_true(fabs(square / (spread * spread) - 1) < 5 * sqrt(2 / (double)n));
    }
    zs_model *copy = zs_model_clone(model);
    assert_memory_equal(model->params, copy->params, (size_t)model->num_params * sizeof(float));
    zs_model_destroy(copy);
    zs_model_destroy(model);
    zs_model_destroy(same);
    zs_model_destroy(other);
}

/* Gradients. */

/* Each tensor along two random directions, with a step that changes the loss by some hundredths: the f32
 * forward is good to about 1e-5 there, and the cubic term stays small. */
static void check_tensor(fixture *f, const zs_tensor *tensor, const float *grads, int trial) {
    int64_t n = tensor->rows * tensor->cols;
    float *params = f->model->params + tensor->offset, *kept = ZS_NEW(float, n), *u = ZS_NEW(float, n);
    zs_rng rng = zs_rng_make(8, ZS_STREAM_TEST, tensor->offset, 0, trial);
    const float *g = grads + tensor->offset;
    double norm = 0, expected = 0;
    memcpy(kept, params, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        u[i] = (float)zs_rng_normal(&rng);
        norm += (double)g[i] * g[i];
    }
    norm = sqrt(norm);
    assert_true(norm > 0);
    double h = fmin(0.05 / norm, 3e-3);
    for (int64_t i = 0; i < n; i++)
        params[i] = (float)(kept[i] + h * u[i]);
    double high = loss_of(f);
    for (int64_t i = 0; i < n; i++) {
        float up = params[i];
        params[i] = (float)(kept[i] - h * u[i]);
        expected += (double)g[i] * ((double)up - params[i]);
    }
    double low = loss_of(f);
    memcpy(params, kept, (size_t)n * sizeof(float));
    if (!(fabs(high - low - expected) <= 1e-3 * 2 * h * norm + 1e-5))
        fail_msg("%s: difference %.7g, gradient says %.7g (|gradient| %.3g, step %.2g)", tensor->name,
                 (high - low) / (2 * h), expected / (2 * h), norm, h);
    zs_free(kept);
    zs_free(u);
}

static void gradients_match_differences(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture f;
        fixture_open(&f, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        float *grads = ZS_NEW(float, f.model->num_params);
        gradient_of(&f, grads);
        for (int i = 0; i < f.model->num_tensors; i++)
            for (int trial = 0; trial < 2; trial++)
                check_tensor(&f, &f.model->tensors[i], grads, trial);
        zs_free(grads);
        fixture_close(&f);
    }
}

static void recomputed_gradients_are_the_same_bits(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture plain, again;
        fixture_open(&plain, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        fixture_open(&again, architecture ? ZS_QWEN2 : ZS_LLAMA, true);
        int64_t n = plain.model->num_params;
        float *a = ZS_NEW(float, n), *b = ZS_NEW(float, n);
        gradient_of(&plain, a);
        gradient_of(&again, b);
        assert_memory_equal(a, b, (size_t)n * sizeof(float));
        assert_true(zs_workspace_bytes(&plain.model->config, 4000, true, true) <
                    zs_workspace_bytes(&plain.model->config, 4000, true, false));
        zs_free(a);
        zs_free(b);
        fixture_close(&plain);
        fixture_close(&again);
    }
}

/* Gradients add up: two calls give twice one call. The head with log_prob and entropy gives the same ones. */
static void gradients_accumulate(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_QWEN2, false);
    int64_t n = f.model->num_params;
    float *one = ZS_NEW(float, n), *two = ZS_NEW(float, n), log_prob[TOKENS], entropy[TOKENS];
    gradient_of(&f, one);
    gradient_of(&f, two);
    zs_model_forward(f.model, f.workspace, &f.batch);
    zs_model_head(f.model, f.workspace, &f.batch, temperature, log_prob, entropy, f.coefficient, two);
    zs_model_backward(f.model, f.workspace, &f.batch, two, NULL, NULL);
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(one[i]));
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(two[i] - 2.0 * one[i]) <= 2e-5 * largest);
    zs_free(one);
    zs_free(two);
    fixture_close(&f);
}

typedef struct spans {
    int64_t low;
    int calls;
} spans;

static void note_span(void *context, int64_t begin, int64_t end) {
    spans *s = context;
    assert_int_equal(end, s->low);
    assert_true(begin < end);
    s->low = begin;
    s->calls++;
}

static void ready_spans_come_from_the_top_down(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture f;
        fixture_open(&f, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        float *grads = ZS_NEW(float, f.model->num_params);
        spans s = {f.model->num_params, 0};
        zs_model_forward(f.model, f.workspace, &f.batch);
        zs_model_head(f.model, f.workspace, &f.batch, 1, NULL, NULL, f.coefficient, grads);
        zs_model_backward(f.model, f.workspace, &f.batch, grads, note_span, &s);
        assert_int_equal(s.low, 0);
        assert_int_equal(s.calls, f.model->config.num_hidden_layers + 2);
        zs_free(grads);
        fixture_close(&f);
    }
}

/* Packing. */

static void packing_equals_separate_sequences(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture f;
        fixture_open(&f, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        float log_prob[TOKENS], entropy[TOKENS], alone[TOKENS], alone_entropy[TOKENS];
        zs_model_forward(f.model, f.workspace, &f.batch);
        zs_model_head(f.model, f.workspace, &f.batch, 1, log_prob, entropy, NULL, NULL);
        for (int s = 0; s < SEQUENCES; s++) {
            int64_t bounds[2] = {0, offsets[s + 1] - offsets[s]};
            zs_batch one = {1, bounds[1], bounds, f.ids + offsets[s]};
            zs_model_forward(f.model, f.workspace, &one);
            zs_model_head(f.model, f.workspace, &one, 1, alone + offsets[s], alone_entropy + offsets[s], NULL,
                          NULL);
        }
        for (int64_t t = 0; t < TOKENS; t++) {
            assert_true(fabsf(log_prob[t] - alone[t]) <= 1e-5f);
            assert_true(fabsf(entropy[t] - alone_entropy[t]) <= 1e-5f);
            assert_true(!is_first(t) || log_prob[t] == 0);
        }
        fixture_close(&f);
    }
}

/* The log-probabilities are those of the logits, and a forward-only workspace gives the same ones. */
static void head_agrees_with_logits(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_QWEN2, false);
    int64_t vocab = f.model->config.vocab_size;
    zs_workspace *lean = zs_workspace_create(&f.model->config, TOKENS + 20, false, false);
    float *logits = ZS_NEW(float, TOKENS *vocab), log_prob[TOKENS], full[TOKENS];
    zs_model_forward(f.model, f.workspace, &f.batch);
    zs_model_head(f.model, f.workspace, &f.batch, temperature, full, NULL, NULL, NULL);
    zs_model_forward(f.model, lean, &f.batch);
    zs_model_head(f.model, lean, &f.batch, temperature, log_prob, NULL, NULL, NULL);
    zs_model_logits(f.model, lean, &f.batch, logits);
    assert_memory_equal(log_prob, full, sizeof full);
    for (int64_t t = 1; t < TOKENS; t++) {
        const float *z = logits + (t - 1) * vocab;
        double sum = 0;
        if (is_first(t)) continue;
        for (int64_t i = 0; i < vocab; i++)
            sum += exp(z[i] / (double)temperature);
        assert_true(fabs(log_prob[t] - (z[f.ids[t]] / (double)temperature - log(sum))) < 2e-5);
    }
    assert_true(zs_workspace_bytes(&f.model->config, TOKENS, false, false) <
                zs_workspace_bytes(&f.model->config, TOKENS, true, true));
    zs_free(logits);
    zs_workspace_destroy(lean);
    fixture_close(&f);
}

/* Coefficients of zero everywhere: no gradient at all, and no head row is computed. */
/* A loss whose coefficients follow from the log-probabilities: c = w p, so d loss = w p d log p. */
typedef struct made_up_loss {
    const uint8_t *mask;
    const float *weight, *log_prob;
    float *coefficient;
    int64_t covered;
    int calls;
} made_up_loss;

static void make_coefficients(void *context, int64_t begin, int64_t end) {
    made_up_loss *l = context;
    assert_int_equal(begin, l->covered);
    assert_true(begin < end);
    for (int64_t t = begin; t < end; t++)
        l->coefficient[t] = l->mask[t] ? l->weight[t] * expf(l->log_prob[t]) : 0;
    l->covered = end;
    l->calls++;
}

/* One pass over a mask gives what the head gives in two over all tokens, over several chunks of logits; an
 * empty mask and one sequence without masked tokens too. */
static void masked_pass_equals_two_passes(void **state) {
    (void)state;
    enum { MANY = 900 };
    static const int64_t bounds[] = {0, 300, 301, 420, 900};
    static const int masked_of_8[] = {8, 5, 1, 0};
    zs_model_config config;
    assert_true(zs_model_shape("tiny", &config));
    zs_model *model = zs_model_create(&config);
    zs_model_init(model, 5);
    zs_workspace *w = zs_workspace_create(&config, MANY, true, false);
    int32_t ids[MANY];
    uint8_t mask[MANY];
    float weight[MANY], log_prob[MANY], entropy[MANY], all[MANY], all_entropy[MANY], c[MANY], all_c[MANY];
    int64_t n = model->num_params;
    float *one = ZS_NEW(float, n), *two = ZS_NEW(float, n);
    zs_rng rng = zs_rng_make(9, ZS_STREAM_TEST, 0, 0, 0);
    zs_batch batch = {4, MANY, bounds, ids};
    for (int kind = 0; kind < 4; kind++) {
        for (int t = 0; t < MANY; t++) {
            ids[t] = (int32_t)zs_rng_below(&rng, config.vocab_size);
            mask[t] = zs_rng_below(&rng, 8) < masked_of_8[kind] && !(t >= 301 && t < 420);
            weight[t] = (float)zs_rng_normal(&rng);
        }
        memset(one, 0, (size_t)n * sizeof(float));
        memset(two, 0, (size_t)n * sizeof(float));
        zs_model_forward(model, w, &batch);
        zs_model_head(model, w, &batch, temperature, all, all_entropy, NULL, NULL);
        for (int t = 0; t < MANY; t++)
            all_c[t] = mask[t] ? weight[t] * expf(all[t]) : 0;
        zs_model_head(model, w, &batch, temperature, NULL, NULL, all_c, two);
        zs_model_backward(model, w, &batch, two, NULL, NULL);

        made_up_loss loss = {mask, weight, log_prob, c, 0, 0};
        zs_model_forward(model, w, &batch);
        zs_model_head_masked(model, w, &batch, temperature, mask, log_prob, entropy, c, make_coefficients,
                             &loss, one);
        zs_model_backward(model, w, &batch, one, NULL, NULL);
        assert_int_equal(loss.covered, MANY);
        assert_true(kind > 0 || loss.calls > 2);
        for (int t = 0; t < MANY; t++) {
            bool first = t == 0 || t == 300 || t == 301 || t == 420;
            assert_true(mask[t] && !first ? fabsf(log_prob[t] - all[t]) <= 1e-5f : log_prob[t] == 0);
            assert_true(mask[t] && !first ? fabsf(entropy[t] - all_entropy[t - 1]) <= 1e-5f
                                          : entropy[t] == 0);
        }
        double largest = 0;
        for (int64_t i = 0; i < n; i++)
            largest = fmax(largest, fabs(two[i]));
        assert_true((largest == 0) == (masked_of_8[kind] == 0));
        for (int64_t i = 0; i < n; i++)
            assert_true(fabs(one[i] - two[i]) <= 2e-5 * largest);
    }
    zs_free(one);
    zs_free(two);
    zs_workspace_destroy(w);
    zs_model_destroy(model);
}

static void zero_coefficients_give_zero_gradients(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_LLAMA, false);
    float *grads = ZS_NEW(float, f.model->num_params);
    for (int64_t t = 0; t < TOKENS; t++)
        f.coefficient[t] = is_first(t) ? NAN : 0; /* entries at first positions are not read */
    gradient_of(&f, grads);
    for (int64_t i = 0; i < f.model->num_params; i++)
        assert_true(grads[i] == 0);
    zs_free(grads);
    fixture_close(&f);
}

static void nothing_allocates_in_the_steady_state(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_QWEN2, true);
    float *grads = ZS_NEW(float, f.model->num_params);
    gradient_of(&f, grads); /* BLAS and OpenMP take their own memory at first use */
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 20; i++)
        gradient_of(&f, grads);
    struct mallinfo2 after = mallinfo2();
    assert_true(after.uordblks <= before.uordblks && after.hblkhd <= before.hblkhd);
    zs_free(grads);
    fixture_close(&f);
}

/* Resident memory of this process in bytes. */
static double resident(void) {
    double kib = 0;
    char line[200];
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) && sscanf(line, "VmRSS: %lf", &kib) != 1)
        ;
    fclose(file);
    return 1024 * kib;
}

/* `plan` states 16 bytes a parameter (weights, gradients, two moments) and the workspace's own count: what
 * the process grows by in a training step. */
static void memory_of_a_step_is_as_stated(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
    enum { TOKENS_HERE = 512 };
    zs_model_config c = small_config(ZS_QWEN2);
    c.vocab_size = 32768, c.hidden_size = 256, c.intermediate_size = 1024, c.num_hidden_layers = 2;
    for (int pass = 0; pass < 3; pass++) { /* in the first one OpenBLAS takes its buffers */
        bool recompute = pass == 2;
        malloc_trim(0);
        double before = resident();
        zs_model *model = zs_model_create(&c);
        zs_model_init(model, 1);
        float *grads = ZS_NEW(float, model->num_params), *m = ZS_NEW(float, model->num_params);
        float *v = ZS_NEW(float, model->num_params);
        zs_workspace *w = zs_workspace_create(&c, TOKENS_HERE, true, recompute);
        static int32_t ids[TOKENS_HERE];
        static float coefficient[TOKENS_HERE];
        int64_t ends[3] = {0, 200, TOKENS_HERE};
        zs_batch batch = {2, TOKENS_HERE, ends, ids};
        for (int i = 0; i < TOKENS_HERE; i++)
            ids[i] = i * 7, coefficient[i] = -1e-3f;
        zs_model_forward(model, w, &batch);
        zs_model_head(model, w, &batch, 1, NULL, NULL, coefficient, grads);
        zs_model_backward(model, w, &batch, grads, NULL, NULL);
        zs_adamw_update(model->num_params, 1, (zs_adamw){1e-4, 0.9, 0.999, 1e-8, 0}, 1, grads, model->params,
                        m, v);
        double grown = resident() - before;
        double stated =
            16.0 * (double)model->num_params + (double)zs_workspace_bytes(&c, TOKENS_HERE, true, recompute);
        double rest = 12e6; /* each of the larger arrays ends in a page of 2 MiB */
        if (pass > 0 && fabs(grown - stated) > 0.03 * stated + rest)
            fail_msg("%.1f MB more, %.1f MB stated", grown / 1e6, stated / 1e6);
        zs_workspace_destroy(w);
        zs_model_destroy(model);
        zs_free(grads);
        zs_free(m);
        zs_free(v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_have_the_published_sizes),
        cmocka_unit_test(the_layout_has_no_holes),
        cmocka_unit_test(bad_configs_are_refused_by_field),
        cmocka_unit_test(initial_weights),
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(recomputed_gradients_are_the_same_bits),
        cmocka_unit_test(gradients_accumulate),
        cmocka_unit_test(ready_spans_come_from_the_top_down),
        cmocka_unit_test(packing_equals_separate_sequences),
        cmocka_unit_test(head_agrees_with_logits),
        cmocka_unit_test(masked_pass_equals_two_passes),
        cmocka_unit_test(zero_coefficients_give_zero_gradients),
        cmocka_unit_test(nothing_allocates_in_the_steady_state),
        cmocka_unit_test(memory_of_a_step_is_as_stated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
