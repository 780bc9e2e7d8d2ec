/* ranks: 1 2 3 */
/* A learner's update with importance weights, whatever the number of learners: its loss and gradient against
 * the formula and the model's own backward, put together here over all episodes. */
#include "zerosearch/learner.h"
#include "zerosearch/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

static zs_comm comm;

static double uniform(zs_rng *rng, double low, double high) {
    return low + (high - low) * ((double)zs_rng_next(rng) + 0.5) / 4294967296.0;
}

/* The formula of one token, in double and from what the paper says: w = min(old / mu, cap) is a constant. */
static double token_loss(double log_prob, double old, double mu, double ref, double a, double cap,
                         double clip, double kl_coef) {
    double w = exp(old) / exp(mu);
    if (w > cap) w = cap;
    double r = exp(log_prob) / exp(old), inside = r;
    if (inside < 1 - clip) inside = 1 - clip;
    if (inside > 1 + clip) inside = 1 + clip;
    double surrogate = r * a < inside * a ? r * a : inside * a;
    double k3 = exp(ref) / exp(log_prob) - 1 - (ref - log_prob);
    return -w * surrogate + kl_coef * k3;
}

enum { QUESTIONS = 3, SAMPLES = 2, PROMPT = 5, LENGTH = 30 };

/* All log-probabilities of the episodes under the model. */
static void log_probs(const zs_model *model, const zs_episodes *e, float *out) {
    zs_workspace *workspace = zs_workspace_create(&model->config, e->num_tokens, true, false);
    zs_batch batch = {e->count, e->num_tokens, e->offsets, e->ids};
    zs_model_forward(model, workspace, &batch);
    zs_model_head(model, workspace, &batch, 1.0f, out, NULL, NULL, NULL);
    zs_workspace_destroy(workspace);
}

/* Norm of the gradient that the coefficients give. */
static double gradient_norm(const zs_model *model, const zs_episodes *e, const float *coefficient) {
    zs_workspace *workspace = zs_workspace_create(&model->config, e->num_tokens, true, false);
    zs_batch batch = {e->count, e->num_tokens, e->offsets, e->ids};
    float *grads = ZS_NEW(float, model->num_params);
    zs_model_forward(model, workspace, &batch);
    zs_model_head(model, workspace, &batch, 1.0f, NULL, NULL, coefficient, grads);
    zs_model_backward(model, workspace, &batch, grads, NULL, NULL);
    double sum = 0;
    for (int64_t i = 0; i < model->num_params; i++)
        sum += (double)grads[i] * grads[i];
    zs_free(grads);
    zs_workspace_destroy(workspace);
    return sqrt(sum);
}

/* Episodes of random tokens: a prompt, policy tokens, a document, policy tokens. The recorded
 * log-probabilities are off by up to `drift` from the policy's. */
static void make_episodes(const zs_model *policy, double drift, zs_episodes *e) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, 2, 0, 0);
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
    float *under = ZS_NEW(float, e->num_tokens);
    log_probs(policy, e, under);
    for (int64_t t = 0; t < e->num_tokens; t++)
        if (e->kind[t] == ZS_TOKEN_POLICY) e->log_prob[t] = under[t] + (float)uniform(&rng, -drift, drift);
    zs_free(under);
}

static zs_update_report update(zs_model *policy, const zs_episodes *given, const char *dtype, double cap,
                               int epochs, int minibatches) {
    char dtype_text[40], cap_text[60], epochs_text[40], parts_text[40];
    snprintf(dtype_text, sizeof dtype_text, "rollout.dtype=%s", dtype);
    snprintf(cap_text, sizeof cap_text, "learn.importance_cap=%.17g", cap);
    snprintf(epochs_text, sizeof epochs_text, "learn.epochs=%d", epochs);
    snprintf(parts_text, sizeof parts_text, "learn.minibatches=%d", minibatches);
    const char *settings[] = {dtype_text,
                              cap_text,
                              epochs_text,
                              parts_text,
                              "rollout.samples=2",
                              "learn.kl_coef=0.0",
                              "learn.clip_gradient=0.0",
                              "learn.learning_rate=1e-2",
                              "learn.advantage=dr_grpo",
                              "learn.micro_tokens=64"};
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, sizeof settings / sizeof *settings, &config, &err),
                     ZS_OK);
    zs_optimizer *optimizer = zs_optimizer_create(&comm, policy, config, 100);
    zs_learner *learner = zs_learner_create(&comm, config, policy, NULL, optimizer, LENGTH);
    zs_episodes e = {0};
    for (int64_t i = 0; i < given->count; i++) {
        if ((i + 1) % comm.learners.size != comm.learners.rank) continue; /* groups are parted */
        int64_t at = given->offsets[i];
        zs_episodes_append(&e, &given->info[i], given->ids + at, given->kind + at, given->log_prob + at);
    }
    zs_update_report report = zs_learner_update(learner, &e, QUESTIONS);
    zs_episodes_free(&e);
    zs_learner_destroy(learner);
    zs_optimizer_destroy(optimizer);
    zs_config_free(config);
    return report;
}

/* Advantages less the group's mean, spread over the tokens. */
static void token_advantages(const zs_episodes *e, float *out) {
    for (int64_t i = 0; i < e->count; i++) {
        double mean = (e->info[i - i % SAMPLES].reward + e->info[i - i % SAMPLES + 1].reward) / SAMPLES;
        for (int64_t t = e->offsets[i]; t < e->offsets[i + 1]; t++)
            out[t] = (float)(e->info[i].reward - mean);
    }
}

/* Loss of the policy as it is, the old policy's log-probabilities being `old`; coefficients too. */
static double expected_loss(const zs_model *policy, const zs_episodes *e, const float *old, double cap,
                            float *coefficient) {
    float *now = ZS_NEW(float, e->num_tokens), *advantage = ZS_NEW(float, e->num_tokens);
    log_probs(policy, e, now);
    token_advantages(e, advantage);
    double sum = 0, tokens = 0;
    for (int64_t t = 0; t < e->num_tokens; t++) {
        coefficient[t] = 0;
        if (e->kind[t] != ZS_TOKEN_POLICY) continue;
        tokens += 1;
        double h = 1e-6, at[3];
        for (int k = 0; k < 3; k++)
            at[k] = token_loss(now[t] + (k - 1) * h, old[t], e->log_prob[t], 0, advantage[t], cap, 0.2, 0);
        sum += at[1];
        coefficient[t] = (float)((at[2] - at[0]) / (2 * h));
    }
    for (int64_t t = 0; t < e->num_tokens; t++)
        coefficient[t] /= (float)tokens;
    zs_free(now);
    zs_free(advantage);
    return sum / tokens;
}

static zs_model *start_policy(void) {
    zs_model_config shape;
    assert_true(zs_model_shape("tiny", &shape));
    zs_model *policy = zs_model_create(&shape);
    zs_model_init(policy, 5);
    for (int64_t i = 0; i < shape.vocab_size * shape.hidden_size; i++)
        policy->params[policy->embed + i] *= 20.0f; /* so that tokens differ in probability */
    return policy;
}

static void learner_weights_its_update(void **state) {
    (void)state;
    zs_model *policy = start_policy();
    zs_episodes e = {0};
    make_episodes(policy, 1.2, &e);
    float *old = ZS_NEW(float, e.num_tokens), *coefficient = ZS_NEW(float, e.num_tokens);
    log_probs(policy, &e, old);
    const double caps[] = {2.0, 1.1, 1e30};
    for (int i = 0; i < 3; i++) {
        zs_model *one = zs_model_clone(policy), *two = zs_model_clone(policy);
        double loss = expected_loss(policy, &e, old, caps[i], coefficient);
        double norm = gradient_norm(policy, &e, coefficient);
        zs_update_report report = update(one, &e, "bf16", caps[i], 1, 1);
        assert_float_equal(report.loss, loss, 1e-6);
        assert_float_equal(report.grad_norm, norm, 1e-4 * norm);
        assert_float_equal(report.clip_fraction, 0.0, 0.0); /* r is 1 */
        assert_true(i == 2 ? report.importance_capped == 0.0 : report.importance_capped > 0.1);
        /* A second epoch: r is against the policy before the first, the weights are what they were. */
        double next = expected_loss(one, &e, old, caps[i], coefficient);
        double next_norm = gradient_norm(one, &e, coefficient);
        zs_update_report both = update(two, &e, "int8", caps[i], 2, 1); /* corrected as bf16 is */
        assert_float_equal(both.loss, (loss + next) / 2, 1e-5);
        assert_float_equal(both.grad_norm, next_norm, 1e-2 * next_norm);
        assert_float_equal(both.importance_weight, report.importance_weight, 1e-6);
        assert_float_equal(both.importance_capped, report.importance_capped, 1e-12);
        assert_true(both.mismatch_max > 1.0 && both.mismatch_max < 1.2 + 1e-4);
        assert_true(both.clip_fraction > 0.0);
        zs_model_destroy(one);
        zs_model_destroy(two);
    }
    zs_free(old);
    zs_free(coefficient);
    zs_episodes_free(&e);
    zs_model_destroy(policy);
}

/* Two minibatches without a step between them would be the two halves of one; with it the weights still are
 * those of the policy before the step. */
static void learner_weights_minibatches(void **state) {
    (void)state;
    zs_model *policy = start_policy(), *parts = zs_model_clone(policy);
    zs_episodes e = {0};
    make_episodes(policy, 0.8, &e);
    zs_update_report whole = update(policy, &e, "bf16", 1.5, 1, 1);
    zs_update_report halves = update(parts, &e, "bf16", 1.5, 2, 2);
    assert_float_equal(halves.importance_weight, whole.importance_weight, 1e-6);
    assert_float_equal(halves.importance_capped, whole.importance_capped, 1e-12);
    assert_float_equal(halves.mismatch_kl, whole.mismatch_kl, 1e-6);
    assert_float_equal(halves.mismatch, whole.mismatch, 1e-6);
    zs_episodes_free(&e);
    zs_model_destroy(policy);
    zs_model_destroy(parts);
}

/* No correction: with cap 0, and where rollouts play in the learner's precision, the recorded
 * log-probabilities are the old policy's, whatever the cap; the drift is measured all the same. */
static void learner_without_correction(void **state) {
    (void)state;
    zs_model *start = start_policy();
    zs_episodes e = {0};
    make_episodes(start, 0.4, &e);
    float *coefficient = ZS_NEW(float, e.num_tokens);
    const struct {
        const char *dtype;
        double cap;
    } off[] = {{"f32", 2.0}, {"f32", 0.0}, {"bf16", 0.0}};
    zs_model *first = NULL;
    for (int i = 0; i < 3; i++) {
        zs_model *policy = zs_model_clone(start);
        /* old = mu: the weight of the formula is 1, the ratio holds the drift */
        double loss = expected_loss(policy, &e, e.log_prob, 2.0, coefficient);
        zs_update_report report = update(policy, &e, off[i].dtype, off[i].cap, 1, 1);
        assert_float_equal(report.loss, loss, 1e-6);
        assert_true(report.clip_fraction > 0.0);
        assert_float_equal(report.importance_capped, 0.0, 0.0);
        assert_true(report.mismatch > 0.1 && report.mismatch_kl > 0.01 && report.mismatch_max > 0.3);
        if (!first)
            first = policy;
        else {
            assert_memory_equal(first->params, policy->params, (size_t)policy->num_params * sizeof(float));
            zs_model_destroy(policy);
        }
    }
    zs_model_destroy(first);
    zs_free(coefficient);
    zs_episodes_free(&e);
    zs_model_destroy(start);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK ||
        zs_comm_divide(&comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, false, &err) != ZS_OK)
        return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(learner_weights_its_update),
                                       cmocka_unit_test(learner_weights_minibatches),
                                       cmocka_unit_test(learner_without_correction)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
