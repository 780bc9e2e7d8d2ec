/* The learner's part of a step: advantages, reference log-probabilities, forward, loss, backward, update. */
#include "zerosearch/learner.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <string.h>

struct zs_learner {
    const zs_comm *comm;
    zs_model *policy;
    const zs_model *reference; /* NULL: no KL is asked for */
    zs_optimizer *optimizer;
    zs_workspace *workspace;
    int64_t micro_tokens, samples, epochs, minibatches;
    zs_policy_loss loss;
    bool kl_in_reward, mask_documents, normalize;
    bool corrects; /* by importance weights, at most importance_cap */
    double reward_kl_coef, temperature, importance_cap;
    /* work for one micro-batch, [micro_tokens] */
    float *log_prob, *entropy, *coefficient, *advantage, *weight;
    /* work for all episodes, grown as needed */
    int64_t token_capacity, episode_capacity;
    uint8_t *mask;       /* [num_tokens], 1 where the loss is */
    float *ref_log_prob; /* [num_tokens] */
    float *old_log_prob; /* [num_tokens], of the policy before the step's updates, where it takes a pass */
    int64_t *first;      /* micro-batches */
    int64_t *lengths;
    int64_t prepared;    /* episodes, from the first, whose reference log-probabilities are there */
    zs_policy_sums sums; /* of the step */
    zs_drift_sums drift;
    int64_t updates_made; /* in the step */
};

zs_learner *zs_learner_create(const zs_comm *comm, const zs_config *config, zs_model *policy,
                              const zs_model *reference, zs_optimizer *optimizer, int64_t max_length) {
    zs_learner *l = ZS_NEW(zs_learner, 1);
    l->comm = comm;
    l->policy = policy;
    l->reference = reference;
    l->optimizer = optimizer;
    l->micro_tokens = zs_config_int(config, "learn.micro_tokens");
    if (l->micro_tokens < max_length) l->micro_tokens = max_length;
    l->samples = zs_config_int(config, "rollout.samples");
    l->epochs = zs_config_int(config, "learn.epochs");
    l->minibatches = zs_config_int(config, "learn.minibatches");
    l->mask_documents = zs_config_bool(config, "learn.mask_documents");
    l->normalize = zs_config_bool(config, "learn.normalize_advantage");
    l->temperature = zs_config_float(config, "rollout.temperature");
    if (l->temperature <= 0.0) l->temperature = 1.0;
    double kl_coef = zs_config_float(config, "learn.kl_coef"),
           clip = zs_config_float(config, "learn.clip_range");
    l->kl_in_reward = !strcmp(zs_config_string(config, "learn.kl_in"), "reward");
    l->reward_kl_coef = l->kl_in_reward ? kl_coef : 0.0;
    bool drifts = strcmp(zs_config_string(config, "rollout.dtype"), "f32") != 0 ||
                  strcmp(zs_config_string(config, "rollout.cache_dtype"), "f32") != 0 ||
                  zs_config_int(config, "rollout.staleness") > 0;
    l->corrects = drifts && zs_config_float(config, "learn.importance_cap") > 0.0;
    l->importance_cap = l->corrects ? zs_config_float(config, "learn.importance_cap") : INFINITY;
    const char *type = zs_config_string(config, "learn.kl_type");
    l->loss = (zs_policy_loss){.clip_low = clip,
                               .clip_high = clip,
                               .kl_coef = l->kl_in_reward ? 0.0 : kl_coef,
                               .kl_type = !strcmp(type, "k1")   ? ZS_KL_K1
                                          : !strcmp(type, "k2") ? ZS_KL_K2
                                                                : ZS_KL_K3};
    l->workspace = zs_workspace_create(&policy->config, l->micro_tokens, true,
                                       zs_config_bool(config, "learn.recompute"));
    l->log_prob = ZS_NEW(float, l->micro_tokens);
    l->entropy = ZS_NEW(float, l->micro_tokens);
    l->coefficient = ZS_NEW(float, l->micro_tokens);
    l->advantage = ZS_NEW(float, l->micro_tokens);
    l->weight = ZS_NEW(float, l->micro_tokens);
    return l;
}

void zs_learner_destroy(zs_learner *l) {
    if (!l) return;
    zs_workspace_destroy(l->workspace);
    zs_free(l->log_prob);
    zs_free(l->entropy);
    zs_free(l->coefficient);
    zs_free(l->advantage);
    zs_free(l->weight);
    zs_free(l->mask);
    zs_free(l->ref_log_prob);
    zs_free(l->old_log_prob);
    zs_free(l->first);
    zs_free(l->lengths);
    zs_free(l);
}

static void make_room(zs_learner *l, const zs_episodes *e) {
    if (e->num_tokens > l->token_capacity) {
        l->mask = zs_grow(l->mask, l->token_capacity, 2 * e->num_tokens, 1);
        l->ref_log_prob = zs_grow(l->ref_log_prob, l->token_capacity, 2 * e->num_tokens, sizeof(float));
        l->old_log_prob = zs_grow(l->old_log_prob, l->token_capacity, 2 * e->num_tokens, sizeof(float));
        l->token_capacity = 2 * e->num_tokens;
    }
    if (e->count + 2 > l->episode_capacity) {
        l->first = zs_grow(l->first, l->episode_capacity, 2 * (e->count + 2), sizeof(int64_t));
        l->lengths = zs_grow(l->lengths, l->episode_capacity, 2 * (e->count + 2), sizeof(int64_t));
        l->episode_capacity = 2 * (e->count + 2);
    }
}

/* Episodes first..last-1 as one packed batch; offsets (work, [last - first + 1]) start at 0. */
static zs_batch batch_of(const zs_episodes *e, int64_t first, int64_t last, int64_t *offsets) {
    for (int64_t i = first; i <= last; i++)
        offsets[i - first] = e->offsets[i] - e->offsets[first];
    return (zs_batch){last - first, offsets[last - first], offsets, e->ids + e->offsets[first]};
}

/* Log-probabilities of the loss's tokens of episodes first..last-1 under `model` (of the policy's shape) into
 * out [num_tokens], in micro-batches that the episodes fill in order. Returns how many episodes that were:
 * without `all` those of the last micro-batch, which more may join, are left. */
static int64_t log_probs_under(zs_learner *l, const zs_episodes *e, int64_t first, bool all,
                               const zs_model *model, float *out) {
    for (int64_t i = first; i < e->count; i++)
        l->lengths[i - first] = e->offsets[i + 1] - e->offsets[i];
    int64_t batches = zs_pack(e->count - first, l->lengths, l->micro_tokens, l->first) - !all;
    if (batches <= 0) return 0;
    int64_t *offsets = ZS_NEW(int64_t, e->count + 1);
    for (int64_t b = 0; b < batches; b++) {
        int64_t from = first + l->first[b];
        zs_batch batch = batch_of(e, from, first + l->first[b + 1], offsets);
        zs_model_forward(model, l->workspace, &batch);
        int64_t begin = e->offsets[from];
        zs_model_head_masked(model, l->workspace, &batch, (float)l->temperature, l->mask + begin, out + begin,
                             NULL, NULL, NULL, NULL, NULL);
    }
    zs_free(offsets);
    return l->first[batches];
}

/* Documents were not sampled by the policy, so nothing is recorded for them; when they are trained on, the
 * policy's own log-probabilities before the update stand in. */
static void record_documents(const zs_learner *l, zs_episodes *e) {
    for (int64_t t = 0; t < e->num_tokens; t++)
        if (e->kind[t] == ZS_TOKEN_DOCUMENT) e->log_prob[t] = l->old_log_prob[t];
}

/* With importance weights and several updates a step, the policy before them is asked once. With one update
 * its own forward says the same, and without weights the recorded log-probabilities stand for it. */
static bool old_takes_a_pass(const zs_learner *l) {
    return l->corrects && l->epochs * l->minibatches > 1;
}

/* Scores of the whole step, gathered over the learners (each fills its own episodes' places), then the
 * advantage of each group; with KL in the reward its sum over the episode's policy tokens is taken off first
 * (Ouyang et al. 2022). */
static void advantages(zs_learner *l, zs_episodes *e, int64_t num_questions) {
    int64_t n = num_questions * l->samples;
    double *score = ZS_NEW(double, n), *advantage = ZS_NEW(double, n);
    int64_t *group = ZS_NEW(int64_t, n);
    for (int64_t i = 0; i < e->count; i++) {
        double s = e->info[i].reward;
        for (int64_t t = e->offsets[i]; l->reward_kl_coef > 0.0 && t < e->offsets[i + 1]; t++)
            if (e->kind[t] == ZS_TOKEN_POLICY)
                s -= l->reward_kl_coef * zs_kl_estimate(ZS_KL_K1, e->log_prob[t], l->ref_log_prob[t], NULL);
        score[e->info[i].question * l->samples + e->info[i].sample] = s;
    }
    zs_comm_sum(l->comm, &l->comm->learners, score, (int)n, "the scores of the learners");
    for (int64_t i = 0; i < n; i++)
        group[i] = i / l->samples;
    zs_advantage_grpo(n, score, group, l->normalize, advantage);
    for (int64_t i = 0; i < e->count; i++)
        e->info[i].advantage = advantage[e->info[i].question * l->samples + e->info[i].sample];
    zs_free(score);
    zs_free(advantage);
    zs_free(group);
}

typedef struct micro_batch {
    zs_learner *learner;
    const zs_episodes *episodes;
    int64_t first_token; /* its place in the episodes */
} micro_batch;

/* Loss coefficients of tokens [from, to) of a micro-batch, whose log_prob and entropy are there. */
static void token_losses(void *context, int64_t from, int64_t to) {
    const micro_batch *micro = context;
    zs_learner *l = micro->learner;
    int64_t at = micro->first_token + from, n = to - from;
    const float *recorded = micro->episodes->log_prob + at, *old = recorded, *log_prob = l->log_prob + from;
    if (l->corrects) old = old_takes_a_pass(l) ? l->old_log_prob + at : log_prob;
    zs_policy_tokens tokens = {.mask = l->mask + at,
                               .log_prob = log_prob,
                               .old_log_prob = old,
                               .ref_log_prob = l->reference ? l->ref_log_prob + at : NULL,
                               .weight = l->corrects ? l->weight + from : NULL,
                               .advantage = l->advantage + from,
                               .entropy = l->entropy + from};
    if (l->corrects || l->updates_made == 0) /* else the policy has moved on from what it was */
        zs_importance_weights(l->importance_cap, n, tokens.mask, l->corrects ? old : log_prob, recorded,
                              l->corrects ? l->weight + from : NULL, &l->drift);
    zs_policy_loss_tokens(&l->loss, n, &tokens, l->coefficient + from, &l->sums);
}

/* One micro-batch: log-probabilities, loss coefficients, gradients. */
static void train_batch(zs_learner *l, const zs_episodes *e, int64_t first, int64_t last, int64_t *offsets,
                        bool ready) {
    zs_batch batch = batch_of(e, first, last, offsets);
    int64_t begin = e->offsets[first];
    for (int64_t i = first; i < last; i++)
        for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
            l->advantage[t - begin] = (float)e->info[i].advantage;
    micro_batch micro = {l, e, begin};
    zs_model_forward(l->policy, l->workspace, &batch);
    zs_model_head_masked(l->policy, l->workspace, &batch, (float)l->temperature, l->mask + begin, l->log_prob,
                         l->entropy, l->coefficient, token_losses, &micro, l->optimizer->grads);
    zs_model_backward(l->policy, l->workspace, &batch, l->optimizer->grads, ready ? zs_optimizer_ready : NULL,
                      l->optimizer);
}

/* One update on the episodes of minibatch k: those of questions with question mod minibatches == k, which
 * keeps groups whole on any number of learners. `part`: those episodes, packed one after another. */
static void update_on(zs_learner *l, const zs_episodes *part, zs_update_report *report) {
    for (int64_t i = 0; i < part->count; i++)
        l->lengths[i] = part->offsets[i + 1] - part->offsets[i];
    double tokens = 0.0;
    for (int64_t t = 0; t < part->num_tokens; t++)
        tokens += l->mask[t];
    zs_comm_sum(l->comm, &l->comm->learners, &tokens, 1, "the token counts of the learners");
    l->loss.denominator = fmax(1.0, tokens);
    int64_t batches = zs_pack(part->count, l->lengths, l->micro_tokens, l->first);
    int64_t *offsets = ZS_NEW(int64_t, part->count + 1);
    for (int64_t b = 0; b < batches; b++)
        train_batch(l, part, l->first[b], l->first[b + 1], offsets, b + 1 == batches);
    zs_free(offsets);
    report->grad_norm = zs_optimizer_update(l->optimizer, &report->learning_rate);
    l->updates_made++;
}

/* Loss mask from token `from` on: policy tokens, and document tokens too when masking is off. */
static void make_mask(zs_learner *l, const zs_episodes *e, int64_t from) {
    for (int64_t t = from; t < e->num_tokens; t++)
        l->mask[t] = e->kind[t] == ZS_TOKEN_POLICY || (!l->mask_documents && e->kind[t] == ZS_TOKEN_DOCUMENT);
}

/* The episodes of minibatch k, with their log-probabilities under reference and old policy. */
static void take_part(const zs_learner *l, const zs_episodes *e, int64_t k, zs_episodes *part, float *ref,
                      float *old) {
    zs_episodes_clear(part);
    for (int64_t i = 0; i < e->count; i++) {
        if (e->info[i].question % l->minibatches != k) continue;
        int64_t at = e->offsets[i];
        size_t bytes = (size_t)(e->offsets[i + 1] - at) * sizeof(float);
        memcpy(ref + part->num_tokens, l->ref_log_prob + at, bytes);
        memcpy(old + part->num_tokens, l->old_log_prob + at, bytes);
        zs_episodes_append(part, &e->info[i], e->ids + at, e->kind + at, e->log_prob + at);
    }
}

static void update_in_minibatches(zs_learner *l, const zs_episodes *e, zs_update_report *report) {
    zs_episodes part = {0};
    float *ref = l->ref_log_prob, *part_ref = ZS_NEW(float, l->token_capacity);
    float *old = l->old_log_prob, *part_old = ZS_NEW(float, l->token_capacity);
    for (int64_t epoch = 0; epoch < l->epochs; epoch++)
        for (int64_t k = 0; k < l->minibatches; k++) {
            take_part(l, e, k, &part, part_ref, part_old);
            make_mask(l, &part, 0);
            l->ref_log_prob = part_ref;
            l->old_log_prob = part_old;
            update_on(l, &part, report);
            l->ref_log_prob = ref;
            l->old_log_prob = old;
        }
    zs_episodes_free(&part);
    zs_free(part_ref);
    zs_free(part_old);
}

/* Means over the tokens of all learners. */
static void finish_report(zs_learner *l, int64_t num_tokens, zs_update_report *report) {
    const zs_policy_sums *s = &l->sums;
    const zs_drift_sums *d = &l->drift;
    double totals[] = {s->tokens, s->loss,   s->kl,     s->clipped,  s->entropy, (double)num_tokens,
                       d->tokens, d->weight, d->capped, d->mismatch, d->kl};
    double greatest = d->max;
    zs_comm_sum(l->comm, &l->comm->learners, totals, 11, "the sums of the learners");
    zs_comm_max(l->comm, &l->comm->learners, &greatest, 1, "the sums of the learners");
    double n = fmax(1.0, totals[0]), measured = fmax(1.0, totals[6]);
    report->loss = totals[1] / (double)(l->epochs * l->minibatches);
    report->kl = totals[2] / n;
    report->clip_fraction = totals[3] / n;
    report->entropy = totals[4] / n;
    report->tokens = totals[5];
    report->importance_weight = totals[7] / measured;
    report->importance_capped = totals[8] / measured;
    report->mismatch = totals[9] / measured;
    report->mismatch_kl = totals[10] / measured;
    report->mismatch_max = greatest;
}

void zs_learner_prepare(zs_learner *l, const zs_episodes *e, bool all) {
    if (!l->reference || l->prepared == e->count) return;
    make_room(l, e);
    make_mask(l, e, e->offsets[l->prepared]);
    zs_phase_begin(ZS_PHASE_REFERENCE);
    l->prepared += log_probs_under(l, e, l->prepared, all, l->reference, l->ref_log_prob);
    zs_phase_end(ZS_PHASE_REFERENCE);
}

zs_update_report zs_learner_update(zs_learner *l, zs_episodes *e, int64_t num_questions) {
    zs_update_report report = {0};
    l->sums = (zs_policy_sums){0};
    l->drift = (zs_drift_sums){0};
    l->updates_made = 0;
    zs_learner_prepare(l, e, true);
    make_room(l, e);
    make_mask(l, e, 0);
    l->prepared = 0;
    if (old_takes_a_pass(l) || !l->mask_documents) {
        zs_phase_begin(ZS_PHASE_REFERENCE);
        log_probs_under(l, e, 0, true, l->policy, l->old_log_prob);
        zs_phase_end(ZS_PHASE_REFERENCE);
    }
    if (!l->mask_documents) record_documents(l, e);
    advantages(l, e, num_questions);
    zs_phase_begin(ZS_PHASE_UPDATE);
    if (l->minibatches == 1) {
        for (int64_t epoch = 0; epoch < l->epochs; epoch++)
            update_on(l, e, &report);
    } else {
        update_in_minibatches(l, e, &report);
    }
    zs_phase_end(ZS_PHASE_UPDATE);
    finish_report(l, e->num_tokens, &report);
    return report;
}
