/* `zerosearch generate`: completion of one prompt, printed as it grows, or of many from JSON lines. */
#include "zerosearch/chat.h"
#include "zerosearch/command.h"
#include "zerosearch/engine.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16, CHUNK = 256 }; /* prompts written at once; lines read before any is answered */

static const zs_option options[] = {
    {"model", "DIR", "model folder (Hugging Face form, tokenizer.json in it)"},
    {"prompt", "TEXT", "text to go on from"},
    {"prompt-file", "FILE", "JSON lines {\"prompt\":...} instead of --prompt (gzip accepted); -: stdin"},
    {"chat", NULL, "put the prompt into the model's chat format (model.chat, model.chat_date)"},
    {"system", "TEXT", "system message of --chat (model.system; else the chat template's own)"},
    {"max-tokens", "N", "tokens to sample at most (128)"},
    {"temperature", "T", "0: greedy (1)"},
    {"seed", "S", "key of the random draws (0)"},
    {"top-k", "K", "sample among the K likeliest tokens; 0: off (0)"},
    {"top-p", "P", "sample among the fewest tokens that hold this probability; 1: off (1)"},
    {"stop", "TEXT", "end with the token that completes this text"},
    {"ignore-eos", NULL, "go on after end tokens"},
    {"dtype", "f32|bf16|int8", "precision that the weights are kept in (f32)"},
    {"cache-dtype", "f32|bf16", "precision that keys and values are kept in (f32)"},
    {NULL, NULL, NULL}};

typedef struct settings {
    const char *folder, *prompt, *prompt_file, *stop;
    int64_t max_tokens, seed;
    zs_sampling sampling;
    zs_dtype cache_dtype;
    bool chat, ignore_eos;
    zs_chat_options chat_options;
} settings;

typedef struct generator {
    settings s;
    zs_model *model;
    zs_tokenizer *tokenizer;
    zs_chat *chat;
} generator;

static zs_status read_numbers(const zs_arguments *arguments, settings *s, zs_error *err) {
    zs_status status = zs_arg_int(arguments, "max-tokens", 128, &s->max_tokens, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "seed", 0, &s->seed, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "top-k", 0, &s->sampling.top_k, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "temperature", 1, &s->sampling.temperature, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "top-p", 1, &s->sampling.top_p, err);
    if (status != ZS_OK) return status;
    if (s->max_tokens < 1) return zs_fail(err, ZS_USAGE, "--max-tokens must be at least 1");
    if (s->sampling.top_k < 0) return zs_fail(err, ZS_USAGE, "--top-k must be 0 (off) or more");
    if (!(s->sampling.temperature >= 0) || isinf(s->sampling.temperature))
        return zs_fail(err, ZS_USAGE, "--temperature must be 0 (greedy) or more");
    if (!(s->sampling.top_p > 0 && s->sampling.top_p <= 1))
        return zs_fail(err, ZS_USAGE, "--top-p must be in (0, 1]");
    return ZS_OK;
}

static zs_status read_settings(const zs_arguments *arguments, settings *s, zs_error *err) {
    zs_status status = zs_arg_need(arguments, "model", &s->folder, err);
    if (status == ZS_OK) status = read_numbers(arguments, s, err);
    if (status == ZS_OK) status = zs_arg_cache_dtype(arguments, &s->cache_dtype, err);
    if (status != ZS_OK) return status;
    const char *system = zs_arg(arguments, "system");
    s->prompt = zs_arg(arguments, "prompt");
    s->prompt_file = zs_arg(arguments, "prompt-file");
    s->stop = zs_arg(arguments, "stop");
    s->chat = zs_arg(arguments, "chat") != NULL;
    s->ignore_eos = zs_arg(arguments, "ignore-eos") != NULL;
    if (!s->prompt == !s->prompt_file)
        return zs_fail(err, ZS_USAGE, "%s",
                       s->prompt ? "--prompt and --prompt-file: one of the two is expected"
                                 : "option --prompt or --prompt-file is missing");
    if (s->stop && !*s->stop) return zs_fail(err, ZS_USAGE, "--stop is an empty text");
    if (system && !s->chat) return zs_fail(err, ZS_USAGE, "--system goes with --chat");
    s->chat_options =
        (zs_chat_options){.format = s->chat ? zs_config_string(arguments->config, "model.chat") : "none",
                          .system = !s->chat ? NULL
                                    : system ? system
                                             : zs_config_string(arguments->config, "model.system"),
                          .date = zs_config_string(arguments->config, "model.chat_date")};
    return ZS_OK;
}

static zs_status open_model(const zs_arguments *arguments, generator *g, zs_error *err) {
    const settings *s = &g->s;
    zs_status status = zs_arg_model(arguments, &g->model, err);
    if (status == ZS_OK) status = zs_tokenizer_load(s->folder, &g->tokenizer, err);
    if (status == ZS_OK)
        status = zs_chat_open(s->folder, &s->chat_options, g->tokenizer, &g->model->config, &g->chat, err);
    if (status != ZS_OK) return status;
    if (s->chat && g->chat->format == ZS_CHAT_NONE)
        return zs_fail(err, ZS_USAGE,
                       "--chat: no chat format is found in %s; --set model.chat=chatml (or llama3, llama3.1) "
                       "chooses one",
                       s->folder);
    zs_model_pack(g->model, 0, 1);
    zs_chat_add_ends(g->chat, &g->model->config);
    if (s->ignore_eos) g->model->config.num_eos = 0;
    return ZS_OK;
}

static zs_status make_prompt(const generator *g, const char *text, zs_ids *ids, zs_error *err) {
    const zs_model_config *config = &g->model->config;
    zs_ids_clear(ids);
    zs_chat_encode(g->chat, g->tokenizer, text, ids);
    if (ids->length == 0)
        return zs_fail(err, ZS_USAGE, "the prompt is empty, so there is nothing to go on from");
    for (int64_t i = 0; i < ids->length; i++)
        if (ids->data[i] >= config->vocab_size)
            return zs_fail(err, ZS_FAILED,
                           "%s: tokenizer.json gives token %d, but the model's vocab_size is %lld",
                           g->s.folder, (int)ids->data[i], (long long)config->vocab_size);
    if (ids->length >= config->max_position_embeddings)
        return zs_fail(err, ZS_FAILED, "the prompt has %lld tokens, the model takes fewer than %lld",
                       (long long)ids->length, (long long)config->max_position_embeddings);
    return ZS_OK;
}

/* Tokens that a sequence may come to. */
static int64_t longest(const generator *g, int64_t prompt_length) {
    int64_t room = g->model->config.max_position_embeddings - prompt_length;
    return prompt_length + (g->s.max_tokens < room ? g->s.max_tokens : room);
}

/* `line`, from 0, keys the draws; a single --prompt is line 0. */
static int64_t submit(const generator *g, zs_engine *engine, const zs_ids *prompt, int64_t line) {
    zs_sequence_request request = {.prompt = prompt->data,
                                   .prompt_length = prompt->length,
                                   .prompt_group = -1,
                                   .max_new_tokens = g->s.max_tokens,
                                   .max_length = longest(g, prompt->length),
                                   .sampling = g->s.sampling,
                                   .rng = zs_rng_make((uint64_t)g->s.seed, ZS_STREAM_POLICY, 0, line, 0),
                                   .stops = &g->s.stop,
                                   .num_stops = g->s.stop ? 1 : 0};
    return zs_engine_submit(engine, &request);
}

static bool is_end_token(const zs_model_config *config, int32_t id) {
    for (int i = 0; i < config->num_eos; i++)
        if (config->eos_token_ids[i] == id) return true;
    return false;
}

/* A decoder that has seen the prompt, so that what follows is text in the midst of a text. */
static zs_decoder *decoder_after(const generator *g, const int32_t *prompt, int64_t length) {
    zs_decoder *decoder = zs_decoder_create(g->tokenizer, false);
    zs_string seen = {0};
    int64_t begin = prompt[0] == g->chat->begin_id;
    zs_decoder_append(decoder, prompt + begin, length - begin, &seen);
    zs_string_free(&seen);
    return decoder;
}

static zs_status write_out(const char *bytes, int64_t length, zs_error *err) {
    if (fwrite(bytes, 1, (size_t)length, stdout) != (size_t)length || fflush(stdout) != 0)
        return zs_fail(err, ZS_FAILED, "cannot write to stdout");
    return ZS_OK;
}

/* Tokens from `begin` on were drawn from probabilities, not from what NaNs leave. */
static zs_status check_drawn(const generator *g, const zs_sequence_view *view, int64_t begin, zs_error *err) {
    for (int64_t i = begin; i < view->length; i++)
        if (!isfinite(view->log_prob[i]))
            return zs_fail(err, ZS_FAILED,
                           "%s: the model gives no probabilities but NaN; are its weights damaged?",
                           g->s.folder);
    return ZS_OK;
}

/* One prompt, printed as it grows. */

static zs_status complete_prompt(const generator *g, zs_error *err) {
    zs_ids prompt = {0};
    zs_string text = {0};
    zs_status status = make_prompt(g, g->s.prompt, &prompt, err);
    if (status != ZS_OK) {
        zs_ids_free(&prompt);
        return status;
    }
    int64_t length = longest(g, prompt.length), printed = prompt.length;
    zs_engine_options engine_options = {
        .max_batch = 1, .cache_tokens = length, .max_length = length, .cache_dtype = g->s.cache_dtype};
    zs_engine *engine = zs_engine_create(g->model, g->tokenizer, &engine_options);
    zs_decoder *decoder = decoder_after(g, prompt.data, prompt.length);
    int64_t handle = submit(g, engine, &prompt, 0);
    double start = zs_seconds();
    while (status == ZS_OK && zs_engine_step(engine) > 0) {
        zs_sequence_view view = zs_engine_view(engine, handle);
        zs_string_clear(&text);
        status = check_drawn(g, &view, printed, err);
        for (; status == ZS_OK && printed < view.length; printed++)
            if (!is_end_token(&g->model->config, view.ids[printed]))
                zs_decoder_append(decoder, view.ids + printed, 1, &text);
        if (status == ZS_OK) status = write_out(text.data ? text.data : "", text.length, err);
    }
    zs_string_clear(&text);
    zs_decoder_finish(decoder, &text);
    zs_string_puts(&text, "\n");
    if (status == ZS_OK) status = write_out(text.data, text.length, err);
    zs_log(ZS_LOG_DEBUG, "%lld tokens after a prompt of %lld in %.2f s", (long long)(printed - prompt.length),
           (long long)prompt.length, zs_seconds() - start);
    zs_decoder_destroy(decoder);
    zs_engine_destroy(engine);
    zs_string_free(&text);
    zs_ids_free(&prompt);
    return status;
}

/* Many prompts. */

typedef struct line {
    json_t *object; /* as read; when answered with text, log_prob, tokens and finish */
    zs_ids prompt;
    int64_t handle;
    bool answered;
} line;

static zs_status read_line(const generator *g, zs_json_lines *lines, line *out, zs_error *err) {
    zs_status status = zs_json_lines_next(lines, &out->object, err);
    if (status != ZS_OK || !out->object) return status;
    const char *prompt = json_string_value(json_object_get(out->object, "prompt"));
    if (prompt)
        status = make_prompt(g, prompt, &out->prompt, err);
    else
        status = zs_fail(err, ZS_FAILED, "\"prompt\" is missing or no text");
    if (status == ZS_OK) return ZS_OK;
    bool is_stdin = strcmp(g->s.prompt_file, "-") == 0;
    zs_fail_context(err, "%s:%lld", is_stdin ? "stdin" : g->s.prompt_file,
                    (long long)zs_json_lines_number(lines));
    return err->status = ZS_FAILED; /* the input is at fault, not the command line */
}

static void take_answer(const generator *g, line *l, zs_sequence_view view, zs_finish finish) {
    static const char *const reasons[] = {[ZS_FINISH_NONE] = "",
                                          [ZS_FINISH_STOP] = "stop",
                                          [ZS_FINISH_EOS] = "eos",
                                          [ZS_FINISH_LENGTH] = "length"};
    int64_t sampled = view.length - view.prompt_length;
    zs_string text = {0};
    zs_decoder *decoder = decoder_after(g, view.ids, view.prompt_length);
    zs_decoder_append(decoder, view.ids + view.prompt_length, sampled - (finish == ZS_FINISH_EOS), &text);
    zs_decoder_finish(decoder, &text);
    zs_decoder_destroy(decoder);
    double log_prob = 0;
    for (int64_t i = view.prompt_length; i < view.length; i++)
        log_prob += (double)view.log_prob[i];
    json_object_set_new(l->object, "text", json_stringn(text.data ? text.data : "", (size_t)text.length));
    json_object_set_new(l->object, "log_prob", json_real(log_prob));
    json_object_set_new(l->object, "tokens", json_integer(sampled));
    json_object_set_new(l->object, "finish", json_string(reasons[finish]));
    l->answered = true;
    zs_string_free(&text);
}

static zs_status print_answer(const line *l, zs_error *err) {
    char *dump = json_dumps(l->object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    zs_string text = {0};
    zs_string_printf(&text, "%s\n", dump);
    zs_status status = write_out(text.data, text.length, err);
    zs_string_free(&text);
    free(dump);
    return status;
}

/* Answers lines [0, count), of which the first is line `first` of the input, and prints them in order. */
static zs_status complete_lines(const generator *g, line *lines, int64_t count, int64_t first,
                                zs_error *err) {
    int64_t length = 0, batch = count < BATCH ? count : BATCH, printed = 0, handle;
    for (int64_t i = 0; i < count; i++)
        if (longest(g, lines[i].prompt.length) > length) length = longest(g, lines[i].prompt.length);
    zs_engine_options engine_options = {.max_batch = batch,
                                        .cache_tokens = batch * length,
                                        .max_length = length,
                                        .cache_dtype = g->s.cache_dtype};
    zs_engine *engine = zs_engine_create(g->model, g->tokenizer, &engine_options);
    for (int64_t i = 0; i < count; i++)
        lines[i].handle = submit(g, engine, &lines[i].prompt, first + i);
    zs_finish finish;
    zs_status status = ZS_OK;
    while (status == ZS_OK && zs_engine_step(engine) > 0) {
        while (status == ZS_OK && (handle = zs_engine_next_finished(engine, &finish)) >= 0) {
            zs_sequence_view view = zs_engine_view(engine, handle);
            status = check_drawn(g, &view, view.prompt_length, err);
            for (int64_t i = 0; status == ZS_OK && i < count; i++)
                if (lines[i].handle == handle) take_answer(g, &lines[i], view, finish);
            zs_engine_release(engine, handle);
        }
        for (; status == ZS_OK && printed < count && lines[printed].answered; printed++)
            status = print_answer(&lines[printed], err);
    }
    zs_engine_destroy(engine);
    return status;
}

static zs_status complete_file(const generator *g, zs_error *err) {
    zs_json_lines *input = NULL;
    zs_status status = zs_json_lines_open(g->s.prompt_file, &input, err);
    for (int64_t first = 0, count = CHUNK; status == ZS_OK && count == CHUNK; first += count) {
        line *lines = ZS_NEW(line, CHUNK);
        for (count = 0; count < CHUNK; count++)
            if ((status = read_line(g, input, &lines[count], err)) != ZS_OK || !lines[count].object) break;
        zs_error later; /* a bad line is told of after those before it are answered */
        if (count > 0 && complete_lines(g, lines, count, first, &later) != ZS_OK && status == ZS_OK) {
            status = later.status;
            *err = later;
        }
        for (int64_t i = 0; i < CHUNK; i++) {
            json_decref(lines[i].object);
            zs_ids_free(&lines[i].prompt);
        }
        zs_free(lines);
    }
    zs_json_lines_close(input);
    return status;
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    generator g = {0};
    zs_status status = read_settings(arguments, &g.s, err);
    if (status != ZS_OK || arguments->comm->world.rank > 0) return status;
    status = open_model(arguments, &g, err);
    if (status == ZS_OK) status = g.s.prompt ? complete_prompt(&g, err) : complete_file(&g, err);
    zs_chat_free(g.chat);
    zs_model_destroy(g.model);
    zs_tokenizer_destroy(g.tokenizer);
    return status;
}

const zs_command zs_command_generate = {
    "generate",
    "completion of a prompt, printed as it grows, or of many prompts from JSON lines",
    "With --prompt the completion goes to stdout, without the prompt. With --prompt-file each line\n"
    "{\"prompt\":...} gives a line with the same keys and \"text\", \"log_prob\" (sum over the sampled "
    "tokens),\n"
    "\"tokens\" (sampled, the end token included) and \"finish\" (stop, eos or length).\n"
    "Without --chat the prompt is taken as it is, after the model's begin token where plain text has one\n"
    "(add_bos_token of tokenizer_config.json or, without it, the post-processor of tokenizer.json). With\n"
    "--chat it becomes the user's message in the format that the folder's chat template tells.\n"
    "End tokens are those of config.json, generation_config.json, tokenizer_config.json and the chat "
    "format.\n"
    "The same seed gives the same text: the draws of a line depend on the seed and its number.",
    options,
    run,
    true};
