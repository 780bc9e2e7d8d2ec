/* What becomes of an episode: its prompt, the end of a turn, the documents that come back, its score. */
#include "rollout_state.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/score.h"

#include <string.h>

static const char *const stops[] = {"</answer>", "</search>"}; /* the second where searches are allowed */

void zs_message_put(zs_string *message, const zs_message_head *head, int n, const char *const *strings) {
    zs_string_clear(message);
    zs_string_append(message, (const char *)head, sizeof *head);
    for (int i = 0; i < n; i++)
        zs_string_append(message, strings[i], (int64_t)strlen(strings[i]) + 1);
}

static void add_kind(zs_live_episode *e, int64_t n, zs_token_kind kind) {
    if (e->kind_count + n > e->kind_capacity) {
        int64_t grown = 2 * (e->kind_count + n);
        e->kind = zs_grow(e->kind, e->kind_capacity, grown, 1);
        e->kind_capacity = grown;
    }
    memset(e->kind + e->kind_count, kind, (size_t)n);
    e->kind_count += n;
}

static void submit_episode(zs_rollout *r, zs_live_episode *e, const zs_ids *prompt) {
    const zs_rollout_task *task = r->task;
    zs_sequence_request request = {
        .prompt = prompt->data,
        .prompt_length = prompt->length,
        .prompt_group = e->question,
        .max_new_tokens = r->response_tokens,
        .max_length = r->context_tokens,
        .sampling = task->sampling,
        .rng = zs_rng_make(r->seed, ZS_STREAM_POLICY, task->step, e->question, e->sample),
        .stops = stops,
        .num_stops = r->method.searches ? 2 : 1};
    e->handle = zs_engine_submit(r->engine, &request);
    if (e->handle >= r->handle_capacity) {
        int64_t grown = 2 * e->handle + 64;
        r->by_handle = zs_grow(r->by_handle, r->handle_capacity, grown, sizeof *r->by_handle);
        r->handle_capacity = grown;
    }
    r->by_handle[e->handle] = e;
    add_kind(e, prompt->length, ZS_TOKEN_PROMPT);
}

/* All samples of a question; `first` is the first of them, which stand side by side. */
static void submit_question(zs_rollout *r, zs_live_episode *first, const char *documents) {
    zs_ids prompt = {0};
    zs_method_prompt(&r->method, r->chat, r->tokenizer,
                     r->task->qa->questions[first->question_index].question, documents, first->last_turn,
                     r->context_tokens - 1, &prompt);
    for (int64_t s = 0; s < r->task->samples; s++)
        submit_episode(r, first + s, &prompt);
    zs_ids_free(&prompt);
}

/* The answer's score; without a closed <answer> all scores are 0. */
static void finish_episode(zs_rollout *r, zs_live_episode *e, const char *answer, int64_t length,
                           bool truncated) {
    const zs_question *question = &r->task->qa->questions[e->question_index];
    zs_score score = {0};
    if (answer)
        score =
            zs_score_answer(answer, length, (const char *const *)question->answers, question->num_answers);
    zs_sequence_view view = zs_engine_view(r->engine, e->handle);
    ZS_ASSERT(view.length == e->kind_count, "kinds and tokens of an episode differ");
    zs_episode_info *info = &e->info;
    info->question = e->question, info->sample = e->sample, info->question_index = e->question_index;
    info->length = view.length;
    info->em = score.em, info->cover_em = score.cover_em, info->f1 = score.f1;
    info->answered = answer != NULL;
    info->truncated = truncated;
    info->format_valid = answer && !e->malformed && info->invalid_actions == 0;
    zs_reward_facts facts = zs_reward_facts_of(info);
    zs_reward_terms terms = zs_reward_weigh(&r->reward, &facts);
    info->reward = zs_reward_sum(&terms);
    for (int64_t i = 0; i < view.length; i++)
        info->policy_tokens += e->kind[i] == ZS_TOKEN_POLICY;
    e->ids = ZS_NEW(int32_t, view.length);
    e->log_prob = ZS_NEW(float, view.length);
    memcpy(e->ids, view.ids, (size_t)view.length * sizeof(int32_t));
    memcpy(e->log_prob, view.log_prob, (size_t)view.length * sizeof(float));
    if (r->task->stream) zs_trajectories_send(r->task->stream, info, e->ids, e->kind, e->log_prob);
    e->done = true;
    r->unfinished--;
    zs_engine_release(r->engine, e->handle);
}

/* Appends an observation and starts the next turn; the last one opens with the last-turn text. */
static void continue_episode(zs_rollout *r, zs_live_episode *e, zs_ids *observation, zs_token_kind kind) {
    int64_t observed = observation->length;
    if (e->info.turns >= r->task->max_turns && !e->last_turn) {
        e->last_turn = true;
        zs_tokenizer_encode(r->tokenizer, r->method.opening.data, r->method.opening.length, observation);
    }
    if (observation->length == 0 || zs_engine_continue(r->engine, e->handle, observation->data,
                                                       observation->length, r->response_tokens)) {
        add_kind(e, observed, kind);
        add_kind(e, observation->length - observed, ZS_TOKEN_OBSERVATION);
    } else {
        finish_episode(r, e, NULL, 0, true);
    }
}

static void send_query(zs_rollout *r, zs_live_episode *e, const char *text, int64_t length) {
    const zs_question *question = &r->task->qa->questions[e->question_index];
    zs_string query = {0}, answer = {0};
    zs_string_append(&query, text, length);
    bool noisy = zs_curriculum_is_noisy(r->draw, r->task->noise, r->seed, r->task->step, e->question,
                                        e->sample, e->info.turns, query.data);
    for (int i = 0; i < question->num_answers; i++)
        zs_string_printf(&answer, "%s%s", i ? " or " : "", question->answers[i]);
    e->info.searches++;
    e->info.noisy_searches += noisy;
    int64_t turn = e->info.turns++;
    if (r->search && !r->exchange) {
        zs_query q = {.episode = e - r->episodes,
                      .turn = turn,
                      .step = r->task->step,
                      .question_index = e->question,
                      .sample = e->sample,
                      .noisy = noisy,
                      .query = query.data,
                      .question = question->question,
                      .answer = answer.data ? answer.data : ""};
        r->search->submit(r->search, &q);
    } else {
        zs_message_head head = {.noisy = noisy,
                                .episode = e - r->episodes,
                                .turn = turn,
                                .step = r->task->step,
                                .question_index = e->question,
                                .sample = e->sample};
        const char *strings[] = {query.data, question->question, answer.data ? answer.data : ""};
        zs_string message = {0};
        zs_message_put(&message, &head, 3, strings);
        int to = (int)((e->question + e->sample + turn) % r->comm->num_pod_simulators);
        zs_exchange_put(r->exchange, r->comm->pod_simulators[to], message.data, message.length);
        zs_string_free(&message);
    }
    zs_string_free(&query);
    zs_string_free(&answer);
}

void zs_rollout_submit_all(zs_rollout *r) {
    const zs_rollout_task *task = r->task;
    const zs_group *rollouts = &r->comm->rollouts;
    int64_t mine = 0;
    for (int64_t q = 0; q < task->num_questions; q++)
        mine += q % rollouts->size == rollouts->rank;
    r->num_episodes = r->unfinished = mine * task->samples;
    r->episodes = ZS_NEW(zs_live_episode, r->num_episodes);
    zs_live_episode *e = r->episodes;
    for (int64_t q = rollouts->rank; q < task->num_questions; q += rollouts->size, e += task->samples) {
        for (int64_t s = 0; s < task->samples; s++)
            e[s] = (zs_live_episode){.handle = -1,
                                     .question = task->first_place + q,
                                     .sample = s,
                                     .question_index = task->questions[q],
                                     .last_turn = !r->method.searches || task->max_turns == 0};
        const char *question = task->qa->questions[task->questions[q]].question;
        if (r->method.retrieves)
            send_query(r, e, question, (int64_t)strlen(question));
        else
            submit_question(r, e, NULL);
    }
}

void zs_rollout_end_turn(zs_rollout *r, zs_live_episode *e, zs_finish reason) {
    zs_sequence_view view = zs_engine_view(r->engine, e->handle);
    add_kind(e, view.length - e->kind_count, ZS_TOKEN_POLICY);
    zs_string text = {0};
    if (e->last_turn) /* its opening may hold the tag */
        zs_string_append(&text, r->method.opening.data, r->method.opening.length);
    zs_tokenizer_decode(r->tokenizer, view.ids + view.turn_begin, view.length - view.turn_begin, &text);
    for (int64_t i = 0; i < text.length; i++)
        if (text.data[i] == '\0')
            text.data[i] = ' '; /* a NUL byte is a token like others, but would end the text here */
    if (!text.length) zs_string_puts(&text, "");
    e->malformed |=
        !zs_reward_well_formed(text.data) || (!r->method.searches && strstr(text.data, "<search>"));
    int64_t begin, length;
    zs_action action = r->method.searches ? zs_rollout_parse(text.data, &begin, &length)
                                          : zs_rollout_parse_answer(text.data, &begin, &length);
    if (action == ZS_ACTION_ANSWER) {
        finish_episode(r, e, text.data + begin, length, false);
    } else if (e->last_turn || view.length >= r->context_tokens) {
        finish_episode(r, e, NULL, 0, view.length >= r->context_tokens);
    } else if (action == ZS_ACTION_SEARCH && length > 0) {
        send_query(r, e, text.data + begin, length);
    } else {
        zs_ids correction = {0};
        zs_string said = {0};
        e->info.invalid_actions++;
        e->info.turns++;
        if (reason == ZS_FINISH_EOS) zs_chat_reopen(r->chat, &said);
        zs_string_puts(&said, r->correction.data);
        zs_tokenizer_encode(r->tokenizer, said.data, said.length, &correction);
        zs_string_free(&said);
        continue_episode(r, e, &correction, ZS_TOKEN_OBSERVATION);
        zs_ids_free(&correction);
    }
    zs_string_free(&text);
}

void zs_rollout_observe(zs_rollout *r, zs_live_episode *e, const char *documents, bool failed) {
    const zs_question *question = &r->task->qa->questions[e->question_index];
    const bool begins = r->method.retrieves;
    const char *open = begins ? "" : "\n<information>", *close = begins ? "" : "</information>\n";
    zs_string text = {0};
    zs_ids ids = {0};
    zs_string_printf(&text, "%s%s%s", open, documents, close);
    zs_tokenizer_encode(r->tokenizer, text.data, text.length, &ids);
    if (ids.length > r->observation_tokens) {
        zs_ids tail = {0};
        zs_tokenizer_encode(r->tokenizer, close, (int64_t)strlen(close), &tail);
        ids.length = r->observation_tokens > tail.length ? r->observation_tokens - tail.length : 0;
        zs_string_clear(&text); /* what is left of them */
        zs_tokenizer_decode(r->tokenizer, ids.data, ids.length, &text);
        zs_ids_append(&ids, tail.data, tail.length);
        zs_ids_free(&tail);
    }
    e->info.failed_searches += failed;
    e->info.retrieved |= zs_reward_holds_answer(
        text.data, text.length, (const char *const *)question->answers, question->num_answers);
    if (begins) {
        for (int64_t s = 1; s < r->task->samples; s++)
            e[s].info = e->info;
        submit_question(r, e, text.data);
    } else {
        continue_episode(r, e, &ids, ZS_TOKEN_DOCUMENT);
    }
    zs_ids_free(&ids);
    zs_string_free(&text);
}
