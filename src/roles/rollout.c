/* The rollout phase: episodes over the generation engine, queries over the exchange.
 *
 * One round is: post what is in the outboxes; decode (rollouts) or write documents (simulators) for a fixed
 * number of steps while the messages travel; take what has arrived; act on the turns that ended. Messages
 * written in one round arrive at the end of the next, so their travel is hidden behind compute. */
#include "rollout_state.h"

#include "zerosearch/load.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/template.h"
#include "zerosearch/trace.h"

#include <string.h>

#define IDLE_SECONDS 2e-3 /* how long a round may wait for a service when its rank has nothing else to do */

static void watch_new_tokens(zs_rollout *r) {
    zs_live_episode *e = &r->episodes[0];
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
        zs_message_head head;
        memcpy(&head, bytes, sizeof head);
        const char *text = (const char *)bytes + sizeof head;
        if (head.is_reply) {
            zs_live_episode *e = &r->episodes[head.episode];
            ZS_ASSERT(head.episode < r->num_episodes && head.turn == e->info.turns - 1,
                      "a reply for turn %lld met turn %d", (long long)head.turn, e->info.turns - 1);
            zs_rollout_observe(r, e, text, head.failed != 0);
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
            zs_rollout_observe(r, &r->episodes[reply.episode], reply.documents, reply.failed);
        } else {
            zs_message_head head = {.is_reply = 1,
                                    .noisy = reply.noisy,
                                    .failed = reply.failed,
                                    .episode = reply.episode / r->comm->pod.size,
                                    .turn = reply.turn};
            const char *strings[] = {reply.documents};
            zs_string message = {0};
            zs_message_put(&message, &head, 1, strings);
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
        zs_rollout_end_turn(r, r->by_handle[handle], reason);
}

static void collect(zs_rollout *r, zs_episodes *out) {
    for (int64_t i = 0; i < r->num_episodes; i++) {
        zs_live_episode *e = &r->episodes[i];
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
    if (r->engine) zs_rollout_submit_all(r);
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
