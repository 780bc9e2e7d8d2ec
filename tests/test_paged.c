/* Attention over the paged cache against plain loops, its bits whoever stands beside, and what the engine
 * computes of prompts and turns. */
#include "zerosearch/engine.h"
#include "zerosearch/memory.h"

#include "../src/engine/internal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

/* A packed step of `count` segments over sequences whose keys and values are all stored. Segments 2 and 5 are
 * of sequences that share their first `shared` tokens with segment 1's; 3 and 4 are of one sequence. */
enum { COUNT = 7, MOST = 700, LAYER = 1 };
typedef struct step {
    zs_model_config config;
    zs_kv_cache cache;
    zs_segment segments[COUNT];
    int64_t owner[COUNT]; /* whose sequence */
    int32_t *pages[COUNT];
    float *kv[COUNT]; /* [MOST, 2, kv_heads, head_dim] of each sequence */
    int64_t rows, width;
    float *qkv;
} step;

static float random_at(int64_t a, int64_t b) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, a, b, 0);
    return (float)zs_rng_normal(&rng);
}

static float rounded(float x, bool rounds) {
    return rounds ? zs_bf16_to_f32(zs_f32_to_bf16(x)) : x;
}

/* Stores tokens [from, to) of a sequence, as rows of qkv are stored. */
static void store(step *s, int sequence, int64_t from, int64_t to, bool rounds) {
    int64_t kv = s->config.num_key_value_heads * s->config.head_dim;
    float *row = ZS_NEW(float, s->width);
    for (int64_t t = from; t < to; t++) {
        for (int64_t i = 0; i < 2 * kv; i++)
            row[s->width - 2 * kv + i] = rounded(s->kv[sequence][t * 2 * kv + i], rounds);
        zs_segment one = {0, 1, t, s->pages[sequence]};
        zs_paged_store(&s->cache, LAYER, 1, &one, s->config.num_attention_heads, row, s->width, 1);
    }
    zs_free(row);
}

static step make_step(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t page_size, int64_t shared,
                      zs_dtype dtype, bool rounds) {
    static const int64_t positions[COUNT] = {0, 299, 517, 120, 136, 256, 127},
                         counts[COUNT] = {1, 1, 1, 16, 9, 1, 1}, owners[COUNT] = {0, 1, 2, 3, 3, 5, 6};
    step s = {.config = {.num_hidden_layers = 2,
                         .num_attention_heads = heads,
                         .num_key_value_heads = kv_heads,
                         .head_dim = head_dim}};
    int64_t kv = kv_heads * head_dim, whole = zs_round_up(MOST, page_size);
    s.width = (heads + 2 * kv_heads) * head_dim;
    zs_kv_create(&s.cache, &s.config, COUNT * whole, page_size, dtype);
    for (int q = 0; q < COUNT; q++) {
        bool sharer = q == 2 || q == 5;
        s.owner[q] = owners[q];
        s.pages[q] = ZS_NEW(int32_t, whole / page_size);
        s.kv[q] = ZS_NEW(float, MOST * 2 * kv);
        for (int64_t p = 0; p < whole / page_size; p++)
            s.pages[q][p] = sharer && (p + 1) * page_size <= shared ? s.pages[1][p] : zs_kv_take(&s.cache);
        for (int64_t i = 0; i < MOST * 2 * kv; i++)
            s.kv[q][i] = sharer && i < shared * 2 * kv ? s.kv[1][i] : random_at(q, i);
        int64_t length = positions[q] + counts[q], same = shared / page_size * page_size;
        if (owners[q] == q) store(&s, q, sharer && same < length ? same : 0, q == 3 ? 145 : length, rounds);
        s.segments[q] = (zs_segment){s.rows, counts[q], positions[q], s.pages[owners[q]]};
        s.rows += counts[q];
    }
    s.qkv = ZS_NEW(float, s.rows *s.width);
    for (int64_t i = 0; i < s.rows * s.width; i++)
        s.qkv[i] = random_at(100, i);
    return s;
}

static void free_step(step *s) {
    for (int q = 0; q < COUNT; q++) {
        zs_free(s->pages[q]);
        zs_free(s->kv[q]);
    }
    zs_kv_destroy(&s->cache);
    zs_free(s->qkv);
}

/* Segments [from, to) by `threads`, with work made for `max_rows`; rows of the others are left alone. */
static void attend(step *s, int from, int to, int threads, int64_t max_rows, float *out) {
    zs_paged_work work;
    zs_segment segments[COUNT];
    int64_t first = s->segments[from].row, heads = s->config.num_attention_heads;
    for (int q = from; q < to; q++) {
        segments[q] = s->segments[q];
        segments[q].row -= first;
    }
    zs_paged_work_create(&work, &s->config, max_rows, MOST, threads);
    zs_paged_attention(&s->cache, LAYER, to - from, segments + from, heads, s->qkv + first * s->width,
                       s->width, out + first * heads * s->config.head_dim, &work);
    zs_paged_work_destroy(&work);
}

/* softmax(q k / sqrt d) v in doubles. */
static void plain_row(const step *s, int sequence, int64_t row, int64_t head, int64_t seen, bool rounds,
                      double *out) {
    int64_t dim = s->config.head_dim, kv_heads = s->config.num_key_value_heads;
    int64_t kv_head = head / (s->config.num_attention_heads / kv_heads);
    double score[MOST], top = -INFINITY, sum = 0;
    for (int64_t t = 0; t < seen; t++) {
        const float *key = s->kv[sequence] + (t * 2 * kv_heads + kv_head) * dim;
        score[t] = 0;
        for (int64_t d = 0; d < dim; d++)
            score[t] +=
                (double)s->qkv[row * s->width + head * dim + d] * rounded(key[d], rounds) / sqrt((double)dim);
        top = fmax(top, score[t]);
    }
    memset(out, 0, (size_t)dim * sizeof *out);
    for (int64_t t = 0; t < seen; t++) {
        const float *value = s->kv[sequence] + (t * 2 * kv_heads + kv_heads + kv_head) * dim;
        double weight = exp(score[t] - top);
        sum += weight;
        for (int64_t d = 0; d < dim; d++)
            out[d] += weight * rounded(value[d], rounds);
    }
    for (int64_t d = 0; d < dim; d++)
        out[d] /= sum;
}

static void check_against_plain(const step *s, const float *out, bool rounds) {
    int64_t heads = s->config.num_attention_heads, dim = s->config.head_dim;
    double expected[256];
    for (int q = 0; q < COUNT; q++)
        for (int64_t i = 0; i < s->segments[q].count; i++)
            for (int64_t h = 0; h < heads; h++) {
                int64_t row = s->segments[q].row + i;
                plain_row(s, (int)s->owner[q], row, h, s->segments[q].position + i + 1, rounds, expected);
                for (int64_t d = 0; d < dim; d++)
                    assert_true(fabs(out[(row * heads + h) * dim + d] - expected[d]) < 2e-5);
            }
}

/* Odd sizes of everything; each segment alone, all together, by threads, cut over threads: the same bits. And
 * a cache in bf16 gives the bits of one in f32 that holds the rounded numbers. */
static void test_attention(void **state) {
    (void)state;
    const int64_t shapes[][5] = {/* heads, KV heads, head_dim, page size, shared tokens */
                                 {7, 1, 64, 16, 256},   {6, 2, 12, 64, 192}, {5, 5, 50, 16, 250},
                                 {14, 2, 32, 256, 256}, {9, 3, 2, 32, 128},  {2, 1, 80, 16, 120}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t *c = shapes[i];
        float *out[2], *other = NULL;
        int64_t size = 0;
        for (int narrow = 0; narrow < 2; narrow++) {
            step s = make_step(c[0], c[1], c[2], c[3], c[4], narrow ? ZS_BF16 : ZS_F32, true);
            size = s.rows * c[0] * c[2];
            out[narrow] = ZS_NEW(float, size);
            other = ZS_NEW(float, size);
            attend(&s, 0, COUNT, 1, s.rows, out[narrow]);
            check_against_plain(&s, out[narrow], true);
            for (int threads = 1; threads <= 16; threads *= 4) {
                for (int q = 0; q < COUNT; q++)
                    attend(&s, q, q + 1, threads, 64, other);
                assert_memory_equal(other, out[narrow], (size_t)size * sizeof(float));
                memset(other, 0, (size_t)size * sizeof(float));
                attend(&s, 0, COUNT, threads, 64, other);
                assert_memory_equal(other, out[narrow], (size_t)size * sizeof(float));
            }
            zs_free(other);
            free_step(&s);
        }
        assert_memory_equal(out[0], out[1], (size_t)size * sizeof(float));
        zs_free(out[0]);
        zs_free(out[1]);
    }
    /* Unrounded in f32; rounded by the cache itself in bf16. */
    for (int narrow = 0; narrow < 2; narrow++) {
        step s = make_step(6, 2, 24, 16, 200, narrow ? ZS_BF16 : ZS_F32, false);
        float *out = ZS_NEW(float, s.rows * 6 * 24);
        attend(&s, 0, COUNT, 2, s.rows, out);
        check_against_plain(&s, out, narrow);
        zs_free(out);
        free_step(&s);
    }
}

/* Copied slots of a page, all layers, in either format. */
static void test_page_copy(void **state) {
    (void)state;
    for (int narrow = 0; narrow < 2; narrow++) {
        zs_model_config config = {
            .num_hidden_layers = 3, .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 6};
        zs_kv_cache cache;
        zs_kv_create(&cache, &config, 128, 32, narrow ? ZS_BF16 : ZS_F32);
        int32_t from = zs_kv_take(&cache), to = zs_kv_take(&cache);
        float row[48];
        for (int64_t layer = 0; layer < 3; layer++)
            for (int64_t t = 0; t < 32; t++) {
                for (int i = 0; i < 48; i++)
                    row[i] = (float)(layer * 1000 + t * 48 + i);
                zs_segment one = {0, 1, t, &from};
                zs_paged_store(&cache, layer, 1, &one, 4, row, 48, 1);
            }
        zs_kv_copy(&cache, from, to, 17);
        int64_t element = narrow ? 2 : 4;
        for (int64_t layer = 0; layer < 3; layer++)
            for (int64_t head = 0; head < 2; head++)
                for (int64_t b = 0; b < 2; b++) {
                    int64_t x = zs_kv_block(&cache, layer, head, &from, b),
                            y = zs_kv_block(&cache, layer, head, &to, b);
                    assert_memory_equal(zs_kv_keys(&cache, x), zs_kv_keys(&cache, y), (size_t)(96 * element));
                    assert_memory_equal(zs_kv_values(&cache, x), zs_kv_values(&cache, y),
                                        (size_t)(256 * element));
                }
        zs_kv_destroy(&cache);
    }
}

/* The engine. */

static zs_model *make_model(void) {
    zs_model_config config = {.architecture = ZS_QWEN2,
                              .vocab_size = 97,
                              .hidden_size = 48,
                              .intermediate_size = 104,
                              .num_hidden_layers = 3,
                              .num_attention_heads = 6,
                              .num_key_value_heads = 2,
                              .head_dim = 12,
                              .max_position_embeddings = 512,
                              .rms_norm_eps = 1e-6,
                              .rope_theta = 10000,
                              .attention_bias = true,
                              .tie_word_embeddings = true,
                              .bos_token_id = -1};
    zs_model *model = zs_model_create(&config);
    zs_model_init(model, 7);
    for (int t = 0; t < model->num_tensors; t++) { /* distributions far from uniform */
        const zs_tensor *tensor = &model->tensors[t];
        for (int64_t i = 0; tensor->num_dims == 2 && i < tensor->rows * tensor->cols; i++)
            model->params[tensor->offset + i] *= 4;
    }
    return model;
}

static zs_engine *make_engine(const zs_model *model, int64_t batch, int64_t chunk, zs_dtype dtype) {
    zs_engine_options options = {.max_batch = batch,
                                 .cache_tokens = batch * 416,
                                 .prefill_chunk = chunk,
                                 .max_length = 400,
                                 .cache_dtype = dtype};
    return zs_engine_create(model, NULL, &options);
}

static int64_t submit(zs_engine *engine, int64_t prompt_length, int64_t group, int64_t fresh,
                      int64_t sample) {
    int32_t prompt[400];
    for (int64_t i = 0; i < prompt_length; i++)
        prompt[i] = (int32_t)((i * 31 + (group + 1) * 7) % 97);
    zs_sequence_request r = {.prompt = prompt,
                             .prompt_length = prompt_length,
                             .prompt_group = group,
                             .max_new_tokens = fresh,
                             .max_length = 400,
                             .sampling = {.temperature = 1, .top_p = 1},
                             .rng = zs_rng_make(11, ZS_STREAM_POLICY, 0, group, sample)};
    return zs_engine_submit(engine, &r);
}

static int64_t finish_all(zs_engine *engine) {
    int64_t finished = 0;
    while (zs_engine_step(engine) > 0)
        while (zs_engine_next_finished(engine, NULL) >= 0)
            finished++;
    return finished;
}

/* A long prompt comes in beside a running batch: each step takes a chunk of it and still gives every running
 * sequence its token; of the prompt each token is computed once. */
static void test_long_prompt_does_not_stall(void **state) {
    (void)state;
    enum { RUNNING = 5, CHUNK = 48, LONG = 300 };
    zs_model *model = make_model();
    zs_engine *engine = make_engine(model, RUNNING + 2, CHUNK, ZS_F32);
    int64_t running[RUNNING];
    for (int i = 0; i < RUNNING; i++)
        running[i] = submit(engine, 4 + i, -1, 100, i);
    zs_engine_step(engine);
    for (int i = 0; i < RUNNING; i++)
        assert_int_equal(zs_engine_view(engine, running[i]).length, 4 + i + 1);
    zs_engine_stats before = zs_engine_get_stats(engine);
    int64_t handle = submit(engine, LONG, -1, 10, 9), second = submit(engine, LONG - 1, -1, 10, 10),
            steps = 0;
    while (zs_engine_view(engine, second).length == LONG - 1) {
        int64_t computed = zs_engine_step(engine);
        steps++;
        assert_true(computed <= RUNNING + 1 + CHUNK); /* the first of the two may decode already */
        for (int i = 0; i < RUNNING; i++)
            assert_int_equal(zs_engine_view(engine, running[i]).length, 4 + i + 1 + steps);
    }
    assert_int_equal(steps, (2 * LONG - 1 + CHUNK - 1) / CHUNK);
    zs_engine_stats after = zs_engine_get_stats(engine);
    assert_int_equal(after.prefill_tokens - before.prefill_tokens, 2 * LONG - 1);
    int64_t decoded = zs_engine_view(engine, handle).length - LONG - 1; /* the first comes with the prompt */
    assert_int_equal(after.decode_tokens - before.decode_tokens, steps * RUNNING + decoded);
    zs_engine_destroy(engine);
    zs_model_destroy(model);
}

/* G samples of a prompt: its tokens are computed once, the last one by each, whose logits it wants. A turn's
 * appended tokens are computed, with the one sampled last, and nothing before them. */
static void test_nothing_is_recomputed(void **state) {
    (void)state;
    enum { G = 6, PROMPT = 150, FRESH = 9, TURNS = 3 };
    static const int64_t appended[TURNS] = {0, 21, 1};
    for (int narrow = 0; narrow < 2; narrow++) {
        zs_model *model = make_model();
        zs_engine *engine = make_engine(model, G, 64, narrow ? ZS_BF16 : ZS_F32);
        int64_t handles[G];
        for (int i = 0; i < G; i++)
            handles[i] = submit(engine, PROMPT, 1, FRESH, i);
        assert_int_equal(finish_all(engine), G);
        zs_engine_stats stats = zs_engine_get_stats(engine);
        assert_int_equal(stats.prefill_tokens, PROMPT);
        assert_int_equal(stats.shared_tokens, (G - 1) * (PROMPT - 1));
        assert_int_equal(stats.decode_tokens, G * (FRESH - 1) + G - 1);
        int64_t pages = stats.peak_pages;
        for (int turn = 1; turn < TURNS; turn++) {
            int32_t document[21];
            for (int i = 0; i < 21; i++)
                document[i] = 90 - i;
            for (int i = 0; i < G; i++)
                assert_true(zs_engine_continue(engine, handles[i], document, appended[turn], FRESH));
            assert_int_equal(finish_all(engine), G);
            zs_engine_stats now = zs_engine_get_stats(engine);
            assert_int_equal(now.prefill_tokens - stats.prefill_tokens, G * (appended[turn] + 1));
            assert_int_equal(now.decode_tokens - stats.decode_tokens, G * (FRESH - 1));
            assert_int_equal(now.shared_tokens, stats.shared_tokens);
            assert_int_equal(now.peak_pages, pages); /* held since admission */
            stats = now;
        }
        /* a late sample of the group finds the prompt still there */
        submit(engine, PROMPT, 1, FRESH, G);
        zs_engine_release(engine, handles[0]);
        assert_int_equal(finish_all(engine), 1);
        assert_int_equal(zs_engine_get_stats(engine).prefill_tokens, stats.prefill_tokens);
        zs_engine_destroy(engine);
        zs_model_destroy(model);
    }
}

/* A cache in bf16: half the memory; the same bits alone and together; log-probabilities near the learner's,
 * which the f32 cache meets to rounding. */
static void test_bf16_cache(void **state) {
    (void)state;
    enum { G = 4, PROMPT = 140, FRESH = 60 };
    zs_model *model = make_model();
    static float recorded[3][G][PROMPT + FRESH];
    double gap[3] = {0};
    for (int way = 0; way < 3; way++) { /* f32; bf16; bf16, one at a time, small chunks */
        zs_engine *engine = make_engine(model, way == 2 ? 1 : G, way == 2 ? 7 : 40, way ? ZS_BF16 : ZS_F32);
        int64_t handles[G];
        for (int i = 0; i < G; i++)
            handles[i] = submit(engine, PROMPT, 0, FRESH, i);
        for (int i = 0; i < G; i++) {
            while (zs_engine_view(engine, handles[i]).length < PROMPT + FRESH)
                assert_true(zs_engine_step(engine) > 0);
            zs_sequence_view view = zs_engine_view(engine, handles[i]);
            memcpy(recorded[way][i], view.log_prob, sizeof recorded[way][i]);
            zs_workspace *workspace = zs_workspace_create(&model->config, view.length, false, false);
            int64_t offsets[2] = {0, view.length};
            zs_batch batch = {1, view.length, offsets, view.ids};
            float log_prob[PROMPT + FRESH];
            zs_model_forward(model, workspace, &batch);
            zs_model_head(model, workspace, &batch, 1, log_prob, NULL, NULL, NULL);
            for (int64_t t = PROMPT; t < view.length; t++)
                gap[way] = fmax(gap[way], fabs((double)view.log_prob[t] - log_prob[t]));
            zs_workspace_destroy(workspace);
            zs_engine_release(engine, handles[i]);
        }
        zs_engine_destroy(engine);
    }
    print_message("  log-probabilities off by %.3g (f32), %.3g (bf16)\n", gap[0], gap[1]);
    assert_true(gap[0] < 1e-4);
    assert_true(gap[1] > 1e-4 && gap[1] < 0.2);
    assert_memory_equal(recorded[1], recorded[2], sizeof recorded[1]);
    zs_engine_options options = {.max_batch = 4, .cache_tokens = 1600, .max_length = 400};
    int64_t wide = zs_engine_bytes(&model->config, &options);
    options.cache_dtype = ZS_BF16;
    int64_t halved = wide - zs_engine_bytes(&model->config, &options);
    assert_int_equal(halved,
                     1600 * 3 * 2 * (12 + 16) * 2); /* tokens, layers, KV heads, key and value, bytes */
    zs_model_destroy(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_page_copy),
                                       cmocka_unit_test(test_long_prompt_does_not_stall),
                                       cmocka_unit_test(test_nothing_is_recomputed),
                                       cmocka_unit_test(test_bf16_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
