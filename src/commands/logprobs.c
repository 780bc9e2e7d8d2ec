/* `zerosearch logprobs`: log-probabilities and entropies of given tokens, with logits and gradients on wish.
 */
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/model.h"
#include "zerosearch/strings.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const zs_option options[] = {
    {"model", "DIR", "model folder (Hugging Face form)"},
    {"dtype", "f32|bf16|int8", "precision that the weights are kept in (f32); --grads needs f32"},
    {"logits", "FILE", "write logits.I [tokens, vocab] of line I, counted from 0, as safetensors"},
    {"grads", "FILE", "write grad.NAME of the masked mean loss over all lines, and loss [1], as safetensors"},
    {NULL, NULL, NULL}};

/* All lines of the input, one sequence after another. */
typedef struct input {
    int32_t *ids;
    unsigned char *mask; /* 1: the token counts in the loss */
    int64_t tokens, tokens_held;
    int64_t *offsets; /* [lines + 1] */
    int64_t lines, lines_held, longest;
} input;

static void input_free(input *in) {
    zs_free(in->ids);
    zs_free(in->mask);
    zs_free(in->offsets);
}

static void input_reserve(input *in, int64_t more) {
    if (in->lines + 2 > in->lines_held) {
        int64_t held = 2 * in->lines_held + 64;
        in->offsets = zs_grow(in->offsets, in->lines_held, held, sizeof *in->offsets);
        in->lines_held = held;
    }
    if (in->tokens + more > in->tokens_held) {
        int64_t held = 2 * in->tokens_held + more + 1024;
        in->ids = zs_grow(in->ids, in->tokens_held, held, sizeof *in->ids);
        in->mask = zs_grow(in->mask, in->tokens_held, held, sizeof *in->mask);
        in->tokens_held = held;
    }
}

static bool read_mask(const json_t *value, unsigned char *out) {
    if (json_is_boolean(value))
        *out = json_is_true(value);
    else if (json_is_integer(value) && (json_integer_value(value) == 0 || json_integer_value(value) == 1))
        *out = (unsigned char)json_integer_value(value);
    else
        return false;
    return true;
}

/* One line: {"ids":[...],"loss_mask":[...]}; without a mask every token but the first counts. */
static zs_status add_line(input *in, const json_t *object, int64_t line, int64_t vocab, zs_error *err) {
    const json_t *ids = json_object_get(object, "ids"), *mask = json_object_get(object, "loss_mask");
    if (!json_is_array(ids))
        return zs_fail(err, ZS_FAILED, "stdin:%lld: \"ids\" is missing or not an array of integers",
                       (long long)line);
    int64_t count = (int64_t)json_array_size(ids);
    if (mask && !(json_is_array(mask) && (int64_t)json_array_size(mask) == count))
        return zs_fail(err, ZS_FAILED, "stdin:%lld: \"loss_mask\" is not an array as long as \"ids\" (%lld)",
                       (long long)line, (long long)count);
    input_reserve(in, count);
    for (int64_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, (size_t)i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return zs_fail(err, ZS_FAILED, "stdin:%lld: ids[%lld] is not an integer from 0 to %lld",
                           (long long)line, (long long)i, (long long)vocab - 1);
        in->ids[in->tokens + i] = (int32_t)json_integer_value(id);
        unsigned char *counts = &in->mask[in->tokens + i];
        *counts = i > 0;
        if (mask && !read_mask(json_array_get(mask, (size_t)i), counts))
            return zs_fail(err, ZS_FAILED, "stdin:%lld: loss_mask[%lld] is neither 0 nor 1", (long long)line,
                           (long long)i);
    }
    in->tokens += count;
    in->lines++;
    in->offsets[in->lines] = in->tokens;
    in->longest = count > in->longest ? count : in->longest;
    return ZS_OK;
}

static zs_status read_input(input *in, int64_t vocab, zs_error *err) {
    zs_json_lines *lines = NULL;
    zs_status status = zs_json_lines_open("-", &lines, err);
    input_reserve(in, 1);
    while (status == ZS_OK) {
        json_t *object = NULL;
        status = zs_json_lines_next(lines, &object, err);
        if (status != ZS_OK || !object) break;
        status = add_line(in, object, zs_json_lines_number(lines), vocab, err);
        json_decref(object);
    }
    zs_json_lines_close(lines);
    return status;
}

static void print_array(zs_string *out, const char *name, const float *values, int64_t count) {
    zs_string_printf(out, "\"%s\":[", name);
    for (int64_t i = 0; i < count; i++)
        zs_string_printf(out, "%s%.9g", i ? "," : "", (double)values[i]);
    zs_string_puts(out, "]");
}

typedef struct results {
    float *logits;                       /* [tokens, vocab] of all lines, NULL: not wanted */
    float *grads;                        /* [num_params], of the sum over masked tokens; NULL: not wanted */
    float *log_prob, *entropy, *weights; /* [longest] */
    double loss;                         /* sum over masked tokens */
    int64_t counted;
} results;

static void run_line(const zs_model *model, zs_workspace *workspace, const input *in, int64_t line,
                     results *r) {
    int64_t begin = in->offsets[line], count = in->offsets[line + 1] - begin;
    int64_t offsets[2] = {0, count};
    zs_batch batch = {1, count, offsets, in->ids + begin};
    zs_model_forward(model, workspace, &batch);
    if (r->logits) zs_model_logits(model, workspace, &batch, r->logits + begin * model->config.vocab_size);
    for (int64_t t = 0; t < count; t++)
        r->weights[t] = in->mask[begin + t] ? -1.0f : 0.0f;
    zs_model_head(model, workspace, &batch, 1, r->log_prob, r->entropy, r->grads ? r->weights : NULL,
                  r->grads);
    if (r->grads) zs_model_backward(model, workspace, &batch, r->grads, NULL, NULL);
    for (int64_t t = 0; t < count; t++) {
        r->loss -= in->mask[begin + t] ? (double)r->log_prob[t] : 0;
        r->counted += in->mask[begin + t];
    }
}

static zs_status check_numbers(const results *r, int64_t count, int64_t line, zs_error *err) {
    for (int64_t t = 0; t < count; t++)
        if (isnan(r->log_prob[t]) || isnan(r->entropy[t]))
            return zs_fail(err, ZS_FAILED,
                           "sequence %lld, token %lld: the model gives no probabilities but NaN; are its "
                           "weights damaged?",
                           (long long)line, (long long)t);
    return ZS_OK;
}

/* Runs every line and prints its result. */
static zs_status run_lines(const zs_model *model, const input *in, results *r, zs_error *err) {
    zs_workspace *workspace =
        zs_workspace_create(&model->config, in->longest > 0 ? in->longest : 1, r->grads != NULL, false);
    zs_string out = {0};
    zs_status status = ZS_OK;
    for (int64_t line = 0; line < in->lines && status == ZS_OK; line++) {
        int64_t count = in->offsets[line + 1] - in->offsets[line];
        if (count > 0) run_line(model, workspace, in, line, r);
        status = check_numbers(r, count, line, err);
        if (status) break;
        zs_string_clear(&out);
        zs_string_puts(&out, "{");
        print_array(&out, "logprobs", r->log_prob, count);
        zs_string_puts(&out, ",");
        print_array(&out, "entropy", r->entropy, count);
        zs_string_puts(&out, "}\n");
        if (fwrite(out.data, 1, (size_t)out.length, stdout) != (size_t)out.length)
            status = zs_fail(err, ZS_FAILED, "cannot write to stdout");
    }
    if (status == ZS_OK && fflush(stdout) != 0) status = zs_fail(err, ZS_FAILED, "cannot write to stdout");
    zs_string_free(&out);
    zs_workspace_destroy(workspace);
    return status;
}

static zs_status write_logits(const char *path, const input *in, const results *r, int64_t vocab,
                              zs_error *err) {
    zs_st_tensor *tensors = ZS_NEW(zs_st_tensor, in->lines);
    char(*names)[32] = zs_alloc(in->lines, sizeof *names);
    for (int64_t i = 0; i < in->lines; i++) {
        int64_t count = in->offsets[i + 1] - in->offsets[i];
        snprintf(names[i], sizeof names[i], "logits.%lld", (long long)i);
        tensors[i] = (zs_st_tensor){.name = names[i],
                                    .dtype = ZS_F32,
                                    .num_dims = 2,
                                    .dims = {count, vocab},
                                    .count = count * vocab,
                                    .data = r->logits + in->offsets[i] * vocab};
    }
    zs_status status = zs_safetensors_write(path, tensors, (int)in->lines, err);
    zs_free(names);
    zs_free(tensors);
    return status;
}

static zs_status write_grads(const char *path, const zs_model *model, const results *r, zs_error *err) {
    if (r->counted == 0)
        return zs_fail(err, ZS_FAILED,
                       "no token counts in the loss (every loss_mask is 0), so there is no "
                       "mean and no gradient");
    double mean = 1.0 / (double)r->counted;
    for (int64_t i = 0; i < model->num_params; i++)
        r->grads[i] = (float)(r->grads[i] * mean);
    float loss = (float)(r->loss * mean);
    int count = model->num_tensors;
    zs_st_tensor *tensors = ZS_NEW(zs_st_tensor, count + 1);
    char(*names)[96] = zs_alloc(count, sizeof *names);
    tensors[0] = (zs_st_tensor){
        .name = "loss", .dtype = ZS_F32, .num_dims = 1, .dims = {1}, .count = 1, .data = &loss};
    for (int i = 0; i < count; i++) {
        const zs_tensor *t = &model->tensors[i];
        snprintf(names[i], sizeof names[i], "grad.%s", t->name);
        tensors[i + 1] = (zs_st_tensor){.name = names[i],
                                        .dtype = ZS_F32,
                                        .num_dims = t->num_dims,
                                        .dims = {t->rows, t->cols},
                                        .count = t->rows * t->cols,
                                        .data = r->grads + t->offset};
    }
    zs_status status = zs_safetensors_write(path, tensors, count + 1, err);
    zs_free(names);
    zs_free(tensors);
    return status;
}

static zs_status run_model(const zs_arguments *arguments, const zs_model *model, zs_error *err) {
    const char *logits_path = zs_arg(arguments, "logits"), *grads_path = zs_arg(arguments, "grads");
    int64_t vocab = model->config.vocab_size;
    input in = {0};
    results r = {0};
    zs_status status = read_input(&in, vocab, err);
    if (status == ZS_OK) {
        if (in.longest > model->config.max_position_embeddings)
            zs_log(ZS_LOG_WARNING, "a line has %lld tokens, the model was made for %lld",
                   (long long)in.longest, (long long)model->config.max_position_embeddings);
        r.logits = logits_path ? ZS_NEW(float, in.tokens *vocab) : NULL;
        r.grads = grads_path ? ZS_NEW(float, model->num_params) : NULL;
        r.log_prob = ZS_NEW(float, in.longest);
        r.entropy = ZS_NEW(float, in.longest);
        r.weights = ZS_NEW(float, in.longest);
        status = run_lines(model, &in, &r, err);
    }
    if (status == ZS_OK && logits_path) status = write_logits(logits_path, &in, &r, vocab, err);
    if (status == ZS_OK && grads_path) status = write_grads(grads_path, model, &r, err);
    input_free(&in);
    zs_free(r.logits);
    zs_free(r.grads);
    zs_free(r.log_prob);
    zs_free(r.entropy);
    zs_free(r.weights);
    return status;
}

/* Under mpirun rank 0 alone reads stdin and works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_model *model = NULL;
    if (arguments->comm->world.rank > 0) return ZS_OK;
    zs_status status = zs_arg_model(arguments, &model, err);
    if (status == ZS_OK && !model->params && zs_arg(arguments, "grads"))
        status = zs_fail(err, ZS_USAGE, "--grads needs --dtype f32: weights in bf16 or int8 are not trained");
    if (status == ZS_OK) status = run_model(arguments, model, err);
    zs_model_destroy(model);
    return status;
}

const zs_command zs_command_logprobs = {
    "logprobs",
    "log-probabilities and entropies of given tokens, with logits and gradients on wish",
    "JSON lines on stdin: {\"ids\":[...],\"loss_mask\":[...]}; loss_mask (1: the token counts in the loss)\n"
    "may be left out: then every token but the first counts.\n"
    "A line out for each line in: {\"logprobs\":[...],\"entropy\":[...]}.\n"
    "logprobs[t] is log p(ids[t] | tokens before it), 0 at t = 0; entropy[t] is of the distribution after\n"
    "token t, in nats.",
    options,
    run,
    true};
