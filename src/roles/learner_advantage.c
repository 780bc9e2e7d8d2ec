/* From rewards to what each token is worth: reward terms of the learner's own, then the grid's advantage. */
#include "learner_parts.h"

#include "zerosearch/memory.h"

/* The KL's part of a token's reward (Ouyang et al. 2022): -kl_coef (log_prob - ref), of what the policy
 * wrote. */
static double kl_reward(const zs_learner *l, const zs_episodes *e, int64_t t) {
    if (!l->kl_in_reward || !l->reference || e->kind[t] != ZS_TOKEN_POLICY) return 0.0;
    return -l->kl_coef * zs_kl_estimate(ZS_KL_K1, e->log_prob[t], l->token[TOKEN_REF][t], NULL);
}

/* The episode's reward without the KL. */
static double score_of(zs_learner *l, const zs_episode_info *info) {
    double overlong = zs_overlong_penalty((double)info->length, l->overlong_limit, l->overlong_buffer);
    l->terms.episodes += 1.0;
    l->terms.overlong += overlong;
    return info->reward + overlong;
}

/* Scores of the whole step, gathered over the learners (each fills its own episodes' places), then the
 * advantage of each episode, the same for all of its tokens; the KL in the reward is the episode's. */
static void advantages_of_episodes(zs_learner *l, zs_episodes *e, int64_t num_questions) {
    int64_t n = num_questions * l->samples;
    double *score = ZS_NEW(double, n), *advantage = ZS_NEW(double, n);
    int64_t *group = ZS_NEW(int64_t, n);
    for (int64_t i = 0; i < e->count; i++) {
        double kl = 0.0;
        for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
            kl += kl_reward(l, e, t);
        l->terms.kl += kl;
        score[e->info[i].question * l->samples + e->info[i].sample] = score_of(l, &e->info[i]) + kl;
    }
    zs_comm_sum(l->comm, &l->comm->learners, score, (int)n, "the scores of the learners");
    for (int64_t i = 0; i < n; i++)
        group[i] = i / l->samples;
    zs_advantage_of_scores(l->advantage, n, score, group, advantage);
    for (int64_t i = 0; i < e->count; i++) {
        e->info[i].advantage = advantage[e->info[i].question * l->samples + e->info[i].sample];
        for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
            l->token[TOKEN_ADVANTAGE][t] = (float)e->info[i].advantage;
    }
    zs_free(score);
    zs_free(advantage);
    zs_free(group);
}

/* Rewards of an episode's tokens into reward [n]: the KL's part at each, the score at the last of the mask.
 */
static void token_rewards(zs_learner *l, const zs_episodes *e, int64_t i, float *reward) {
    int64_t at = e->offsets[i], n = e->offsets[i + 1] - at, last = -1;
    double score = score_of(l, &e->info[i]);
    for (int64_t t = 0; t < n; t++) {
        double kl = kl_reward(l, e, at + t);
        reward[t] = (float)kl;
        l->terms.kl += kl;
        if (l->mask[at + t]) last = t;
    }
    if (last >= 0) reward[last] += (float)score;
}

/* Advantages of tokens, whitened over the step: by GAE; without a value model, of value 0 with discount and
 * lambda 1, it is the return from the token on (REINFORCE++). */
static void advantages_of_tokens(zs_learner *l, zs_episodes *e) {
    bool by_values = l->advantage == ZS_ADVANTAGE_GAE;
    float *reward = ZS_NEW(float, l->micro_tokens), *advantage = l->token[TOKEN_ADVANTAGE],
          *value = l->token[TOKEN_VALUE];
    if (!by_values)
        for (int64_t t = 0; t < e->num_tokens; t++)
            value[t] = 0.0f;
    zs_moments moments = {0};
    for (int64_t i = 0; i < e->count; i++) {
        int64_t at = e->offsets[i], n = e->offsets[i + 1] - at;
        token_rewards(l, e, i, reward);
        zs_advantage_gae(n, l->mask + at, reward, value + at, by_values ? l->gamma : 1.0,
                         by_values ? l->lambda : 1.0, advantage + at, l->token[TOKEN_RETURN] + at);
        zs_moments_add(&moments, n, l->mask + at, advantage + at);
    }
    zs_comm_sum(l->comm, &l->comm->learners, (double *)&moments, 3, "the advantages of the learners");
    zs_whiten(&moments, e->num_tokens, l->mask, advantage);
    for (int64_t i = 0; i < e->count; i++) {
        double sum = 0.0, tokens = 0.0;
        for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
            if (l->mask[t]) {
                sum += advantage[t];
                tokens += 1.0;
            }
        e->info[i].advantage = tokens > 0.0 ? sum / tokens : 0.0;
    }
    zs_free(reward);
}

void zs_learner_advantages(zs_learner *l, zs_episodes *e, int64_t num_questions) {
    l->terms = (reward_terms){0};
    if (l->advantage == ZS_ADVANTAGE_GAE || l->advantage == ZS_ADVANTAGE_WHITEN)
        advantages_of_tokens(l, e);
    else
        advantages_of_episodes(l, e, num_questions);
}
