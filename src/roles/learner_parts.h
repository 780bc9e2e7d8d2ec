/* What the files of the learner share: learner.c makes the update, learner_advantage.c says what its tokens
 * are worth, learner_value.c keeps PPO's value model. */
#ifndef ZEROSEARCH_ROLES_LEARNER_PARTS_H
#define ZEROSEARCH_ROLES_LEARNER_PARTS_H

#include "zerosearch/learner.h"

/* What is known of each token of a step's episodes, [num_tokens]; 0 outside the mask. */
enum {
    TOKEN_REF,       /* log-probability under the reference */
    TOKEN_OLD,       /* under the policy before the step's updates, where it takes a pass */
    TOKEN_ADVANTAGE, /* what the loss multiplies by */
    TOKEN_VALUE,     /* of the state in which the token was chosen, before the step's updates */
    TOKEN_RETURN,    /* what the value model learns */
    TOKEN_ARRAYS
};

typedef struct critic { /* the value model; model NULL: none */
    zs_model *model;
    zs_optimizer *optimizer;
    zs_workspace *workspace;
    float *value, *coefficient; /* [micro_tokens], by position and not by token: see learner_value.c */
    double clip;
    int64_t warmup_steps;
    zs_value_sums sums; /* of the step */
} critic;

/* Means over the step's episodes, of what is added to their reward. */
typedef struct reward_terms {
    double episodes, overlong, kl, turns, gain; /* the last two: turns that had a next one, their gain */
} reward_terms;

struct zs_learner {
    const zs_comm *comm;
    zs_model *policy;
    const zs_model *reference; /* NULL: no KL is asked for */
    zs_optimizer *optimizer;
    zs_workspace *workspace;
    critic critic;
    int64_t micro_tokens, samples, epochs, minibatches;
    /* the grid */
    zs_advantage advantage;
    zs_aggregation aggregation;
    bool sequence_ratio;
    zs_policy_loss loss;
    double aggregation_length, gamma, lambda, overlong_limit, overlong_buffer;
    bool mask_documents;
    bool corrects; /* by importance weights, at most importance_cap */
    bool kl_in_reward;
    double kl_coef, kl_target, kl_horizon, temperature, importance_cap;
    /* work for one micro-batch, [micro_tokens] */
    float *log_prob, *entropy, *coefficient, *weight, *share, *log_ratio;
    uint8_t *preserved;
    /* work for all episodes, grown as needed */
    int64_t token_capacity, episode_capacity;
    uint8_t *mask; /* [num_tokens], 1 where the loss is */
    float *token[TOKEN_ARRAYS];
    int64_t *first; /* micro-batches */
    int64_t *lengths;
    int64_t prepared; /* episodes, from the first, whose reference log-probabilities are there */
    /* of the step */
    zs_policy_sums sums;
    zs_drift_sums drift;
    reward_terms terms;
    double gain_weight; /* 0: no turn credit */
    zs_answer_ids *answer;
    void *answer_context;
    double good_tokens, good_log_prob; /* of episodes that earned something */
    int64_t updates_made;
};

/* Episodes first..last-1 as one packed batch; offsets (work, [last - first + 1]) start at 0. */
zs_batch zs_learner_batch(const zs_episodes *e, int64_t first, int64_t last, int64_t *offsets);

/* Fills TOKEN_ADVANTAGE (and TOKEN_RETURN, which needs TOKEN_VALUE) from rewards, by the grid's advantage.
 * Collective on learners. */
void zs_learner_advantages(zs_learner *l, zs_episodes *e, int64_t num_questions);

/* Adds the credit of turns to TOKEN_ADVANTAGE. Collective on learners. */
void zs_learner_credit_turns(zs_learner *l, const zs_episodes *e, int64_t num_questions);

/* TOKEN_VALUE of all episodes. Local. */
void zs_learner_values(zs_learner *l, const zs_episodes *e);
/* One update of the value model on the episodes, of which there are micro-batches as l->first says, and
 * `tokens` of the mask on all learners. Collective on learners. */
void zs_learner_train_values(zs_learner *l, const zs_episodes *e, int64_t batches, double tokens,
                             zs_update_report *report);
bool zs_learner_warms_up(const zs_learner *l); /* only the value model learns in this step */
void zs_learner_report_values(zs_learner *l, zs_update_report *report); /* Collective on learners */

#endif
