/* Question sets under all the names that answers go by, and what is said of bad ones. */
#include "zerosearch/qa.h"
#include "zerosearch/strings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = "/tmp/zs_qa_XXXXXX";
static char path[64];

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/qa.jsonl", folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static zs_status load(const char *text, zs_qa *qa, zs_error *err) {
    assert_int_equal(zs_file_write(path, text, (int64_t)strlen(text), NULL), ZS_OK);
    return zs_qa_load(path, qa, err);
}

static void test_forms(void **state) {
    (void)state;
    zs_qa qa;
    zs_error err = {0};
    zs_status status =
        load("{\"id\":\"q1\",\"question\":\"Who?\",\"golden_answers\":[\"A\",\"B\"],\"gold\":"
             "[\"7\",8],\"hops\":2}\n\n"
             "{\"id\":5,\"question\":\"When?\",\"answer\":1999}\r\n"
             "{\"question\":\"Where?\",\"answers\":[\"Z\\u00fcrich\"]}\n"
             "{\"id\":\"t\",\"question\":\"Which?\",\"target\":{\"target\":[\"x\",\"y\",\"z\"]}}",
             &qa, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, ZS_OK);
    assert_int_equal(qa.count, 4);
    assert_string_equal(qa.questions[0].id, "q1");
    assert_int_equal(qa.questions[0].num_answers, 2);
    assert_string_equal(qa.questions[0].answers[1], "B");
    assert_int_equal(qa.questions[0].num_gold, 2);
    assert_string_equal(qa.questions[0].gold[1], "8");
    assert_int_equal(qa.questions[0].hops, 2);
    assert_string_equal(qa.questions[1].id, "5");
    assert_string_equal(qa.questions[1].answers[0], "1999");
    assert_int_equal(qa.questions[1].hops, 0);
    assert_string_equal(qa.questions[2].id, "line-4");
    assert_string_equal(qa.questions[2].answers[0], "Z\u00fcrich");
    assert_int_equal(qa.questions[3].num_answers, 3);
    assert_string_equal(qa.questions[3].answers[2], "z");
    zs_qa_free(&qa);
    assert_int_equal(qa.count, 0);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *line, *key;
    } cases[] = {
        {"{\"id\":\"1\",\"golden_answers\":[\"A\"]}", "question"},
        {"{\"question\":3,\"golden_answers\":[\"A\"]}", "question"},
        {"{\"question\":\"\",\"golden_answers\":[\"A\"]}", "question"},
        {"{\"question\":\"Q\"}", "golden_answers"},
        {"{\"question\":\"Q\",\"golden_answers\":[]}", "golden_answers"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\",null]}", "golden_answers"},
        {"{\"question\":\"Q\",\"target\":{\"other\":1}}", "target"},
        {"{\"question\":\"Q\",\"answer\":\"A\",\"gold\":{}}", "gold"},
        {"{\"question\":\"Q\",\"answer\":\"A\",\"hops\":\"two\"}", "hops"},
        {"{\"id\":[],\"question\":\"Q\",\"answer\":\"A\"}", "id"},
        {"{\"question\":\"Q\",", "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[400], place[128];
        snprintf(text, sizeof text, "{\"question\":\"Q\",\"answer\":\"A\"}\n%s\n", cases[i].line);
        snprintf(place, sizeof place, "%s:2", path);
        zs_qa qa;
        zs_error err = {0};
        assert_int_equal(load(text, &qa, &err), ZS_FAILED);
        assert_non_null(strstr(err.text, place));
        assert_non_null(strstr(err.text, cases[i].key));
        assert_int_equal(qa.count, 0);
    }
    zs_qa qa;
    zs_error err;
    assert_int_equal(load("\n", &qa, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(zs_qa_load("/nowhere/qa.jsonl", &qa, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "/nowhere/qa.jsonl"));
}

/* Every real set loads whole. Row counts: those that the sets' own list of sources gives. */
static void test_real_sets(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int count, with_gold;
    } sets[] = {{"nq", 200, 0},
                {"triviaqa", 200, 0},
                {"popqa", 200, 0},
                {"bamboogle", 125, 0},
                {"hotpotqa", 200, 200},
                {"musique", 200, 200},
                {"2wikimultihopqa", 200, 110}};
    const char *shared = getenv("ZS_SHARED");
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/qa/%s.jsonl", shared ? shared : "../shared", sets[i].name);
        if (!zs_file_exists(file)) {
            print_message("skip real sets: %s is missing\n", file);
            skip();
        }
        zs_qa qa;
        zs_error err;
        assert_int_equal(zs_qa_load(file, &qa, &err), ZS_OK);
        assert_int_equal(qa.count, sets[i].count);
        int with_gold = 0;
        for (int64_t q = 0; q < qa.count; q++)
            with_gold += qa.questions[q].num_gold > 0;
        assert_int_equal(with_gold, sets[i].with_gold);
        zs_qa_free(&qa);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_real_sets),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
