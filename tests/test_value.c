/* Value models: values against a language model's logits and by hand, gradients by differences through the
 * whole model, bf16, folders of both kinds of transformers' heads. */
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = "/tmp/zs-test-value-XXXXXX";

static const char *in_folder(const char *name) {
    static char paths[16][4400];
    static int next;
    return zs_path_join(paths[next++ % 16], sizeof paths[0], folder, name);
}

enum { SEQUENCES = 4, TOKENS = 150 };
static const int64_t offsets[SEQUENCES + 1] = {0, 1, 71, 71, TOKENS};

typedef struct fixture {
    zs_model *model;
    int32_t ids[TOKENS];
    float coefficient[TOKENS];
    zs_batch batch;
    zs_workspace *workspace;
} fixture;

static zs_model_config value_config(zs_architecture architecture) {
    zs_model_config c;
    assert_true(zs_model_shape("tiny", &c));
    c.architecture = architecture;
    c.vocab_size = 61;
    c.attention_bias = architecture == ZS_QWEN2;
    c.tie_word_embeddings = architecture == ZS_QWEN2;
    c.value_head = true;
    return c;
}

static void fixture_open(fixture *f, zs_architecture architecture, bool recompute) {
    zs_model_config c = value_config(architecture);
    zs_rng rng = zs_rng_make(6, ZS_STREAM_TEST, 0, 0, 0);
    f->model = zs_model_create(&c);
    zs_model_init(f->model, 3);
    for (int64_t i = 0; i < f->model->num_params; i++)
        f->model->params[i] += (float)(0.15 * zs_rng_normal(&rng));
    for (int i = 0; i < TOKENS; i++) {
        f->ids[i] = (int32_t)zs_rng_below(&rng, c.vocab_size);
        f->coefficient[i] = i % 3 == 0 ? 0 : (float)zs_rng_normal(&rng);
    }
    f->batch = (zs_batch){SEQUENCES, TOKENS, offsets, f->ids};
    f->workspace = zs_workspace_create(&c, TOKENS, true, recompute);
}

static void fixture_close(fixture *f) {
    zs_workspace_destroy(f->workspace);
    zs_model_destroy(f->model);
}

/* A fresh value model knows nothing and says so: 0 everywhere. The language model has no bias to compare. */
static void the_layout_ends_in_the_head(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        zs_model_config c = value_config(architecture ? ZS_QWEN2 : ZS_LLAMA);
        zs_model *model = zs_model_create(&c);
        const zs_tensor *weight = zs_model_find(model, "score.weight");
        const zs_tensor *bias = zs_model_find(model, "score.bias");
        assert_true(weight->num_dims == 2 && weight->rows == 1 && weight->cols == c.hidden_size);
        assert_true(bias->num_dims == 1 && bias->rows == 1 && bias->offset == model->num_params - 1);
        assert_null(zs_model_find(model, "lm_head.weight"));
        zs_model_init(model, 9);
        for (int64_t i = weight->offset; i < model->num_params; i++)
            assert_true(model->params[i] == 0);
        assert_true(model->params[0] != 0);
        zs_model_destroy(model);
    }
}

/* The same body with score.weight as a row of the output head: its logit and the bias are the value. */
static void values_are_a_logit_and_a_bias(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture f;
        fixture_open(&f, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        zs_model_config c = f.model->config;
        c.value_head = c.tie_word_embeddings = false;
        zs_model *policy = zs_model_create(&c);
        int64_t h = c.hidden_size, body = f.model->final_norm + h;
        memcpy(policy->params, f.model->params, (size_t)body * sizeof(float));
        memcpy(policy->params + policy->head + 5 * h, f.model->params + f.model->head,
               (size_t)h * sizeof(float));
        float values[TOKENS], *logits = ZS_NEW(float, TOKENS *c.vocab_size);
        zs_model_forward(f.model, f.workspace, &f.batch);
        zs_model_values(f.model, f.workspace, &f.batch, values);
        zs_workspace *workspace = zs_workspace_create(&c, TOKENS, false, false);
        zs_model_forward(policy, workspace, &f.batch);
        zs_model_logits(policy, workspace, &f.batch, logits);
        float bias = f.model->params[f.model->score_bias];
        assert_true(bias != 0);
        for (int t = 0; t < TOKENS; t++)
            assert_true(fabsf(values[t] - (logits[t * c.vocab_size + 5] + bias)) < 1e-4f);
        zs_workspace_destroy(workspace);
        zs_model_destroy(policy);
        zs_free(logits);
        fixture_close(&f);
    }
}

/* Gradients. The loss is not linear in the values: sum of c V + V^2 / 2, so d loss / d V = c + V. */

static double loss_of(fixture *f, float *slope) {
    float values[TOKENS];
    double sum = 0;
    zs_model_forward(f->model, f->workspace, &f->batch);
    zs_model_values(f->model, f->workspace, &f->batch, values);
    for (int64_t t = 0; t < TOKENS; t++) {
        sum += (double)f->coefficient[t] * values[t] + 0.5 * (double)values[t] * values[t];
        if (slope) slope[t] = f->coefficient[t] + values[t];
    }
    return sum;
}

static void gradient_of(fixture *f, float *grads) {
    float slope[TOKENS];
    loss_of(f, slope);
    zs_model_values_backward(f->model, f->workspace, &f->batch, slope, grads);
    zs_model_backward(f->model, f->workspace, &f->batch, grads, NULL, NULL);
}

/* A tensor along a random direction, by central differences. */
static void check_tensor(fixture *f, const zs_tensor *tensor, const float *grads, int trial) {
    int64_t n = tensor->rows * tensor->cols;
    float *params = f->model->params + tensor->offset, *kept = ZS_NEW(float, n);
    zs_rng rng = zs_rng_make(8, ZS_STREAM_TEST, tensor->offset, 0, trial);
    const float *g = grads + tensor->offset;
    double norm = 0, expected = 0;
    memcpy(kept, params, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        norm += (double)g[i] * g[i];
    norm = sqrt(norm);
    assert_true(norm > 0);
    double h = fmin(0.05 / norm, 3e-3);
    float *direction = ZS_NEW(float, n);
    for (int64_t i = 0; i < n; i++) {
        direction[i] = (float)(h * zs_rng_normal(&rng));
        params[i] = kept[i] + direction[i];
    }
    double high = loss_of(f, NULL);
    for (int64_t i = 0; i < n; i++) {
        float up = params[i];
        params[i] = kept[i] - direction[i];
        expected += (double)g[i] * ((double)up - params[i]);
    }
    double low = loss_of(f, NULL);
    memcpy(params, kept, (size_t)n * sizeof(float));
    double rounding = 2e-6 * (fabs(high) + fabs(low));
    if (!(fabs(high - low - expected) <= 2e-3 * 2 * h * norm + rounding + 1e-5))
        fail_msg("%s: difference %.7g, gradient says %.7g (|gradient| %.3g)", tensor->name,
                 (high - low) / (2 * h), expected / (2 * h), norm);
    zs_free(kept);
    zs_free(direction);
}

static void gradients_match_differences(void **state) {
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        fixture f;
        fixture_open(&f, kind % 2 ? ZS_QWEN2 : ZS_LLAMA, kind / 2);
        float *grads = ZS_NEW(float, f.model->num_params);
        gradient_of(&f, grads);
        for (int i = 0; i < f.model->num_tensors; i++)
            for (int trial = 0; trial < 2; trial++)
                check_tensor(&f, &f.model->tensors[i], grads, trial);
        zs_free(grads);
        fixture_close(&f);
    }
}

/* Two calls add up; the threads do not matter to the bit; what was in the gradient stays. */
static void gradients_accumulate(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_QWEN2, false);
    int64_t n = f.model->num_params, head = f.model->head;
    float *one = ZS_NEW(float, n), *two = ZS_NEW(float, n);
    gradient_of(&f, one);
    gradient_of(&f, two);
    gradient_of(&f, two);
    for (int64_t i = head; i < n; i++)
        assert_true(fabsf(two[i] - 2 * one[i]) <= 1e-4f * (1 + fabsf(one[i])));
    zs_free(one);
    zs_free(two);
    fixture_close(&f);
}

static void bf16_values(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_QWEN2, false);
    zs_model *narrow = zs_model_create_narrow(&f.model->config, ZS_BF16);
    zs_model_narrow(f.model, narrow);
    zs_to_f32(ZS_BF16, narrow->params_bf16, f.model->num_params, f.model->params);
    float wide_values[TOKENS], narrow_values[TOKENS], largest = 0;
    zs_workspace *workspace = zs_workspace_create(&f.model->config, TOKENS, false, false);
    zs_model_forward(f.model, workspace, &f.batch);
    zs_model_values(f.model, workspace, &f.batch, wide_values);
    zs_model_forward(narrow, workspace, &f.batch);
    zs_model_values(narrow, workspace, &f.batch, narrow_values);
    for (int t = 0; t < TOKENS; t++) {
        largest = fmaxf(largest, fabsf(wide_values[t]));
        assert_true(fabsf(wide_values[t] - narrow_values[t]) <= 0.05f * (1 + fabsf(wide_values[t])));
    }
    assert_true(largest > 0.1f);
    zs_workspace_destroy(workspace);
    zs_model_destroy(narrow);
    fixture_close(&f);
}

/* Folders. */

static void folders_come_back(void **state) {
    (void)state;
    for (int architecture = 0; architecture < 2; architecture++) {
        fixture f;
        fixture_open(&f, architecture ? ZS_QWEN2 : ZS_LLAMA, false);
        zs_error err = {0};
        zs_model *again;
        assert_int_equal(zs_hf_save(in_folder("value"), f.model, NULL, ZS_F32, 9000, NULL, &err), ZS_OK);
        assert_int_equal(zs_hf_load(in_folder("value"), &again, &err), ZS_OK);
        assert_true(again->config.value_head && again->config.architecture == f.model->config.architecture);
        assert_int_equal(again->num_params, f.model->num_params);
        assert_memory_equal(again->params, f.model->params, (size_t)again->num_params * sizeof(float));
        zs_model_destroy(again);
        zs_string text = {0};
        assert_int_equal(zs_file_read(in_folder("value/config.json"), &text, &err), ZS_OK);
        assert_non_null(strstr(text.data, architecture ? "\"Qwen2ForTokenClassification\""
                                                       : "\"LlamaForTokenClassification\""));
        assert_non_null(strstr(text.data, "\"LABEL_0\""));
        zs_string_free(&text);
        /* where logits are wanted it is refused by name */
        assert_int_equal(zs_model_check_logits(&f.model->config, "some/folder", &err), ZS_FAILED);
        assert_non_null(strstr(err.text, "some/folder"));
        assert_non_null(strstr(err.text, "value"));
        fixture_close(&f);
    }
}

/* A head for sequence classification has no bias: it counts as zero, and an export has one. */
static void a_head_without_a_bias(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, ZS_LLAMA, false);
    zs_error err = {0};
    const char *path = in_folder("sequence");
    assert_int_equal(zs_hf_save(path, f.model, NULL, ZS_BF16, 0, NULL, &err), ZS_OK);
    zs_st_tensor *list = ZS_NEW(zs_st_tensor, f.model->num_tensors);
    for (int i = 0; i < f.model->num_tensors - 1; i++) {
        const zs_tensor *t = &f.model->tensors[i];
        list[i] = (zs_st_tensor){
            t->name, ZS_F32, t->num_dims, {t->rows, t->cols}, t->rows * t->cols, f.model->params + t->offset};
    }
    assert_int_equal(
        zs_safetensors_write(in_folder("sequence/model.safetensors"), list, f.model->num_tensors - 1, &err),
        ZS_OK);
    char config[] =
        "{\"architectures\":[\"LlamaForSequenceClassification\"],\"id2label\":{\"0\":\"LABEL_0\"},"
        "\"vocab_size\":61,\"hidden_size\":32,\"intermediate_size\":96,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":8}";
    assert_int_equal(zs_file_write(in_folder("sequence/config.json"), config, (int64_t)strlen(config), &err),
                     ZS_OK);
    zs_model *model, *again;
    if (zs_hf_load(path, &model, &err) != ZS_OK) fail_msg("%s", err.text);
    assert_true(model->config.value_head && model->params[model->score_bias] == 0);
    assert_memory_equal(model->params, f.model->params, (size_t)(model->num_params - 1) * sizeof(float));
    assert_int_equal(zs_hf_save(in_folder("again"), model, NULL, ZS_F32, 0, path, &err), ZS_OK);
    assert_int_equal(zs_hf_load(in_folder("again"), &again, &err), ZS_OK);
    assert_memory_equal(model->params, again->params, (size_t)model->num_params * sizeof(float));
    zs_model_destroy(again);
    zs_model_destroy(model);
    zs_free(list);
    fixture_close(&f);
}

static int make_folder(void **state) {
    (void)state;
    zs_log_set_level(ZS_LOG_ERROR);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_layout_ends_in_the_head),
                                       cmocka_unit_test(values_are_a_logit_and_a_bias),
                                       cmocka_unit_test(gradients_match_differences),
                                       cmocka_unit_test(gradients_accumulate),
                                       cmocka_unit_test(bf16_values),
                                       cmocka_unit_test(folders_come_back),
                                       cmocka_unit_test(a_head_without_a_bias)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
