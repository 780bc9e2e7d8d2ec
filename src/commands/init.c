/* `zerosearch init`: a model folder with random weights, or a value model from a policy's folder. Weights are
 * drawn and written block by block: a model of any size needs a few dozen megabytes. */
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/tokenizer.h"

#include <stdio.h>
#include <string.h>

static const zs_option options[] = {
    {"shape", "NAME", "qwen2.5-0.5b|1.5b|3b|7b|14b, llama3.2-1b|3b, demo-s, demo, demo-l, tiny"},
    {"layers", "L", "layers instead of the shape's own"},
    {"vocab", "N", "vocabulary size instead of the shape's own"},
    {"tokenizer", "FILE_OR_DIR", "tokenizer.json, or a folder with one, to copy in; the vocabulary holds it"},
    {"seed", "S", "seed of the weights (the setting `seed`)"},
    {"dtype", "f32|bf16", "how weights are stored (f32; with --from as they are there)"},
    {"value-head", NULL, "a value model (PPO): one number a token in place of logits; its head starts at 0"},
    {"from", "DIR", "with --value-head: the layers of this folder in place of --shape"},
    {"wired", NULL, "start near the circuit that copies from the context (the demo's base model)"},
    {"out", "DIR", "folder to write"},
    {NULL, NULL, NULL}};

/* ZS_DTYPE_OTHER: not given. */
static zs_status parse_dtype(const zs_arguments *arguments, zs_dtype *out, zs_error *err) {
    const char *name = zs_arg(arguments, "dtype");
    *out = !name ? ZS_DTYPE_OTHER : strcmp(name, "bf16") == 0 ? ZS_BF16 : ZS_F32;
    if (name && strcmp(name, "bf16") != 0 && strcmp(name, "f32") != 0)
        return zs_fail(err, ZS_USAGE, "--dtype is %s; expected f32 or bf16", name);
    return ZS_OK;
}

/* The vocabulary must hold the tokenizer, and generation must end at its end token, not at the shape's. Plain
 * entries do not count: Qwen2's vocabulary has "<s>" and "</s>" as words like others. */
static zs_status fit_tokenizer(const char *path, bool demo, bool vocab_given, zs_model_config *config,
                               zs_error *err) {
    static const char *const ends[] = {"<|im_end|>",      "<|endoftext|>", "<|eot_id|>",
                                       "<|end_of_text|>", "<eos>",         "</s>"};
    static const char *const begins[] = {"<|begin_of_text|>", "<s>"};
    zs_tokenizer *tokenizer;
    zs_status status = zs_tokenizer_load(path, &tokenizer, err);
    if (status) return status;
    int64_t size = zs_tokenizer_vocab_size(tokenizer);
    if (vocab_given && config->vocab_size < size)
        status = zs_fail(err, ZS_USAGE, "--vocab is %lld; the tokenizer %s needs at least %lld",
                         (long long)config->vocab_size, path, (long long)size);
    if (!vocab_given && (demo || config->vocab_size < size)) config->vocab_size = size;
    config->num_eos = 0;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0] && config->num_eos < ZS_MAX_EOS; i++) {
        int32_t id = zs_tokenizer_find(tokenizer, ends[i]);
        if (zs_tokenizer_is_special(tokenizer, id)) config->eos_token_ids[config->num_eos++] = id;
    }
    config->bos_token_id = -1;
    for (size_t i = 0; i < sizeof begins / sizeof begins[0] && config->bos_token_id < 0; i++) {
        int32_t id = zs_tokenizer_find(tokenizer, begins[i]);
        if (zs_tokenizer_is_special(tokenizer, id)) config->bos_token_id = id;
    }
    zs_tokenizer_destroy(tokenizer);
    return status;
}

static zs_status copy_tokenizer_file(const char *from, const char *folder, zs_error *err) {
    char path[4400];
    zs_string text = {0};
    zs_status status = strlen(folder) > 4000 ? zs_fail(err, ZS_USAGE, "--out: the path is too long") : ZS_OK;
    if (status == ZS_OK) status = zs_make_folder(folder, err);
    if (status == ZS_OK) status = zs_file_read(from, &text, err);
    if (status == ZS_OK)
        status = zs_file_write(zs_path_join(path, sizeof path, folder, "tokenizer.json"), text.data,
                               text.length, err);
    zs_string_free(&text);
    return status;
}

/* Where the weights come from, block by block. */

typedef struct drawing {
    const zs_model *layout;
    uint64_t seed;
    float *wide; /* [DRAWN], for BF16 */
} drawing;

#define DRAWN ((int64_t)1 << 20)

static zs_status draw_source(void *context, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                             zs_error *err) {
    (void)err;
    const drawing *d = context;
    if (dtype == ZS_F32) {
        zs_model_draw(d->layout, d->seed, begin, end, to);
        return ZS_OK;
    }
    for (int64_t at = begin; at < end; at += DRAWN) {
        int64_t n = end - at < DRAWN ? end - at : DRAWN;
        zs_model_draw(d->layout, d->seed, at, at + n, d->wide);
        zs_from_f32(dtype, d->wide, n, (char *)to + (at - begin) * zs_dtype_size(dtype));
    }
    return ZS_OK;
}

/* The layouts of a policy and of its value model are the same up to the head, which starts at 0. */
static zs_status body_source(void *context, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                             zs_error *err) {
    zs_hf_folder *policy = context;
    int64_t body = zs_hf_layout(policy)->final_norm + zs_hf_layout(policy)->config.hidden_size;
    int64_t last = end < body ? end : body, copied = last > begin ? last - begin : 0;
    memset((char *)to + copied * zs_dtype_size(dtype), 0,
           (size_t)((end - begin - copied) * zs_dtype_size(dtype)));
    return copied > 0 ? zs_hf_read(policy, begin, last, dtype, to, err) : ZS_OK;
}

static void say_done(const char *out, const char *what, const zs_model *layout, zs_dtype dtype) {
    zs_log(ZS_LOG_INFO, "%s: %s, %lld layers, vocabulary %lld, %.2f million parameters (%lld) as %s", out,
           what, (long long)layout->config.num_hidden_layers, (long long)layout->config.vocab_size,
           (double)layout->num_params / 1e6, (long long)layout->num_params, zs_dtype_name(dtype));
}

static zs_status make_value_model(const char *from, const char *out, zs_dtype dtype, zs_error *err) {
    zs_hf_folder *policy;
    zs_status status = zs_hf_open(from, &policy, err);
    if (status) return status;
    zs_model_config config = zs_hf_layout(policy)->config;
    if (dtype == ZS_DTYPE_OTHER) dtype = zs_hf_dtype(policy) == ZS_BF16 ? ZS_BF16 : ZS_F32;
    if (config.value_head) status = zs_fail(err, ZS_USAGE, "--from: %s is a value model already", from);
    config.value_head = true;
    zs_model *layout = zs_model_layout(&config);
    if (status == ZS_OK) status = zs_hf_save_from(out, layout, body_source, policy, dtype, 0, from, err);
    if (status == ZS_OK) say_done(out, "value model", layout, dtype);
    zs_model_destroy(layout);
    zs_hf_close(policy);
    return status;
}

/* --wired looks at the whole model; it is for small ones. */
static zs_status save_wired(const zs_model *layout, uint64_t seed, const char *shape, const char *out,
                            zs_dtype dtype, const char *carry, zs_error *err) {
    zs_model *model = zs_model_create(&layout->config);
    zs_model_init(model, seed);
    zs_status status =
        zs_model_init_wired(model, seed)
            ? zs_hf_save(out, model, NULL, dtype, 0, carry, err)
            : zs_fail(err, ZS_USAGE, "--wired: shape %s does not suit; it is meant for the demo's", shape);
    zs_model_destroy(model);
    return status;
}

static zs_status read_shape(const zs_arguments *arguments, const char *shape, zs_model_config *config,
                            zs_error *err) {
    if (!zs_model_shape(shape, config))
        return zs_fail(err, ZS_USAGE, "--shape is %s; expected one of %s", shape, zs_model_shape_names);
    zs_status status =
        zs_arg_int(arguments, "layers", config->num_hidden_layers, &config->num_hidden_layers, err);
    if (status == ZS_OK)
        status = zs_arg_int(arguments, "vocab", config->vocab_size, &config->vocab_size, err);
    if (status) return status;
    if (config->num_hidden_layers < 1 || config->num_hidden_layers > 10000)
        return zs_fail(err, ZS_USAGE, "--layers: expected a number from 1 to 10000");
    if (config->vocab_size < 1 || config->vocab_size > 1 << 24)
        return zs_fail(err, ZS_USAGE, "--vocab: expected a number from 1 to %d", 1 << 24);
    config->value_head = zs_arg(arguments, "value-head") != NULL;
    /* the shape's own begin and end tokens may lie outside a smaller vocabulary */
    if (config->bos_token_id >= config->vocab_size) config->bos_token_id = -1;
    if (config->num_eos > 0 && config->eos_token_ids[0] >= config->vocab_size) config->num_eos = 0;
    const char *tokenizer = zs_arg(arguments, "tokenizer");
    if (tokenizer)
        status = fit_tokenizer(tokenizer, strncmp(shape, "demo", 4) == 0, zs_arg(arguments, "vocab") != NULL,
                               config, err);
    return status ? status : zs_model_config_check(config, err);
}

static zs_status make_model(const zs_arguments *arguments, zs_error *err) {
    const char *shape, *out, *tokenizer = zs_arg(arguments, "tokenizer"), *from = zs_arg(arguments, "from");
    zs_model_config config;
    zs_dtype dtype;
    int64_t seed;
    zs_status status = zs_arg_need(arguments, "out", &out, err);
    if (status == ZS_OK) status = parse_dtype(arguments, &dtype, err);
    if (status) return status;
    if (from && (!zs_arg(arguments, "value-head") || zs_arg(arguments, "shape")))
        return zs_fail(err, ZS_USAGE,
                       "--from goes with --value-head and without --shape (convert copies models)");
    if (from && zs_same_place(from, out))
        return zs_fail(err, ZS_USAGE, "--out is --from: the language model's head would be lost");
    if (from) return make_value_model(from, out, dtype, err);
    if (dtype == ZS_DTYPE_OTHER) dtype = ZS_F32;
    status = zs_arg_need(arguments, "shape", &shape, err);
    if (status == ZS_OK)
        status = zs_arg_int(arguments, "seed", zs_config_int(arguments->config, "seed"), &seed, err);
    if (status == ZS_OK) status = read_shape(arguments, shape, &config, err);
    if (status) return status;

    bool is_folder = tokenizer && zs_folder_exists(tokenizer);
    if (tokenizer && !is_folder) status = copy_tokenizer_file(tokenizer, out, err);
    if (status) return status;
    zs_model *layout = zs_model_layout(&config);
    const char *carry = is_folder ? tokenizer : NULL;
    if (zs_arg(arguments, "wired")) {
        status = save_wired(layout, (uint64_t)seed, shape, out, dtype, carry, err);
    } else {
        drawing drawing = {layout, (uint64_t)seed, dtype == ZS_F32 ? NULL : ZS_NEW(float, DRAWN)};
        status = zs_hf_save_from(out, layout, draw_source, &drawing, dtype, 0, carry, err);
        zs_free(drawing.wide);
    }
    if (status == ZS_OK) say_done(out, shape, layout, dtype);
    zs_model_destroy(layout);
    return status;
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? make_model(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

const zs_command zs_command_init = {
    "init",
    "makes a model folder with random weights, or a value model from a policy",
    "zerosearch init --shape NAME [--layers L] [--vocab N] [--tokenizer FILE_OR_DIR] [--seed S]\n"
    "                [--dtype f32|bf16] [--wired] [--value-head] --out DIR\n"
    "zerosearch init --from DIR --value-head [--dtype f32|bf16] --out DIR\n"
    "The vocabulary grows to hold the tokenizer; the demo shape takes exactly the tokenizer's size.",
    options,
    run,
    true};
