/* The learner: one policy update from the episodes of a step. */
#ifndef ZEROSEARCH_LEARNER_H
#define ZEROSEARCH_LEARNER_H

#include "zerosearch/config.h"
#include "zerosearch/episode.h"
#include "zerosearch/learn.h"

typedef struct zs_learner zs_learner;

/* What an update did; the same on every learner. Means over the tokens of the loss. */
typedef struct zs_update_report {
    double loss, kl, entropy, clip_fraction;
    double loss_policy, loss_kl, loss_llds; /* what the loss is the sum of */
    double reward_overlong, reward_kl;      /* means over episodes of what was added to their reward */
    double information_gain;                /* mean over turns that had a next one; 0: not measured */
    double kl_coef;                         /* as it was in this step */
    double good_log_prob; /* mean over tokens of episodes with a reward above 0; NAN: none */
    double value_loss, value_clip_fraction, value_mean, value_grad_norm;
    double value_explained; /* share of the returns' variance that the values told of; 0: no value model */
    /* Rollouts' policy (recorded log-probabilities) beside the learner's before the step's updates (learn.h):
     * mean and maximum of |difference|, the KL between them, the importance weights and the share of them
     * that the cap cut. Without correction: weights uncapped and not applied; with several updates a step,
     * over the tokens of the first. */
    double mismatch, mismatch_max, mismatch_kl, importance_weight, importance_capped;
    double grad_norm, learning_rate;
    double tokens; /* trained on, documents and prompts included */
} zs_update_report;

/* Settings from learn.* and rollout.samples. `reference`: a frozen model of the policy's shape, in any
 * precision that zs_model_forward takes, which outlives the learner; NULL when no KL is asked for.
 * `max_length`: longest episode. Collective on learners. */
zs_learner *zs_learner_create(const zs_comm *comm, const zs_config *config, zs_model *policy,
                              const zs_model *reference, zs_optimizer *optimizer, int64_t max_length);
void zs_learner_destroy(zs_learner *learner);

/* For learn.advantage = gae: PPO's value model, a model with a value head that reads the policy's tokens, and
 * its optimizer, whose peak rate becomes learn.value_learning_rate. Both outlive the learner. Local. */
void zs_learner_add_values(zs_learner *learner, const zs_config *config, zs_model *model,
                           zs_optimizer *optimizer);

/* For reward.information_gain: writes what would answer question `question_index` after the given tokens into
 * ids [room]; returns how many tokens that are (0: too many), *from: the first of the answer itself, after
 * its opening tag. */
typedef int64_t zs_answer_ids(void *context, int64_t question_index, const int32_t *before,
                              int64_t before_length, int64_t room, int32_t *ids, int64_t *from);
void zs_learner_add_answers(zs_learner *learner, const zs_config *config, zs_answer_ids *answer,
                            void *context);

/* The coefficient of the KL, which learn.kl_target changes from step to step: part of a checkpoint. Local. */
double zs_learner_kl_coef(const zs_learner *learner);
void zs_learner_set_kl_coef(zs_learner *learner, double kl_coef);

/* Reference log-probabilities of the episodes that have come so far, in micro-batches as they fill up (so
 * that the bits do not depend on when they came); with `all`, of the rest too. Calls see the same buffer
 * growing, until the update on it. Local. */
void zs_learner_prepare(zs_learner *learner, const zs_episodes *episodes, bool all);

/* What zs_learner_prepare has left, advantages, then the epochs and minibatches of updates. `episodes`: this
 * learner's, of `num_questions` questions in the step. Collective on learners.
 *
 * Where rollouts play in other precision (rollout.dtype, rollout.cache_dtype) or a step ahead
 * (rollout.staleness) and learn.importance_cap is above 0, the loss is weighted as learn.h says: the old
 * policy's log-probabilities are computed here in f32, by the update's own forward (r is 1 then) when a step
 * has one update, else by a pass before the first. Else the recorded ones are the old ones, as on-policy PPO
 * has it. */
zs_update_report zs_learner_update(zs_learner *learner, zs_episodes *episodes, int64_t num_questions);

#endif
