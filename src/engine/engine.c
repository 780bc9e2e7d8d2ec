/* The scheduler: who is admitted, what a step computes, when a turn ends. */
#include "state.h"

#include "zerosearch/memory.h"

#include <stdlib.h>
#include <string.h>

/* Lists of handles. */

static void list_push(handle_list *list, int64_t handle) {
    if (list->end == list->capacity && list->begin > list->capacity / 2) {
        memmove(list->data, list->data + list->begin, (size_t)(list->end - list->begin) * sizeof(int64_t));
        list->end -= list->begin;
        list->begin = 0;
    }
    if (list->end == list->capacity) {
        int64_t capacity = list->capacity ? 2 * list->capacity : 64;
        list->data = zs_grow(list->data, list->capacity, capacity, sizeof(int64_t));
        list->capacity = capacity;
    }
    list->data[list->end++] = handle;
}

static int64_t list_count(const handle_list *list) {
    return list->end - list->begin;
}

static int64_t list_pop(handle_list *list) {
    int64_t handle = list->data[list->begin++];
    if (list->begin == list->end) list->begin = list->end = 0;
    return handle;
}

static void list_remove(handle_list *list, int64_t handle) {
    for (int64_t i = list->begin; i < list->end; i++)
        if (list->data[i] == handle) {
            memmove(list->data + i, list->data + i + 1, (size_t)(list->end - i - 1) * sizeof(int64_t));
            list->end--;
            return;
        }
}

/* Creation. */

static zs_engine_options complete_options(const zs_engine_options *given) {
    zs_engine_options o = *given;
    ZS_ASSERT(o.max_batch > 0 && o.max_length > 0, "max_batch and max_length of an engine must be positive");
    o.page_size = zs_kv_page_size(o.page_size);
    o.prefill_chunk = o.prefill_chunk > 0 ? o.prefill_chunk : 512;
    o.cache_tokens = zs_round_up(o.cache_tokens > o.max_length ? o.cache_tokens : o.max_length, o.page_size);
    return o;
}

int64_t zs_engine_bytes(const zs_model_config *config, const zs_engine_options *options) {
    zs_engine_options o = complete_options(options);
    return zs_kv_bytes(config, o.cache_tokens, o.cache_dtype) +
           zs_step_buffers_bytes(config, o.max_batch + o.prefill_chunk, o.max_batch, o.max_length);
}

zs_engine *zs_engine_create(const zs_model *model, const zs_tokenizer *tokenizer,
                            const zs_engine_options *options) {
    ZS_ASSERT(zs_model_dtype(model) != ZS_DTYPE_OTHER, "an engine over a layout without weights");
    ZS_ASSERT(!model->config.value_head, "a model with a value head gives no logits to sample from");
    zs_engine *engine = ZS_NEW(zs_engine, 1);
    zs_engine_options o = complete_options(options);
    engine->model = model;
    engine->tokenizer = tokenizer;
    engine->options = o;
    zs_kv_create(&engine->cache, &model->config, o.cache_tokens, o.page_size, o.cache_dtype);
    int64_t rows = o.max_batch + o.prefill_chunk;
    zs_step_buffers_create(&engine->buffers, &model->config, rows, o.max_batch, o.max_length);
    engine->step.ids = ZS_NEW(int32_t, rows);
    engine->step.positions = ZS_NEW(int32_t, rows);
    engine->step.segments = ZS_NEW(zs_segment, rows);
    engine->step.sample_rows = ZS_NEW(int64_t, o.max_batch);
    engine->step.sample_segments = ZS_NEW(int32_t, o.max_batch);
    engine->step.sampling = ZS_NEW(const zs_sampling *, o.max_batch);
    engine->step.uniforms = ZS_NEW(double, o.max_batch);
    engine->step.tokens = ZS_NEW(int32_t, o.max_batch);
    engine->step.log_prob = ZS_NEW(float, o.max_batch);
    engine->sample_handles = ZS_NEW(int64_t, o.max_batch);
    return engine;
}

void zs_engine_destroy(zs_engine *engine) {
    if (!engine) return;
    zs_kv_destroy(&engine->cache);
    zs_step_buffers_destroy(&engine->buffers);
    for (int64_t i = 0; i < engine->sequence_capacity; i++) {
        zs_free(engine->sequences[i].ids);
        zs_free(engine->sequences[i].log_prob);
        zs_free(engine->sequences[i].pages);
        zs_string_free(&engine->sequences[i].tail);
    }
    for (int64_t i = 0; i < engine->num_groups; i++)
        zs_free(engine->groups[i].pages);
    void *all[] = {engine->step.ids,
                   engine->step.positions,
                   engine->step.segments,
                   engine->step.sample_rows,
                   engine->step.sample_segments,
                   engine->step.sampling,
                   engine->step.uniforms,
                   engine->step.tokens,
                   engine->step.log_prob,
                   engine->sample_handles,
                   engine->sequences,
                   engine->groups,
                   engine->unused.data,
                   engine->queued.data,
                   engine->resumed.data,
                   engine->running.data,
                   engine->finished.data,
                   engine};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        zs_free(all[i]);
}

/* Submission. */

static sequence *get_sequence(const zs_engine *engine, int64_t handle) {
    ZS_ASSERT(handle >= 0 && handle < engine->num_sequences &&
                  engine->sequences[handle].state != SEQUENCE_FREE,
              "no sequence has handle %lld", (long long)handle);
    return &engine->sequences[handle];
}

static int64_t take_handle(zs_engine *engine) {
    if (list_count(&engine->unused) > 0) return list_pop(&engine->unused);
    if (engine->num_sequences == engine->sequence_capacity) {
        int64_t capacity = engine->sequence_capacity ? 2 * engine->sequence_capacity : 64;
        engine->sequences = zs_grow(engine->sequences, engine->sequence_capacity, capacity, sizeof(sequence));
        engine->sequence_capacity = capacity;
    }
    return engine->num_sequences++;
}

static void append_ids(sequence *s, const int32_t *ids, int64_t count) {
    if (s->length + count > s->capacity) {
        int64_t capacity = s->capacity + s->capacity / 2 + 64;
        capacity = capacity < s->length + count ? s->length + count : capacity;
        s->ids = zs_grow(s->ids, s->capacity, capacity, sizeof(int32_t));
        s->log_prob = zs_grow(s->log_prob, s->capacity, capacity, sizeof(float));
        s->capacity = capacity;
    }
    memcpy(s->ids + s->length, ids, (size_t)count * sizeof(int32_t));
    memset(s->log_prob + s->length, 0, (size_t)count * sizeof(float));
    s->length += count;
}

/* Ids are checked where they come in, so that the step can index the embedding without a look. */
static void check_ids(const zs_engine *engine, const int32_t *ids, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        ZS_ASSERT(ids[i] >= 0 && ids[i] < engine->model->config.vocab_size,
                  "token %d is outside the model's vocabulary of %lld", (int)ids[i],
                  (long long)engine->model->config.vocab_size);
}

static void finish_turn(zs_engine *engine, int64_t handle, zs_finish reason) {
    sequence *s = &engine->sequences[handle];
    s->state = SEQUENCE_FINISHED;
    s->finish = reason;
    list_push(&engine->finished, handle);
}

int64_t zs_engine_submit(zs_engine *engine, const zs_sequence_request *request) {
    ZS_ASSERT(request->prompt_length >= 1, "a sequence needs a prompt of at least one token");
    ZS_ASSERT(request->max_length <= engine->options.max_length,
              "a sequence of up to %lld tokens was submitted to an engine made for %lld",
              (long long)request->max_length, (long long)engine->options.max_length);
    ZS_ASSERT(request->num_stops == 0 || engine->tokenizer, "stop strings need a tokenizer");
    check_ids(engine, request->prompt, request->prompt_length);
    int64_t handle = take_handle(engine);
    sequence *s = &engine->sequences[handle];
    *s = (sequence){.state = SEQUENCE_QUEUED,
                    .ids = s->ids,
                    .log_prob = s->log_prob,
                    .capacity = s->capacity,
                    .pages = s->pages,
                    .page_capacity = s->page_capacity,
                    .tail = s->tail,
                    .prompt_length = request->prompt_length,
                    .turn_begin = request->prompt_length,
                    .max_new_tokens = request->max_new_tokens,
                    .max_length = request->max_length,
                    .sampling = request->sampling,
                    .rng = request->rng,
                    .stops = request->stops,
                    .num_stops = request->num_stops};
    zs_string_clear(&s->tail);
    append_ids(s, request->prompt, request->prompt_length);
    for (int i = 0; i < request->num_stops; i++) {
        int64_t length = (int64_t)strlen(request->stops[i]);
        s->longest_stop = length > s->longest_stop ? length : s->longest_stop;
    }
    s->group = zs_group_join(engine, request);
    if (s->group >= 0)
        for (int64_t i = 0; i < engine->num_sequences; i++) { /* one look at any other member */
            const sequence *other = &engine->sequences[i];
            if (i == handle || other->state == SEQUENCE_FREE || other->group != s->group) continue;
            ZS_ASSERT(memcmp(other->ids, s->ids, (size_t)s->prompt_length * sizeof(int32_t)) == 0,
                      "sequences of prompt group %lld have different prompts",
                      (long long)request->prompt_group);
            break;
        }
    if (s->length >= s->max_length || s->max_new_tokens < 1)
        finish_turn(engine, handle, ZS_FINISH_LENGTH);
    else
        list_push(&engine->queued, handle);
    return handle;
}

bool zs_engine_continue(zs_engine *engine, int64_t handle, const int32_t *tokens, int64_t count,
                        int64_t max_new_tokens) {
    sequence *s = get_sequence(engine, handle);
    ZS_ASSERT(s->state == SEQUENCE_FINISHED, "only a finished sequence can go on");
    ZS_ASSERT(count >= 0, "a negative count of appended tokens");
    if (s->length + count >= s->max_length || max_new_tokens < 1) return false;
    check_ids(engine, tokens, count);
    list_remove(&engine->finished, handle);
    append_ids(s, tokens, count);
    s->turn_begin = s->length;
    s->max_new_tokens = max_new_tokens;
    s->finish = ZS_FINISH_NONE;
    zs_string_clear(&s->tail);
    s->state = s->num_pages > 0 ? SEQUENCE_RESUMED : SEQUENCE_QUEUED;
    list_push(s->num_pages > 0 ? &engine->resumed : &engine->queued, handle);
    return true;
}

void zs_engine_release(zs_engine *engine, int64_t handle) {
    sequence *s = get_sequence(engine, handle);
    handle_list *lists[] = {[SEQUENCE_QUEUED] = &engine->queued,
                            [SEQUENCE_RESUMED] = &engine->resumed,
                            [SEQUENCE_RUNNING] = &engine->running,
                            [SEQUENCE_FINISHED] = &engine->finished};
    list_remove(lists[s->state], handle);
    zs_group_leave(engine, handle);
    s->state = SEQUENCE_FREE;
    list_push(&engine->unused, handle);
    if (list_count(&engine->unused) == engine->num_sequences) {
        /* Handles decide the order in which turns end and rows stand; from an empty engine they must not
         * depend on what it did before, or a resumed run would take another path through the BLAS. */
        engine->num_sequences = 0;
        engine->unused.begin = engine->unused.end = 0;
    }
}

/* One step. */

/* Sequences that go on hold pages already, so they come before new ones. */
static void admit(zs_engine *engine) {
    while (list_count(&engine->running) < engine->options.max_batch && list_count(&engine->resumed) > 0) {
        int64_t handle = list_pop(&engine->resumed);
        engine->sequences[handle].state = SEQUENCE_RUNNING;
        list_push(&engine->running, handle);
    }
    while (list_count(&engine->running) < engine->options.max_batch && list_count(&engine->queued) > 0) {
        int64_t handle = engine->queued.data[engine->queued.begin];
        if (!zs_group_place(engine, handle)) break;
        list_pop(&engine->queued);
        engine->sequences[handle].state = SEQUENCE_RUNNING;
        list_push(&engine->running, handle);
    }
}

/* Packs one token of each decoding sequence and up to prefill_chunk tokens of those that are behind. */
static void plan(zs_engine *engine) {
    zs_step *step = &engine->step;
    step->rows = step->num_segments = step->num_samples = 0;
    int64_t budget = engine->options.prefill_chunk;
    for (int64_t i = engine->running.begin; i < engine->running.end; i++) {
        int64_t handle = engine->running.data[i];
        sequence *s = &engine->sequences[handle];
        int64_t pending = s->length - s->computed;
        int64_t count = pending == 1 ? 1 : pending < budget ? pending : budget;
        if (s->awaiting_prefix || count == 0) continue;
        if (pending > 1) {
            budget -= count;
            engine->stats.prefill_tokens += count;
        } else {
            engine->stats.decode_tokens++;
        }
        for (int64_t done = 0; done < count; done += ZS_SEGMENT_ROWS) {
            int64_t rows = count - done < ZS_SEGMENT_ROWS ? count - done : ZS_SEGMENT_ROWS;
            step->segments[step->num_segments++] = (zs_segment){
                .row = step->rows, .count = rows, .position = s->computed + done, .pages = s->pages};
            for (int64_t r = 0; r < rows; r++, step->rows++) {
                step->positions[step->rows] = (int32_t)(s->computed + done + r);
                step->ids[step->rows] = s->ids[s->computed + done + r];
            }
        }
        s->computed += count;
        if (count == pending) {
            int64_t n = step->num_samples++;
            engine->sample_handles[n] = handle;
            step->sample_rows[n] = step->rows - 1;
            step->sample_segments[n] = (int32_t)(step->num_segments - 1);
            step->sampling[n] = &s->sampling;
            step->uniforms[n] = zs_rng_uniform_at(&s->rng, s->length);
        }
    }
}

/* Does a stop string end inside the newest token? Keeps what a later token could complete. */
static bool meets_stop(zs_engine *engine, sequence *s, int32_t token) {
    int64_t before = s->tail.length, length;
    const char *piece = zs_tokenizer_piece(engine->tokenizer, token, &length);
    zs_string_append(&s->tail, piece, length);
    for (int i = 0; i < s->num_stops; i++) {
        int64_t stop = (int64_t)strlen(s->stops[i]);
        int64_t from = before - (stop - 1) > 0 ? before - (stop - 1) : 0;
        if (stop > 0 && length > 0 &&
            memmem(s->tail.data + from, (size_t)(s->tail.length - from), s->stops[i], (size_t)stop))
            return true;
    }
    int64_t keep = s->longest_stop - 1;
    if (s->tail.length > keep) {
        memmove(s->tail.data, s->tail.data + s->tail.length - keep, (size_t)keep);
        s->tail.length = keep;
        s->tail.data[keep] = '\0';
    }
    return false;
}

static zs_finish take_token(zs_engine *engine, sequence *s, int32_t token, float log_prob) {
    append_ids(s, &token, 1);
    s->log_prob[s->length - 1] = log_prob;
    if (s->longest_stop > 0 && meets_stop(engine, s, token)) return ZS_FINISH_STOP;
    for (int i = 0; i < engine->model->config.num_eos; i++)
        if (engine->model->config.eos_token_ids[i] == token) return ZS_FINISH_EOS;
    if (s->length - s->turn_begin >= s->max_new_tokens || s->length >= s->max_length) return ZS_FINISH_LENGTH;
    return ZS_FINISH_NONE;
}

static int by_handle(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t zs_engine_step(zs_engine *engine) {
    admit(engine);
    zs_group_advance(engine);
    plan(engine);
    int64_t computed = engine->step.rows, samples = engine->step.num_samples;
    if (computed == 0) return 0;
    zs_step_run(engine->model, &engine->cache, &engine->buffers, &engine->step);
    int64_t finished = list_count(&engine->finished);
    for (int64_t i = 0; i < samples; i++) {
        int64_t handle = engine->sample_handles[i];
        zs_finish reason =
            take_token(engine, &engine->sequences[handle], engine->step.tokens[i], engine->step.log_prob[i]);
        if (reason != ZS_FINISH_NONE) finish_turn(engine, handle, reason);
    }
    finished = list_count(&engine->finished) - finished;
    if (finished > 0) {
        qsort(engine->finished.data + engine->finished.end - finished, (size_t)finished, sizeof(int64_t),
              by_handle);
        int64_t kept = engine->running.begin;
        for (int64_t i = engine->running.begin; i < engine->running.end; i++)
            if (engine->sequences[engine->running.data[i]].state == SEQUENCE_RUNNING)
                engine->running.data[kept++] = engine->running.data[i];
        engine->running.end = kept;
    }
    engine->stats.steps++;
    return computed;
}

/* What the caller reads. */

int64_t zs_engine_next_finished(zs_engine *engine, zs_finish *reason) {
    if (list_count(&engine->finished) == 0) return -1;
    int64_t handle = list_pop(&engine->finished);
    if (reason) *reason = engine->sequences[handle].finish;
    return handle;
}

zs_sequence_view zs_engine_view(const zs_engine *engine, int64_t handle) {
    const sequence *s = get_sequence(engine, handle);
    return (zs_sequence_view){s->ids, s->log_prob, s->length, s->prompt_length, s->turn_begin};
}

int64_t zs_engine_active(const zs_engine *engine) {
    return list_count(&engine->queued) + list_count(&engine->resumed) + list_count(&engine->running);
}

zs_engine_stats zs_engine_get_stats(const zs_engine *engine) {
    zs_engine_stats stats = engine->stats;
    stats.peak_pages = engine->cache.num_pages - engine->cache.least_free;
    return stats;
}
