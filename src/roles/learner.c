/* The learner's part of a step: reference log-probabilities, advantages, forward, loss, backward, update. */
#include "learner_parts.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <string.h>

/* The place of a setting's value among its choices, which are in the order of the enum. */
static int choice(const zs_config *config, const char *key, const char *const *choices) {
    int i = 0;
    while (strcmp(zs_config_string(config, key), choices[i]) != 0)
        i++;
    return i;
}

static void read_grid(zs_learner *l, const zs_config *config, int64_t max_length) {
    static const char *const advantages[] = {"score", "whiten", "rloo", "grpo", "dr_grpo", "gae"};
    static const char *const aggregations[] = {"token_mean", "sequence_mean", "constant"};
    static const char *const kl_types[] = {"k1", "k2", "k3"};
    l->advantage = (zs_advantage)choice(config, "learn.advantage", advantages);
    l->aggregation = (zs_aggregation)choice(config, "learn.aggregation", aggregations);
    l->aggregation_length = (double)zs_config_int(config, "learn.aggregation_length");
    if (l->aggregation_length == 0.0)
        l->aggregation_length = (double)zs_config_int(config, "rollout.response_tokens");
    l->sequence_ratio = strcmp(zs_config_string(config, "learn.ratio"), "sequence") == 0;
    l->gamma = zs_config_float(config, "learn.gamma");
    l->lambda = zs_config_float(config, "learn.lambda");
    l->overlong_limit = (double)max_length;
    l->overlong_buffer = zs_config_float(config, "reward.overlong") * l->overlong_limit;
    l->mask_documents = zs_config_bool(config, "learn.mask_documents");
    l->kl_in_reward = strcmp(zs_config_string(config, "learn.kl_in"), "reward") == 0;
    l->kl_target = zs_config_float(config, "learn.kl_target");
    l->kl_horizon = zs_config_float(config, "learn.kl_horizon");
    l->loss = (zs_policy_loss){.clip_low = zs_config_float(config, "learn.clip_low"),
                               .clip_high = zs_config_float(config, "learn.clip_high"),
                               .kl_type = (zs_kl_type)choice(config, "learn.kl_type", kl_types),
                               .llds = zs_config_float(config, "learn.llds")};
    zs_learner_set_kl_coef(l, zs_config_float(config, "learn.kl_coef"));
    bool drifts = strcmp(zs_config_string(config, "rollout.dtype"), "f32") != 0 ||
                  strcmp(zs_config_string(config, "rollout.cache_dtype"), "f32") != 0 ||
                  zs_config_int(config, "rollout.staleness") > 0;
    l->corrects = drifts && zs_config_float(config, "learn.importance_cap") > 0.0;
    l->importance_cap = l->corrects ? zs_config_float(config, "learn.importance_cap") : INFINITY;
}

double zs_learner_kl_coef(const zs_learner *l) {
    return l->kl_coef;
}

void zs_learner_set_kl_coef(zs_learner *l, double kl_coef) {
    l->kl_coef = kl_coef;
    l->loss.kl_coef = l->kl_in_reward ? 0.0 : kl_coef;
}

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
    l->temperature = zs_config_float(config, "rollout.temperature");
    if (l->temperature <= 0.0) l->temperature = 1.0;
    read_grid(l, config, max_length);
    l->workspace = zs_workspace_create(&policy->config, l->micro_tokens, true,
                                       zs_config_bool(config, "learn.recompute"));
    float **work[] = {&l->log_prob, &l->entropy, &l->coefficient, &l->weight, &l->share, &l->log_ratio};
    for (size_t i = 0; i < sizeof work / sizeof *work; i++)
        *work[i] = ZS_NEW(float, l->micro_tokens);
    l->preserved = ZS_NEW(uint8_t, l->micro_tokens);
    return l;
}

void zs_learner_destroy(zs_learner *l) {
    if (!l) return;
    zs_workspace_destroy(l->workspace);
    zs_workspace_destroy(l->critic.workspace);
    float *work[] = {l->log_prob, l->entropy,   l->coefficient,  l->weight,
                     l->share,    l->log_ratio, l->critic.value, l->critic.coefficient};
    for (size_t i = 0; i < sizeof work / sizeof *work; i++)
        zs_free(work[i]);
    for (int i = 0; i < TOKEN_ARRAYS; i++)
        zs_free(l->token[i]);
    zs_free(l->preserved);
    zs_free(l->mask);
    zs_free(l->first);
    zs_free(l->lengths);
    zs_free(l);
}

static void make_room(zs_learner *l, const zs_episodes *e) {
    if (e->num_tokens > l->token_capacity) {
        l->mask = zs_grow(l->mask, l->token_capacity, 2 * e->num_tokens, 1);
        for (int i = 0; i < TOKEN_ARRAYS; i++)
            l->token[i] = zs_grow(l->token[i], l->token_capacity, 2 * e->num_tokens, sizeof(float));
        l->token_capacity = 2 * e->num_tokens;
    }
    if (e->count + 2 > l->episode_capacity) {
        l->first = zs_grow(l->first, l->episode_capacity, 2 * (e->count + 2), sizeof(int64_t));
        l->lengths = zs_grow(l->lengths, l->episode_capacity, 2 * (e->count + 2), sizeof(int64_t));
        l->episode_capacity = 2 * (e->count + 2);
    }
}

zs_batch zs_learner_batch(const zs_episodes *e, int64_t first, int64_t last, int64_t *offsets) {
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
        zs_batch batch = zs_learner_batch(e, from, first + l->first[b + 1], offsets);
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
        if (e->kind[t] == ZS_TOKEN_DOCUMENT) e->log_prob[t] = l->token[TOKEN_OLD][t];
}

/* With importance weights and several updates a step, the policy before them is asked once. With one update
 * its own forward says the same, and without weights the recorded log-probabilities stand for it. */
static bool old_takes_a_pass(const zs_learner *l) {
    return l->corrects && l->epochs * l->minibatches > 1;
}

typedef struct micro_batch {
    zs_learner *learner;
    const zs_episodes *episodes;
    int64_t first, last; /* episodes */
    int64_t first_token; /* its place in the episodes' tokens */
} micro_batch;

/* The policy before the step's updates, at token `at` of the episodes and `from` of the micro-batch. */
static const float *old_log_probs(const zs_learner *l, const zs_episodes *e, int64_t at, int64_t from) {
    if (!l->corrects) return e->log_prob + at;
    return old_takes_a_pass(l) ? l->token[TOKEN_OLD] + at : l->log_prob + from;
}

/* Does a token's loss depend on the log-probabilities of the episode's other tokens? */
static bool looks_at_sequences(const zs_learner *l) {
    return l->sequence_ratio || l->loss.llds > 0.0;
}

/* Loss coefficients of tokens [from, to) of a micro-batch, whose log_prob and entropy are there. */
static void token_losses(void *context, int64_t from, int64_t to) {
    const micro_batch *micro = context;
    zs_learner *l = micro->learner;
    int64_t at = micro->first_token + from, n = to - from;
    const float *recorded = micro->episodes->log_prob + at, *log_prob = l->log_prob + from,
                *old = old_log_probs(l, micro->episodes, at, from);
    zs_policy_tokens tokens = {.mask = l->mask + at,
                               .log_prob = log_prob,
                               .old_log_prob = old,
                               .ref_log_prob = l->reference ? l->token[TOKEN_REF] + at : NULL,
                               .weight = l->corrects ? l->weight + from : NULL,
                               .advantage = l->token[TOKEN_ADVANTAGE] + at,
                               .entropy = l->entropy + from,
                               .share = l->aggregation == ZS_SEQUENCE_MEAN ? l->share + from : NULL,
                               .log_ratio = l->sequence_ratio ? l->log_ratio + from : NULL,
                               .preserved = l->loss.llds > 0.0 ? l->preserved + from : NULL};
    if (l->corrects || l->updates_made == 0) /* else the policy has moved on from what it was */
        zs_importance_weights(l->importance_cap, n, tokens.mask, l->corrects ? old : log_prob, recorded,
                              l->corrects ? l->weight + from : NULL, &l->drift);
    zs_policy_loss_tokens(&l->loss, n, &tokens, l->coefficient + from, &l->sums);
}

static double masked_tokens(const zs_learner *l, const zs_episodes *e, int64_t i) {
    double tokens = 0.0;
    for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
        tokens += l->mask[t];
    return tokens;
}

/* What the loss needs of whole episodes: each token's share, the sequence's ratio, LLDS' gate. */
static void look_at_sequence(zs_learner *l, const micro_batch *micro, int64_t i, bool has_log_probs) {
    const zs_episodes *e = micro->episodes;
    int64_t at = e->offsets[i], from = at - micro->first_token, n = e->offsets[i + 1] - at;
    double share = 1.0 / fmax(1.0, masked_tokens(l, e, i));
    for (int64_t t = 0; t < n; t++)
        l->share[from + t] = (float)share;
    if (!has_log_probs) return;
    const float *old = old_log_probs(l, e, at, from);
    zs_sequence_log_ratio(n, l->mask + at, l->log_prob + from, old, l->log_ratio + from);
    zs_llds_gate(n, l->mask + at, l->log_prob + from, old, l->token[TOKEN_ADVANTAGE] + at,
                 l->preserved + from);
}

/* Likelihood of what earned something: a fall of it comes before a collapse. */
static void measure_good(zs_learner *l, const micro_batch *micro) {
    const zs_episodes *e = micro->episodes;
    for (int64_t i = micro->first; i < micro->last && l->updates_made == 0; i++)
        for (int64_t t = e->offsets[i]; e->info[i].reward > 0.0 && t < e->offsets[i + 1]; t++)
            if (l->mask[t]) {
                l->good_tokens += 1.0;
                l->good_log_prob += l->log_prob[t - micro->first_token];
            }
}

/* One micro-batch: log-probabilities, loss coefficients, gradients. */
static void train_batch(zs_learner *l, const zs_episodes *e, int64_t first, int64_t last, int64_t *offsets,
                        bool ready) {
    zs_batch batch = zs_learner_batch(e, first, last, offsets);
    micro_batch micro = {l, e, first, last, e->offsets[first]};
    const uint8_t *mask = l->mask + micro.first_token;
    float temperature = (float)l->temperature;
    bool whole = looks_at_sequences(l);
    zs_model_forward(l->policy, l->workspace, &batch);
    if (whole) /* log-probabilities first, since no token's loss is known before the episode's end */
        zs_model_head_masked(l->policy, l->workspace, &batch, temperature, mask, l->log_prob, l->entropy,
                             NULL, NULL, NULL, NULL);
    for (int64_t i = first; i < last; i++)
        look_at_sequence(l, &micro, i, whole);
    if (whole) {
        token_losses(&micro, 0, batch.num_tokens);
        zs_model_head_masked(l->policy, l->workspace, &batch, temperature, mask, l->log_prob, NULL,
                             l->coefficient, NULL, NULL, l->optimizer->grads);
    } else {
        zs_model_head_masked(l->policy, l->workspace, &batch, temperature, mask, l->log_prob, l->entropy,
                             l->coefficient, token_losses, &micro, l->optimizer->grads);
    }
    measure_good(l, &micro);
    zs_model_backward(l->policy, l->workspace, &batch, l->optimizer->grads, ready ? zs_optimizer_ready : NULL,
                      l->optimizer);
}

/* One update on the episodes of minibatch k: those of questions with question mod minibatches == k, which
 * keeps groups whole on any number of learners. `part`: those episodes, packed one after another. */
static void update_on(zs_learner *l, const zs_episodes *part, zs_update_report *report) {
    double sizes[] = {0.0, (double)part->count}; /* tokens, episodes */
    for (int64_t i = 0; i < part->count; i++) {
        l->lengths[i] = part->offsets[i + 1] - part->offsets[i];
        sizes[0] += masked_tokens(l, part, i);
    }
    zs_comm_sum(l->comm, &l->comm->learners, sizes, 2, "the token counts of the learners");
    l->loss.denominator = zs_loss_denominator(l->aggregation, sizes[0], sizes[1], l->aggregation_length);
    int64_t batches = zs_pack(part->count, l->lengths, l->micro_tokens, l->first);
    int64_t *offsets = ZS_NEW(int64_t, part->count + 1);
    bool warms_up = zs_learner_warms_up(l);
    for (int64_t b = 0; b < batches && !warms_up; b++)
        train_batch(l, part, l->first[b], l->first[b + 1], offsets, b + 1 == batches);
    zs_free(offsets);
    if (!warms_up) report->grad_norm = zs_optimizer_update(l->optimizer, &report->learning_rate);
    if (l->critic.model) zs_learner_train_values(l, part, batches, sizes[0], report);
    l->updates_made++;
}

/* Loss mask from token `from` on: policy tokens, and document tokens too when masking is off. */
static void make_mask(zs_learner *l, const zs_episodes *e, int64_t from) {
    for (int64_t t = from; t < e->num_tokens; t++)
        l->mask[t] = e->kind[t] == ZS_TOKEN_POLICY || (!l->mask_documents && e->kind[t] == ZS_TOKEN_DOCUMENT);
}

/* The episodes of minibatch k, with what is known of their tokens. */
static void take_part(const zs_learner *l, const zs_episodes *e, int64_t k, zs_episodes *part,
                      float *token[TOKEN_ARRAYS]) {
    zs_episodes_clear(part);
    for (int64_t i = 0; i < e->count; i++) {
        if (e->info[i].question % l->minibatches != k) continue;
        int64_t at = e->offsets[i];
        for (int a = 0; a < TOKEN_ARRAYS; a++)
            memcpy(token[a] + part->num_tokens, l->token[a] + at,
                   (size_t)(e->offsets[i + 1] - at) * sizeof(float));
        zs_episodes_append(part, &e->info[i], e->ids + at, e->kind + at, e->log_prob + at);
    }
}

static void update_in_minibatches(zs_learner *l, const zs_episodes *e, zs_update_report *report) {
    zs_episodes part = {0};
    float *all[TOKEN_ARRAYS], *own[TOKEN_ARRAYS];
    memcpy(all, l->token, sizeof all);
    for (int a = 0; a < TOKEN_ARRAYS; a++)
        own[a] = ZS_NEW(float, l->token_capacity);
    for (int64_t epoch = 0; epoch < l->epochs; epoch++)
        for (int64_t k = 0; k < l->minibatches; k++) {
            take_part(l, e, k, &part, own);
            make_mask(l, &part, 0);
            memcpy(l->token, own, sizeof own);
            update_on(l, &part, report);
            memcpy(l->token, all, sizeof all);
        }
    zs_episodes_free(&part);
    for (int a = 0; a < TOKEN_ARRAYS; a++)
        zs_free(own[a]);
}

/* Means over the tokens of all learners. */
static void finish_report(zs_learner *l, int64_t num_tokens, zs_update_report *report) {
    const zs_policy_sums *s = &l->sums;
    const zs_drift_sums *d = &l->drift;
    const reward_terms *r = &l->terms;
    double totals[] = {s->tokens,        s->loss,   s->kl,       s->clipped,  s->entropy, (double)num_tokens,
                       d->tokens,        d->weight, d->capped,   d->mismatch, d->kl,      s->surrogate,
                       s->kl_term,       s->llds,   r->episodes, r->overlong, r->kl,      l->good_tokens,
                       l->good_log_prob, r->turns,  r->gain};
    double greatest = d->max;
    zs_comm_sum(l->comm, &l->comm->learners, totals, sizeof totals / sizeof *totals,
                "the sums of the learners");
    zs_comm_max(l->comm, &l->comm->learners, &greatest, 1, "the sums of the learners");
    double n = fmax(1.0, totals[0]), measured = fmax(1.0, totals[6]), episodes = fmax(1.0, totals[14]),
           updates = (double)(l->epochs * l->minibatches);
    report->loss = totals[1] / updates;
    report->loss_policy = totals[11] / updates;
    report->loss_kl = totals[12] / updates;
    report->loss_llds = totals[13] / updates;
    report->reward_overlong = totals[15] / episodes;
    report->reward_kl = totals[16] / episodes;
    report->information_gain = totals[20] / fmax(1.0, totals[19]);
    report->good_log_prob = totals[17] > 0.0 ? totals[18] / totals[17] : NAN;
    report->kl = totals[2] / n;
    report->clip_fraction = totals[3] / n;
    report->entropy = totals[4] / n;
    report->tokens = totals[5];
    report->importance_weight = totals[7] / measured;
    report->importance_capped = totals[8] / measured;
    report->mismatch = totals[9] / measured;
    report->mismatch_kl = totals[10] / measured;
    report->mismatch_max = greatest;
    report->kl_coef = l->kl_coef;
    if (l->critic.model) zs_learner_report_values(l, report);
    if (l->kl_target > 0.0 && totals[0] > 0.0)
        zs_learner_set_kl_coef(l,
                               zs_kl_adapt(l->kl_coef, report->kl, l->kl_target, l->kl_horizon, totals[14]));
}

void zs_learner_prepare(zs_learner *l, const zs_episodes *e, bool all) {
    if (!l->reference || l->prepared == e->count) return;
    make_room(l, e);
    make_mask(l, e, e->offsets[l->prepared]);
    zs_phase_begin(ZS_PHASE_REFERENCE);
    l->prepared += log_probs_under(l, e, l->prepared, all, l->reference, l->token[TOKEN_REF]);
    zs_phase_end(ZS_PHASE_REFERENCE);
}

zs_update_report zs_learner_update(zs_learner *l, zs_episodes *e, int64_t num_questions) {
    zs_update_report report = {0};
    l->sums = (zs_policy_sums){0};
    l->drift = (zs_drift_sums){0};
    l->critic.sums = (zs_value_sums){0};
    l->good_tokens = l->good_log_prob = 0.0;
    l->updates_made = 0;
    zs_learner_prepare(l, e, true);
    make_room(l, e);
    make_mask(l, e, 0);
    l->prepared = 0;
    if (old_takes_a_pass(l) || !l->mask_documents) {
        zs_phase_begin(ZS_PHASE_REFERENCE);
        log_probs_under(l, e, 0, true, l->policy, l->token[TOKEN_OLD]);
        zs_phase_end(ZS_PHASE_REFERENCE);
    }
    if (!l->mask_documents) record_documents(l, e);
    if (l->critic.model) {
        zs_phase_begin(ZS_PHASE_REFERENCE);
        zs_learner_values(l, e);
        zs_phase_end(ZS_PHASE_REFERENCE);
    }
    zs_learner_advantages(l, e, num_questions);
    if (l->gain_weight > 0.0) zs_learner_credit_turns(l, e, num_questions);
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
