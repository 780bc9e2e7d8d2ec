/* Settings: defaults, files, overrides, every kind of mistake with its place, and the dump that reloads. */
#include "zerosearch/config.h"
#include "../src/base/schema.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/zs-test-config-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static const char *put(const char *name, const char *text) {
    static char path[300];
    zs_path_join(path, sizeof path, folder, name);
    assert_int_equal(zs_file_write(path, text, (int64_t)strlen(text), NULL), ZS_OK);
    return path;
}

static zs_config *load(const char *text, const char *override) {
    zs_error err = {0};
    zs_config *config;
    zs_status status =
        zs_config_load(text ? put("good.cfg", text) : NULL, &override, override != NULL, &config, &err);
    if (status != ZS_OK) fail_msg("%s", err.text);
    return config;
}

/* Both must fail as ZS_USAGE with `words` in the message; the file's place stands before them. */
static void expect_fault(const char *text, const char *override, const char *words) {
    zs_error err = {0};
    zs_config *config = (zs_config *)&err;
    zs_status status =
        zs_config_load(text ? put("bad.cfg", text) : NULL, &override, override != NULL, &config, &err);
    assert_int_equal(status, ZS_USAGE);
    assert_null(config);
    assert_null(strchr(err.text, '\n'));
    if (!strstr(err.text, words)) fail_msg("'%s' is not in '%s'", words, err.text);
}

static void defaults_are_the_papers(void **state) {
    (void)state;
    zs_config *config = load(NULL, NULL);
    assert_int_equal(zs_config_int(config, "rollout.questions"), 64);
    assert_int_equal(zs_config_int(config, "rollout.samples"), 5);
    assert_int_equal(zs_config_int(config, "learn.steps"), 203);
    assert_true(zs_config_float(config, "learn.learning_rate") == 1e-6);
    assert_true(zs_config_float(config, "learn.kl_coef") == 0.001);
    assert_true(zs_config_bool(config, "learn.mask_documents"));
    assert_string_equal(zs_config_string(config, "reward.metric"), "f1");
    assert_string_equal(zs_config_string(config, "run.folder"), "");
    assert_int_equal(zs_config_count(config, "data.train"), 0);
    assert_false(zs_config_is_set(config, "learn.steps"));
    zs_config_free(config);
}

/* Every default obeys its own key's rules, and every key has a line of help. */
static void schema_is_sound(void **state) {
    (void)state;
    for (int i = 0; i < zs_schema_count; i++) {
        const zs_key *key = &zs_schema[i];
        assert_true(strlen(key->help) > 5);
        assert_null(strchr(key->help, '\n'));
        if (key->type != ZS_KEY_STRING && key->type != ZS_KEY_STRINGS)
            assert_true(key->number >= key->min && key->number <= key->max);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(key->name, zs_schema[j].name);
    }
    zs_config *config = load(NULL, NULL);
    zs_string dump = {0};
    zs_config_dump(config, &dump);
    zs_config_free(load(dump.data, NULL)); /* each default, choices too, is accepted from a file */
    zs_string_free(&dump);
    zs_config_free(config);
}

static void file_and_overrides(void **state) {
    (void)state;
    put("part.cfg", "learn: { warmup_steps = 7; };\n");
    zs_config *config = load("seed = 5; // comment\n@include \"part.cfg\"\n"
                             "model: { policy = \"a b\"; };\n"
                             "data: { train = [ \"x\", \"y\" ]; eval = ( \"z\" ); };\n"
                             "sft = { data = \"one\"; shuffle = false; };\n"
                             "curriculum: { base = 2; };\n"
                             "search: { temperature = 1e-1; cache_tokens = 5000000000; max_batch = "
                             "0000000031; }; /* 1 \" 12345678901 */\n",
                             NULL);
    assert_int_equal(zs_config_int(config, "seed"), 5);
    assert_int_equal(zs_config_int(config, "learn.warmup_steps"), 7);
    assert_string_equal(zs_config_string(config, "model.policy"), "a b");
    assert_int_equal(zs_config_count(config, "data.train"), 2);
    assert_string_equal(zs_config_string_at(config, "data.train", 1), "y");
    assert_string_equal(zs_config_string_at(config, "data.eval", 0), "z");
    assert_string_equal(zs_config_string_at(config, "sft.data", 0), "one");
    assert_false(zs_config_bool(config, "sft.shuffle"));
    assert_true(zs_config_float(config, "curriculum.base") == 2.0); /* an int where a float is expected */
    assert_true(zs_config_float(config, "search.temperature") == 0.1);
    assert_int_equal(zs_config_int(config, "search.cache_tokens"), INT64_C(5000000000));
    assert_int_equal(zs_config_int(config, "search.max_batch"), 31);
    assert_true(zs_config_is_set(config, "learn.warmup_steps"));
    zs_error err = {0};
    assert_int_equal(zs_config_fail(config, "model.policy", &err, "no %s", "model"), ZS_USAGE);
    assert_non_null(strstr(err.text, "good.cfg:3: model.policy: no model"));
    zs_config_fail(config, "learn.warmup_steps", &err, "bad");
    assert_non_null(strstr(err.text, "part.cfg:1: "));
    zs_config_fail(config, "eval.every", &err, "bad");
    assert_string_equal(err.text, "default: eval.every: bad");
    zs_config_free(config);

    static const char *const overrides[] = {"seed=9",
                                            "learn.learning_rate=3e-4",
                                            "sft.shuffle=false",
                                            "run.folder=a=b c",
                                            "model.policy=\"q\\\"t\"",
                                            "data.train=[\"k\",\"l\"]",
                                            "data.eval=m.jsonl",
                                            "search.engine=corpus",
                                            "seed=10"};
    assert_int_equal(zs_config_load(put("good.cfg", "seed = 5;"), overrides, 9, &config, &err), ZS_OK);
    assert_int_equal(zs_config_int(config, "seed"), 10);
    assert_true(zs_config_float(config, "learn.learning_rate") == 3e-4);
    assert_false(zs_config_bool(config, "sft.shuffle"));
    assert_string_equal(zs_config_string(config, "run.folder"), "a=b c");
    assert_string_equal(zs_config_string(config, "model.policy"), "q\"t");
    assert_string_equal(zs_config_string_at(config, "data.train", 1), "l");
    assert_string_equal(zs_config_string_at(config, "data.eval", 0), "m.jsonl");
    assert_string_equal(zs_config_string(config, "search.engine"), "corpus");
    zs_config_free(config);
}

static void faults_name_file_line_and_key(void **state) {
    (void)state;
    expect_fault("seed = 1;\nmodel: {\n  polcy = \"x\";\n};\n", NULL,
                 "bad.cfg:3: unknown key 'model.polcy' (did you mean 'model.policy'?)");
    expect_fault("rollout: { learning_rate = 1.0; };\n", NULL, "(did you mean 'learn.learning_rate'?)");
    expect_fault("zebra = 1;\n", NULL, "bad.cfg:1: unknown key 'zebra'");
    expect_fault("learn = 1;\n", NULL, "'learn' is a group");
    expect_fault("nonsense: { };\n", NULL, "unknown key 'nonsense'");
    expect_fault("learn: {\n steps = \"many\"; };", NULL,
                 "bad.cfg:2: learn.steps: a text was given; an integer from 0");
    expect_fault("learn: { steps = 1.5; };", NULL, "an integer from 0");
    expect_fault("learn: { steps = -1; };", NULL, "learn.steps: -1 is out of range; an integer from 0");
    expect_fault("curriculum: { end = 1.5; };", NULL,
                 "1.5 is out of range; a number from 0 to 1 is expected");
    expect_fault("sft: { shuffle = 1; };", NULL, "true or false is expected");
    expect_fault("search: { engine = \"gogle\"; };", NULL,
                 "\"gogle\" is not known; one of simulate_sft, simulate_prompt");
    expect_fault("run: { folder = [ \"x\" ]; };", NULL, "a text in quotes is expected");
    expect_fault("data: { train = [ 1, 2 ]; };", NULL, "bad.cfg:1: data.train: an element is not a text");
    expect_fault("data: { train = { x = 1; }; };", NULL, "a group was given");
    expect_fault("seed = 1;\nseed = 2;\n", NULL, "bad.cfg:2: duplicate");
    expect_fault("seed = 1;\nlearn: { steps = \n", NULL, "syntax error");
    expect_fault("@include \"absent.cfg\"\n", NULL, "bad.cfg:1: cannot open include file");
    expect_fault(NULL, "seed", "--set seed: KEY=VALUE is expected");
    expect_fault(NULL, "=3", "KEY=VALUE is expected");
    expect_fault(NULL, "learn.stpes=3", "--set: unknown key 'learn.stpes' (did you mean 'learn.steps'?)");
    expect_fault(NULL, "learn.steps=3x", "--set: learn.steps: 3x; an integer from 0");
    expect_fault(NULL, "learn.steps=", "nothing was given");
    expect_fault(NULL, "learn.clip_high=nan", "a number from 0");
    expect_fault(NULL, "sft.shuffle=maybe", "true or false");
    expect_fault(NULL, "run.folder=\"open", "a text in quotes is expected");
    expect_fault(NULL, "data.train=[1]", "an element is not a text");

    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load("/no/such.cfg", NULL, 0, &config, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "/no/such.cfg: cannot be opened"));
    assert_int_equal(zs_config_load(folder, NULL, 0, &config, &err), ZS_USAGE);
}

/* What is dumped reloads to the same values, awkward texts and numbers included. */
static void dump_reloads_to_the_same(void **state) {
    (void)state;
    static const char *const overrides[] = {"run.folder=q\"uote\\back",
                                            "seed=9007199254740992",
                                            "learn.learning_rate=1.0000001e-6",
                                            "learn.eps=1e-30",
                                            "data.train=[\"a\\n b\", \"c\"]",
                                            "curriculum.base=3",
                                            "learn.clip_high=0.1",
                                            "model.policy=\xc3\xa9t\xc3\xa9 # not a comment"};
    zs_config *config, *again;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, overrides, 8, &config, &err), ZS_OK);
    zs_string first = {0}, second = {0};
    zs_config_dump(config, &first);
    if (zs_config_load(put("dump.cfg", first.data), NULL, 0, &again, &err) != ZS_OK) fail_msg("%s", err.text);
    zs_config_dump(again, &second);
    assert_string_equal(first.data, second.data);
    assert_string_equal(zs_config_string(again, "run.folder"), "q\"uote\\back");
    assert_int_equal(zs_config_int(again, "seed"), INT64_C(9007199254740992));
    assert_true(zs_config_float(again, "learn.learning_rate") == 1.0000001e-6);
    assert_true(zs_config_float(again, "learn.eps") == 1e-30);
    assert_true(zs_config_float(again, "curriculum.base") == 3);
    assert_string_equal(zs_config_string_at(again, "data.train", 0), "a\n b");
    zs_string_free(&first);
    zs_string_free(&second);
    zs_config_free(config);
    zs_config_free(again);
}

/* A cut-off or garbled file is an error or a smaller file, never a crash. */
static void any_prefix_is_survived(void **state) {
    (void)state;
    static const char text[] =
        "seed = 5;\nmodel: { policy = \"a\\\"b\"; };\ndata: { train = [ \"x\", \"y\" ]; };\n"
        "learn: { steps = 3; learning_rate = 1e-4; };\n";
    for (size_t length = 0; length < sizeof text; length++) {
        for (int garbled = 0; garbled < 2; garbled++) {
            char part[sizeof text + 1];
            memcpy(part, text, length);
            part[length] = '\0';
            if (garbled && length) part[length / 2] = (char)(length * 37 % 255 + 1);
            zs_error err = {0};
            zs_config *config;
            if (zs_config_load(put("part.cfg", part), NULL, 0, &config, &err) == ZS_OK)
                zs_config_free(config);
            else
                assert_true(err.text[0] != '\0');
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_papers),  cmocka_unit_test(schema_is_sound),
        cmocka_unit_test(file_and_overrides),       cmocka_unit_test(faults_name_file_line_and_key),
        cmocka_unit_test(dump_reloads_to_the_same), cmocka_unit_test(any_prefix_is_survived),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
