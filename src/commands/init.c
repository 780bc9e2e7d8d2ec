/* `zerosearch init`: a model folder with random weights. */
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/tokenizer.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const zs_option options[] = {
    {"shape", "NAME", "qwen2.5-0.5b|1.5b|3b|7b|14b, llama3.2-1b|3b, demo, tiny"},
    {"layers", "L", "layers instead of the shape's own"},
    {"vocab", "N", "vocabulary size instead of the shape's own"},
    {"tokenizer", "FILE_OR_DIR", "tokenizer.json, or a folder with one, to copy in; the vocabulary holds it"},
    {"seed", "S", "seed of the weights (the setting `seed`)"},
    {"dtype", "f32|bf16", "how weights are stored (f32)"},
    {"wired", NULL, "start near the circuit that copies from the context (the demo's base model)"},
    {"out", "DIR", "folder to write"},
    {NULL, NULL, NULL}};

static zs_status parse_dtype(const zs_arguments *arguments, zs_dtype *out, zs_error *err) {
    const char *name = zs_arg_or(arguments, "dtype", "f32");
    *out = strcmp(name, "bf16") == 0 ? ZS_BF16 : ZS_F32;
    if (strcmp(name, "bf16") != 0 && strcmp(name, "f32") != 0)
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

static zs_status make_model(const zs_arguments *arguments, zs_error *err) {
    const char *shape, *out, *tokenizer = zs_arg(arguments, "tokenizer");
    zs_model_config config;
    zs_dtype dtype;
    int64_t seed;
    zs_status status = zs_arg_need(arguments, "shape", &shape, err);
    if (status == ZS_OK) status = zs_arg_need(arguments, "out", &out, err);
    if (status == ZS_OK) status = parse_dtype(arguments, &dtype, err);
    if (status) return status;
    if (!zs_model_shape(shape, &config))
        return zs_fail(err, ZS_USAGE, "--shape is %s; expected one of %s", shape, zs_model_shape_names);
    status = zs_arg_int(arguments, "layers", config.num_hidden_layers, &config.num_hidden_layers, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "vocab", config.vocab_size, &config.vocab_size, err);
    if (status == ZS_OK)
        status = zs_arg_int(arguments, "seed", zs_config_int(arguments->config, "seed"), &seed, err);
    if (status) return status;
    if (config.num_hidden_layers < 1 || config.num_hidden_layers > 10000)
        return zs_fail(err, ZS_USAGE, "--layers: expected a number from 1 to 10000");
    if (config.vocab_size < 1 || config.vocab_size > 1 << 24)
        return zs_fail(err, ZS_USAGE, "--vocab: expected a number from 1 to %d", 1 << 24);
    if (tokenizer)
        status = fit_tokenizer(tokenizer, strcmp(shape, "demo") == 0, zs_arg(arguments, "vocab") != NULL,
                               &config, err);
    if (status == ZS_OK) status = zs_model_config_check(&config, err);
    if (status) return status;

    struct stat info;
    bool is_folder = tokenizer && stat(tokenizer, &info) == 0 && S_ISDIR(info.st_mode);
    if (tokenizer && !is_folder) status = copy_tokenizer_file(tokenizer, out, err);
    if (status) return status;
    zs_model *model = zs_model_create(&config);
    zs_model_init(model, (uint64_t)seed);
    if (zs_arg(arguments, "wired") && !zs_model_init_wired(model, (uint64_t)seed))
        status = zs_fail(err, ZS_USAGE, "--wired: shape %s does not suit; it is meant for the demo's", shape);
    if (status == ZS_OK) status = zs_hf_save(out, model, NULL, dtype, 0, is_folder ? tokenizer : NULL, err);
    if (status == ZS_OK)
        zs_log(ZS_LOG_INFO, "%s: %s, %lld layers, vocabulary %lld, %.2f million parameters", out, shape,
               (long long)config.num_hidden_layers, (long long)config.vocab_size,
               (double)model->num_params / 1e6);
    zs_model_destroy(model);
    return status;
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? make_model(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

const zs_command zs_command_init = {
    "init", "makes a model folder with random weights",
    "zerosearch init --shape NAME [--layers L] [--vocab N] [--tokenizer FILE_OR_DIR] [--seed S]\n"
    "                [--dtype f32|bf16] [--wired] --out DIR\n"
    "The vocabulary grows to hold the tokenizer; the demo shape takes exactly the tokenizer's size.",
    options, run};
