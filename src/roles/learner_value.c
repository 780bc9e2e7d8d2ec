/* PPO's value model beside the policy: values of the step's states, and its own updates.
 *
 * The model gives a value at each position, of the text up to and including it. A token is chosen in the
 * state that the position before it ends: its value, and the gradient of its loss, belong there. */
#include "learner_parts.h"

#include "zerosearch/memory.h"

#include <math.h>

void zs_learner_add_values(zs_learner *l, const zs_config *config, zs_model *model, zs_optimizer *optimizer) {
    critic *c = &l->critic;
    c->model = model;
    c->optimizer = optimizer;
    optimizer->schedule.peak = zs_config_float(config, "learn.value_learning_rate");
    c->clip = zs_config_float(config, "learn.value_clip");
    c->warmup_steps = zs_config_int(config, "learn.value_warmup_steps");
    c->workspace =
        zs_workspace_create(&model->config, l->micro_tokens, true, zs_config_bool(config, "learn.recompute"));
    c->value = ZS_NEW(float, l->micro_tokens);
    c->coefficient = ZS_NEW(float, l->micro_tokens);
}

bool zs_learner_warms_up(const zs_learner *l) {
    const critic *c = &l->critic;
    return c->model && c->optimizer->step < c->warmup_steps * l->epochs * l->minibatches;
}

void zs_learner_values(zs_learner *l, const zs_episodes *e) {
    for (int64_t i = 0; i < e->count; i++)
        l->lengths[i] = e->offsets[i + 1] - e->offsets[i];
    int64_t batches = zs_pack(e->count, l->lengths, l->micro_tokens, l->first);
    int64_t *offsets = ZS_NEW(int64_t, e->count + 1);
    for (int64_t b = 0; b < batches; b++) {
        int64_t begin = e->offsets[l->first[b]];
        zs_batch batch = zs_learner_batch(e, l->first[b], l->first[b + 1], offsets);
        zs_model_forward(l->critic.model, l->critic.workspace, &batch);
        zs_model_values(l->critic.model, l->critic.workspace, &batch, l->critic.value);
        for (int64_t t = 0; t < batch.num_tokens; t++)
            l->token[TOKEN_VALUE][begin + t] = l->mask[begin + t] && t > 0 ? l->critic.value[t - 1] : 0.0f;
    }
    zs_free(offsets);
}

static void train_batch(zs_learner *l, const zs_episodes *e, int64_t first, int64_t last, double tokens,
                        int64_t *offsets, bool ready) {
    critic *c = &l->critic;
    zs_batch batch = zs_learner_batch(e, first, last, offsets);
    int64_t begin = e->offsets[first], n = batch.num_tokens - 1;
    zs_model_forward(c->model, c->workspace, &batch);
    zs_model_values(c->model, c->workspace, &batch, c->value);
    /* a prompt comes first, so that the first token is never one of the mask */
    zs_value_loss_tokens(c->clip, tokens, n, l->mask + begin + 1, c->value, l->token[TOKEN_VALUE] + begin + 1,
                         l->token[TOKEN_RETURN] + begin + 1, c->coefficient, &c->sums);
    c->coefficient[n] = 0.0f;
    zs_model_values_backward(c->model, c->workspace, &batch, c->coefficient, c->optimizer->grads);
    zs_model_backward(c->model, c->workspace, &batch, c->optimizer->grads, ready ? zs_optimizer_ready : NULL,
                      c->optimizer);
}

void zs_learner_train_values(zs_learner *l, const zs_episodes *e, int64_t batches, double tokens,
                             zs_update_report *report) {
    int64_t *offsets = ZS_NEW(int64_t, e->count + 1);
    for (int64_t b = 0; b < batches; b++)
        train_batch(l, e, l->first[b], l->first[b + 1], fmax(1.0, tokens), offsets, b + 1 == batches);
    zs_free(offsets);
    double rate;
    report->value_grad_norm = zs_optimizer_update(l->critic.optimizer, &rate);
}

void zs_learner_report_values(zs_learner *l, zs_update_report *report) {
    zs_value_sums *s = &l->critic.sums;
    zs_comm_sum(l->comm, &l->comm->learners, (double *)s, sizeof *s / sizeof(double),
                "the values of the learners");
    double n = fmax(1.0, s->tokens), mean = s->returns / n, spread = s->returns_squares / n - mean * mean,
           error = s->error / n, left = s->error_squares / n - error * error;
    report->value_loss = s->loss / (double)(l->epochs * l->minibatches);
    report->value_clip_fraction = s->clipped / n;
    report->value_mean = s->value / n;
    report->value_explained = spread > 1e-12 ? 1.0 - left / spread : 0.0;
}
