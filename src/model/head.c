/* The head: logits, log-probabilities and their gradient, a chunk of rows at a time. */
#include "workspace.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include <string.h>

/* Logits of the gathered rows. */
static void chunk_logits(const zs_model *model, zs_workspace *w, int64_t rows) {
    int64_t h = model->config.hidden_size;
    for (int64_t r = 0; r < rows; r++)
        memcpy(w->head_x + r * h, w->final + w->head_row[r] * h, (size_t)h * sizeof(float));
    zs_linear_forward(model, w, model->head, rows, model->config.vocab_size, h, w->head_x, 0, w->logits);
}

/* The two GEMMs back from the gradient of the logits. */
static void chunk_backward(const zs_model *model, zs_workspace *w, int64_t rows, float *grads) {
    int64_t h = model->config.hidden_size, vocab = model->config.vocab_size;
    zs_gemm_nn(rows, h, vocab, w->logits, model->params + model->head, 0, w->head_dx);
    zs_gemm_tn(vocab, h, rows, w->logits, w->head_x, 1, grads + model->head);
    for (int64_t r = 0; r < rows; r++)
        memcpy(w->dfinal + w->head_row[r] * h, w->head_dx + r * h, (size_t)h * sizeof(float));
}

static void head_chunk(const zs_model *model, zs_workspace *w, int64_t rows, float temperature,
                       bool want_entropy, float *grads) {
    chunk_logits(model, w, rows);
    zs_log_softmax_rows(rows, model->config.vocab_size, 1.0f / temperature, w->head_target,
                        grads ? w->head_coefficient : NULL, w->logits, w->head_log_prob,
                        want_entropy ? w->head_entropy : NULL);
    if (grads) chunk_backward(model, w, rows, grads);
}

/* Results of a chunk go to their places: the log-probability belongs to the token after the row. */
static void scatter(const zs_workspace *w, int64_t rows, float *log_prob, float *entropy) {
    for (int64_t r = 0; r < rows; r++) {
        if (log_prob && w->head_target[r] >= 0) log_prob[w->head_row[r] + 1] = w->head_log_prob[r];
        if (entropy) entropy[w->head_row[r]] = w->head_entropy[r];
    }
}

void zs_model_head(const zs_model *model, zs_workspace *w, const zs_batch *batch, float temperature,
                   float *log_prob, float *entropy, const float *coefficient, float *grads) {
    bool backward = coefficient != NULL;
    ZS_ASSERT(!model->config.value_head, "log-probabilities of a model with a value head");
    ZS_ASSERT(!backward || (w->with_backward && grads), "gradients asked of a forward-only workspace");
    ZS_ASSERT(!backward || model->params, "gradients of narrow weights; they are trained in f32");
    int64_t h = model->config.hidden_size, rows = 0;
    if (backward) zs_zero(w->dfinal, batch->num_tokens * h * (int64_t)sizeof(float));
    for (int64_t s = 0; s < batch->num_sequences; s++) {
        int64_t begin = batch->offsets[s], end = batch->offsets[s + 1];
        if (log_prob && begin < end) log_prob[begin] = 0;
        for (int64_t t = begin; t < end; t++) {
            bool predicts = t + 1 < end; /* the last position has an entropy but no target */
            float c = backward && predicts ? coefficient[t + 1] : 0;
            if (!entropy && !(log_prob && predicts) && c == 0) continue;
            w->head_row[rows] = t;
            w->head_target[rows] = predicts ? batch->ids[t + 1] : -1;
            w->head_coefficient[rows] = c;
            if (++rows < w->chunk) continue;
            head_chunk(model, w, rows, temperature, entropy != NULL, backward ? grads : NULL);
            scatter(w, rows, log_prob, entropy);
            rows = 0;
        }
    }
    if (rows > 0) {
        head_chunk(model, w, rows, temperature, entropy != NULL, backward ? grads : NULL);
        scatter(w, rows, log_prob, entropy);
    }
    w->have_gradient = w->have_gradient || backward;
}

/* What a pass over a mask was asked for. */
typedef struct masked_pass {
    const zs_model *model;
    zs_workspace *w;
    float temperature, *log_prob, *entropy, *grads;
    const float *coefficient;
    zs_head_loss *loss;
    void *context;
} masked_pass;

/* The gathered rows, whose targets are masked tokens of [begin, end). */
static void masked_chunk(const masked_pass *p, int64_t rows, int64_t begin, int64_t end) {
    zs_workspace *w = p->w;
    int64_t vocab = p->model->config.vocab_size;
    float inv_temperature = 1.0f / p->temperature;
    if (rows > 0) {
        chunk_logits(p->model, w, rows);
        zs_softmax_rows_forward(rows, vocab, inv_temperature, w->head_target, w->logits, w->head_sum,
                                w->head_log_prob, p->entropy ? w->head_entropy : NULL);
    }
    for (int64_t r = 0; r < rows; r++) {
        p->log_prob[w->head_row[r] + 1] = w->head_log_prob[r];
        if (p->entropy) p->entropy[w->head_row[r] + 1] = w->head_entropy[r];
    }
    if (!p->grads) return;
    if (p->loss) p->loss(p->context, begin, end);
    bool any = false; /* a group whose rewards are all alike teaches nothing */
    for (int64_t r = 0; r < rows; r++) {
        w->head_coefficient[r] = p->coefficient[w->head_row[r] + 1];
        any = any || w->head_coefficient[r] != 0;
    }
    if (!any) return;
    zs_softmax_rows_backward(rows, vocab, inv_temperature, w->head_target, w->head_coefficient, w->head_sum,
                             w->logits);
    chunk_backward(p->model, w, rows, p->grads);
}

void zs_model_head_masked(const zs_model *model, zs_workspace *w, const zs_batch *batch, float temperature,
                          const uint8_t *mask, float *log_prob, float *entropy, const float *coefficient,
                          zs_head_loss *loss, void *context, float *grads) {
    ZS_ASSERT(!model->config.value_head, "log-probabilities of a model with a value head");
    ZS_ASSERT(!grads || (w->with_backward && coefficient), "gradients asked of a forward-only workspace");
    ZS_ASSERT(!grads || model->params, "gradients of narrow weights; they are trained in f32");
    masked_pass pass = {model, w, temperature, log_prob, entropy, grads, coefficient, loss, context};
    size_t bytes = (size_t)batch->num_tokens * sizeof(float);
    int64_t rows = 0, begin = 0;
    memset(log_prob, 0, bytes);
    if (entropy) memset(entropy, 0, bytes);
    if (grads) zs_zero(w->dfinal, (int64_t)bytes * model->config.hidden_size);
    for (int64_t s = 0; s < batch->num_sequences; s++)
        for (int64_t t = batch->offsets[s] + 1; t < batch->offsets[s + 1]; t++) {
            if (!mask[t]) continue;
            w->head_row[rows] = t - 1;
            w->head_target[rows] = batch->ids[t];
            if (++rows < w->chunk) continue;
            masked_chunk(&pass, rows, begin, t + 1);
            begin = t + 1;
            rows = 0;
        }
    if (begin < batch->num_tokens) masked_chunk(&pass, rows, begin, batch->num_tokens);
    w->have_gradient = w->have_gradient || grads != NULL;
}

void zs_model_logits(const zs_model *model, zs_workspace *w, const zs_batch *batch, float *logits) {
    ZS_ASSERT(!model->config.value_head, "logits of a model with a value head");
    zs_linear_forward(model, w, model->head, batch->num_tokens, model->config.vocab_size,
                      model->config.hidden_size, w->final, 0, logits);
}
