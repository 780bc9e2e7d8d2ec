/* The value model's head: one number a token, score.weight . hidden + score.bias. */
#include "workspace.h"

zs_status zs_model_check_logits(const zs_model_config *config, const char *where, zs_error *err) {
    if (!config->value_head) return ZS_OK;
    return zs_fail(
        err, ZS_FAILED,
        "%s: a value model (one number a token); a language model, which gives words, is needed here", where);
}

/* V of token t is read from the hidden state after the final norm, where a policy's logits are read from. */
void zs_model_values(const zs_model *model, zs_workspace *w, const zs_batch *batch, float *values) {
    ZS_ASSERT(model->config.value_head, "values of a model without a value head");
    int64_t h = model->config.hidden_size;
    float bias = zs_model_vector(model, model->score_bias)[0];
    zs_matrix_row(zs_model_matrix(model, model->head), 1, h, 0, w->head_x);
    const float *weight = w->head_x;
#pragma omp parallel for schedule(static) if (batch->num_tokens * h > 1 << 16)
    for (int64_t t = 0; t < batch->num_tokens; t++) {
        const float *x = w->final + t * h;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < h; i++)
            sum += weight[i] * x[i];
        values[t] = sum + bias;
    }
}

/* d loss / d final[t] = c[t] weight; d loss / d weight = sum of c[t] final[t]; d loss / d bias = sum of c[t].
 * The sums run over tokens in order, each thread over its own columns: the same bits whatever the threads. */
void zs_model_values_backward(const zs_model *model, zs_workspace *w, const zs_batch *batch,
                              const float *coefficient, float *grads) {
    ZS_ASSERT(model->config.value_head && model->params, "value gradients of a model without trained values");
    ZS_ASSERT(w->with_backward && grads, "gradients asked of a forward-only workspace");
    int64_t h = model->config.hidden_size, tokens = batch->num_tokens;
    const float *weight = model->params + model->head;
    float *dweight = grads + model->head;
    double dbias = 0;
    for (int64_t t = 0; t < tokens; t++)
        dbias += coefficient[t];
    grads[model->score_bias] += (float)dbias;
    enum { COLUMNS = 256 };
#pragma omp parallel for schedule(static) if (tokens * h > 1 << 16)
    for (int64_t begin = 0; begin < h; begin += COLUMNS) {
        int64_t end = begin + COLUMNS < h ? begin + COLUMNS : h;
        for (int64_t t = 0; t < tokens; t++) {
            float c = coefficient[t];
            const float *x = w->final + t * h;
            float *dx = w->dfinal + t * h;
            for (int64_t i = begin; i < end; i++) {
                dx[i] = c * weight[i];
                dweight[i] += c * x[i];
            }
        }
    }
    w->have_gradient = true;
}
