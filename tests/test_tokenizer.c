/* The tokenizer: other people's vectors, round trips of any bytes, training, damaged files. */
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"
#include "zerosearch/strings.h"
#include "zerosearch/tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/zs-tokenizer-XXXXXX";

static const char *shared_path(char *out, size_t size, const char *name) {
    const char *shared = getenv("ZS_SHARED");
    snprintf(out, size, "%s/tokenizers/%s", shared ? shared : "../shared", name);
    return out;
}

static void check_vectors(const char *name) {
    char path[512], file[600];
    shared_path(path, sizeof path, name);
    if (!zs_file_exists(path)) {
        print_message("no %s here: skipped\n", path);
        skip();
    }
    zs_error err = {0};
    zs_tokenizer *tokenizer;
    assert_int_equal(zs_tokenizer_load(path, &tokenizer, &err), ZS_OK);
    snprintf(file, sizeof file, "%s/vectors.jsonl", path);
    FILE *lines = fopen(file, "r");
    assert_non_null(lines);
    char *line = NULL;
    size_t capacity = 0;
    int count = 0, wrong = 0;
    zs_ids ids = {0};
    zs_string text = {0};
    while (getline(&line, &capacity, lines) > 0) {
        json_t *vector = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *source = json_object_get(vector, "text"), *expected = json_object_get(vector, "ids");
        count++;
        zs_ids_clear(&ids);
        zs_tokenizer_encode(tokenizer, json_string_value(source), (int64_t)json_string_length(source), &ids);
        bool same = ids.length == (int64_t)json_array_size(expected);
        for (int64_t i = 0; same && i < ids.length; i++)
            same = ids.data[i] == json_integer_value(json_array_get(expected, (size_t)i));
        if (!same) {
            wrong++;
            print_message("%s: line %d differs: %.200s\n", name, count, line);
        }
        json_decref(vector);
    }
    assert_int_equal(wrong, 0);
    assert_true(count > 100);
    free(line);
    fclose(lines);
    zs_ids_free(&ids);
    zs_string_free(&text);
    zs_tokenizer_destroy(tokenizer);
}

static void test_qwen2_vectors(void **state) {
    (void)state;
    check_vectors("qwen2");
}

static void test_llama3_vectors(void **state) {
    (void)state;
    check_vectors("llama3");
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2_vectors),
        cmocka_unit_test(test_llama3_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
