/* Scores against the golden cases, and the corners of Python's text rules that they do not reach. */
#include "zerosearch/score.h"
#include "zerosearch/strings.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *shared_path(char *out, size_t size, const char *name) {
    const char *golden = getenv("GOLDEN"), *shared = getenv("ZS_SHARED");
    if (golden)
        snprintf(out, size, "%s/%s", golden, name);
    else
        snprintf(out, size, "%s/golden/%s", shared ? shared : "../shared", name);
    return out;
}

static void assert_normal(const char *text, const char *expected) {
    zs_string out = {0};
    zs_score_normalize(text, (int64_t)strlen(text), &out);
    assert_string_equal(out.data ? out.data : "", expected);
    zs_string_free(&out);
}

/* Expected values: computed by CPython 3.11. */
static void test_normalize(void **state) {
    (void)state;
    assert_normal("", "");
    assert_normal("  The  U.S. of A. ", "us of");
    assert_normal("An anthem, a theater and THE end", "anthem theater and end");
    assert_normal("\u0130stanbul", "i\u0307stanbul");
    assert_normal("\u039F\u0394\u039F\u03A3 \u03A3\u0391\u03A3",
                  "\u03BF\u03B4\u03BF\u03C2 \u03C3\u03B1\u03C2");
    assert_normal("\u03A3", "\u03C3");
    assert_normal("A\u03A3\u0301B", "a\u03C3\u0301b");
    assert_normal("x\u00A0\u3000y\x1F\u2028z", "x y z");
    assert_normal("zero\u200Bwidth", "zero\u200Bwidth"); /* no white space to Python */
    assert_normal("\u201Cthe\u201D dash\u2014a\u2014b", "\u201C \u201D dash\u2014 \u2014b"); /* not ASCII */
    assert_normal("a\u0301 caf\u00C9", "\u0301 caf\u00E9"); /* a mark is no word character: the a goes */
    assert_normal("the_a a_b it's", "thea ab its");
    assert_normal("\xFFThe\xFE", "\xFF \xFE"); /* bytes that are no UTF-8 stay */
}

static void test_answer(void **state) {
    (void)state;
    const char *golden[] = {"Rio de Janeiro", "The"};
    zs_score score = zs_score_answer("de rio rio", 10, golden, 1);
    assert_true(score.em == 0 && score.cover_em == 0);
    assert_float_equal(score.f1, 2.0 / 3, 1e-12); /* 2 shared of 3 and 3 */
    score = zs_score_answer("x", 1, golden, 2);   /* an empty golden text is contained in any */
    assert_true(score.em == 0 && score.cover_em == 1 && score.f1 == 0);
    score = zs_score_answer("", 0, golden, 2);
    assert_true(score.em == 1 && score.cover_em == 1 && score.f1 == 0);
    score = zs_score_answer("x", 1, NULL, 0);
    assert_true(score.em == 0 && score.cover_em == 0 && score.f1 == 0);
}

static void test_golden(void **state) {
    (void)state;
    char path[4096];
    zs_json_lines *lines;
    zs_error err;
    if (!zs_file_exists(shared_path(path, sizeof path, "score.jsonl"))) {
        print_message("skip golden: %s is missing\n", path);
        skip();
    }
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    int count = 0;
    for (;; count++) {
        json_t *object;
        assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
        if (!object) break;
        const json_t *prediction = json_object_get(object, "prediction");
        const json_t *golden = json_object_get(object, "golden_answers");
        const char *texts[64];
        int num = (int)json_array_size(golden);
        assert_in_range(num, 1, 64);
        for (int i = 0; i < num; i++)
            texts[i] = json_string_value(json_array_get(golden, (size_t)i));
        zs_score score = zs_score_answer(json_string_value(prediction),
                                         (int64_t)json_string_length(prediction), texts, num);
        assert_true(score.em == json_number_value(json_object_get(object, "em")));
        assert_true(score.cover_em == json_number_value(json_object_get(object, "cover_em")));
        double f1 = json_number_value(json_object_get(object, "f1"));
        assert_true(score.f1 - f1 < 1e-9 && f1 - score.f1 < 1e-9);
        json_decref(object);
    }
    zs_json_lines_close(lines);
    assert_true(count > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalize),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
