/* What a turn's text asks for, the first closed action counting whatever surrounds it; and the methods: their
 * templates, their prompts, whether they need an engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "zerosearch/method.h"
#include "zerosearch/rollout.h"
#include "zerosearch/setup.h"

static void expect(const char *text, zs_action action, const char *content) {
    int64_t begin = -1, length = -1;
    assert_int_equal(zs_rollout_parse(text, &begin, &length), action);
    if (action == ZS_ACTION_NONE) return;
    assert_int_equal(length, strlen(content));
    assert_memory_equal(text + begin, content, (size_t)length);
}

static void actions(void **state) {
    (void)state;
    expect("<think> I need it. </think><search> mayor of X </search>", ZS_ACTION_SEARCH, "mayor of X");
    expect("<answer>\n Paris\t</answer>", ZS_ACTION_ANSWER, "Paris");
    expect("<search>a</search> <answer>b</answer>", ZS_ACTION_SEARCH, "a");
    expect("<answer>b</answer> <search>a</search>", ZS_ACTION_ANSWER, "b");
    expect("<answer> <answer>twice</answer>", ZS_ACTION_ANSWER, "twice");
    expect("<search>  </search>", ZS_ACTION_SEARCH, "");
    expect("x<search>left open", ZS_ACTION_NONE, NULL);
    expect("closed only</search>", ZS_ACTION_NONE, NULL);
    expect("<search>crossed</answer>", ZS_ACTION_NONE, NULL);
    expect("", ZS_ACTION_NONE, NULL);
}

static void answers_without_search(void **state) {
    (void)state;
    static const char text[] = "<search>a</search> so <answer> b </answer>";
    int64_t begin, length;
    assert_int_equal(zs_rollout_parse(text, &begin, &length), ZS_ACTION_SEARCH);
    assert_int_equal(zs_rollout_parse_answer(text, &begin, &length), ZS_ACTION_ANSWER);
    assert_memory_equal(text + begin, "b ", (size_t)length + 1);
    assert_int_equal(zs_rollout_parse_answer("<search>a</search>", &begin, &length), ZS_ACTION_NONE);
}

static zs_config *config_of(int count, const char *const *settings) {
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, count, &config, &err), ZS_OK);
    return config;
}

static void engines_of_methods(void **state) {
    (void)state;
    static const char *const methods[] = {"direct", "cot", "rag"}, *const settings[] = {"rollout.method=cot"};
    zs_config *search = config_of(0, NULL), *cot = config_of(1, settings);
    assert_string_equal(zs_setup_engine(search, "eval.engine", NULL, 0), "corpus");
    assert_string_equal(zs_setup_engine(cot, "search.engine", NULL, 0), "none");
    assert_string_equal(zs_setup_engine(search, "eval.engine", methods, 2), "none");
    assert_string_equal(zs_setup_engine(cot, "eval.engine", methods, 3), "corpus");
    zs_config_free(search);
    zs_config_free(cot);
}

/* Each method's own templates load; what cannot work is told with the setting's name. */
static void templates_of_methods(void **state) {
    (void)state;
    static const struct {
        const char *name, *opening;
    } cases[] = {{"search", NULL}, {"direct", "<answer>"}, {"cot", "<think>"}, {"rag", ""}};
    zs_config *config = config_of(0, NULL);
    zs_error err = {0};
    zs_method method;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(zs_method_load(config, cases[i].name, &method, &err), ZS_OK);
        assert_non_null(strstr(method.prompt.data, "{question}"));
        assert_int_equal(method.retrieves, strstr(method.prompt.data, "{documents}") != NULL);
        if (cases[i].opening) assert_string_equal(method.opening.data, cases[i].opening);
        assert_int_equal(method.searches, i == 0);
        zs_method_free(&method);
    }
    assert_int_equal(zs_method_load(config, "react", &method, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "react"));
    zs_config_free(config);

    static const char *const wrong[] = {"rollout.rag_template=prompt", "rollout.cot_template=rag"};
    config = config_of(2, wrong);
    assert_int_equal(zs_method_load(config, "rag", &method, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "rollout.rag_template"));
    assert_non_null(strstr(err.text, "{documents}"));
    assert_int_equal(zs_method_load(config, "cot", &method, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "rollout.cot_template"));
    zs_config_free(config);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(actions), cmocka_unit_test(answers_without_search),
                                       cmocka_unit_test(engines_of_methods),
                                       cmocka_unit_test(templates_of_methods)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
