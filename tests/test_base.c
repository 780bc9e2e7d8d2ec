/* Base: errors, memory, strings, files, JSON lines, numbers, random numbers, phases. */
#include "zerosearch/error.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"
#include "zerosearch/strings.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <zlib.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/zs-test-base-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* The path of a file of this test, in one of two buffers by turns. */
static const char *in_folder(const char *name) {
    static char paths[2][300];
    static int turn;
    return zs_path_join(paths[turn ^= 1], sizeof paths[0], folder, name);
}

static void write_plainly(const char *path, const void *bytes, size_t length) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* Random numbers. */

/* Known answers of philox4x32-10, published with Random123 (kat_vectors). */
static void philox_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        zs_philox(cases[i].counter, cases[i].key, out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

static void rng_depends_on_every_name(void **state) {
    (void)state;
    const zs_rng base = zs_rng_make(7, ZS_STREAM_POLICY, 3, 11, 2);
    const zs_rng others[] = {
        zs_rng_make(8, ZS_STREAM_POLICY, 3, 11, 2), zs_rng_make(7, ZS_STREAM_NOISE, 3, 11, 2),
        zs_rng_make(7, ZS_STREAM_POLICY, 4, 11, 2), zs_rng_make(7, ZS_STREAM_POLICY, 3, 12, 2),
        zs_rng_make(7, ZS_STREAM_POLICY, 3, 11, 3),
    };
    double draw = zs_rng_uniform_at(&base, 5);
    assert_true(draw == zs_rng_uniform_at(&base, 5));
    assert_true(draw != zs_rng_uniform_at(&base, 6));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_true(draw != zs_rng_uniform_at(&others[i], 5));
    /* The rule itself: counter = {position, sample, question, step}. */
    uint32_t counter[4] = {5, 2, 11, 3}, block[4];
    zs_philox(counter, base.key, block);
    assert_true(draw == block[0] / 4294967296.0);
}

static void rng_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    zs_rng rng = zs_rng_make(1, ZS_STREAM_TEST, 0, 0, 0);
    double sum = 0, square = 0, normal = 0, normal_square = 0;
    for (int i = 0; i < N; i++) {
        double u = zs_rng_uniform(&rng), n = zs_rng_normal(&rng);
        assert_true(u >= 0 && u < 1);
        sum += u, square += u * u, normal += n, normal_square += n * n;
    }
    /* Five standard errors of each mean. */
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1 / 12.0 / N));
    assert_true(fabs(square / N - 1 / 3.0) < 5 * sqrt(4 / 45.0 / N));
    assert_true(fabs(normal / N) < 5 * sqrt(1.0 / N));
    assert_true(fabs(normal_square / N - 1) < 5 * sqrt(2.0 / N));
}

static void rng_below_is_even_and_in_range(void **state) {
    (void)state;
    zs_rng rng = zs_rng_make(1, ZS_STREAM_TEST, 0, 0, 1);
    int64_t counts[7] = {0};
    for (int i = 0; i < 70000; i++) {
        int64_t draw = zs_rng_below(&rng, 7);
        assert_in_range(draw, 0, 6);
        counts[draw]++;
    }
    double chi = 0;
    for (int i = 0; i < 7; i++)
        chi += (double)(counts[i] - 10000) * (double)(counts[i] - 10000) / 10000;
    assert_true(chi < 30); /* 6 degrees of freedom: p < 1e-4 */
    assert_int_equal(zs_rng_below(&rng, 1), 0);
    for (int i = 0; i < 1000; i++)
        assert_true(zs_rng_below(&rng, (INT64_C(1) << 32) - 1) < (INT64_C(1) << 32) - 1);
}

static void shuffle_is_a_permutation(void **state) {
    (void)state;
    enum { N = 1000 };
    int64_t items[N], again[N];
    bool seen[N] = {false};
    int moved = 0;
    for (int i = 0; i < N; i++)
        items[i] = again[i] = i;
    zs_rng one = zs_rng_make(1, ZS_STREAM_SHUFFLE, 0, 0, 0), two = one;
    zs_rng_shuffle(&one, items, N);
    zs_rng_shuffle(&two, again, N);
    assert_memory_equal(items, again, sizeof items);
    for (int i = 0; i < N; i++) {
        assert_false(seen[items[i]]);
        seen[items[i]] = true;
        moved += items[i] != i;
    }
    assert_true(moved > N / 2);
}

/* Memory. */

static void memory_is_aligned_and_zeroed(void **state) {
    (void)state;
    for (int64_t count = 0; count < 200; count += 33) {
        char *bytes = zs_alloc(count, 3);
        assert_int_equal((uintptr_t)bytes % 64, 0);
        for (int64_t i = 0; i < count * 3; i++)
            assert_int_equal(bytes[i], 0);
        zs_free(bytes);
    }
    int *numbers = ZS_NEW(int, 3);
    numbers[2] = 5;
    numbers = zs_grow(numbers, 3, 1000, sizeof *numbers);
    assert_int_equal(numbers[2], 5);
    for (int i = 3; i < 1000; i++)
        assert_int_equal(numbers[i], 0);
    zs_free(numbers);
    zs_free(NULL);
}

static void arena_is_reset_and_remembers_its_peak(void **state) {
    (void)state;
    zs_arena arena = zs_arena_create(1000);
    float *a = ZS_TAKE(&arena, float, 10), *b = ZS_TAKE(&arena, float, 10);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal((uintptr_t)b % 64, 0);
    assert_true(b >= a + 10);
    int64_t used = arena.used;
    zs_arena_reset(&arena);
    assert_ptr_equal(ZS_TAKE(&arena, float, 1), a);
    assert_int_equal(arena.peak, used);
    zs_arena_destroy(&arena);
}

/* Runs `act` in a child with stderr in a file; returns the words, asserts that it was aborted. */
static void expect_abort(void (*act)(void), const char *words) {
    const char *path = in_folder("stderr");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka's own handler is not wanted here */
        if (!freopen(path, "w", stderr)) _exit(9);
        act();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    zs_string text = {0};
    assert_int_equal(zs_file_read(path, &text, NULL), ZS_OK);
    if (!strstr(text.data, words)) fail_msg("'%s' is not in: %s", words, text.data);
    zs_string_free(&text);
}

static void overfill_an_arena(void) {
    zs_arena arena = zs_arena_create(64);
    zs_arena_take(&arena, 65, 1);
}

static void wrong_at_work(void) {
    zs_log_set_rank(3, 4);
    zs_log_set_role("learner");
    zs_log_set_phase("update", 12);
    ZS_ASSERT(1 == 2, "%d tokens lost", 5);
}

static void asserts_say_where(void **state) {
    (void)state;
    expect_abort(overfill_an_arena, "arena of 64 bytes has 64 left, 128 wanted");
    expect_abort(wrong_at_work, "5 tokens lost (1 == 2) on rank 3, role learner, phase update, step 12");
}

/* Errors and strings. */

static void errors_carry_where_and_why(void **state) {
    (void)state;
    zs_error err = {0};
    assert_int_equal(zs_fail(&err, ZS_USAGE, "key %s", "x"), ZS_USAGE);
    assert_int_equal(err.status, ZS_USAGE);
    assert_int_equal(zs_fail_context(&err, "file %d", 3), ZS_USAGE);
    assert_string_equal(err.text, "file 3: key x");
    /* The old text may be an argument of the new one. */
    zs_fail(&err, ZS_FAILED, "(%s)", err.text);
    assert_string_equal(err.text, "(file 3: key x)");
    assert_int_equal(zs_fail(NULL, ZS_FAILED, "nobody listens"), ZS_FAILED);
    char longer[3000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    zs_fail(&err, ZS_FAILED, "%s", longer);
    zs_fail_context(&err, "%s", longer);
    assert_true(strlen(err.text) < sizeof err.text);
}

static void strings_grow_and_hold_any_bytes(void **state) {
    (void)state;
    zs_string text = {0};
    for (int i = 0; i < 1000; i++)
        zs_string_printf(&text, "%d,", i);
    assert_int_equal(text.length, 10 * 2 + 90 * 3 + 900 * 4);
    zs_string_clear(&text);
    assert_string_equal(text.data, "");
    zs_string_append(&text, "a\0b", 3);
    zs_string_puts(&text, "c");
    assert_int_equal(text.length, 4);
    assert_memory_equal(text.data, "a\0bc", 5);
    zs_string_free(&text);
}

static void numbers_are_read_strictly(void **state) {
    (void)state;
    int64_t i;
    double d;
    assert_true(zs_parse_int("-42", &i) && i == -42);
    assert_true(zs_parse_int("9223372036854775807", &i) && i == INT64_MAX);
    static const char *const no_ints[] = {"",  " 1", "1 ", "1x", "0x10", "1.0", "9223372036854775808",
                                          "-", "+"};
    for (size_t k = 0; k < sizeof no_ints / sizeof *no_ints; k++)
        assert_false(zs_parse_int(no_ints[k], &i));
    assert_false(zs_parse_int(NULL, &i));
    assert_true(zs_parse_double("1e-6", &d) && d == 1e-6);
    assert_true(zs_parse_double("-.5", &d) && d == -0.5);
    static const char *const no_doubles[] = {"",      " 1",    "1 ", "nan", "inf",
                                             "1e999", "0x1p3", "1e", ".",   "1,5"};
    for (size_t k = 0; k < sizeof no_doubles / sizeof *no_doubles; k++)
        assert_false(zs_parse_double(no_doubles[k], &d));
}

/* Files. */

static void files_are_read_plain_and_gzip(void **state) {
    (void)state;
    zs_string text = {0};
    zs_error err = {0};
    zs_rng rng = zs_rng_make(1, ZS_STREAM_TEST, 0, 0, 2);
    enum { N = 3000000 };
    char *bytes = ZS_NEW(char, N);
    for (int i = 0; i < N; i++)
        bytes[i] = (char)zs_rng_below(&rng, 256);
    const char *plain = in_folder("plain"), *packed = in_folder("packed.gz");
    assert_int_equal(zs_file_write(plain, bytes, N, &err), ZS_OK);
    assert_int_equal(zs_file_read(plain, &text, &err), ZS_OK);
    assert_int_equal(text.length, N);
    assert_memory_equal(text.data, bytes, N);

    gzFile file = gzopen(packed, "wb");
    assert_int_equal(gzwrite(file, bytes, N), N);
    assert_int_equal(gzclose(file), Z_OK);
    assert_int_equal(zs_file_read(packed, &text, &err), ZS_OK);
    assert_int_equal(text.length, N);
    assert_memory_equal(text.data, bytes, N);

    /* A torn gzip file is an error that names it, not a short text. */
    struct stat info;
    assert_int_equal(stat(packed, &info), 0);
    assert_int_equal(truncate(packed, info.st_size / 2), 0);
    assert_int_equal(zs_file_read(packed, &text, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "packed.gz"));

    write_plainly(plain, "", 0);
    assert_int_equal(zs_file_read(plain, &text, &err), ZS_OK);
    assert_int_equal(text.length, 0);
    assert_string_equal(text.data, "");
    assert_int_equal(zs_file_read(in_folder("absent"), &text, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "absent: cannot be opened: No such file"));
    assert_int_equal(zs_file_read(folder, &text, &err), ZS_FAILED);
    zs_free(bytes);
    zs_string_free(&text);
}

static void files_are_written_whole_or_not(void **state) {
    (void)state;
    zs_error err = {0};
    zs_string text = {0};
    const char *path = in_folder("kept");
    assert_int_equal(zs_file_write(path, "old", 3, &err), ZS_OK);
    assert_int_equal(zs_file_write(path, "newer", 5, &err), ZS_OK);
    assert_int_equal(zs_file_read(path, &text, &err), ZS_OK);
    assert_string_equal(text.data, "newer");
    zs_string_free(&text);
    assert_int_equal(zs_file_write(in_folder("no/such/folder/x"), "x", 1, &err), ZS_FAILED);
    assert_int_equal(zs_file_write(folder, "x", 1, &err), ZS_FAILED);
    /* A device is written to, not replaced. */
    struct stat info;
    assert_int_equal(zs_file_write("/dev/null", "x", 1, &err), ZS_OK);
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
    if (stat("/dev/full", &info) == 0) {
        assert_int_equal(zs_file_write("/dev/full", "x", 1, &err), ZS_FAILED);
        assert_non_null(strstr(err.text, "No space left"));
    }
    assert_int_equal(zs_make_folder(in_folder("a/b//c/"), &err), ZS_OK);
    assert_int_equal(zs_make_folder(in_folder("a/b/c"), &err), ZS_OK);
    assert_true(zs_file_exists(in_folder("a/b/c")));
    assert_int_equal(zs_make_folder(in_folder("kept/x"), &err), ZS_FAILED);
}

static void json_lines_name_file_and_line(void **state) {
    (void)state;
    zs_error err = {0};
    zs_json_lines *lines;
    json_t *object;
    const char *path = in_folder("lines.jsonl");
    static const char text[] = "{\"a\": 1}\r\n\n  \t\n{\"a\": 2}\n[3]\n";
    write_plainly(path, text, sizeof text - 1);
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    static const int64_t numbers[] = {1, 4};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
        assert_int_equal(json_integer_value(json_object_get(object, "a")), i + 1);
        assert_int_equal(zs_json_lines_number(lines), numbers[i]);
        json_decref(object);
    }
    assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_FAILED);
    assert_null(object);
    assert_non_null(strstr(err.text, "lines.jsonl:5: a JSON object was expected"));
    zs_json_lines_close(lines);

    write_plainly(path, "{\"a\": 1}\n{\"a\": ", 15);
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
    json_decref(object);
    assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "lines.jsonl:2: not JSON"));
    zs_json_lines_close(lines);
    assert_int_equal(zs_json_lines_open(in_folder("absent"), &lines, &err), ZS_FAILED);
    zs_json_lines_close(lines); /* NULL */
}

static void json_lines_longer_than_a_buffer(void **state) {
    (void)state;
    zs_error err = {0};
    zs_json_lines *lines;
    json_t *object;
    const char *path = in_folder("long.jsonl.gz");
    gzFile file = gzopen(path, "wb");
    char *filler = ZS_NEW(char, 200001);
    memset(filler, 'x', 200000);
    for (int i = 0; i < 20; i++) {
        int length = 65530 + i; /* newlines on both sides of the buffer's end */
        assert_true(gzprintf(file, "{\"n\":%d,\"t\":\"", i) > 0);
        assert_int_equal(gzwrite(file, filler, (unsigned)length), length);
        gzputs(file, i < 19 ? "\"}\n" : "\"}");
    }
    assert_int_equal(gzclose(file), Z_OK);
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
        assert_non_null(object);
        assert_int_equal(json_integer_value(json_object_get(object, "n")), i);
        assert_int_equal(json_string_length(json_object_get(object, "t")), 65530 + i);
        json_decref(object);
    }
    assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
    assert_null(object);
    zs_json_lines_close(lines);
    zs_free(filler);
}

/* Log. */

static void phases_add_up(void **state) {
    (void)state;
    zs_phase_reset();
    zs_log_set_phase("start", 4);
    double begin = zs_seconds();
    for (int i = 0; i < 3; i++) {
        zs_phase_begin(ZS_PHASE_UPDATE);
        assert_string_equal(zs_log_phase(), "update");
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        zs_phase_end(ZS_PHASE_UPDATE);
    }
    double spent = zs_seconds() - begin;
    assert_string_equal(zs_log_phase(), "start");
    assert_int_equal(zs_log_step(), 4);
    assert_true(zs_phase_seconds(ZS_PHASE_UPDATE) >= 0.006 && zs_phase_seconds(ZS_PHASE_UPDATE) <= spent);
    assert_true(zs_phase_seconds(ZS_PHASE_GENERATE) == 0);
    zs_phase_reset();
    assert_true(zs_phase_seconds(ZS_PHASE_UPDATE) == 0);
    for (int i = 0; i < ZS_NUM_PHASES; i++)
        assert_non_null(zs_phase_names[i]);
}

static void say_progress(void) {
    setenv("ZS_PROGRESS_PART", "0.5:1:0", 1);
    zs_progress progress = zs_progress_start("rl", 10, 2);
    zs_progress_update(&progress, 6, "reward %.2f", 0.5);
    zs_progress_end(&progress);
    zs_log(ZS_LOG_DEBUG, "too fine");
    zs_log_set_rank(2, 3);
    zs_log(ZS_LOG_ERROR, "rank 0 only");
    zs_log_set_role("rollout");
    zs_log_rank(ZS_LOG_WARNING, "slow");
    abort();
}

static void log_speaks_once_and_progress_has_numbers(void **state) {
    (void)state;
    expect_abort(say_progress, "60 %  6/10  ETA ");
    zs_string text = {0};
    assert_int_equal(zs_file_read(in_folder("stderr"), &text, NULL), ZS_OK);
    assert_non_null(strstr(text.data, "(all 80%, ETA "));
    assert_non_null(strstr(text.data, "(reward 0.50)\n"));
    assert_non_null(strstr(text.data, "[rank 2 rollout] warning: slow\n"));
    assert_null(strstr(text.data, "too fine"));
    assert_null(strstr(text.data, "rank 0 only"));
    zs_string_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(rng_depends_on_every_name),
        cmocka_unit_test(rng_moments),
        cmocka_unit_test(rng_below_is_even_and_in_range),
        cmocka_unit_test(shuffle_is_a_permutation),
        cmocka_unit_test(memory_is_aligned_and_zeroed),
        cmocka_unit_test(arena_is_reset_and_remembers_its_peak),
        cmocka_unit_test(asserts_say_where),
        cmocka_unit_test(errors_carry_where_and_why),
        cmocka_unit_test(strings_grow_and_hold_any_bytes),
        cmocka_unit_test(numbers_are_read_strictly),
        cmocka_unit_test(files_are_read_plain_and_gzip),
        cmocka_unit_test(files_are_written_whole_or_not),
        cmocka_unit_test(json_lines_name_file_and_line),
        cmocka_unit_test(json_lines_longer_than_a_buffer),
        cmocka_unit_test(phases_add_up),
        cmocka_unit_test(log_speaks_once_and_progress_has_numbers),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
