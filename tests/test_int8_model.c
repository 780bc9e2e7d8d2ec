/* Models in int8: the block of weights and its pieces, rows and vectors read back, forward and generation. */
#include "zerosearch/engine.h"
#include "zerosearch/hf.h"
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"
#include "zerosearch/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Shapes: no size is a multiple of 16 rows or 64 columns; several blocks of columns; a value head. */
enum { SHAPES = 4, VALUE_SHAPE = 3 };

static zs_model_config shape(int which) {
    bool wide = which == 2, qwen = which % 2;
    return (zs_model_config){.architecture = qwen ? ZS_QWEN2 : ZS_LLAMA,
                             .vocab_size = wide ? 203 : 37,
                             .hidden_size = wide ? 200 : 24,
                             .intermediate_size = wide ? 312 : 50,
                             .num_hidden_layers = 3,
                             .num_attention_heads = wide ? 6 : 4,
                             .num_key_value_heads = 2,
                             .head_dim = wide ? 20 : 6,
                             .max_position_embeddings = 512,
                             .rms_norm_eps = 1e-6,
                             .rope_theta = 10000,
                             .attention_bias = qwen,
                             .tie_word_embeddings = which == 1,
                             .value_head = which == VALUE_SHAPE,
                             .bos_token_id = -1};
}

static zs_model *make_model(int which) {
    zs_model_config config = shape(which);
    zs_model *model = zs_model_create(&config);
    zs_model_init(model, 7);
    zs_rng rng = zs_rng_make(8, ZS_STREAM_TEST, 0, 0, 0);
    for (int t = 0; t < model->num_tensors; t++) {
        const zs_tensor *tensor = &model->tensors[t];
        float *data = model->params + tensor->offset;
        for (int64_t i = 0; i < tensor->rows * tensor->cols; i++)
            data[i] = tensor->num_dims == 2 && tensor->offset != model->head
                          ? 4 * data[i]
                          : data[i] + (float)(0.1 * zs_rng_normal(&rng));
    }
    return model;
}

static zs_model *narrow_twin(const zs_model *model) {
    zs_model *narrow = zs_model_create_narrow(&model->config, ZS_INT8);
    zs_model_narrow(model, narrow);
    return narrow;
}

typedef struct matrix {
    int64_t offset, rows, cols;
} matrix;

/* The matrices of a shape as products take them, written down from the config. */
static int list_matrices(const zs_model *model, matrix *out) {
    const zs_model_config *c = &model->config;
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    int count = 0;
    out[count++] = (matrix){model->embed, c->vocab_size, h};
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        const zs_layer_offsets *o = &model->layers[l];
        out[count++] = (matrix){o->qkv, q + 2 * c->num_key_value_heads * c->head_dim, h};
        out[count++] = (matrix){o->o_proj, h, q};
        out[count++] = (matrix){o->gate_up, 2 * wide, h};
        out[count++] = (matrix){o->down_proj, h, wide};
    }
    if (!c->tie_word_embeddings || c->value_head)
        out[count++] = (matrix){model->head, c->value_head ? 1 : c->vocab_size, h};
    return count;
}

static int64_t padded(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

/* Bytes: rows and columns rounded up, 4 for the scale of a row; vectors in f32. */
static void test_sizes(void **state) {
    (void)state;
    for (int s = 0; s < SHAPES; s++) {
        zs_model_config config = shape(s);
        zs_model *layout = zs_model_layout(&config);
        matrix matrices[20];
        int count = list_matrices(layout, matrices);
        int64_t bytes = 0, in_matrices = 0;
        for (int i = 0; i < count; i++) {
            bytes += padded(matrices[i].rows, 16) * (padded(matrices[i].cols, 64) + 4);
            in_matrices += matrices[i].rows * matrices[i].cols;
        }
        bytes += 4 * (layout->num_params - in_matrices);
        assert_true(zs_model_bytes(layout, ZS_INT8) == padded(bytes, 64));
        assert_true(zs_model_bytes(layout, ZS_BF16) == 2 * layout->num_params);
        assert_true(zs_model_bytes(layout, ZS_F32) == 4 * layout->num_params);
        assert_int_equal(zs_model_dtype(layout), ZS_DTYPE_OTHER);
        zs_model_destroy(layout);
    }
}

/* Pieces of any size: every parameter once and in order, every byte of the block once. */
static void test_pieces(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 20, 400, 1000, 5000, 1 << 30};
    for (int s = 0; s < SHAPES; s++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            zs_model_config config = shape(s);
            zs_model *layout = zs_model_layout(&config);
            int64_t bytes = zs_model_bytes(layout, ZS_INT8), longest = config.intermediate_size;
            if (config.num_attention_heads * config.head_dim > longest)
                longest = config.num_attention_heads * config.head_dim;
            uint8_t *written = ZS_NEW(uint8_t, bytes);
            int64_t end = 0, largest = 0, sum = 0;
            for (zs_model_piece p = {0}; zs_model_next_piece(layout, sizes[i], &p);) {
                int64_t params = p.end - p.begin;
                assert_true(p.begin == end && params > 0 && p.to > p.from);
                assert_true(params <= sizes[i] || params <= 16 * longest);
                for (int64_t at = p.from; at < p.to; at++)
                    assert_int_equal(written[at]++, 0);
                end = p.end;
                sum += p.to - p.from;
                largest = params > largest ? params : largest;
            }
            assert_true(end == layout->num_params && padded(sum, 64) == bytes);
            assert_true(largest == zs_model_piece_params(layout, sizes[i]));
            zs_free(written);
            zs_model_destroy(layout);
        }
}

/* Rows come back to half a step of their scale, their largest to rounding; vectors as they were. */
static void test_rows(void **state) {
    (void)state;
    for (int s = 0; s < SHAPES; s++) {
        zs_model *model = make_model(s), *narrow = narrow_twin(model), *copy = zs_model_clone(narrow);
        zs_model_destroy(narrow);
        matrix matrices[20];
        float row[400];
        int count = list_matrices(model, matrices);
        assert_int_equal(zs_model_dtype(copy), ZS_INT8);
        for (int i = 0; i < count; i++)
            for (int64_t r = 0; r < matrices[i].rows; r++) {
                int64_t cols = matrices[i].cols;
                const float *want = model->params + matrices[i].offset + r * cols;
                float most = 0, back = 0;
                zs_matrix_row(zs_model_matrix(copy, matrices[i].offset), matrices[i].rows, cols, r, row);
                for (int64_t p = 0; p < cols; p++)
                    most = fmaxf(most, fabsf(want[p]));
                for (int64_t p = 0; p < cols; p++) {
                    assert_true(fabsf(row[p] - want[p]) <= most / 254 * 1.0001f);
                    back = fmaxf(back, fabsf(row[p]));
                }
                assert_true(most > 0 && fabsf(back - most) <= 1e-6f * most);
            }
        for (int t = 0; t < model->num_tensors; t++) {
            const zs_tensor *v = &model->tensors[t];
            if (v->num_dims != 1 || strstr(v->name, "k_proj") || strstr(v->name, "v_proj")) continue;
            assert_memory_equal(zs_model_vector(copy, v->offset), model->params + v->offset,
                                (size_t)v->rows * sizeof(float));
        }
        zs_model_destroy(copy);
        zs_model_destroy(model);
    }
}

/* Piece by piece gives the bytes that a whole model gives, also in memory of another. */
static void test_by_pieces(void **state) {
    (void)state;
    for (int s = 0; s < SHAPES; s++)
        for (int64_t most = 1; most < 1 << 20; most *= 37) {
            zs_model *model = make_model(s), *whole = narrow_twin(model);
            int64_t bytes = zs_model_bytes(model, ZS_INT8);
            void *memory = zs_alloc(bytes, 1);
            zs_model *pieces = zs_model_attach(&model->config, ZS_INT8, memory);
            float *work = ZS_NEW(float, zs_model_piece_params(pieces, most));
            for (zs_model_piece p = {0}; zs_model_next_piece(pieces, most, &p);) {
                memcpy(work, model->params + p.begin, (size_t)(p.end - p.begin) * sizeof(float));
                zs_model_quantize_piece(pieces, &p, work);
            }
            assert_memory_equal(memory, whole->int8, (size_t)bytes);
            zs_model_destroy(pieces);
            zs_model_destroy(whole);
            zs_model_destroy(model);
            zs_free(memory);
            zs_free(work);
        }
}

/* Forward. */

/* An f32 model of the values that the int8 one has. */
static zs_model *wide_twin(const zs_model *model, const zs_model *narrow) {
    zs_model *wide = zs_model_clone(model);
    matrix matrices[20];
    int count = list_matrices(model, matrices);
    for (int i = 0; i < count; i++)
        for (int64_t r = 0; r < matrices[i].rows; r++)
            zs_matrix_row(zs_model_matrix(narrow, matrices[i].offset), matrices[i].rows, matrices[i].cols, r,
                          wide->params + matrices[i].offset + r * matrices[i].cols);
    return wide;
}

static void random_ids(int32_t *ids, int64_t count, int64_t vocab, int64_t key) {
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, key, 0, 0);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)zs_rng_below(&rng, vocab);
}

/* Log-probabilities, or values of a value model. */
static void run_forward(const zs_model *model, const zs_batch *batch, float *out) {
    zs_workspace *workspace = zs_workspace_create(&model->config, batch->num_tokens, false, false);
    zs_model_forward(model, workspace, batch);
    if (model->config.value_head)
        zs_model_values(model, workspace, batch, out);
    else
        zs_model_head(model, workspace, batch, 1, out, NULL, NULL, NULL);
    zs_workspace_destroy(workspace);
}

static double largest_gap(int64_t count, const float *a, const float *b) {
    double gap = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        gap = d <= gap ? gap : isnan(d) ? INFINITY : d;
    }
    return gap;
}

static double mean_gap(int64_t count, const float *a, const float *b) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += fabs((double)a[i] - (double)b[i]);
    return sum / (double)count;
}

/* Beside f32 on the same values only x is quantised, to 1/254 of the largest of 64: seen, and small. */
static void test_forward(void **state) {
    (void)state;
    enum { TOKENS = 150 };
    for (int s = 0; s < SHAPES; s++) {
        zs_model *model = make_model(s), *narrow = narrow_twin(model), *wide = wide_twin(model, narrow);
        int32_t ids[TOKENS];
        const int64_t offsets[] = {0, 1, 40, 40, TOKENS};
        float f[TOKENS], n[TOKENS], w[TOKENS], spread = 0;
        random_ids(ids, TOKENS, model->config.vocab_size, s);
        zs_batch batch = {4, TOKENS, offsets, ids};
        run_forward(model, &batch, f);
        run_forward(narrow, &batch, n);
        run_forward(wide, &batch, w);
        for (int t = 0; t < TOKENS; t++)
            spread = fmaxf(spread, fabsf(f[t] - f[TOKENS / 2]));
        double by_x = mean_gap(TOKENS, w, n), all = mean_gap(TOKENS, f, n);
        print_message("  shape %d: off by %.3g from x, %.3g in all, of %.3g, at most %.3g\n", s, by_x, all,
                      (double)spread, largest_gap(TOKENS, f, n));
        assert_true(spread > 0.5f && by_x > 1e-5 && by_x < 0.02 * spread && all < 0.04 * spread);
        zs_model_destroy(model);
        zs_model_destroy(narrow);
        zs_model_destroy(wide);
    }
}

/* Generation. */

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

/* The same bits alone, together, with shared pages, in prompts read 8 or all tokens at a time; near those of
 * the forward pass, whose attention rounds otherwise, so that some x fall on another step, and what follows
 * from them on others. */
static void test_engine(void **state) {
    (void)state;
    for (int s = 0; s < VALUE_SHAPE; s++) {
        zs_model *model = make_model(s), *narrow = narrow_twin(model);
        static generated first, other;
        generate(narrow, 1, 8, false, &first);
        assert_true(memcmp(first.ids[0], first.ids[1], sizeof first.ids[0]) != 0);
        generate(narrow, COUNT, 8, false, &other);
        assert_memory_equal(&first, &other, sizeof first);
        generate(narrow, COUNT, 0, true, &other);
        assert_memory_equal(&first, &other, sizeof first);
        double gap = 0;
        for (int i = 0; i < COUNT; i++) {
            const int64_t offsets[] = {0, LENGTH};
            float log_prob[LENGTH];
            zs_batch batch = {1, LENGTH, offsets, first.ids[i]};
            run_forward(narrow, &batch, log_prob);
            gap = fmax(gap, largest_gap(FRESH, log_prob + PROMPT, first.log_prob[i] + PROMPT));
        }
        print_message("  shape %d: off by %.3g from the forward pass\n", s, gap);
        assert_true(gap < 0.3); /* of log-probabilities that differ by 6 */
        zs_model_destroy(model);
        zs_model_destroy(narrow);
    }
}

/* Folders, in each format of files: what is read and quantised by pieces is the whole model quantised. */
static void test_folders(void **state) {
    (void)state;
    static const zs_dtype stored[] = {ZS_F32, ZS_BF16, ZS_F16};
    char path[300], command[320];
    snprintf(path, sizeof path, "%s/zs_int8_%ld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    for (int i = 0; i < 3 * 2; i++) {
        zs_error err = {0};
        zs_model *model = make_model(i % 2), *wide, *narrow;
        if (zs_hf_save(path, model, NULL, stored[i / 2], 0, NULL, &err) != ZS_OK ||
            zs_hf_load(path, &wide, &err) != ZS_OK || zs_hf_load_as(path, ZS_INT8, &narrow, &err) != ZS_OK)
            fail_msg("%s", err.text);
        zs_model *expected = narrow_twin(wide);
        assert_memory_equal(narrow->int8, expected->int8, (size_t)zs_model_bytes(model, ZS_INT8));
        zs_model_destroy(model);
        zs_model_destroy(wide);
        zs_model_destroy(narrow);
        zs_model_destroy(expected);
    }
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),     cmocka_unit_test(test_pieces),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_by_pieces), cmocka_unit_test(test_forward), cmocka_unit_test(test_engine),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
