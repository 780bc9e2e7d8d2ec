/* The simulator: a language model that writes the documents a search engine might return.
 *
 * A query becomes a prompt (the useful or the noisy template, filled in and put into the model's chat format)
 * and then one sequence of the generation engine, which batches what is there and lets the rest wait in
 * order. Each draw is keyed by seed, step, question, sample and turn, so a reply depends neither on the rank
 * that wrote it nor on what else was in flight. Used by simulate_sft and simulate_prompt alike: they differ
 * in the model and in the templates. */
#include "replies.h"

#include "zerosearch/chat.h"
#include "zerosearch/engine.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/template.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { TURNS = 64 }; /* the turn is folded into the sample's part of the random key */

static const char *const placeholders[] = {"query", "question", "answer", "topk", "words"};
static const char *const stops[] = {"</information>"};

typedef struct zs_asker { /* who waits for a sequence */
    int64_t episode, turn;
    bool noisy;
} zs_asker;

typedef struct zs_simulator {
    zs_search search;
    zs_simulator_options options;
    zs_engine *engine;
    zs_asker *askers; /* by the engine's handle */
    int64_t num_askers, in_flight;
    zs_replies replies;
    zs_ids prompt;             /* of the query being submitted */
    bool told;                 /* a query that could not be asked has been told of in the log */
    zs_simulator_watch *watch; /* NULL: nobody watches */
    void *watch_context;
} zs_simulator;

/* Where to cut a text so that at most `limit` bytes stay: at a UTF-8 boundary, and for lists of answers in
 * front of an " or ", so that no half answer is left. */
static int64_t cut_point(const char *text, int64_t limit, bool is_list) {
    int64_t length = (int64_t)strlen(text);
    if (length <= limit) return length;
    int64_t cut = limit;
    while (cut > 0 && ((unsigned char)text[cut] & 0xC0) == 0x80)
        cut--;
    if (is_list)
        for (int64_t i = cut; i > 0; i--)
            if (strncmp(text + i, " or ", 4) == 0) return i;
    return cut;
}

/* The template with query, question and answer, cut to `limit` bytes each. */
static zs_status fill_prompt(const zs_simulator_options *options, const zs_query *query, int64_t limit,
                             zs_string *filled, zs_error *err) {
    zs_string parts[3] = {{0}, {0}, {0}};
    const char *texts[3] = {query->query, query->question, query->answer};
    for (int i = 0; i < 3; i++)
        zs_string_append(&parts[i], texts[i], cut_point(texts[i], limit, i == 2));
    char topk[16], words[16];
    snprintf(topk, sizeof topk, "%d", options->top_k);
    snprintf(words, sizeof words, "%d", options->words);
    const char *const values[] = {parts[0].data, parts[1].data, parts[2].data, topk, words};
    const char *text = query->noisy ? options->noisy_template : options->useful_template;
    zs_string_clear(filled);
    zs_status status = zs_template_fill(text ? text : "", placeholders, values, 5, filled, err);
    if (!filled->data) zs_string_puts(filled, "");
    for (int i = 0; i < 3; i++)
        zs_string_free(&parts[i]);
    return status;
}

zs_status zs_search_simulator_prompt(const zs_simulator_options *options, const zs_query *query,
                                     zs_string *text, zs_ids *ids, zs_error *err) {
    int64_t room = options->max_length - options->max_new_tokens, limit = INT64_MAX;
    for (;;) {
        zs_status status = fill_prompt(options, query, limit, text, err);
        if (status != ZS_OK || !options->tokenizer) return status;
        zs_ids_clear(ids);
        zs_chat_encode(options->chat, options->tokenizer, text->data, ids);
        if (ids->length <= room) return ZS_OK;
        limit = limit == INT64_MAX ? 1024 : limit / 2;
        if (limit < 16)
            return zs_fail(err, ZS_FAILED,
                           "%s: a prompt of %" PRId64 " tokens leaves no room for %" PRId64
                           " new ones in a length of %" PRId64,
                           options->name, ids->length, options->max_new_tokens, options->max_length);
    }
}

static zs_status make_prompt(zs_simulator *simulator, const zs_query *query, zs_error *err) {
    const zs_simulator_options *options = &simulator->options;
    zs_string text = {0};
    zs_status status = zs_search_simulator_prompt(options, query, &text, &simulator->prompt, err);
    zs_string_free(&text);
    if (status != ZS_OK) return status;
    if (simulator->prompt.length == 0) return zs_fail(err, ZS_FAILED, "%s: an empty prompt", options->name);
    for (int64_t i = 0; i < simulator->prompt.length; i++)
        if (simulator->prompt.data[i] < 0 || simulator->prompt.data[i] >= options->model->config.vocab_size)
            return zs_fail(err, ZS_FAILED,
                           "%s: the tokenizer gives token %d, the model has %" PRId64
                           ": they do not belong together",
                           options->name, (int)simulator->prompt.data[i], options->model->config.vocab_size);
    return ZS_OK;
}

static void simulator_submit(zs_search *self, const zs_query *query) {
    zs_simulator *simulator = (zs_simulator *)self;
    const zs_simulator_options *options = &simulator->options;
    zs_error err;
    if (make_prompt(simulator, query, &err) != ZS_OK) {
        if (!simulator->told) zs_log_rank(ZS_LOG_WARNING, "a query goes unanswered: %s", err.text);
        simulator->told = true;
        zs_string nothing = {0};
        zs_replies_push(&simulator->replies, query->episode, query->turn, query->noisy, true, &nothing);
        return;
    }
    zs_sequence_request request = {
        .prompt = simulator->prompt.data,
        .prompt_length = simulator->prompt.length,
        .prompt_group = -1,
        .max_new_tokens = options->max_new_tokens,
        .max_length = simulator->prompt.length + options->max_new_tokens,
        .sampling = {.temperature = options->temperature, .top_p = options->top_p},
        .rng = zs_rng_make(options->seed, ZS_STREAM_SIMULATOR, query->step, query->question_index,
                           query->sample * TURNS + query->turn),
        .stops = stops,
        .num_stops = 1,
    };
    int64_t handle = zs_engine_submit(simulator->engine, &request);
    if (handle >= simulator->num_askers) {
        int64_t larger = 2 * handle + 64;
        simulator->askers = zs_grow(simulator->askers, simulator->num_askers, larger, sizeof(zs_asker));
        simulator->num_askers = larger;
    }
    simulator->askers[handle] = (zs_asker){query->episode, query->turn, query->noisy};
    simulator->in_flight++;
}

/* Turns finished sequences into replies. */
static void collect(zs_simulator *simulator) {
    zs_finish reason;
    int64_t handle;
    while ((handle = zs_engine_next_finished(simulator->engine, &reason)) >= 0) {
        zs_sequence_view view = zs_engine_view(simulator->engine, handle);
        int64_t count = view.length - view.prompt_length - (reason == ZS_FINISH_EOS);
        zs_string raw = {0}, documents = {0};
        zs_tokenizer_decode(simulator->options.tokenizer, view.ids + view.prompt_length, count, &raw);
        zs_search_format_documents(raw.data, raw.length, simulator->options.top_k, &documents);
        const zs_asker *asker = &simulator->askers[handle];
        if (simulator->watch)
            simulator->watch(simulator->watch_context, asker->episode, raw.data ? raw.data : "", raw.length,
                             view.length - view.prompt_length, reason == ZS_FINISH_LENGTH);
        zs_replies_push(&simulator->replies, asker->episode, asker->turn, asker->noisy, documents.length == 0,
                        &documents);
        zs_string_free(&raw);
        zs_engine_release(simulator->engine, handle);
        simulator->in_flight--;
    }
}

static bool simulator_advance(zs_search *self, int64_t steps) {
    zs_simulator *simulator = (zs_simulator *)self;
    for (int64_t i = 0; i < steps && simulator->in_flight > 0; i++) {
        int64_t computed = zs_engine_step(simulator->engine);
        int64_t before = simulator->in_flight;
        collect(simulator);
        ZS_ASSERT(computed > 0 || simulator->in_flight < before,
                  "%" PRId64 " queries are in flight and the engine does nothing", before);
    }
    return simulator->in_flight > 0 || zs_replies_any(&simulator->replies);
}

static bool simulator_take(zs_search *self, zs_reply *reply) {
    return zs_replies_take(&((zs_simulator *)self)->replies, reply);
}

static void simulator_destroy(zs_search *self) {
    zs_simulator *simulator = (zs_simulator *)self;
    zs_engine_destroy(simulator->engine);
    zs_replies_free(&simulator->replies);
    zs_ids_free(&simulator->prompt);
    zs_free(simulator->askers);
    zs_free(simulator);
}

void zs_search_simulator_watch(zs_search *search, zs_simulator_watch *watch, void *context) {
    zs_simulator *simulator = (zs_simulator *)search;
    simulator->watch = watch;
    simulator->watch_context = context;
}

zs_status zs_search_simulator_check(const zs_simulator_options *options, zs_error *err) {
    const char *const texts[] = {options->useful_template, options->noisy_template};
    const char *const values[] = {"x", "x", "x", "x", "x"};
    for (int i = 0; i < 2; i++) {
        zs_string filled = {0};
        zs_status status = zs_template_fill(texts[i] ? texts[i] : "", placeholders, values, 5, &filled, err);
        bool empty = filled.length == 0;
        zs_string_free(&filled);
        if (status == ZS_OK && empty) status = zs_fail(err, ZS_USAGE, "the template is empty");
        if (status != ZS_OK)
            return zs_fail_context(err, "%s: %s template", options->name, i ? "noisy" : "useful");
    }
    if (options->max_new_tokens >= options->max_length)
        return zs_fail(err, ZS_USAGE,
                       "%s: max_new_tokens %" PRId64 " leaves no room for a prompt in max_length %" PRId64,
                       options->name, options->max_new_tokens, options->max_length);
    return ZS_OK;
}

zs_search *zs_search_simulator(const zs_simulator_options *options) {
    zs_simulator *simulator = ZS_NEW(zs_simulator, 1);
    int64_t whole = options->max_batch * options->max_length;
    zs_engine_options engine = {.max_batch = options->max_batch,
                                .cache_tokens = options->cache_tokens > 0 ? options->cache_tokens : whole,
                                .max_length = options->max_length,
                                .cache_dtype = options->cache_dtype};
    *simulator = (zs_simulator){
        .search = {.name = options->name,
                   .submit = simulator_submit,
                   .advance = simulator_advance,
                   .take = simulator_take,
                   .destroy = simulator_destroy},
        .options = *options,
        .engine = zs_engine_create(options->model, options->tokenizer, &engine),
    };
    return &simulator->search;
}
