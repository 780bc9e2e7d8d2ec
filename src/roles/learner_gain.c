/* Turn credit by information gain (Wang et al. 2025, IGPO, arXiv 2510.14967): a turn is worth what it adds to
 * the policy's own probability of the golden answer, were it to answer then. */
#include "learner_parts.h"

#include "zerosearch/memory.h"

#include <math.h>
#include <string.h>

/* A turn: a run of policy tokens and what the environment put after it. */
typedef struct turn {
    int64_t episode, begin; /* first token, within the episode */
    double probability;     /* of the answer before it: exp of the mean log-probability a token (eq. 3) */
    double gain;            /* probability before the next turn less this; 0 for the last (eq. 4) */
} turn;

void zs_learner_add_answers(zs_learner *l, const zs_config *config, zs_answer_ids *answer, void *context) {
    l->gain_weight = zs_config_float(config, "reward.information_gain");
    l->answer = answer;
    l->answer_context = context;
}

static turn *find_turns(const zs_episodes *e, int64_t *count) {
    turn *turns = ZS_NEW(turn, e->num_tokens + 1);
    *count = 0;
    for (int64_t i = 0; i < e->count; i++)
        for (int64_t t = e->offsets[i] + 1; t < e->offsets[i + 1]; t++)
            if (e->kind[t] == ZS_TOKEN_POLICY && e->kind[t - 1] != ZS_TOKEN_POLICY)
                turns[(*count)++] = (turn){.episode = i, .begin = t - e->offsets[i]};
    return turns;
}

/* The text before a turn and then the answer, whose own tokens count as the policy's; empty where it is too
 * long for a micro-batch. */
static void append_probe(const zs_learner *l, const zs_episodes *e, const turn *at, zs_episodes *probes) {
    const zs_episode_info *info = &e->info[at->episode];
    int64_t room = l->micro_tokens, from = 0, first = e->offsets[at->episode];
    int32_t *ids = ZS_NEW(int32_t, room);
    uint8_t *kind = ZS_NEW(uint8_t, room);
    float *none = ZS_NEW(float, room);
    memcpy(ids, e->ids + first, (size_t)at->begin * sizeof(int32_t));
    int64_t added = l->answer(l->answer_context, info->question_index, e->ids + first, at->begin,
                              room - at->begin, ids + at->begin, &from);
    for (int64_t t = from; t < added; t++)
        kind[at->begin + t] = ZS_TOKEN_POLICY;
    zs_episode_info probe = {.length = added > from ? at->begin + added : 0};
    zs_episodes_append(probes, &probe, ids, kind, none);
    zs_free(ids);
    zs_free(kind);
    zs_free(none);
}

static void answer_probabilities(zs_learner *l, const zs_episodes *probes, turn *turns) {
    int64_t *first = ZS_NEW(int64_t, probes->count + 2), *lengths = ZS_NEW(int64_t, probes->count + 1),
            *offsets = ZS_NEW(int64_t, probes->count + 2);
    uint8_t *mask = ZS_NEW(uint8_t, probes->num_tokens + 1);
    for (int64_t i = 0; i < probes->count; i++)
        lengths[i] = probes->offsets[i + 1] - probes->offsets[i];
    for (int64_t t = 0; t < probes->num_tokens; t++)
        mask[t] = probes->kind[t] == ZS_TOKEN_POLICY;
    int64_t batches = zs_pack(probes->count, lengths, l->micro_tokens, first);
    for (int64_t b = 0; b < batches; b++) {
        int64_t begin = probes->offsets[first[b]];
        zs_batch batch = zs_learner_batch(probes, first[b], first[b + 1], offsets);
        zs_model_forward(l->policy, l->workspace, &batch);
        zs_model_head_masked(l->policy, l->workspace, &batch, 1.0f, mask + begin, l->log_prob, NULL, NULL,
                             NULL, NULL, NULL);
        for (int64_t i = first[b]; i < first[b + 1]; i++) {
            double sum = 0.0, tokens = 0.0;
            for (int64_t t = probes->offsets[i]; t < probes->offsets[i + 1]; t++)
                if (mask[t]) {
                    sum += l->log_prob[t - begin];
                    tokens += 1.0;
                }
            turns[i].probability = tokens > 0.0 ? exp(sum / tokens) : 0.0;
        }
    }
    zs_free(first);
    zs_free(lengths);
    zs_free(offsets);
    zs_free(mask);
}

/* Gains are normalised among all turns of a question's episodes, as the scores are among its episodes, and a
 * turn's tokens are credited with those from it on (eq. 5 and 6 without discount). */
static void credit(zs_learner *l, const zs_episodes *e, const turn *turns, int64_t count,
                   const zs_moments *moments) {
    double sum = 0.0;
    for (int64_t k = count - 1; k >= 0; k--) {
        const turn *now = &turns[k];
        bool last = k + 1 == count || turns[k + 1].episode != now->episode;
        int64_t at = e->offsets[now->episode],
                end = last ? e->offsets[now->episode + 1] : at + turns[k + 1].begin;
        if (last) {
            sum = 0.0;
        } else {
            const zs_moments *m = &moments[e->info[now->episode].question];
            double mean = m->sum / m->count, spread = 1.0;
            if (l->advantage == ZS_ADVANTAGE_GRPO)
                spread = m->count > 1.0
                             ? sqrt(fmax(0.0, (m->squares - m->sum * mean) / (m->count - 1.0))) + 1e-6
                             : 1.0;
            sum += (now->gain - mean) / spread;
        }
        for (int64_t t = at + now->begin; t < end; t++)
            if (l->mask[t]) l->token[TOKEN_ADVANTAGE][t] += (float)(l->gain_weight * sum);
    }
}

void zs_learner_credit_turns(zs_learner *l, const zs_episodes *e, int64_t num_questions) {
    int64_t count;
    turn *turns = find_turns(e, &count);
    zs_episodes probes = {0};
    for (int64_t k = 0; k < count; k++)
        append_probe(l, e, &turns[k], &probes);
    answer_probabilities(l, &probes, turns);
    zs_episodes_free(&probes);
    zs_moments *moments = ZS_NEW(zs_moments, num_questions);
    for (int64_t k = 0; k + 1 < count; k++) {
        if (turns[k + 1].episode != turns[k].episode) continue;
        double gain = turns[k].gain = turns[k + 1].probability - turns[k].probability;
        zs_moments *m = &moments[e->info[turns[k].episode].question];
        m->count += 1.0;
        m->sum += gain;
        m->squares += gain * gain;
        l->terms.turns += 1.0;
        l->terms.gain += gain;
    }
    zs_comm_sum(l->comm, &l->comm->learners, (double *)moments, (int)(3 * num_questions),
                "the gains of the learners");
    credit(l, e, turns, count, moments);
    zs_free(moments);
    zs_free(turns);
}
