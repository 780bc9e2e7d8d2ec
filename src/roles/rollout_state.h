/* A rollout phase and its episodes, private to rollout.c (rounds) and episodes.c (what becomes of an
 * episode). */
#ifndef ZEROSEARCH_ROLES_ROLLOUT_STATE_H
#define ZEROSEARCH_ROLES_ROLLOUT_STATE_H

#include "zerosearch/curriculum.h"
#include "zerosearch/method.h"
#include "zerosearch/rewards.h"
#include "zerosearch/rollout.h"

typedef struct zs_live_episode {
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
} zs_live_episode;

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
    zs_live_episode *episodes;
    int64_t num_episodes, unfinished;
    zs_live_episode **by_handle;
    int64_t handle_capacity;
};

/* Messages between ranks: a head, then NUL-ended strings. */

typedef struct zs_message_head {
    int32_t is_reply, noisy, failed, reserved;
    int64_t episode, turn, step, question_index, sample;
} zs_message_head;

void zs_message_put(zs_string *message, const zs_message_head *head, int n, const char *const *strings);

/* This rank's share of the task's questions, each with all of its samples: into the engine, or first to the
 * search where the method retrieves. */
void zs_rollout_submit_all(zs_rollout *r);
/* A turn ended: act on what it says. */
void zs_rollout_end_turn(zs_rollout *r, zs_live_episode *e, zs_finish reason);
/* Documents have come, and are cut to the observation limit. To an episode they return as one <information>
 * span; with a method that retrieves they stand in the prompt with which all samples of the question begin.
 */
void zs_rollout_observe(zs_rollout *r, zs_live_episode *e, const char *documents, bool failed);

#endif
