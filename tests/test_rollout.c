/* What a turn's text asks for: the first closed action counts, whatever surrounds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "zerosearch/rollout.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(actions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
