/* The generation engine: many sequences over one paged KV cache, continuously batched.
 *
 * A sequence is submitted with its prompt, runs until its turn ends (stop string, end token or limit), is
 * then FINISHED with its pages kept, and either goes on with appended tokens (documents) or is released.
 * Sequences with the same prompt `group` share the prompt's full pages, computed once.
 * Tokens in, tokens out: nothing is ever re-tokenised.
 *
 * Admission is by reservation: a sequence starts only when pages for its whole `max_length` can be promised,
 * so no running sequence is ever evicted; the alternative, preempting on pressure, would make a run's bits
 * depend on the cache size. Not thread-safe; parallel inside by OpenMP. */
#ifndef ZEROSEARCH_ENGINE_H
#define ZEROSEARCH_ENGINE_H

#include "zerosearch/model.h"
#include "zerosearch/rng.h"
#include "zerosearch/tokenizer.h"

typedef struct zs_engine zs_engine;

typedef struct zs_engine_options {
    int64_t max_batch;     /* sequences decoded together */
    int64_t cache_tokens;  /* capacity of the KV cache in tokens (rounded up to pages, at least max_length) */
    int64_t page_size;     /* tokens in a page, rounded up to a power of two; 0: 16, the least */
    int64_t prefill_chunk; /* prompt tokens computed in one step at most; 0: 512 */
    int64_t max_length;    /* longest sequence, prompt included */
    zs_dtype
        cache_dtype; /* of keys and values: ZS_F32 (0), or ZS_BF16 in half the memory, rounded when stored */
} zs_engine_options;

typedef struct zs_sampling {
    double temperature; /* 0: greedy */
    int64_t top_k;      /* 0: off */
    double top_p;       /* 1: off */
} zs_sampling;

/* The model's weights, f32, bf16 or int8, are read at each step (they may change between phases, when no
 * sequence is live); activations are f32. The model must have weights and no value head. `tokenizer` may be
 * NULL when no stop strings are used. Both must outlive the engine. */
zs_engine *zs_engine_create(const zs_model *model, const zs_tokenizer *tokenizer,
                            const zs_engine_options *options);
void zs_engine_destroy(zs_engine *engine);
int64_t zs_engine_bytes(const zs_model_config *config, const zs_engine_options *options);

typedef enum zs_finish {
    ZS_FINISH_NONE,   /* queued or running */
    ZS_FINISH_STOP,   /* a stop string was completed; the token that completes it is kept whole */
    ZS_FINISH_EOS,    /* an end token was sampled; it is kept */
    ZS_FINISH_LENGTH, /* max_new_tokens of the turn, or max_length of the sequence */
} zs_finish;

typedef struct zs_sequence_request {
    const int32_t *prompt;  /* copied */
    int64_t prompt_length;  /* >= 1 */
    int64_t prompt_group;   /* sequences of one group have the same prompt and share its pages; -1: none */
    int64_t max_new_tokens; /* of the first turn */
    int64_t max_length;     /* of the whole sequence; reserved in the cache */
    zs_sampling sampling;
    zs_rng rng;               /* draw for token at position p of the sequence is zs_rng_uniform_at(&rng, p) */
    const char *const *stops; /* stop strings, must outlive the sequence */
    int num_stops;
} zs_sequence_request;

/* Returns a handle >= 0. Asserts that the request can ever fit (max_length <= options.max_length). */
int64_t zs_engine_submit(zs_engine *engine, const zs_sequence_request *request);

/* One step: admits waiting sequences (in order of submission), computes up to prefill_chunk prompt or
 * appended tokens, then one token for every running sequence. Returns the number of tokens computed (0:
 * nothing to do, or the queue waits for pages that only zs_engine_release of finished sequences can give). */
int64_t zs_engine_step(zs_engine *engine);

/* The next handle whose turn ended since last asked, in order of (step, handle), or -1. */
int64_t zs_engine_next_finished(zs_engine *engine, zs_finish *reason);

/* The sequence so far. Pointers are valid until the next call that changes the sequence.
 * log_prob[i]: of sampled tokens, log-probability under softmax(logits / temperature) before top-k and top-p
 * (temperature 1 when greedy); 0 for prompt and appended tokens. turn_begin: where the last turn's tokens
 * start. */
typedef struct zs_sequence_view {
    const int32_t *ids;
    const float *log_prob;
    int64_t length, prompt_length, turn_begin;
} zs_sequence_view;
zs_sequence_view zs_engine_view(const zs_engine *engine, int64_t handle);

/* Appends observed tokens to a FINISHED sequence and starts its next turn. Stops are matched only against
 * tokens sampled in the turn. False (sequence stays finished) if fewer than one token could still be sampled.
 */
bool zs_engine_continue(zs_engine *engine, int64_t handle, const int32_t *tokens, int64_t count,
                        int64_t max_new_tokens);

void zs_engine_release(zs_engine *engine, int64_t handle); /* gives its pages back */
int64_t zs_engine_active(const zs_engine *engine);         /* queued + running (not finished) */
typedef struct zs_engine_stats {
    int64_t prefill_tokens, decode_tokens, steps, peak_pages, shared_tokens; /* since create */
} zs_engine_stats;
zs_engine_stats zs_engine_get_stats(const zs_engine *engine);

#endif
