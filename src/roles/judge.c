/* Which documents are useful: by how their trajectory ended, by what they hold, or by what a model says. */
#include "zerosearch/chat.h"
#include "zerosearch/collect.h"
#include "zerosearch/engine.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/score.h"
#include "zerosearch/template.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

void zs_judge_outcome(zs_pairs *pairs) {
    for (int64_t i = 0; i < pairs->count; i++) {
        zs_pair *pair = &pairs->items[i];
        int64_t wrong = pair->outcomes - pair->right;
        pair->verdict = pair->right > wrong ? ZS_USEFUL : pair->right < wrong ? ZS_NOISY : ZS_UNDECIDED;
    }
}

/* An answer that stands in documents by chance, or in all of them: yes, no, or nothing but articles and
 * marks. */
static bool says_nothing(const char *answer) {
    zs_string words = {0};
    zs_score_normalize(answer, (int64_t)strlen(answer), &words);
    bool nothing = words.length == 0 || !strcmp(words.data, "yes") || !strcmp(words.data, "no");
    zs_string_free(&words);
    return nothing;
}

bool zs_answer_proves_nothing(const zs_pair *pair) {
    bool nothing = zs_holds_answer(pair->query, pair->answers, pair->num_answers);
    for (int a = 0; a < pair->num_answers; a++)
        nothing |= says_nothing(pair->answers[a]);
    return nothing;
}

void zs_judge_contains(zs_pairs *pairs) {
    for (int64_t i = 0; i < pairs->count; i++) {
        zs_pair *pair = &pairs->items[i];
        bool nothing = zs_answer_proves_nothing(pair);
        bool holds = !nothing && zs_documents_hold(pair->documents, pair->answers, pair->num_answers);
        pair->verdict = nothing ? ZS_UNDECIDED : holds ? ZS_USEFUL : ZS_NOISY;
    }
}

/* A model's word. */

/* The next word at or after *at, which moves behind it: 1 yes, 0 no, -1 another, -2 none is left. */
static int next_word(const char **at) {
    const char *begin = *at;
    while (*begin && !isalpha((unsigned char)*begin))
        begin++;
    const char *end = begin;
    while (isalpha((unsigned char)*end))
        end++;
    *at = end;
    if (end == begin) return -2;
    if (end - begin == 3 && strncasecmp(begin, "yes", 3) == 0) return 1;
    return end - begin == 2 && strncasecmp(begin, "no", 2) == 0 ? 0 : -1;
}

zs_verdict zs_judge_parse(const char *text) {
    const char *thought = strstr(text, "</think>");
    if (thought) text = thought + strlen("</think>");
    bool seen[2] = {false, false};
    for (int word, number = 0; (word = next_word(&text)) > -2; number++) {
        if (word >= 0 && number == 0) return word ? ZS_USEFUL : ZS_NOISY;
        if (word >= 0) seen[word] = true;
    }
    return seen[0] == seen[1] ? ZS_UNDECIDED : seen[1] ? ZS_USEFUL : ZS_NOISY;
}

typedef struct judge {
    const zs_comm *comm;
    zs_string template;
    zs_frozen model;
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_engine *engine;
    int64_t tokens, length; /* new ones; of a whole sequence */
} judge;

static const char *const names[] = {"query", "question", "answer", "documents"};

static zs_status fill(const judge *j, const char *const *values, zs_string *out, zs_error *err) {
    zs_status status = zs_template_fill(j->template.data ? j->template.data : "", names, values, 4, out, err);
    if (status == ZS_OK && out->length == 0) status = zs_fail(err, ZS_USAGE, "the template is empty");
    return status == ZS_OK ? ZS_OK : zs_fail_context(err, "collect.judge_template");
}

static zs_status open_judge(judge *j, const zs_config *config, zs_error *err) {
    static const char *const trial[] = {"?", "?", "?", "?"};
    zs_string filled = {0};
    zs_status status =
        zs_template_load(zs_config_string(config, "collect.judge_template"), &j->template, err);
    if (status != ZS_OK) zs_fail_context(err, "collect.judge_template");
    if (status == ZS_OK) status = fill(j, trial, &filled, err);
    zs_string_free(&filled);
    j->tokens = zs_config_int(config, "collect.judge_tokens");
    j->length = zs_config_int(config, "collect.judge_length");
    if (status == ZS_OK && j->tokens >= j->length)
        status = zs_config_fail(config, "collect.judge_length", err,
                                "must be more than collect.judge_tokens, which is %" PRId64, j->tokens);
    status = zs_comm_agree(j->comm, &j->comm->world, status, err);
    if (status == ZS_OK)
        status = zs_setup_frozen(j->comm, &j->comm->world, config, "model.judge", "model.judge_dtype",
                                 &j->model, &j->tokenizer, err);
    if (status == ZS_OK)
        status = zs_setup_chat(config, "model.judge", j->tokenizer, j->model.model, &j->chat, err);
    status = zs_comm_agree(j->comm, &j->comm->world, status, err);
    if (status != ZS_OK) return status;
    if (j->length > j->model.model->config.max_position_embeddings)
        j->length = j->model.model->config.max_position_embeddings;
    int64_t batch = zs_config_int(config, "search.max_batch");
    zs_engine_options options = {
        .max_batch = batch, .cache_tokens = batch * j->length, .max_length = j->length};
    j->engine = zs_engine_create(j->model.model, j->tokenizer, &options);
    return ZS_OK;
}

/* The prompts of pairs [begin, end) as texts with their NUL, one after another. */
static void write_prompts(const judge *j, const zs_pairs *pairs, int64_t begin, int64_t end, zs_string *out) {
    zs_string_clear(out);
    for (int64_t i = begin; i < end; i++) {
        const zs_pair *pair = &pairs->items[i];
        zs_string answer = {0}, prompt = {0};
        zs_error err;
        for (int a = 0; a < pair->num_answers; a++)
            zs_string_printf(&answer, "%s%s", a ? " or " : "", pair->answers[a]);
        const char *values[] = {pair->query, pair->question, answer.data ? answer.data : "", pair->documents};
        zs_status status = fill(j, values, &prompt, &err);
        ZS_ASSERT(status == ZS_OK, "%s", err.text); /* the template has been tried */
        zs_string_append(out, prompt.data, (int64_t)strlen(prompt.data) + 1);
        zs_string_free(&answer);
        zs_string_free(&prompt);
    }
}

/* Starts what is this rank's of the prompts; places[handle] is the prompt's. Those too long stay undecided.
 */
static void submit_share(const judge *j, const char *prompts, int64_t count, int64_t **places) {
    zs_ids ids = {0};
    int64_t capacity = 0;
    for (int64_t i = 0; i < count; prompts += strlen(prompts) + 1, i++) {
        if (i % j->comm->world.size != j->comm->world.rank) continue;
        zs_ids_clear(&ids);
        zs_chat_encode(j->chat, j->tokenizer, prompts, &ids);
        if (ids.length == 0 || ids.length + j->tokens > j->length) continue;
        zs_sequence_request request = {.prompt = ids.data,
                                       .prompt_length = ids.length,
                                       .prompt_group = -1,
                                       .max_new_tokens = j->tokens,
                                       .max_length = ids.length + j->tokens,
                                       .sampling = {.top_p = 1},
                                       .rng = zs_rng_make(0, ZS_STREAM_SIMULATOR, 0, i, 0)};
        int64_t handle = zs_engine_submit(j->engine, &request);
        if (handle >= capacity) {
            int64_t grown = 2 * handle + 64;
            *places = zs_grow(*places, capacity, grown, sizeof **places);
            capacity = grown;
        }
        (*places)[handle] = i;
    }
    zs_ids_free(&ids);
}

/* verdicts[i] of this rank's prompts becomes a zs_verdict; others stay 0. */
static void judge_share(const judge *j, const char *prompts, int64_t count, double *verdicts) {
    int64_t *places = NULL, handle;
    for (int64_t i = j->comm->world.rank; i < count; i += j->comm->world.size)
        verdicts[i] = ZS_UNDECIDED;
    submit_share(j, prompts, count, &places);
    zs_finish reason;
    while (zs_engine_step(j->engine) > 0)
        while ((handle = zs_engine_next_finished(j->engine, &reason)) >= 0) {
            zs_sequence_view view = zs_engine_view(j->engine, handle);
            zs_string text = {0};
            zs_tokenizer_decode(j->tokenizer, view.ids + view.prompt_length,
                                view.length - view.prompt_length - (reason == ZS_FINISH_EOS), &text);
            verdicts[places[handle]] = zs_judge_parse(text.data ? text.data : "");
            zs_string_free(&text);
            zs_engine_release(j->engine, handle);
        }
    zs_free(places);
}

/* Pairs travel in batches, so that no rank but the first needs room for all. */
static void judge_all(const judge *j, const zs_config *config, zs_pairs *pairs) {
    static const char what[] = "the pairs to be judged";
    const zs_group *world = &j->comm->world;
    int64_t count = pairs ? pairs->count : 0,
            batch = 4 * world->size * zs_config_int(config, "search.max_batch");
    zs_comm_broadcast_bytes(j->comm, world, &count, sizeof count, 0, what);
    zs_string prompts = {0};
    double *verdicts = ZS_NEW(double, batch);
    zs_progress progress = zs_progress_start("judge", count, 0);
    for (int64_t begin = 0; begin < count; begin += batch) {
        int64_t end = begin + batch < count ? begin + batch : count, length;
        if (pairs) write_prompts(j, pairs, begin, end, &prompts);
        length = prompts.length;
        zs_comm_broadcast_bytes(j->comm, world, &length, sizeof length, 0, what);
        char *texts = pairs ? prompts.data : ZS_NEW(char, length);
        zs_comm_broadcast_bytes(j->comm, world, texts, length, 0, what);
        memset(verdicts, 0, (size_t)batch * sizeof *verdicts);
        judge_share(j, texts, end - begin, verdicts);
        zs_comm_sum(j->comm, world, verdicts, (int)(end - begin), "the verdicts of the other ranks");
        for (int64_t i = begin; pairs && i < end; i++)
            pairs->items[i].verdict = (zs_verdict)verdicts[i - begin];
        if (!pairs) zs_free(texts);
        zs_progress_update(&progress, end, "%s", "llm");
    }
    zs_progress_end(&progress);
    zs_free(verdicts);
    zs_string_free(&prompts);
}

zs_status zs_judge_llm(const zs_comm *comm, const zs_config *config, zs_pairs *pairs, zs_error *err) {
    judge j = {.comm = comm};
    zs_status status = open_judge(&j, config, err);
    if (status == ZS_OK) judge_all(&j, config, pairs);
    zs_engine_destroy(j.engine);
    zs_chat_free(j.chat);
    zs_tokenizer_destroy(j.tokenizer);
    zs_frozen_free(&j.model);
    zs_string_free(&j.template);
    return status;
}
