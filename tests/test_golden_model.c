/* The model against PyTorch: every folder under $ZS_GOLDEN/models (default $ZS_SHARED/golden), each with the
 * tolerances of golden/README.md, and the trained story model beside it. */
#include "zerosearch/hf.h"
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"
#include "zerosearch/model.h"
#include "zerosearch/strings.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *shared_folder(void) {
    const char *shared = getenv("ZS_SHARED");
    return shared && *shared ? shared : "../shared";
}

static void golden_folder(char *out, size_t size) {
    const char *golden = getenv("ZS_GOLDEN");
    if (golden && *golden)
        snprintf(out, size, "%s", golden);
    else
        snprintf(out, size, "%s/golden", shared_folder());
}

/* A case: folder, model, expected values, its sequences packed into one batch. */

typedef struct golden_case {
    char folder[1400];
    zs_model *model;
    zs_safetensors *expected;
    int64_t offsets[65], num_sequences;
    int32_t *ids, *mask;
    zs_batch batch;
    bool masked; /* loss_mask is there */
} golden_case;

static const zs_st_tensor *find(const golden_case *g, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static const zs_st_tensor *find(const golden_case *g, const char *format, ...) {
    char name[200];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return zs_safetensors_find(g->expected, name);
}

static const float *need(const golden_case *g, const char *name, int64_t count) {
    const zs_st_tensor *tensor = find(g, "%s", name);
    if (!tensor || tensor->dtype != ZS_F32 || tensor->count != count)
        fail_msg("%s: expected.safetensors: %s is missing or not F32 of %lld", g->folder, name,
                 (long long)count);
    return tensor->data;
}

static void open_case(golden_case *g, const char *folder) {
    zs_error err = {0};
    char path[1500];
    memset(g, 0, sizeof *g);
    snprintf(g->folder, sizeof g->folder, "%s", folder);
    if (zs_hf_load(folder, &g->model, &err) != ZS_OK) fail_msg("%s", err.text);
    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    if (zs_safetensors_open(path, &g->expected, &err) != ZS_OK) fail_msg("%s", err.text);
    const zs_st_tensor *ids;
    while (g->num_sequences < 64 && (ids = find(g, "input_ids.%d", (int)g->num_sequences))) {
        assert_int_equal(ids->dtype, ZS_I32);
        g->offsets[g->num_sequences + 1] = g->offsets[g->num_sequences] + ids->count;
        g->num_sequences++;
    }
    assert_true(g->num_sequences > 0);
    int64_t total = g->offsets[g->num_sequences];
    g->ids = ZS_NEW(int32_t, total);
    g->mask = ZS_NEW(int32_t, total);
    for (int64_t s = 0; s < g->num_sequences; s++) {
        int64_t begin = g->offsets[s], count = g->offsets[s + 1] - begin;
        memcpy(g->ids + begin, find(g, "input_ids.%d", (int)s)->data, (size_t)count * sizeof(int32_t));
        const zs_st_tensor *mask = find(g, "loss_mask.%d", (int)s);
        if (mask) {
            assert_int_equal(mask->count, count);
            memcpy(g->mask + begin, mask->data, (size_t)count * sizeof(int32_t));
            g->masked = true;
        }
    }
    g->batch = (zs_batch){g->num_sequences, total, g->offsets, g->ids};
}

static void close_case(golden_case *g) {
    zs_model_destroy(g->model);
    zs_safetensors_close(g->expected);
    zs_free(g->ids);
    zs_free(g->mask);
}

/* Largest |a - b|; NaN counts as infinite. */
static double largest_gap(int64_t n, const float *a, const float *b) {
    double gap = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        gap = d <= gap ? gap : isnan(d) ? INFINITY : d;
    }
    return gap;
}

static double largest(int64_t n, const float *a) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabs(a[i]) > most ? fabs(a[i]) : most;
    return most;
}

static void at_most(const golden_case *g, const char *what, double value, double bound) {
    print_message("  %s: %s off by %.3g (bound %.3g)\n", strrchr(g->folder, '/') + 1, what, value, bound);
    if (!(value <= bound)) fail_msg("%s: %s off by %g, bound %g", g->folder, what, value, bound);
}

/* What is checked. */

static void check_outputs(const golden_case *g, zs_workspace *w, double tolerance) {
    int64_t total = g->batch.num_tokens, vocab = g->model->config.vocab_size;
    float *logits = ZS_NEW(float, total *vocab), *log_prob = ZS_NEW(float, total);
    float *entropy = ZS_NEW(float, total);
    double gaps[3] = {0};
    zs_model_forward(g->model, w, &g->batch);
    zs_model_logits(g->model, w, &g->batch, logits);
    zs_model_head(g->model, w, &g->batch, 1, log_prob, entropy, NULL, NULL);
    for (int64_t s = 0; s < g->num_sequences; s++) {
        int64_t begin = g->offsets[s], count = g->offsets[s + 1] - begin;
        const zs_st_tensor *want[3] = {find(g, "logits.%d", (int)s), find(g, "logprobs.%d", (int)s),
                                       find(g, "entropy.%d", (int)s)};
        const float *have[3] = {logits + begin * vocab, log_prob + begin, entropy + begin};
        assert_non_null(want[1]);
        for (int i = 0; i < 3; i++) {
            if (!want[i]) continue;
            assert_int_equal(want[i]->count, i == 0 ? count * vocab : count);
            gaps[i] = fmax(gaps[i], largest_gap(want[i]->count, have[i], want[i]->data));
        }
    }
    at_most(g, "logits", gaps[0], tolerance);
    at_most(g, "logprobs", gaps[1], tolerance);
    at_most(g, "entropy", gaps[2], tolerance);
    zs_free(logits);
    zs_free(log_prob);
    zs_free(entropy);
}

/* The masked mean loss and its gradient, with the head called as the learner calls it: coefficients only. */
static void loss_and_gradient(const golden_case *g, zs_workspace *w, double *loss, float *grads) {
    int64_t total = g->batch.num_tokens;
    float *log_prob = ZS_NEW(float, total), *coefficient = ZS_NEW(float, total);
    int64_t count = 0;
    double sum = 0;
    zs_model_forward(g->model, w, &g->batch);
    zs_model_head(g->model, w, &g->batch, 1, log_prob, NULL, NULL, NULL);
    for (int64_t t = 0; t < total; t++)
        count += g->mask[t] != 0;
    for (int64_t t = 0; t < total; t++) {
        sum -= g->mask[t] ? log_prob[t] : 0;
        coefficient[t] = g->mask[t] ? (float)(-1.0 / (double)count) : 0;
    }
    *loss = sum / (double)count;
    zs_model_head(g->model, w, &g->batch, 1, NULL, NULL, coefficient, grads);
    zs_model_backward(g->model, w, &g->batch, grads, NULL, NULL);
    zs_free(log_prob);
    zs_free(coefficient);
}

static void check_gradient(const golden_case *g, const float *grads) {
    double worst = 0;
    for (int i = 0; i < g->model->num_tensors; i++) {
        const zs_tensor *tensor = &g->model->tensors[i];
        char name[120];
        int64_t count = tensor->rows * tensor->cols;
        snprintf(name, sizeof name, "grad.%s", tensor->name);
        const float *want = need(g, name, count);
        double gap = largest_gap(count, grads + tensor->offset, want);
        double bound = 1e-4 * largest(count, want) + 1e-7;
        if (!(gap <= bound)) fail_msg("%s: %s off by %g, bound %g", g->folder, name, gap, bound);
        worst = fmax(worst, gap / bound);
    }
    at_most(g, "gradients (in units of the bound)", worst, 1);
    double norm = sqrt(zs_sum_of_squares(g->model->num_params, grads));
    double want = need(g, "grad_norm", 1)[0];
    at_most(g, "grad_norm", fabs(norm - want) / want, 1e-4);
}

static void check_adamw(const golden_case *g, const float *grads) {
    zs_model *copy = zs_model_clone(g->model);
    float *m = ZS_NEW(float, copy->num_params), *v = ZS_NEW(float, copy->num_params);
    double norm = sqrt(zs_sum_of_squares(copy->num_params, grads)), worst = 0;
    float scale = (float)fmin(1.0, 1.0 / (norm + 1e-6));
    zs_adamw settings = {1e-3, 0.9, 0.95, 1e-8, 0.01};
    zs_adamw_update(copy->num_params, 1, settings, scale, grads, copy->params, m, v);
    for (int i = 0; i < copy->num_tensors; i++) {
        const zs_tensor *tensor = &copy->tensors[i];
        char name[120];
        int64_t count = tensor->rows * tensor->cols;
        snprintf(name, sizeof name, "adamw.%s", tensor->name);
        const float *want = need(g, name, count);
        for (int64_t e = 0; e < count; e++)
            if (fabsf(grads[tensor->offset + e] * scale) >= 1e-6f)
                worst = fmax(worst, fabs((double)copy->params[tensor->offset + e] - want[e]));
    }
    at_most(g, "adamw", worst, 2e-5);
    zs_free(m);
    zs_free(v);
    zs_model_destroy(copy);
}

/* Greedy by running the whole prefix again for each token. */
static void check_greedy(const golden_case *g) {
    const zs_st_tensor *greedy = find(g, "greedy");
    if (!greedy) return;
    int64_t vocab = g->model->config.vocab_size, length = greedy->count;
    zs_workspace *w = zs_workspace_create(&g->model->config, length, false, false);
    float *logits = ZS_NEW(float, length *vocab);
    int32_t *ids = ZS_NEW(int32_t, length);
    memcpy(ids, g->ids, 8 * sizeof(int32_t));
    for (int64_t t = 8; t < length; t++) {
        int64_t offsets[2] = {0, t};
        zs_batch batch = {1, t, offsets, ids};
        zs_model_forward(g->model, w, &batch);
        zs_model_logits(g->model, w, &batch, logits);
        const float *last = logits + (t - 1) * vocab;
        for (int64_t i = 1; i < vocab; i++)
            ids[t] = last[i] > last[ids[t]] ? (int32_t)i : ids[t];
    }
    assert_memory_equal(ids, greedy->data, (size_t)length * sizeof(int32_t));
    zs_free(ids);
    zs_free(logits);
    zs_workspace_destroy(w);
}

static void run_case(const char *folder) {
    golden_case g;
    open_case(&g, folder);
    int64_t params = g.model->num_params;
    float *grads = ZS_NEW(float, params), *again = ZS_NEW(float, params);
    zs_workspace *w = zs_workspace_create(&g.model->config, g.batch.num_tokens, true, false);
    zs_workspace *small = zs_workspace_create(&g.model->config, g.batch.num_tokens, true, true);
    double loss, loss_again;
    check_outputs(&g, w, 2e-4);
    assert_true(g.masked);
    loss_and_gradient(&g, w, &loss, grads);
    double want = need(&g, "loss", 1)[0];
    at_most(&g, "loss", fabs(loss - want) / want, 1e-5);
    check_gradient(&g, grads);
    check_adamw(&g, grads);
    loss_and_gradient(&g, small, &loss_again, again);
    assert_memory_equal(grads, again, (size_t)params * sizeof(float));
    check_greedy(&g);
    zs_workspace_destroy(w);
    zs_workspace_destroy(small);
    zs_free(grads);
    zs_free(again);
    close_case(&g);
}

/* Calls `check` for every folder under models/; skips where there is no such folder. */
static void each_case(void (*check)(const char *folder)) {
    char golden[1000], path[1100];
    golden_folder(golden, sizeof golden);
    snprintf(path, sizeof path, "%s/models", golden);
    DIR *folder = opendir(path);
    if (!folder) {
        print_message("no folder %s\n", path);
        skip();
        return;
    }
    int cases = 0;
    struct dirent *entry;
    while ((entry = readdir(folder))) {
        char one[1400];
        if (entry->d_name[0] == '.') continue;
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        check(one);
        cases++;
    }
    closedir(folder);
    assert_true(cases > 0);
}

/* The same through `zerosearch logprobs --logits --grads`. */

/* $ZS, or the binary beside this program's folder. False when there is none. */
static bool find_binary(char *out, size_t size) {
    const char *zs = getenv("ZS");
    if (zs && *zs) {
        snprintf(out, size, "%s", zs);
        return true;
    }
    ssize_t length = readlink("/proc/self/exe", out, size - 1);
    if (length <= 0) return false;
    out[length] = 0;
    for (int up = 0; up < 2; up++)
        if (strrchr(out, '/')) *strrchr(out, '/') = 0;
    strncat(out, "/zerosearch", size - strlen(out) - 1);
    return zs_file_exists(out);
}

static void write_input(const golden_case *g, const char *path) {
    zs_string text = {0};
    zs_error err;
    for (int64_t s = 0; s < g->num_sequences; s++) {
        const int32_t *arrays[2] = {g->ids, g->mask};
        for (int which = 0; which < 2; which++) {
            zs_string_puts(&text, which ? ",\"loss_mask\":[" : "{\"ids\":[");
            for (int64_t t = g->offsets[s]; t < g->offsets[s + 1]; t++)
                zs_string_printf(&text, "%s%d", t > g->offsets[s] ? "," : "", (int)arrays[which][t]);
            zs_string_puts(&text, "]");
        }
        zs_string_puts(&text, "}\n");
    }
    assert_int_equal(zs_file_write(path, text.data, text.length, &err), ZS_OK);
    zs_string_free(&text);
}

static double json_gap(const json_t *array, const zs_st_tensor *want) {
    double gap = 0;
    assert_int_equal(json_array_size(array), want->count);
    for (int64_t t = 0; t < want->count; t++)
        gap = fmax(gap, fabs(json_number_value(json_array_get(array, (size_t)t)) -
                             (double)((const float *)want->data)[t]));
    return gap;
}

static void check_lines(const golden_case *g, const char *path) {
    zs_error err = {0};
    zs_json_lines *lines = NULL;
    double gap = 0;
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    for (int64_t s = 0; s <= g->num_sequences; s++) {
        json_t *object = NULL;
        assert_int_equal(zs_json_lines_next(lines, &object, &err), ZS_OK);
        assert_true((object != NULL) == (s < g->num_sequences));
        if (!object) break;
        gap = fmax(gap, json_gap(json_object_get(object, "logprobs"), find(g, "logprobs.%d", (int)s)));
        if (find(g, "entropy.%d", (int)s))
            gap = fmax(gap, json_gap(json_object_get(object, "entropy"), find(g, "entropy.%d", (int)s)));
        json_decref(object);
    }
    zs_json_lines_close(lines);
    at_most(g, "command's logprobs and entropy", gap, 2e-4);
}

/* Every tensor of a written file against the expected one of the same name; `relative` to its largest. */
static void check_file(const golden_case *g, const char *path, double absolute, double relative, int count) {
    zs_safetensors *file = NULL;
    zs_error err = {0};
    if (zs_safetensors_open(path, &file, &err) != ZS_OK) fail_msg("%s", err.text);
    assert_int_equal(zs_safetensors_count(file), count);
    for (int i = 0; i < count; i++) {
        const zs_st_tensor *have = zs_safetensors_at(file, i), *want = find(g, "%s", have->name);
        assert_non_null(want);
        assert_int_equal(have->num_dims, want->num_dims);
        assert_memory_equal(have->dims, want->dims, (size_t)want->num_dims * sizeof(int64_t));
        double bound = absolute + relative * largest(want->count, want->data);
        if (!(largest_gap(want->count, have->data, want->data) <= bound))
            fail_msg("%s: the command's %s differs", g->folder, have->name);
    }
    zs_safetensors_close(file);
}

static char binary_path[4000];

static void run_command(const char *folder) {
    golden_case g;
    open_case(&g, folder);
    char scratch[] = "/tmp/zs-golden-XXXXXX", in[64], out[64], logits[64], grads[64];
    assert_non_null(mkdtemp(scratch));
    snprintf(in, sizeof in, "%s/in", scratch);
    snprintf(out, sizeof out, "%s/out", scratch);
    snprintf(logits, sizeof logits, "%s/logits", scratch);
    snprintf(grads, sizeof grads, "%s/grads", scratch);
    write_input(&g, in);
    zs_string line = {0};
    zs_string_printf(&line, "'%s' logprobs --model '%s' --logits %s --grads %s < %s > %s", binary_path,
                     folder, logits, grads, in, out);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* of a sanitizer build: MPI keeps memory to the end */
    assert_int_equal(system(line.data), 0);
    zs_string_free(&line);
    check_lines(&g, out);
    check_file(&g, logits, 2e-4, 0, (int)g.num_sequences);
    check_file(&g, grads, 1e-7, 1e-4, g.model->num_tensors + 1);
    const char *files[] = {in, out, logits, grads};
    for (int i = 0; i < 4; i++)
        unlink(files[i]);
    rmdir(scratch);
    close_case(&g);
}

static void golden_models(void **state) {
    (void)state;
    each_case(run_case);
}

static void golden_models_by_the_command(void **state) {
    (void)state;
    if (!find_binary(binary_path, sizeof binary_path)) {
        print_message("no zerosearch binary beside the tests, and ZS is not set\n");
        skip();
        return;
    }
    each_case(run_command);
}

static void story_model(void **state) {
    (void)state;
    char path[1100];
    snprintf(path, sizeof path, "%.1000s/models/stories260k", shared_folder());
    if (!zs_file_exists(path)) {
        print_message("no folder %s\n", path);
        skip();
        return;
    }
    golden_case g;
    open_case(&g, path);
    zs_workspace *w = zs_workspace_create(&g.model->config, g.batch.num_tokens, false, false);
    check_outputs(&g, w, 1e-4);
    zs_workspace_destroy(w);
    close_case(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_models),
                                       cmocka_unit_test(golden_models_by_the_command),
                                       cmocka_unit_test(story_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
