/* The terms of a reward: what is well formed, what counts as retrieved, and the weighted sum. */
#include "zerosearch/rewards.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_well_formed(void **state) {
    (void)state;
    static const char *const good[] = {"<think> I need it. </think><search> mayor of X </search>",
                                       "<search>mayor</search>",
                                       "\n<think>a</think>\n<think>b</think>\n <answer>c</answer>",
                                       "<think></think><answer>c</answer>",
                                       "<think> 1 < 2, <b>bold</b> </think> <answer>x<y</answer>",
                                       "<answer>c</answer> and what the last token brought along"};
    static const char *const bad[] = {"",
                                      "Paris",
                                      "<think> open <search>a</search>",
                                      "<think>a</think>",
                                      "so: <answer>c</answer>",
                                      "<think>a</think> then <answer>c</answer>",
                                      "<think>a</think><think>",
                                      "<search>  </search>",
                                      "<search>a</answer>",
                                      "<search>a <think>b</think></search>",
                                      "<answer><answer>c</answer>",
                                      "<think>a</think><information>mine</information><answer>c</answer>",
                                      "<think>a <information>mine</information></think><answer>c</answer>",
                                      "</think><answer>c</answer>",
                                      "<answer>c",
                                      "<Think>a</Think><answer>c</answer>"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!zs_reward_well_formed(good[i])) fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (zs_reward_well_formed(bad[i])) fail_msg("taken: %s", bad[i]);
}

static void test_retrieved(void **state) {
    (void)state;
    static const char *const golden[] = {"The Beatles", "Fab Four"};
    static const char with[] = "Doc 1: nothing\nDoc 2: it was the BEATLES, of course",
                      without[] = "Doc 1: a beetle";
    assert_true(zs_reward_holds_answer(with, (int64_t)strlen(with), golden, 2));
    assert_false(zs_reward_holds_answer(without, (int64_t)strlen(without), golden, 2));
    assert_false(zs_reward_holds_answer(with, (int64_t)strlen(with), golden, 0));
}

static zs_reward_weights weights_of(zs_config **config, int count, const char *const *settings) {
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, count, config, &err), ZS_OK);
    zs_reward_weights weights;
    zs_reward_open(*config, &weights);
    return weights;
}

static void test_sum(void **state) {
    (void)state;
    const zs_reward_facts facts = {
        .em = 0, .cover_em = 1, .f1 = 0.5, .format_valid = 1, .turns = 3, .retrieved = 1};
    zs_config *config;
    zs_reward_weights paper = weights_of(&config, 0, NULL);
    zs_reward_terms terms = zs_reward_weigh(&paper, &facts);
    assert_float_equal(zs_reward_sum(&terms), 0.5, 0); /* F1 alone */
    zs_config_free(config);

    static const char *const all[] = {"reward.metric=cover_em", "reward.format=0.2", "reward.turn_cost=0.05",
                                      "reward.retrieval=0.1"};
    zs_reward_weights weights = weights_of(&config, 4, all);
    terms = zs_reward_weigh(&weights, &facts);
    assert_float_equal(terms.answer, 1, 0);
    assert_float_equal(terms.format, 0.2, 1e-15);
    assert_float_equal(terms.turn_cost, -0.15, 1e-15);
    assert_float_equal(terms.retrieval, 0.1, 1e-15);
    assert_float_equal(zs_reward_sum(&terms), 1.15, 1e-15);
    json_t *record = zs_reward_record(&terms);
    assert_float_equal(json_number_value(json_object_get(record, "turn_cost")), -0.15, 1e-15);
    json_decref(record);
    zs_config_free(config);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_well_formed), cmocka_unit_test(test_retrieved),
                                       cmocka_unit_test(test_sum)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
