/* The trained arithmetic against golden/rl.jsonl: advantages, the clipped policy and value losses and the KL
 * estimates, with their gradients; the learning-rate schedule, packing and dealing against values worked out
 * by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "zerosearch/learn.h"
#include "zerosearch/memory.h"
#include "zerosearch/sft.h"
#include "zerosearch/strings.h"

#define TOLERANCE 1e-5

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* A [B][T] array flattened to floats; returns its element count. */
static int64_t flatten(const json_t *object, const char *key, float *out) {
    const json_t *rows = json_object_get(object, key);
    assert_true(json_is_array(rows));
    int64_t n = 0;
    for (size_t b = 0; b < json_array_size(rows); b++)
        for (size_t t = 0; t < json_array_size(json_array_get(rows, b)); t++)
            out[n++] = (float)json_number_value(json_array_get(json_array_get(rows, b), t));
    return n;
}

enum { MOST = 4096 };

static void check_advantages(const json_t *c) {
    const json_t *scores = json_object_get(c, "score"), *groups = json_object_get(c, "group");
    int64_t n = (int64_t)json_array_size(scores);
    double score[64], advantage[64];
    int64_t group[64];
    assert_true(n <= 64);
    for (int64_t i = 0; i < n; i++) {
        score[i] = json_number_value(json_array_get(scores, (size_t)i));
        group[i] = json_integer_value(json_array_get(groups, (size_t)i));
    }
    const struct {
        zs_advantage kind;
        const char *key;
    } all[] = {{ZS_ADVANTAGE_SCORE, "adv_reinforce"},
               {ZS_ADVANTAGE_RLOO, "adv_rloo"},
               {ZS_ADVANTAGE_GRPO, "adv_grpo"},
               {ZS_ADVANTAGE_DR_GRPO, "adv_dr_grpo"}};
    for (int k = 0; k < 4; k++) {
        zs_advantage_of_scores(all[k].kind, n, score, group, advantage);
        for (int64_t i = 0; i < n; i++)
            assert_float_equal(advantage[i],
                               json_number_value(json_array_get(json_object_get(c, all[k].key), (size_t)i)),
                               TOLERANCE);
    }
}

static void expect_floats(const json_t *c, const char *key, const float *actual) {
    static float expected[MOST];
    int64_t n = flatten(c, key, expected);
    for (int64_t t = 0; t < n; t++)
        assert_float_equal(actual[t], expected[t], TOLERANCE);
}

/* GAE over the tokens of the mask, whitening, and the clipped value loss. */
static void check_values(const json_t *c) {
    static float reward[MOST], value[MOST], new_value[MOST], mask_f[MOST], advantage[MOST], returns[MOST],
        coefficient[MOST];
    static uint8_t mask[MOST];
    int64_t n = flatten(c, "gae_reward", reward);
    int64_t width = (int64_t)json_array_size(json_array_get(json_object_get(c, "mask"), 0));
    flatten(c, "value", value);
    flatten(c, "new_value", new_value);
    flatten(c, "mask", mask_f);
    for (int64_t t = 0; t < n; t++)
        mask[t] = mask_f[t] != 0.0f;
    zs_moments moments = {0};
    for (int64_t at = 0; at < n; at += width) {
        zs_advantage_gae(width, mask + at, reward + at, value + at, number(c, "gamma"), number(c, "lam"),
                         advantage + at, returns + at);
        zs_moments_add(&moments, width, mask + at, advantage + at);
    }
    expect_floats(c, "gae_advantage", advantage);
    expect_floats(c, "gae_return", returns);
    zs_value_sums sums = {0};
    zs_value_loss_tokens(number(c, "value_clip"), moments.count, n, mask, new_value, value, returns,
                         coefficient, &sums);
    assert_float_equal(sums.loss, number(c, "value_loss"), TOLERANCE);
    expect_floats(c, "value_loss_grad", coefficient);
    zs_whiten(&moments, n, mask, advantage);
    expect_floats(c, "gae_whitened", advantage);
}

static void check_loss(const json_t *c) {
    static float log_prob[MOST], old[MOST], ref[MOST], mask_f[MOST], expected[MOST], advantage[MOST],
        coefficient[MOST];
    static uint8_t mask[MOST];
    int64_t n = flatten(c, "logprob", log_prob);
    assert_true(n <= MOST);
    flatten(c, "old_logprob", old);
    flatten(c, "ref_logprob", ref);
    flatten(c, "mask", mask_f);
    int64_t width = (int64_t)json_array_size(json_array_get(json_object_get(c, "mask"), 0));
    double tokens = 0.0;
    for (int64_t t = 0; t < n; t++) {
        mask[t] = mask_f[t] != 0.0f;
        tokens += mask[t];
        advantage[t] =
            (float)json_number_value(json_array_get(json_object_get(c, "adv_grpo"), (size_t)(t / width)));
    }
    zs_policy_loss loss = {
        .clip_low = number(c, "clip"), .clip_high = number(c, "clip"), .denominator = tokens};
    zs_policy_sums sums = {0};
    zs_policy_tokens tokens_of = {
        .mask = mask, .log_prob = log_prob, .old_log_prob = old, .advantage = advantage};
    zs_policy_loss_tokens(&loss, n, &tokens_of, coefficient, &sums);
    flatten(c, "policy_loss_token_mean_grad", expected);
    assert_float_equal(sums.loss, number(c, "policy_loss_token_mean"), TOLERANCE);
    assert_float_equal(sums.clipped / tokens, number(c, "clip_fraction"), TOLERANCE);
    assert_float_equal(sums.tokens, tokens, 0.0);
    for (int64_t t = 0; t < n; t++)
        assert_float_equal(coefficient[t], expected[t], TOLERANCE);

    const char *const values[] = {"kl_k1", "kl_k2", "kl_k3"};
    const char *const gradients[] = {"kl_k1_grad", "kl_k2_grad", "kl_k3_grad"};
    memset(advantage, 0, sizeof advantage); /* the KL term alone */
    for (int type = ZS_KL_K1; type <= ZS_KL_K3; type++) {
        loss.kl_coef = 1.0;
        loss.kl_type = type;
        sums = (zs_policy_sums){0};
        tokens_of.old_log_prob = log_prob;
        tokens_of.ref_log_prob = ref;
        zs_policy_loss_tokens(&loss, n, &tokens_of, coefficient, &sums);
        flatten(c, gradients[type], expected);
        assert_float_equal(sums.kl / tokens, number(c, values[type]), TOLERANCE);
        assert_float_equal(sums.loss, number(c, values[type]), TOLERANCE);
        for (int64_t t = 0; t < n; t++)
            assert_float_equal(coefficient[t], expected[t], TOLERANCE);
    }
}

static void golden_cases(void **state) {
    (void)state;
    const char *golden = getenv("ZS_GOLDEN"), *shared = getenv("ZS_SHARED");
    char path[1000];
    if (golden)
        snprintf(path, sizeof path, "%s/rl.jsonl", golden);
    else
        snprintf(path, sizeof path, "%s/golden/rl.jsonl", shared ? shared : "../shared");
    if (!zs_file_exists(path)) {
        print_message("%s is not there\n", path);
        skip();
    }
    zs_json_lines *lines;
    zs_error err = {0};
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    int cases = 0;
    for (json_t *c; zs_json_lines_next(lines, &c, &err) == ZS_OK && c; cases++) {
        check_advantages(c);
        check_loss(c);
        check_values(c);
        json_decref(c);
    }
    zs_json_lines_close(lines);
    assert_true(cases > 0);
}

static void schedules(void **state) {
    (void)state;
    zs_schedule s = {.kind = ZS_LINEAR, .peak = 1.0, .final_fraction = 0.1, .warmup_steps = 4, .total = 104};
    assert_float_equal(zs_schedule_rate(&s, 0), 0.25, 1e-12);
    assert_float_equal(zs_schedule_rate(&s, 3), 1.0, 1e-12);
    assert_float_equal(zs_schedule_rate(&s, 54), 0.55, 1e-12);
    assert_float_equal(zs_schedule_rate(&s, 104), 0.1, 1e-12);
    s.decay_from = 0.5; /* constant until step 52 */
    assert_float_equal(zs_schedule_rate(&s, 52), 1.0, 1e-12);
    assert_float_equal(zs_schedule_rate(&s, 78), 0.55, 1e-12);
    s.kind = ZS_COSINE;
    assert_float_equal(zs_schedule_rate(&s, 78), 0.55, 1e-12);
    assert_float_equal(zs_schedule_rate(&s, 65), 0.1 + 0.9 * 0.5 * (1.0 + sqrt(0.5)), 1e-12);
    s.kind = ZS_CONSTANT;
    assert_float_equal(zs_schedule_rate(&s, 90), 1.0, 1e-12);
}

static void a_group_of_one_teaches_nothing(void **state) {
    (void)state;
    double score = 0.7, advantage = 1.0;
    int64_t group = 3;
    for (int kind = ZS_ADVANTAGE_RLOO; kind <= ZS_ADVANTAGE_DR_GRPO; kind++) {
        zs_advantage_of_scores((zs_advantage)kind, 1, &score, &group, &advantage);
        assert_float_equal(advantage, 0.0, 0.0);
    }
}

static void packing(void **state) {
    (void)state;
    int64_t lengths[] = {5, 5, 3, 20, 1, 9}, first[7];
    assert_int_equal(zs_pack(6, lengths, 10, first), 4);
    int64_t expected[] = {0, 2, 3, 4, 6};
    assert_memory_equal(first, expected, sizeof expected);
    assert_int_equal(zs_pack(0, lengths, 10, first), 0);
}

static void dealing_is_even(void **state) {
    (void)state;
    int64_t sizes[] = {7, 1, 5, 3, 5, 3};
    int part[6];
    zs_deal(6, sizes, 2, part); /* 7 | 5, then 5 to the second, 3 to the first, 3, 1 */
    int expected[] = {0, 0, 1, 0, 1, 1};
    int64_t load[2] = {0, 0};
    for (int i = 0; i < 6; i++)
        load[part[i]] += sizes[i];
    assert_int_equal(llabs(load[0] - load[1]) <= 2, 1);
    assert_int_equal(part[0], expected[0]);
    assert_int_equal(part[2], expected[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_cases),
        cmocka_unit_test(schedules),
        cmocka_unit_test(a_group_of_one_teaches_nothing),
        cmocka_unit_test(packing),
        cmocka_unit_test(dealing_is_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
