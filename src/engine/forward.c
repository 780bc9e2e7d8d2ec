/* One packed step through the layers: prompt chunks and decode rows as one batch.
 *
 * A mixed batch rather than prefill and decode apart: the decode rows ride on the GEMMs of the chunk, and
 * there is one path to get right. In the last layer only rows whose successor is sampled go on after their
 * keys and values are stored. */
#include "internal.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include <omp.h>
#include <string.h>

/* Rows of logits kept at a time: about 16 MB. */
static int64_t logit_rows(const zs_model_config *config, int64_t max_samples) {
    int64_t rows = (4 << 20) / config->vocab_size;
    rows = rows < ZS_LANES ? ZS_LANES : rows;
    return rows < max_samples ? rows : max_samples;
}

static int64_t qkv_width(const zs_model_config *config) {
    return (config->num_attention_heads + 2 * config->num_key_value_heads) * config->head_dim;
}

int64_t zs_step_buffers_bytes(const zs_model_config *config, int64_t max_rows, int64_t max_samples,
                              int64_t max_length) {
    int64_t row = 2 * config->hidden_size + qkv_width(config) +
                  config->num_attention_heads * config->head_dim + 3 * config->intermediate_size + 1;
    int64_t floats = max_rows * row + max_length * config->head_dim +
                     logit_rows(config, max_samples) * config->vocab_size +
                     omp_get_max_threads() * zs_gemm_bf16_work();
    return floats * (int64_t)sizeof(float) +
           zs_paged_work_bytes(config, max_rows, max_length, omp_get_max_threads());
}

void zs_step_buffers_create(zs_step_buffers *b, const zs_model_config *config, int64_t max_rows,
                            int64_t max_samples, int64_t max_length) {
    int64_t half = config->head_dim / 2;
    *b = (zs_step_buffers){.max_rows = max_rows,
                           .max_samples = max_samples,
                           .logit_rows = logit_rows(config, max_samples),
                           .threads = omp_get_max_threads()};
    b->cos_table = ZS_NEW(float, max_length *half);
    b->sin_table = ZS_NEW(float, max_length *half);
    double *inv_freq = ZS_NEW(double, half);
    zs_rope_frequencies(config, inv_freq);
    zs_rope_tables(max_length, half, inv_freq, b->cos_table, b->sin_table);
    zs_free(inv_freq);
    b->x = ZS_NEW(float, max_rows * config->hidden_size);
    b->normed = ZS_NEW(float, max_rows * config->hidden_size);
    b->qkv = ZS_NEW(float, max_rows *qkv_width(config));
    b->attended = ZS_NEW(float, max_rows * config->num_attention_heads * config->head_dim);
    b->gate_up = ZS_NEW(float, max_rows * 2 * config->intermediate_size);
    b->activated = ZS_NEW(float, max_rows * config->intermediate_size);
    b->inv_rms = ZS_NEW(float, max_rows);
    b->logits = ZS_NEW(float, b->logit_rows * config->vocab_size);
    zs_paged_work_create(&b->attention, config, max_rows, max_length, b->threads);
    b->widened = ZS_NEW(float, b->threads *zs_gemm_bf16_work());
}

void zs_step_buffers_destroy(zs_step_buffers *b) {
    zs_paged_work_destroy(&b->attention);
    float *all[] = {b->cos_table, b->sin_table, b->x,       b->normed, b->qkv,    b->attended,
                    b->gate_up,   b->activated, b->inv_rms, b->logits, b->widened};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        zs_free(all[i]);
}

/* y [rows, out] = beta y + x [rows, in] w^T with the weights [out, in] at `offset`. */
static void linear(const zs_model *model, int64_t offset, zs_step_buffers *b, int64_t rows, int64_t out,
                   int64_t in, const float *x, float beta, float *y) {
    zs_row_gemm(rows, out, in, x, zs_model_matrix(model, offset), beta, y, b->widened, b->threads);
}

static void attention_input(const zs_model *model, const zs_layer_offsets *layer, zs_step_buffers *b,
                            const zs_step *step) {
    const zs_model_config *config = &model->config;
    int64_t width = qkv_width(config);
    zs_rmsnorm_forward(step->rows, config->hidden_size, config->rms_norm_eps, b->x,
                       zs_model_vector(model, layer->input_norm), b->normed, b->inv_rms);
    bool bias = layer->qkv_bias >= 0;
    for (int64_t r = 0; bias && r < step->rows; r++)
        memcpy(b->qkv + r * width, zs_model_vector(model, layer->qkv_bias), (size_t)width * sizeof(float));
    linear(model, layer->qkv, b, step->rows, width, config->hidden_size, b->normed, bias ? 1.0f : 0.0f,
           b->qkv);
    zs_rope_apply(step->rows, config->num_attention_heads + config->num_key_value_heads, config->head_dim,
                  width, step->positions, b->cos_table, b->sin_table, false, b->qkv);
}

/* Moves the sampled rows to the front; from here on a row is a sample. */
static void keep_sampled_rows(const zs_model_config *config, zs_step_buffers *b, zs_step *step) {
    int64_t width = qkv_width(config);
    for (int64_t i = 0; i < step->num_samples; i++) {
        int64_t row = step->sample_rows[i];
        zs_segment *segment = &step->segments[i], last = step->segments[step->sample_segments[i]];
        memmove(b->x + i * config->hidden_size, b->x + row * config->hidden_size,
                (size_t)config->hidden_size * sizeof(float));
        memmove(b->qkv + i * width, b->qkv + row * width, (size_t)width * sizeof(float));
        *segment = (zs_segment){
            .row = i, .count = 1, .position = last.position + last.count - 1, .pages = last.pages};
    }
    step->rows = step->num_segments = step->num_samples;
}

static void attention_output(const zs_model *model, const zs_layer_offsets *layer, zs_step_buffers *b,
                             int64_t rows) {
    const zs_model_config *config = &model->config;
    int64_t hidden = config->hidden_size, middle = config->intermediate_size;
    linear(model, layer->o_proj, b, rows, hidden, config->num_attention_heads * config->head_dim, b->attended,
           1.0f, b->x);
    zs_rmsnorm_forward(rows, hidden, config->rms_norm_eps, b->x, zs_model_vector(model, layer->post_norm),
                       b->normed, b->inv_rms);
    linear(model, layer->gate_up, b, rows, 2 * middle, hidden, b->normed, 0.0f, b->gate_up);
    zs_swiglu_forward(rows, middle, b->gate_up, b->activated);
    linear(model, layer->down_proj, b, rows, hidden, middle, b->activated, 1.0f, b->x);
}

static void sample_rows(const zs_model *model, zs_step_buffers *b, zs_step *step) {
    const zs_model_config *config = &model->config;
    int64_t hidden = config->hidden_size, vocab = config->vocab_size;
    zs_rmsnorm_forward(step->num_samples, hidden, config->rms_norm_eps, b->x,
                       zs_model_vector(model, model->final_norm), b->normed, b->inv_rms);
    for (int64_t begin = 0; begin < step->num_samples; begin += b->logit_rows) {
        int64_t left = step->num_samples - begin, rows = left < b->logit_rows ? left : b->logit_rows;
        linear(model, model->head, b, rows, vocab, hidden, b->normed + begin * hidden, 0.0f, b->logits);
#pragma omp parallel for schedule(dynamic) num_threads(b->threads) if (b->threads > 1 && rows * vocab > 40000)
        for (int64_t r = 0; r < rows; r++)
            step->tokens[begin + r] = zs_sample(b->logits + r * vocab, vocab, step->sampling[begin + r],
                                                step->uniforms[begin + r], &step->log_prob[begin + r]);
    }
}

void zs_step_run(const zs_model *model, zs_kv_cache *cache, zs_step_buffers *b, zs_step *step) {
    const zs_model_config *config = &model->config;
    int64_t width = qkv_width(config), heads = config->num_attention_heads;
    for (int64_t r = 0; r < step->rows; r++)
        zs_matrix_row(zs_model_matrix(model, model->embed), config->vocab_size, config->hidden_size,
                      step->ids[r], b->x + r * config->hidden_size);
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        const zs_layer_offsets *layer = &model->layers[l];
        attention_input(model, layer, b, step);
        zs_paged_store(cache, l, step->num_segments, step->segments, heads, b->qkv, width, b->threads);
        if (l == config->num_hidden_layers - 1 && step->num_samples < step->rows)
            keep_sampled_rows(config, b, step);
        if (step->rows == 0) return;
        zs_paged_attention(cache, l, step->num_segments, step->segments, heads, b->qkv, width, b->attended,
                           &b->attention);
        attention_output(model, layer, b, step->rows);
    }
    sample_rows(model, b, step);
}
