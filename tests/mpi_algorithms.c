/* ranks: 1 2 3 4 */
/* Every algorithm's update comes out the same however many learners share the episodes: beside it, each rank
 * makes the update alone on all of them. */
#include "zerosearch/learner.h"
#include "zerosearch/memory.h"
#include "zerosearch/presets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

enum { QUESTIONS = 4, SAMPLES = 3, PROMPT = 5, LENGTH = 30 };

static zs_comm comm, alone; /* alone: this rank is the only learner */

static double uniform(zs_rng *rng, double low, double high) {
    return low + (high - low) * ((double)zs_rng_next(rng) + 0.5) / 4294967296.0;
}

/* Random tokens: a prompt, policy tokens, a document, policy tokens; recorded as the policy has them. */
static void make_episodes(const zs_model *policy, zs_episodes *e) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, 4, 0, 0);
    for (int64_t q = 0; q < QUESTIONS; q++)
        for (int64_t s = 0; s < SAMPLES; s++) {
            zs_episode_info info = {.question = q, .sample = s, .reward = uniform(&rng, 0, 1)};
            int64_t n = info.length = LENGTH - 3 * s - q;
            int32_t ids[LENGTH];
            uint8_t kind[LENGTH];
            float none[LENGTH] = {0};
            for (int64_t t = 0; t < n; t++) {
                ids[t] = (int32_t)zs_rng_below(&rng, policy->config.vocab_size);
                kind[t] = t < PROMPT          ? ZS_TOKEN_PROMPT
                          : t >= 12 && t < 16 ? ZS_TOKEN_DOCUMENT
                                              : ZS_TOKEN_POLICY;
            }
            zs_episodes_append(e, &info, ids, kind, none);
        }
    zs_workspace *workspace = zs_workspace_create(&policy->config, e->num_tokens, false, false);
    zs_batch batch = {e->count, e->num_tokens, e->offsets, e->ids};
    float *under = ZS_NEW(float, e->num_tokens);
    zs_model_forward(policy, workspace, &batch);
    zs_model_head(policy, workspace, &batch, 1.0f, under, NULL, NULL, NULL);
    for (int64_t t = 0; t < e->num_tokens; t++)
        if (e->kind[t] == ZS_TOKEN_POLICY) e->log_prob[t] = under[t];
    zs_free(under);
    zs_workspace_destroy(workspace);
}

static zs_model *start_model(bool values, uint64_t seed) {
    zs_model_config shape;
    assert_true(zs_model_shape("tiny", &shape));
    shape.value_head = values;
    zs_model *model = zs_model_create(&shape);
    zs_model_init(model, seed);
    for (int64_t i = 0; i < shape.vocab_size * shape.hidden_size; i++)
        model->params[model->embed + i] *= 20.0f; /* so that tokens differ */
    return model;
}

/* Two steps of the algorithm; policy (and values) move. */
static zs_update_report learn(const zs_comm *ranks, const char *algorithm, const zs_episodes *given,
                              const zs_model *reference, zs_model *policy, zs_model *values) {
    char name[60];
    snprintf(name, sizeof name, "learn.algorithm=%s", algorithm);
    const char *settings[] = {name,
                              "rollout.samples=3",
                              "rollout.questions=4",
                              "rollout.context_tokens=30",
                              "rollout.response_tokens=20",
                              "learn.kl_coef=0.05",
                              "learn.kl_target=0.01",
                              "learn.kl_horizon=100",
                              "learn.llds=0.2",
                              "learn.minibatches=2",
                              "reward.overlong=0.3",
                              "learn.learning_rate=1e-3",
                              "learn.value_learning_rate=1e-2",
                              "learn.micro_tokens=64"};
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, sizeof settings / sizeof *settings, &config, &err),
                     ZS_OK);
    zs_presets_apply(config);
    zs_optimizer *optimizer = zs_optimizer_create(ranks, policy, config, 100),
                 *value_optimizer = values ? zs_optimizer_create(ranks, values, config, 100) : NULL;
    zs_learner *learner = zs_learner_create(ranks, config, policy, reference, optimizer, LENGTH);
    if (values) zs_learner_add_values(learner, config, values, value_optimizer);
    zs_update_report report = {0};
    for (int step = 0; step < 2; step++) {
        zs_episodes e = {0};
        for (int64_t i = 0; i < given->count; i++) {
            if ((i + 1) % ranks->learners.size != ranks->learners.rank) continue; /* groups are parted */
            int64_t at = given->offsets[i];
            zs_episodes_append(&e, &given->info[i], given->ids + at, given->kind + at, given->log_prob + at);
        }
        report = zs_learner_update(learner, &e, QUESTIONS);
        zs_episodes_free(&e);
    }
    zs_learner_destroy(learner);
    zs_optimizer_destroy(optimizer);
    zs_optimizer_destroy(value_optimizer);
    zs_config_free(config);
    return report;
}

/* AdamW moves an element whose gradient is next to 0 by its sign: only how far most have moved can be
 * compared. */
static double distance(const zs_model *a, const zs_model *b) {
    double sum = 0;
    for (int64_t i = 0; i < a->num_params; i++)
        sum += ((double)a->params[i] - b->params[i]) * ((double)a->params[i] - b->params[i]);
    return sqrt(sum);
}

static void updates_agree(void **state) {
    (void)state;
    const char *const algorithms[] = {"reinforce", "reinforce++", "rloo", "grpo",
                                      "dr_grpo",   "dapo",        "gspo", "ppo"};
    zs_model *start = start_model(false, 5), *reference = start_model(false, 6),
             *start_values = start_model(true, 5);
    zs_rng rng = zs_rng_make(8, ZS_STREAM_TEST, 5, 0, 0);
    for (int64_t i = start_values->head; i < start_values->num_params; i++)
        start_values->params[i] = (float)uniform(&rng, -0.3, 0.3);
    zs_episodes e = {0};
    make_episodes(start, &e);
    for (int k = 0; k < 8; k++) {
        bool ppo = strcmp(algorithms[k], "ppo") == 0;
        zs_model *one = zs_model_clone(start), *many = zs_model_clone(start),
                 *one_values = ppo ? zs_model_clone(start_values) : NULL,
                 *many_values = ppo ? zs_model_clone(start_values) : NULL;
        zs_update_report expected = learn(&alone, algorithms[k], &e, reference, one, one_values);
        zs_update_report actual = learn(&comm, algorithms[k], &e, reference, many, many_values);
        const double pairs[][2] = {{expected.loss, actual.loss},
                                   {expected.kl, actual.kl},
                                   {expected.entropy, actual.entropy},
                                   {expected.loss_policy, actual.loss_policy},
                                   {expected.loss_llds, actual.loss_llds},
                                   {expected.reward_overlong, actual.reward_overlong},
                                   {expected.reward_kl, actual.reward_kl},
                                   {expected.kl_coef, actual.kl_coef},
                                   {expected.good_log_prob, actual.good_log_prob},
                                   {expected.grad_norm, actual.grad_norm},
                                   {expected.value_loss, actual.value_loss},
                                   {expected.value_explained, actual.value_explained},
                                   {expected.value_grad_norm, actual.value_grad_norm}};
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
            if (!(fabs(pairs[i][0] - pairs[i][1]) <= 2e-3 * fabs(pairs[i][0]) + 1e-4))
                fail_msg("%s: number %zu is %.8g alone, %.8g on %d learners", algorithms[k], i, pairs[i][0],
                         pairs[i][1], comm.learners.size);
        double moved = distance(start, one);
        assert_true(moved > 0 && distance(one, many) < 0.02 * moved);
        if (ppo) {
            double values_moved = distance(start_values, one_values);
            assert_true(values_moved > 0 && distance(one_values, many_values) < 0.02 * values_moved);
            assert_true(expected.value_loss > 0);
        }
        zs_model_destroy(one);
        zs_model_destroy(many);
        zs_model_destroy(one_values);
        zs_model_destroy(many_values);
    }
    zs_episodes_free(&e);
    zs_model_destroy(start);
    zs_model_destroy(reference);
    zs_model_destroy(start_values);
}

/* The answer of every question: a tag and two tokens. */
static int64_t answer_ids(void *context, int64_t question_index, const int32_t *before, int64_t before_length,
                          int64_t room, int32_t *ids, int64_t *from) {
    (void)context;
    (void)before;
    (void)before_length;
    assert_true(room >= 3);
    ids[0] = 9;
    ids[1] = (int32_t)(20 + question_index);
    ids[2] = 31;
    *from = 1;
    return 3;
}

/* exp of the mean log-probability of the answer after `length` tokens. */
static double answer_probability(const zs_model *policy, const int32_t *ids, int64_t length,
                                 int64_t question) {
    int32_t text[LENGTH + 3];
    float log_prob[LENGTH + 3];
    int64_t from, offsets[] = {0, length + 3};
    memcpy(text, ids, (size_t)length * sizeof(int32_t));
    answer_ids(NULL, question, NULL, 0, 3, text + length, &from);
    zs_workspace *workspace = zs_workspace_create(&policy->config, length + 3, false, false);
    zs_batch batch = {1, length + 3, offsets, text};
    zs_model_forward(policy, workspace, &batch);
    zs_model_head(policy, workspace, &batch, 1.0f, log_prob, NULL, NULL, NULL);
    zs_workspace_destroy(workspace);
    return exp(0.5 * ((double)log_prob[length + 1] + log_prob[length + 2]));
}

/* IGPO: each episode has two turns, before and after its document (tokens 12 to 15); rewards are equal, so
 * that the surrogate at r = 1 is made of the gains alone. */
static void turns_are_credited(void **state) {
    (void)state;
    zs_model *policy = start_model(false, 5);
    zs_episodes e = {0}, mine = {0};
    make_episodes(policy, &e);
    double gain[QUESTIONS * SAMPLES], mean_gain = 0, expected = 0, tokens = 0;
    for (int64_t i = 0; i < e.count; i++) {
        const int32_t *ids = e.ids + e.offsets[i];
        e.info[i].reward = 0.5;
        e.info[i].question_index = e.info[i].question;
        gain[i] = answer_probability(policy, ids, 16, e.info[i].question) -
                  answer_probability(policy, ids, PROMPT, e.info[i].question);
        mean_gain += gain[i] / (QUESTIONS * SAMPLES);
    }
    for (int64_t i = 0; i < e.count; i++) {
        const double *group = gain + i - i % SAMPLES;
        double mean = (group[0] + group[1] + group[2]) / SAMPLES, squares = 0;
        for (int s = 0; s < SAMPLES; s++)
            squares += (group[s] - mean) * (group[s] - mean);
        expected -= 0.4 * (gain[i] - mean) / (sqrt(squares / (SAMPLES - 1)) + 1e-6) * (12 - PROMPT);
        tokens += (double)(e.offsets[i + 1] - e.offsets[i]) - PROMPT - 4;
        if ((i + 1) % comm.learners.size == comm.learners.rank)
            zs_episodes_append(&mine, &e.info[i], e.ids + e.offsets[i], e.kind + e.offsets[i],
                               e.log_prob + e.offsets[i]);
    }
    const char *settings[] = {"rollout.samples=3", "rollout.questions=4", "reward.information_gain=0.4",
                              "learn.kl_coef=0", "learn.micro_tokens=64"};
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, 5, &config, &err), ZS_OK);
    zs_optimizer *optimizer = zs_optimizer_create(&comm, policy, config, 100);
    zs_learner *learner = zs_learner_create(&comm, config, policy, NULL, optimizer, LENGTH);
    zs_learner_add_answers(learner, config, answer_ids, NULL);
    zs_update_report report = zs_learner_update(learner, &mine, QUESTIONS);
    assert_float_equal(report.information_gain, mean_gain, 1e-5 * fabs(mean_gain) + 1e-8);
    assert_float_equal(report.loss, expected / tokens, 2e-4);
    zs_learner_destroy(learner);
    zs_optimizer_destroy(optimizer);
    zs_config_free(config);
    zs_episodes_free(&e);
    zs_episodes_free(&mine);
    zs_model_destroy(policy);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK ||
        zs_comm_divide(&comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, false, &err) != ZS_OK)
        return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    alone = comm;
    alone.learners = (zs_group){MPI_COMM_SELF, 0, 1};
    const struct CMUnitTest tests[] = {cmocka_unit_test(updates_agree), cmocka_unit_test(turns_are_credited)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
