/* The engine's state: sequences, the groups that share a prompt, the queues. */
#ifndef ZEROSEARCH_ENGINE_STATE_H
#define ZEROSEARCH_ENGINE_STATE_H

#include "internal.h"

typedef enum sequence_state {
    SEQUENCE_FREE,
    SEQUENCE_QUEUED,  /* submitted, holds no pages */
    SEQUENCE_RESUMED, /* holds its pages, waits for room in the batch */
    SEQUENCE_RUNNING,
    SEQUENCE_FINISHED
} sequence_state;

typedef struct sequence {
    sequence_state state;
    zs_finish finish;
    int32_t *ids; /* [capacity] */
    float *log_prob;
    int64_t length, capacity, prompt_length, turn_begin;
    int64_t computed; /* tokens whose keys and values are in the cache; the rest is still to be fed */
    int64_t max_new_tokens, max_length;
    int32_t *pages; /* all of max_length, from admission to release */
    int64_t num_pages, page_capacity;
    int64_t group;        /* index, -1: none */
    bool awaiting_prefix; /* admitted, but the group's leader is still computing the prompt */
    zs_sampling sampling;
    zs_rng rng;
    const char *const *stops;
    int num_stops;
    int64_t longest_stop;
    zs_string tail; /* last bytes sampled in this turn: as many as a stop that is still open can need */
} sequence;

/* Sequences with one prompt. The first to be admitted leads: it computes the prompt in pages that the others
 * then hold too. The last prompt token is always computed by each (its logits are wanted), the tokens before
 * it in the last, partly filled page are copied. */
typedef struct group {
    int64_t id;      /* the caller's; unused when users == 0 */
    int64_t users;   /* sequences submitted and not released */
    int64_t holders; /* of those, with pages */
    int64_t prompt_length;
    bool placed;      /* pages below are held */
    bool ready;       /* the prompt up to its last token is computed */
    int64_t leader;   /* handle; -1: none, the next holder takes over */
    int64_t computed; /* tokens of the shared pages that are valid, when there is no leader */
    int32_t *pages;   /* [num_pages], full pages of the prompt; a reference is held on each */
    int64_t num_pages, page_capacity;
    int32_t tail_page; /* the leader's page after them, -1: none; a reference is held */
} group;

typedef struct handle_list {
    int64_t *data;
    int64_t begin, end, capacity; /* data[begin .. end-1] */
} handle_list;

struct zs_engine {
    const zs_model *model;
    const zs_tokenizer *tokenizer;
    zs_engine_options options;
    zs_kv_cache cache;
    zs_step_buffers buffers;
    zs_step step;
    int64_t *sample_handles; /* [max_batch] */
    sequence *sequences;
    int64_t num_sequences, sequence_capacity;
    handle_list unused;   /* released handles, for reuse */
    handle_list queued;   /* in order of submission */
    handle_list resumed;  /* in order of zs_engine_continue */
    handle_list running;  /* in order of admission */
    handle_list finished; /* not yet reported */
    group *groups;
    int64_t num_groups;
    zs_engine_stats stats;
};

/* prefix_groups.c */
int64_t zs_group_join(zs_engine *engine, const zs_sequence_request *request);
void zs_group_leave(zs_engine *engine, int64_t handle);
/* Fills the sequence's page table; false: not enough free pages yet. */
bool zs_group_place(zs_engine *engine, int64_t handle);
/* Lets members go on whose prompt is ready, and finds leaders for groups that lost theirs. */
void zs_group_advance(zs_engine *engine);

#endif
