/* What learning computes: advantages, policy and value losses, the optimizer and its schedule, packing.
 *
 * The algorithms are a small grid of settings (learn.*): advantage x level of the ratio x clip x aggregation
 * x where the KL stands. presets.h names the papers' points of it. */
#ifndef ZEROSEARCH_LEARN_H
#define ZEROSEARCH_LEARN_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/episode.h"
#include "zerosearch/kernels.h"
#include "zerosearch/model.h"

typedef enum zs_advantage {                       /* in the order of learn.advantage's choices */
                            ZS_ADVANTAGE_SCORE,   /* the score itself (REINFORCE, Williams 1992) */
                            ZS_ADVANTAGE_WHITEN,  /* the return from each token on, whitened over the step
                                                     (REINFORCE++) */
                            ZS_ADVANTAGE_RLOO,    /* less the mean of the others of its group (Ahmadian et al.
                                                     2024, eq. 8) */
                            ZS_ADVANTAGE_GRPO,    /* (score - mean) / (std + 1e-6) of its group (DeepSeekMath,
                                                     2024, sec. 4.1.2) */
                            ZS_ADVANTAGE_DR_GRPO, /* score - mean (Liu et al. 2025, "Dr. GRPO") */
                            ZS_ADVANTAGE_GAE      /* by a value model (PPO), whitened over the step */
} zs_advantage;

/* Advantages of episodes by one of the four that need only scores (score, rloo, grpo, dr_grpo). std is
 * unbiased; where a baseline is taken from the group a group of one gets 0. score, advantage [n]; group [n]:
 * equal numbers belong together, in any order. */
void zs_advantage_of_scores(zs_advantage kind, int64_t n, const double *score, const int64_t *group,
                            double *advantage);

/* Generalized advantage estimation (Schulman et al. 2016, eq. 16) of one episode of n tokens over the tokens
 * of the mask only; others are stepped over as if they were not there. value[t]: V of the state in which
 * token t was chosen. returns[t] = advantage[t] + value[t]. Both [n] are 0 outside the mask. */
void zs_advantage_gae(int64_t n, const uint8_t *mask, const float *reward, const float *value, double gamma,
                      double lambda, float *advantage, float *returns);

/* Whitening over the mask, of arrays that lie on several ranks: sums are added up (over arrays, over ranks),
 * then x becomes (x - mean) / sqrt(var + 1e-8), var unbiased; fewer than two tokens: x - mean. */
typedef struct zs_moments {
    double count, sum, squares;
} zs_moments;
void zs_moments_add(zs_moments *moments, int64_t n, const uint8_t *mask, const float *x);
void zs_whiten(const zs_moments *moments, int64_t n, const uint8_t *mask, float *x);

/* Soft overlong punishment (Yu et al. 2025, DAPO eq. 13): 0 up to limit - buffer tokens, -1 at the limit,
 * linear between. */
double zs_overlong_penalty(double length, double limit, double buffer);

typedef enum zs_kl_type { ZS_KL_K1, ZS_KL_K2, ZS_KL_K3 } zs_kl_type;

/* KL estimates of Schulman (2020), d = ref - log_prob: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.
 * Returns the estimate; *gradient (may be NULL) is its derivative by log_prob. */
double zs_kl_estimate(zs_kl_type type, double log_prob, double ref_log_prob, double *gradient);

/* Truncated importance weights. Rollouts may run other numbers than the learner: weights in bf16 or int8, or
 * older ones. Tokens are then drawn from mu, the rollouts' policy, while `old` is the learner's policy before
 * the step's first update. Each token's surrogate below is multiplied by
 *   w = min(old / mu, cap),   a constant of the loss (no gradient goes through it),
 * and the ratio that is clipped stays r = policy / old: Yao et al. 2025, "Your Efficient RL Framework
 * Secretly Brings You Off-Policy RL Training" (TIS, fengyao.notion.site/off-policy-rl); the two policies kept
 * apart as in Hilton et al. 2022, "Batch size-invariance for policy optimization"; truncation as rho of
 * V-trace (Espeholt et al. 2018, IMPALA). Without a cap a token's expected gradient at the first update,
 * given what stands before it, is the one under `old`; the cap bounds the variance for a bias on the tokens
 * that mu thought much less likely. What stands before a token stays as mu drew it. */
typedef struct zs_drift_sums { /* over tokens, to be added up; max is a maximum */
    double tokens, weight, capped, mismatch, kl, max;
} zs_drift_sums;

/* weight[t] = w, 0 outside the mask; all arrays [n]; cap may be INFINITY. weight may be NULL: the drift is
 * only measured. Adds to sums: weight: w; capped: 1 where old / mu is above the cap; mismatch: |log old - log
 * mu|, and its maximum; kl: the k3 estimate of KL(mu || old). */
void zs_importance_weights(double cap, int64_t n, const uint8_t *mask, const float *old_log_prob,
                           const float *rollout_log_prob, float *weight, zs_drift_sums *sums);

/* The adaptive coefficient of Ziegler et al. 2019 (sec. 2.2): multiplied by 1 + clip(kl / target - 1, -0.2,
 * 0.2) * episodes / horizon after a step with this mean KL a token. */
double zs_kl_adapt(double coef, double kl, double target, double horizon, double episodes);

typedef struct zs_policy_loss {
    double clip_low, clip_high; /* the ratio is clipped to [1 - low, 1 + high]; apart in DAPO (eq. 10) */
    double kl_coef;             /* of the KL to the reference in the loss; 0: none */
    zs_kl_type kl_type;
    double denominator; /* the loss is the sum over tokens of share times token loss, divided by this */
    double llds;        /* weight of the likelihood-preserving term; 0: none */
} zs_policy_loss;

/* How token losses become one loss: by each token's share and the common denominator.
 *   TOKEN_MEAN     share 1, the update's tokens: DAPO (eq. 12), and PPO's and GRPO's in verl
 *   SEQUENCE_MEAN  share 1 / tokens of its episode, the update's episodes: GRPO (DeepSeekMath eq. 3), GSPO
 *   CONSTANT       share 1, the update's episodes times a constant length: Dr. GRPO */
typedef enum zs_aggregation { ZS_TOKEN_MEAN, ZS_SEQUENCE_MEAN, ZS_CONSTANT_LENGTH } zs_aggregation;
double zs_loss_denominator(zs_aggregation aggregation, double tokens, double episodes, double length);

/* Sums over tokens, to be added up over micro-batches and ranks. loss is the whole; surrogate, kl_term and
 * llds are what it is made of, as they stand in it. */
typedef struct zs_policy_sums {
    double tokens, loss, kl, clipped, entropy, surrogate, kl_term, llds;
} zs_policy_sums;

/* Sequence-level ratio (Zheng et al. 2025, GSPO eq. 7): out[t] [n] = the mean of log_prob - old over the
 * episode's tokens of the mask, of n tokens that are one episode; 0 outside the mask. */
void zs_sequence_log_ratio(int64_t n, const uint8_t *mask, const float *log_prob, const float *old_log_prob,
                           float *out);

/* Which tokens LLDS looks at (Deng et al. 2025, arXiv 2512.04220, with the gate by action, as in the authors'
 * code): those of actions (runs of the mask) of non-negative advantage whose likelihood as a whole has
 * fallen. preserved [n]. One episode. */
void zs_llds_gate(int64_t n, const uint8_t *mask, const float *log_prob, const float *old_log_prob,
                  const float *advantage, uint8_t *preserved);

/* What a token's loss is computed from; all arrays [n]. */
typedef struct zs_policy_tokens {
    const uint8_t *mask;       /* the loss is over tokens with mask != 0 */
    const float *log_prob;     /* under the policy that is updated */
    const float *old_log_prob; /* under the policy before the step's updates; may be log_prob itself: r = 1 */
    const float *ref_log_prob; /* NULL when kl_coef is 0 */
    const float *weight;       /* importance weights; NULL: 1 */
    const float *advantage;
    const float *entropy;     /* NULL: not summed */
    const float *share;       /* NULL: 1 */
    const float *log_ratio;   /* NULL: log_prob - old_log_prob, the token's own */
    const uint8_t *preserved; /* by zs_llds_gate; NULL where llds is 0 */
} zs_policy_tokens;

/* Clipped surrogate (Schulman et al. 2017, PPO eq. 7) with the KL term (DeepSeekMath eq. 3) and LLDS: a token
 *   -w min(r A, clip(r) A) + kl_coef KL + llds max(0, old_log_prob - log_prob) where preserved,
 * r = exp(log_prob - old_log_prob). With log_ratio s, r = sg[exp(s)] exp(log_prob - sg[log_prob])
 * (GSPO-token, eq. 13): its value is that of the sequence, its gradient that of the token. coefficient[t] [n]
 * = d loss / d log_prob[t] (0 outside the mask; old, w, share are constants). Adds to sums. */
void zs_policy_loss_tokens(const zs_policy_loss *loss, int64_t n, const zs_policy_tokens *tokens,
                           float *coefficient, zs_policy_sums *sums);

/* The value model's loss, clipped like the policy's (Schulman et al. 2017's implementation; Huang et al.
 * 2022, "The 37 implementation details of PPO", 9): per token of the mask 0.5 max((V - R)^2, (clip(V, old -
 * range, old + range) - R)^2), divided by denominator. coefficient[t] [n] = d loss / d value[t]. */
typedef struct zs_value_sums {
    double tokens, loss, clipped, value, returns, returns_squares, error, error_squares;
} zs_value_sums;
void zs_value_loss_tokens(double clip_range, double denominator, int64_t n, const uint8_t *mask,
                          const float *value, const float *old_value, const float *returns,
                          float *coefficient, zs_value_sums *sums);

/* Learning rate at `step` (from 0) of `total`: linear warm-up, then the peak until decay_from * total, then
 * constant, linear or cosine decay to final_fraction of the peak. */
typedef struct zs_schedule {
    enum { ZS_CONSTANT, ZS_LINEAR, ZS_COSINE } kind;
    double peak, final_fraction, decay_from;
    int64_t warmup_steps, total;
} zs_schedule;
double zs_schedule_rate(const zs_schedule *schedule, int64_t step);

/* AdamW over the learners, its state sharded: each learner keeps the moments of its spans (comm.h) only. */
typedef struct zs_optimizer {
    const zs_comm *comm;
    zs_model *model;
    zs_reducer *reducer;
    const zs_span *spans; /* this learner's; owned by the reducer */
    int num_spans;
    int64_t shard; /* sum of the spans' counts */
    float *m, *v;  /* [shard], spans one after another */
    float *grads;  /* [num_params], cleared after each step */
    int64_t step;  /* updates made */
    zs_adamw adamw;
    zs_schedule schedule;
    double clip_gradient;
    double norm_limit; /* an update whose gradient norm is above it is not made; 0: none is too large */
} zs_optimizer;

/* Settings from learn.*; `total` steps for the schedule. Collective on learners. */
zs_optimizer *zs_optimizer_create(const zs_comm *comm, zs_model *model, const zs_config *config,
                                  int64_t total);
void zs_optimizer_destroy(zs_optimizer *optimizer);

/* A zs_grads_ready callback (context: the optimizer) for the last micro-batch of an update. */
void zs_optimizer_ready(void *optimizer, int64_t begin, int64_t end);

/* Completes the reduction, clips by the global norm, updates, gathers the parameters, clears the gradients. A
 * learner that had no batch calls it all the same. Returns the gradient norm before clipping; *rate: the
 * learning rate used. Norms that are not finite, or above norm_limit, skip the update (the norm is returned
 * as it is). Collective on learners. */
double zs_optimizer_update(zs_optimizer *optimizer, double *rate);

/* The arrays of a checkpoint: model/params in even stripes, optimizer/m and optimizer/v by spans. Fills
 * arrays[3] and pieces (zs_alloc'ed in *pieces, the caller frees). Local. */
struct zs_checkpoint_array;
struct zs_piece;
void zs_optimizer_arrays(zs_optimizer *optimizer, struct zs_checkpoint_array *arrays,
                         struct zs_piece **pieces);

/* Packing: cuts sequences of the given lengths, in order, into micro-batches of at most max_tokens tokens (a
 * longer sequence stands alone). first[i] .. first[i+1]-1 are the sequences of micro-batch i; first has room
 * for n + 1. Returns the number of micro-batches. */
int64_t zs_pack(int64_t n, const int64_t *lengths, int64_t max_tokens, int64_t *first);

#endif
