/* The curriculum: the paper's schedule against golden data, the others by hand, the controller against its
 * formula worked out here, and which searches share a draw. */
#include "zerosearch/curriculum.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* A curriculum by its settings, "kind=linear end=0.8 ...". */
static zs_curriculum curriculum_of(const char *settings) {
    char text[400], *overrides[20];
    int count = 0;
    snprintf(text, sizeof text, "%s", settings);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        overrides[count] = ZS_NEW(char, strlen(word) + 20);
        sprintf(overrides[count++], "curriculum.%s", word);
    }
    zs_config *config;
    zs_error err = {0};
    zs_status status = zs_config_load(NULL, (const char *const *)overrides, count, &config, &err);
    if (status != ZS_OK) print_message("%s\n", err.text);
    assert_int_equal(status, ZS_OK);
    zs_curriculum c;
    zs_curriculum_open(config, &c);
    zs_config_free(config);
    for (int i = 0; i < count; i++)
        zs_free(overrides[i]);
    return c;
}

static void test_exponential_golden(void **state) {
    (void)state;
    const char *golden = getenv("GOLDEN"), *shared = getenv("ZS_SHARED");
    char path[4096];
    if (golden)
        snprintf(path, sizeof path, "%s/curriculum.json", golden);
    else
        snprintf(path, sizeof path, "%s/golden/curriculum.json", shared ? shared : "../shared");
    if (!zs_file_exists(path)) {
        print_message("skip: %s is missing\n", path);
        skip();
    }
    json_t *cases = json_load_file(path, 0, NULL);
    assert_true(json_array_size(cases) > 0);
    for (size_t n = 0; n < json_array_size(cases); n++) {
        const json_t *one = json_array_get(cases, n), *p = json_object_get(one, "p");
        zs_curriculum c = curriculum_of("kind=exponential"), back = curriculum_of("kind=reversed");
        c.start = back.start = json_number_value(json_object_get(one, "start"));
        c.end = back.end = json_number_value(json_object_get(one, "end"));
        c.base = back.base = json_number_value(json_object_get(one, "base"));
        int64_t total = json_integer_value(json_object_get(one, "total"));
        assert_int_equal(json_array_size(p), total + 1);
        for (int64_t i = 0; i <= total; i++) {
            double expected = json_number_value(json_array_get(p, (size_t)i));
            assert_true(fabs(zs_curriculum_noise(&c, i, total) - expected) <= 1e-12);
            assert_true(fabs(zs_curriculum_noise(&back, total - i, total) - expected) <= 1e-12);
        }
    }
    json_decref(cases);
}

static void assert_noise(const char *settings, int64_t total, const double *expected) {
    zs_curriculum c = curriculum_of(settings);
    for (int64_t i = 0; i <= total; i++)
        assert_float_equal(zs_curriculum_noise(&c, i, total), expected[i], 1e-15);
    assert_float_equal(zs_curriculum_noise(&c, total + 2, total), expected[total], 0); /* it stays */
    assert_float_equal(zs_curriculum_noise(&c, 0, 0), expected[0], 0);
}

static void test_schedules_by_hand(void **state) {
    (void)state;
    assert_noise("kind=exponential start=0 end=1 base=1", 4, (double[]){0, 0.25, 0.5, 0.75, 1});
    assert_noise("kind=exponential start=0 end=0.5 base=4", 2,
                 (double[]){0, 0.5 / 3, 0.5}); /* 4^.5 - 1 = 1 */
    assert_noise("kind=reversed start=0 end=0.5 base=4", 2, (double[]){0.5, 0.5 / 3, 0});
    assert_noise("kind=linear start=0.2 end=0.8", 4, (double[]){0.2, 0.35, 0.5, 0.65, 0.8});
    assert_noise("kind=linear start=0.8 end=0.2", 2, (double[]){0.8, 0.5, 0.2});
    assert_noise("kind=constant start=0.3 end=0.9", 3, (double[]){0.3, 0.3, 0.3, 0.3});
    assert_noise("kind=step start=0 end=0.6 stages=3", 6, (double[]){0, 0, 0.3, 0.3, 0.6, 0.6, 0.6});
    assert_noise("kind=step start=0.4 end=0.6 stages=1", 2, (double[]){0.4, 0.4, 0.4});
    assert_noise("kind=step start=0 end=1 stages=5", 2, (double[]){0, 0.5, 1}); /* more stages than steps */
}

static void test_adaptive_by_hand(void **state) {
    (void)state;
    zs_curriculum c =
        curriculum_of("kind=adaptive start=0.1 end=0.3 target=0.4 rate=0.1 sensitivity=2 smoothing=0.5");
    assert_float_equal(zs_curriculum_noise(&c, 7, 10), 0.1, 0);
    zs_curriculum_observe(&c, 0.9); /* the first mean counts alone: 0.5 above the target */
    assert_float_equal(c.noise, 0.1 + 0.1 * tanh(1.0), 1e-15);
    zs_curriculum_observe(&c, 0.1); /* (0.9 + 0.1) / 2 = 0.5, still 0.1 above */
    assert_float_equal(c.noise, 0.1 + 0.1 * tanh(1.0) + 0.1 * tanh(0.2), 1e-15);
    zs_curriculum_observe(&c, NAN);
    assert_int_equal(c.observed, 2);
    for (int i = 0; i < 50; i++)
        zs_curriculum_observe(&c, 1);
    assert_float_equal(c.noise, 0.3, 0); /* not past the end */
    for (int i = 0; i < 50; i++)
        zs_curriculum_observe(&c, 0);
    assert_float_equal(zs_curriculum_noise(&c, 0, 10), 0.1, 0); /* and back to the start, no further */

    zs_curriculum fixed = curriculum_of("kind=linear");
    zs_curriculum_observe(&fixed, 1);
    assert_int_equal(fixed.observed, 0);
}

/* A policy whose reward falls as noise rises is held where its reward is the target. */
static void test_adaptive_settles(void **state) {
    (void)state;
    zs_curriculum c = curriculum_of("kind=adaptive start=0 end=1 target=0.5");
    for (int i = 0; i < 400; i++)
        zs_curriculum_observe(&c, 0.9 - 0.8 * c.noise);
    assert_float_equal(c.noise, 0.5, 0.01);
}

static void test_state_is_kept_to_the_bit(void **state) {
    (void)state;
    const char *settings = "kind=adaptive start=0 end=1 target=0.3 rate=0.07";
    zs_curriculum c = curriculum_of(settings), other = curriculum_of(settings);
    for (int i = 1; i < 9; i++)
        zs_curriculum_observe(&c, 1.0 / i);
    json_t *saved = zs_curriculum_save(&c);
    char *text = json_dumps(saved, JSON_COMPACT); /* as checkpoints write it */
    json_t *read = json_loads(text, 0, NULL);
    zs_curriculum_restore(&other, NULL);
    assert_float_equal(other.noise, 0, 0);
    zs_curriculum_restore(&other, read);
    assert_memory_equal(&c.noise, &other.noise, sizeof c.noise);
    assert_memory_equal(&c.reward, &other.reward, sizeof c.reward);
    assert_int_equal(c.observed, other.observed);
    free(text);
    json_decref(saved);
    json_decref(read);
}

static bool draw(zs_curriculum_draw kind, int64_t question, int64_t sample, int64_t turn, const char *query) {
    return zs_curriculum_is_noisy(kind, 0.5, 11, 3, question, sample, turn, query);
}

static void test_what_shares_a_draw(void **state) {
    (void)state;
    int turns = 0, samples = 0, queries = 0, texts = 0, questions = 0;
    for (int64_t q = 0; q < 200; q++) {
        assert_int_equal(draw(ZS_DRAW_EPISODE, q, 2, 0, "a"), draw(ZS_DRAW_EPISODE, q, 2, 3, "b"));
        assert_int_equal(draw(ZS_DRAW_QUESTION, q, 1, 0, "a"), draw(ZS_DRAW_QUESTION, q, 4, 3, "b"));
        assert_int_equal(draw(ZS_DRAW_QUERY, q, 1, 0, "a"), draw(ZS_DRAW_QUERY, q, 4, 3, "a"));
        turns += draw(ZS_DRAW_TURN, q, 2, 0, "a") != draw(ZS_DRAW_TURN, q, 2, 1, "a");
        samples += draw(ZS_DRAW_EPISODE, q, 1, 0, "a") != draw(ZS_DRAW_EPISODE, q, 2, 0, "a");
        queries += draw(ZS_DRAW_QUERY, q, 1, 0, "a") != draw(ZS_DRAW_QUERY, q, 1, 0, "b");
        texts += draw(ZS_DRAW_QUERY, q, 1, 0, "a") != draw(ZS_DRAW_QUERY, q + 1, 1, 0, "a");
        questions += draw(ZS_DRAW_QUESTION, q, 1, 0, "a") != draw(ZS_DRAW_QUESTION, q + 1, 1, 0, "a");
    }
    const int differ[] = {turns, samples, queries, texts, questions}; /* of 200 fair pairs: 100 +- 7 */
    for (int i = 0; i < 5; i++)
        assert_in_range(differ[i], 65, 135);
    for (int kind = ZS_DRAW_TURN; kind <= ZS_DRAW_QUESTION; kind++) {
        int noisy = 0;
        for (int64_t q = 0; q < 2000; q++) {
            noisy += zs_curriculum_is_noisy((zs_curriculum_draw)kind, 0.25, 5, 0, q, 0, 0, "w");
            assert_false(zs_curriculum_is_noisy((zs_curriculum_draw)kind, 0, 5, 0, q, 0, 0, "w"));
            assert_true(zs_curriculum_is_noisy((zs_curriculum_draw)kind, 1, 5, 0, q, 0, 0, "w"));
        }
        assert_in_range(noisy, 400, 600); /* 500 +- 19 */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exponential_golden),       cmocka_unit_test(test_schedules_by_hand),
        cmocka_unit_test(test_adaptive_by_hand),         cmocka_unit_test(test_adaptive_settles),
        cmocka_unit_test(test_state_is_kept_to_the_bit), cmocka_unit_test(test_what_shares_a_draw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
