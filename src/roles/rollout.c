/* The rollout phase: episodes over the generation engine, queries over the exchange.
 *
 * One round is: post what is in the outboxes; decode (rollouts) or write documents (simulators) for a fixed
 * number of steps while the messages travel; take what has arrived; act on the turns that ended. Messages
 * written in one round arrive at the end of the next, so their travel is hidden behind compute. */
#include "zerosearch/rollout.h"
#include "zerosearch/curriculum.h"
#include "zerosearch/load.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/method.h"
#include "zerosearch/rewards.h"
#include "zerosearch/score.h"
#include "zerosearch/template.h"
#include "zerosearch/trace.h"

#include <string.h>

typedef struct episode {
    int64_t handle;
    int64_t question, sample, question_index;
    zs_episode_info info;
    uint8_t *kind; /* [kind_count], of the tokens so far */
    int64_t kind_count, kind_capacity;
    bool last_turn, done;
    bool malformed; /* a turn so far was not well formed */
    int64_t shown;  /* tokens given to watch */
    int32_t *ids;   /* filled when done */
    float *log_prob;
} episode;

struct zs_rollout {
    const zs_comm *comm;
    const zs_tokenizer *tokenizer;
    zs_engine *engine;     /* NULL without a policy */
    zs_exchange *exchange; /* NULL with own_search */
    const zs_chat *chat;
    const zs_config *config;
    zs_method method;
    zs_string correction;
    int64_t response_tokens, context_tokens, observation_tokens, round_steps;
    zs_reward_weights reward;
    zs_curriculum_draw draw;
    uint64_t seed;
    /* the phase under way */
    const zs_rollout_task *task;
    zs_search *search;
    zs_decoder *watched; /* NULL: nobody watches */
    episode *episodes;
    int64_t num_episodes, unfinished;
    episode **by_handle;
    int64_t handle_capacity;
};

#define IDLE_SECONDS 2e-3 /* how long a round may wait for a service when its rank has nothing else to do */

static const char *const stops[] = {"</answer>", "</search>"}; /* the second where searches are allowed */

/* Messages between ranks: a head, then NUL-ended strings. */

typedef struct message_head {
    int32_t is_reply, noisy, failed, reserved;
    int64_t episode, turn, step, question_index, sample;
} message_head;

static void message_put_strings(zs_string *message, const message_head *head, int n,
                                const char *const *strings) {
    zs_string_clear(message);
    zs_string_append(message, (const char *)head, sizeof *head);
    for (int i = 0; i < n; i++)
        zs_string_append(message, strings[i], (int64_t)strlen(strings[i]) + 1);
}

/* Episodes. */

static void add_kind(episode *e, int64_t n, zs_token_kind kind) {
    if (e->kind_count + n > e->kind_capacity) {
        int64_t grown = 2 * (e->kind_count + n);
        e->kind = zs_grow(e->kind, e->kind_capacity, grown, 1);
        e->kind_capacity = grown;
    }
    memset(e->kind + e->kind_count, kind, (size_t)n);
    e->kind_count += n;
}

static void watch_new_tokens(zs_rollout *r) {
    episode *e = &r->episodes[0];
    if (e->done || e->handle < 0) return;
    zs_sequence_view view = zs_engine_view(r->engine, e->handle);
    for (; e->shown < view.length; e->shown++) {
        bool known = e->shown < e->kind_count;
        zs_token_kind kind = known ? (zs_token_kind)e->kind[e->shown] : ZS_TOKEN_POLICY;
        zs_string text = {0};
        zs_decoder_append(r->watched, view.ids + e->shown, 1, &text);
        if (text.length) r->task->watch(r->task->watch_context, text.data, text.length, kind);
        zs_string_free(&text);
    }
}

static void end_watch(zs_rollout *r) {
    zs_string text = {0};
    zs_decoder_finish(r->watched, &text);
    if (text.length) r->task->watch(r->task->watch_context, text.data, text.length, ZS_TOKEN_POLICY);
    zs_string_free(&text);
    zs_decoder_destroy(r->watched);
    r->watched = NULL;
}

static void submit_episode(zs_rollout *r, episode *e, const zs_ids *prompt) {
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
static void submit_question(zs_rollout *r, episode *first, const char *documents) {
    zs_ids prompt = {0};
    zs_method_prompt(&r->method, r->chat, r->tokenizer,
                     r->task->qa->questions[first->question_index].question, documents, first->last_turn,
                     r->context_tokens - 1, &prompt);
    for (int64_t s = 0; s < r->task->samples; s++)
        submit_episode(r, first + s, &prompt);
    zs_ids_free(&prompt);
}

/* The answer's score; without a closed <answer> all scores are 0. */
static void finish_episode(zs_rollout *r, episode *e, const char *answer, int64_t length, bool truncated) {
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
static void continue_episode(zs_rollout *r, episode *e, zs_ids *observation, zs_token_kind kind) {
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

static void send_query(zs_rollout *r, episode *e, const char *text, int64_t length) {
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
        message_head head = {.noisy = noisy,
                             .episode = e - r->episodes,
                             .turn = turn,
                             .step = r->task->step,
                             .question_index = e->question,
                             .sample = e->sample};
        const char *strings[] = {query.data, question->question, answer.data ? answer.data : ""};
        zs_string message = {0};
        message_put_strings(&message, &head, 3, strings);
        int to = (int)((e->question + e->sample + turn) % r->comm->num_pod_simulators);
        zs_exchange_put(r->exchange, r->comm->pod_simulators[to], message.data, message.length);
        zs_string_free(&message);
    }
    zs_string_free(&query);
    zs_string_free(&answer);
}

static void submit_all(zs_rollout *r) {
    const zs_rollout_task *task = r->task;
    const zs_group *rollouts = &r->comm->rollouts;
    int64_t mine = 0;
    for (int64_t q = 0; q < task->num_questions; q++)
        mine += q % rollouts->size == rollouts->rank;
    r->num_episodes = r->unfinished = mine * task->samples;
    r->episodes = ZS_NEW(episode, r->num_episodes);
    episode *e = r->episodes;
    for (int64_t q = rollouts->rank; q < task->num_questions; q += rollouts->size, e += task->samples) {
        for (int64_t s = 0; s < task->samples; s++)
            e[s] = (episode){.handle = -1,
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

/* A turn ended: act on what it says. */
static void end_turn(zs_rollout *r, episode *e, zs_finish reason) {
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

/* Documents have come, and are cut to the observation limit. To an episode they return as one <information>
 * span; with a method that retrieves they stand in the prompt with which all samples of the question begin.
 */
static void observe(zs_rollout *r, episode *e, const char *documents, bool failed) {
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

/* One round. */

/* Messages move only while somebody looks after them. */
static void poll(const zs_rollout *r) {
    if (r->exchange) zs_exchange_poll(r->exchange);
    if (r->task->poll) r->task->poll(r->task->poll_context);
}

/* Counters of the timeline: what a turn of decoding since `begin` did. */
static void trace_decode(const zs_rollout *r, int64_t decoded_before, double begin) {
    double decoded = (double)(zs_engine_get_stats(r->engine).decode_tokens - decoded_before);
    zs_trace_counter("tokens decoded/s", decoded / (zs_seconds() - begin + 1e-9));
    zs_trace_counter("live sequences", (double)zs_engine_active(r->engine));
}

static void decode_some(zs_rollout *r, bool *worked) {
    if (!r->engine) return;
    double begin = zs_trace_on ? zs_seconds() : 0;
    int64_t decoded = zs_trace_on ? zs_engine_get_stats(r->engine).decode_tokens : 0;
    zs_phase_begin(ZS_PHASE_GENERATE);
    for (int64_t i = 0; i < r->round_steps; i++) {
        if (zs_engine_step(r->engine) == 0) break;
        *worked = true;
        poll(r);
        if (r->task->watch) watch_new_tokens(r);
    }
    zs_phase_end(ZS_PHASE_GENERATE);
    if (zs_trace_on) trace_decode(r, decoded, begin);
}

/* With nothing to decode, a rank whose service has not answered yet gives its core away. */
static void answer_some(zs_rollout *r, bool worked) {
    if (!r->search) return;
    zs_phase_begin(ZS_PHASE_SIMULATE);
    bool pending = r->search->advance(r->search, r->round_steps);
    poll(r);
    zs_phase_end(ZS_PHASE_SIMULATE);
    if (!pending || worked || !r->search->wait) return;
    zs_phase_begin(ZS_PHASE_EXCHANGE);
    double begin = zs_seconds();
    r->search->wait(r->search, IDLE_SECONDS);
    zs_phase_idle(ZS_IDLE_WAITING, begin, zs_seconds(), "the search service");
    zs_phase_end(ZS_PHASE_EXCHANGE);
}

static void receive(zs_rollout *r) {
    const void *bytes;
    int from;
    int64_t length;
    while (r->exchange && (bytes = zs_exchange_take(r->exchange, &from, &length))) {
        message_head head;
        memcpy(&head, bytes, sizeof head);
        const char *text = (const char *)bytes + sizeof head;
        if (head.is_reply) {
            episode *e = &r->episodes[head.episode];
            ZS_ASSERT(head.episode < r->num_episodes && head.turn == e->info.turns - 1,
                      "a reply for turn %lld met turn %d", (long long)head.turn, e->info.turns - 1);
            observe(r, e, text, head.failed != 0);
            continue;
        }
        const char *question = text + strlen(text) + 1, *answer = question + strlen(question) + 1;
        zs_query query = {/* the asker's rank comes back with the reply */
                          .episode = head.episode * r->comm->pod.size + from,
                          .turn = head.turn,
                          .step = head.step,
                          .question_index = head.question_index,
                          .sample = head.sample,
                          .noisy = head.noisy != 0,
                          .query = text,
                          .question = question,
                          .answer = answer};
        r->search->submit(r->search, &query);
    }
}

static void take_replies(zs_rollout *r) {
    zs_reply reply;
    while (r->search && r->search->take(r->search, &reply)) {
        if (!r->exchange) {
            observe(r, &r->episodes[reply.episode], reply.documents, reply.failed);
        } else {
            message_head head = {.is_reply = 1,
                                 .noisy = reply.noisy,
                                 .failed = reply.failed,
                                 .episode = reply.episode / r->comm->pod.size,
                                 .turn = reply.turn};
            const char *strings[] = {reply.documents};
            zs_string message = {0};
            message_put_strings(&message, &head, 1, strings);
            zs_exchange_put(r->exchange, (int)(reply.episode % r->comm->pod.size), message.data,
                            message.length);
            zs_string_free(&message);
        }
        zs_free(reply.documents);
    }
}

static void act_on_ended_turns(zs_rollout *r) {
    zs_finish reason;
    for (int64_t handle; r->engine && (handle = zs_engine_next_finished(r->engine, &reason)) >= 0;)
        end_turn(r, r->by_handle[handle], reason);
}

static void collect(zs_rollout *r, zs_episodes *out) {
    for (int64_t i = 0; i < r->num_episodes; i++) {
        episode *e = &r->episodes[i];
        zs_episodes_append(out, &e->info, e->ids, e->kind, e->log_prob);
        zs_free(e->ids);
        zs_free(e->kind);
        zs_free(e->log_prob);
    }
    zs_free(r->episodes);
    r->episodes = NULL;
}

void zs_rollout_run(zs_rollout *r, zs_search *search, const zs_rollout_task *task, zs_episodes *out) {
    r->task = task;
    r->search = search;
    r->num_episodes = r->unfinished = 0;
    ZS_ASSERT(!task->watch || task->num_questions * task->samples == 1,
              "only a single episode can be watched");
    if (task->watch) r->watched = zs_decoder_create(r->tokenizer, false);
    if (r->engine) submit_all(r);
    int64_t round = 0;
    double started = zs_seconds(), round_started = started;
    for (int64_t pending = 1; pending > 0;) {
        bool worked = false;
        if (r->exchange) zs_exchange_begin(r->exchange, r->unfinished);
        decode_some(r, &worked);
        answer_some(r, worked);
        if (r->exchange) {
            zs_phase_begin(ZS_PHASE_EXCHANGE);
            pending = zs_exchange_finish(r->exchange);
            zs_phase_end(ZS_PHASE_EXCHANGE);
            receive(r);
        }
        act_on_ended_turns(r);
        take_replies(r);
        if (!r->exchange) pending = r->unfinished;
        double now = zs_trace_on ? zs_seconds() : 0;
        zs_trace_span("search round", NULL, round++, round_started, now);
        round_started = now;
    }
    zs_trace_span("rollout", NULL, task->step, started, round_started);
    if (r->watched) end_watch(r);
    collect(r, out);
}

/* Making one. */

zs_status zs_rollout_set_method(zs_rollout *r, const char *name, zs_error *err) {
    zs_method_free(&r->method);
    return zs_method_load(r->config, name, &r->method, err);
}

zs_status zs_rollout_create(const zs_comm *comm, const zs_config *config, const zs_model *policy,
                            const zs_tokenizer *tokenizer, const zs_chat *chat, bool own_search,
                            zs_rollout **out, zs_error *err) {
    zs_rollout *r = ZS_NEW(zs_rollout, 1);
    r->comm = comm;
    r->tokenizer = tokenizer;
    r->chat = chat;
    r->response_tokens = zs_config_int(config, "rollout.response_tokens");
    r->context_tokens = zs_config_int(config, "rollout.context_tokens");
    r->observation_tokens = zs_config_int(config, "search.observation_tokens");
    r->round_steps = zs_config_int(config, "rollout.round_steps");
    zs_reward_open(config, &r->reward);
    r->seed = (uint64_t)zs_config_int(config, "seed");
    zs_curriculum curriculum;
    zs_curriculum_open(config, &curriculum);
    r->draw = curriculum.draw;
    r->config = config;
    zs_status status = zs_rollout_set_method(r, zs_config_string(config, "rollout.method"), err);
    if (status == ZS_OK && zs_template_load(zs_config_string(config, "rollout.correction_template"),
                                            &r->correction, err) != ZS_OK)
        status = zs_fail_context(err, "rollout.correction_template");
    if (status != ZS_OK) {
        zs_rollout_destroy(r);
        return status;
    }
    if (policy && r->context_tokens > policy->config.max_position_embeddings) {
        zs_log(ZS_LOG_WARNING,
               "rollout.context_tokens is %lld, but the policy was made for %lld; so many are used",
               (long long)r->context_tokens, (long long)policy->config.max_position_embeddings);
        r->context_tokens = policy->config.max_position_embeddings;
    }
    if (policy) {
        int64_t batch = zs_config_int(config, "rollout.max_batch"),
                cache = zs_config_int(config, "rollout.cache_tokens");
        zs_engine_options options = {.max_batch = batch,
                                     .cache_tokens = cache ? cache : batch * r->context_tokens,
                                     .prefill_chunk = zs_config_int(config, "rollout.prefill_chunk"),
                                     .max_length = r->context_tokens};
        zs_keep_named(zs_config_string(config, "rollout.cache_dtype"), &options.cache_dtype);
        r->engine = zs_engine_create(policy, tokenizer, &options);
    }
    if (!own_search) r->exchange = zs_exchange_create(comm);
    *out = r;
    return ZS_OK;
}

void zs_rollout_destroy(zs_rollout *r) {
    if (!r) return;
    zs_engine_destroy(r->engine);
    zs_exchange_destroy(r->exchange);
    zs_method_free(&r->method);
    zs_string_free(&r->correction);
    zs_free(r->by_handle);
    zs_free(r);
}

zs_engine_stats zs_rollout_stats(const zs_rollout *r) {
    return r->engine ? zs_engine_get_stats(r->engine) : (zs_engine_stats){0};
}
