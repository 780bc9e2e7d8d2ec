/* The coloured trace: the same text whatever the colours and wherever the pieces are cut, each span in its
 * own colour, and whether there are colours at all. */
#include "../src/commands/trace_view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct piece {
    zs_token_kind kind;
    const char *text;
} piece;

/* What a view prints of the pieces, each cut into parts of `cut` bytes. Free it. */
static char *print(const piece *pieces, int count, int64_t cut, bool colours, bool prompt) {
    char *text;
    size_t size;
    zs_trace_view view = {.out = open_memstream(&text, &size), .colours = colours, .prompt = prompt};
    for (int i = 0; i < count; i++) {
        int64_t length = (int64_t)strlen(pieces[i].text);
        for (int64_t at = 0; at < length; at += cut)
            zs_trace_view_put(&view, pieces[i].text + at, length - at < cut ? length - at : cut,
                              pieces[i].kind);
    }
    zs_trace_view_end(&view);
    fclose(view.out);
    return text;
}

static void assert_prints(const piece *pieces, int count, bool colours, bool prompt, const char *expected) {
    for (int64_t cut = 1; cut < 12; cut++) {
        char *text = print(pieces, count, cut, colours, prompt);
        assert_string_equal(text, expected);
        free(text);
    }
}

static const piece episode[] = {{ZS_TOKEN_PROMPT, "Q <answer> x </answer>?\n"},
                                {ZS_TOKEN_POLICY, "so <think>a < b</think><search>q</search>"},
                                {ZS_TOKEN_DOCUMENT, "\n<information>Doc 1: <answer>d</information>\n"},
                                {ZS_TOKEN_POLICY, "<thin"},
                                {ZS_TOKEN_OBSERVATION, "No.\n<answer>"},
                                {ZS_TOKEN_POLICY, " yes</answer> end"}};
enum { PIECES = sizeof episode / sizeof *episode };

static void test_plain_text_is_untouched(void **state) {
    (void)state;
    static const char after_prompt[] =
        "so <think>a < b</think><search>q</search>\n<information>Doc 1: <answer>d"
        "</information>\n<thinNo.\n<answer> yes</answer> end";
    char whole[300];
    assert_prints(episode, PIECES, false, false, after_prompt);
    snprintf(whole, sizeof whole, "%s%s", episode[0].text, after_prompt);
    assert_prints(episode, PIECES, false, true, whole);
}

static void test_each_span_has_its_colour(void **state) {
    (void)state;
#define OFF "\033[0m"
    assert_prints(episode, 4, true, false,
                  "so " OFF "\033[90m<think>a < b</think>" OFF "\033[1;33m<search>q</search>" OFF
                  "\033[36m\n<information>Doc 1: <answer>d</information>\n" OFF "<thin");
    assert_prints(episode + 4, 2, true, false,
                  OFF "\033[35mNo.\n" OFF "\033[1;32m<answer> yes</answer>" OFF " end");
}

/* A prompt that ends with an opening tag: what follows is inside it, which must show. */
static void test_opening_in_the_prompt(void **state) {
    (void)state;
    static const piece direct[] = {{ZS_TOKEN_PROMPT, "Question?\n<answer>"},
                                   {ZS_TOKEN_POLICY, " Rome</answer>"}};
    assert_prints(direct, 2, false, false, "<answer> Rome</answer>");
    assert_prints(direct, 2, false, true, "Question?\n<answer> Rome</answer>");
    assert_prints(direct, 2, true, false, OFF "\033[1;32m<answer> Rome</answer>" OFF);
}

static void test_when_to_colour(void **state) {
    (void)state;
    FILE *file = tmpfile();
    assert_true(zs_trace_view_colours("always", file));
    assert_false(zs_trace_view_colours("auto", file)); /* no terminal */
    assert_false(zs_trace_view_colours("never", file));
    fclose(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_text_is_untouched), cmocka_unit_test(test_each_span_has_its_colour),
        cmocka_unit_test(test_opening_in_the_prompt), cmocka_unit_test(test_when_to_colour)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
