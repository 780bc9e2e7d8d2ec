/* Forward: embedding, layers, final norm. The shape comments use T tokens, h hidden, q = heads head_dim. */
#include "workspace.h"

#include "zerosearch/kernels.h"

#include <omp.h>
#include <string.h>

static void copy_rows(float *to, const float *from, int64_t count) {
    if (to != from) memcpy(to, from, (size_t)count * sizeof(float));
}

void zs_linear_forward(const zs_model *model, zs_workspace *w, int64_t offset, int64_t rows, int64_t out,
                       int64_t in, const float *x, float beta, float *y) {
    zs_matrix matrix = zs_model_matrix(model, offset);
    if (matrix.f32)
        zs_gemm_nt(rows, out, in, x, matrix.f32, beta, y);
    else if (matrix.int8)
        zs_gemm_nt_int8(rows, out, in, x, matrix.int8, beta, y, w->widened, omp_get_max_threads());
    else if (matrix.packed)
        zs_gemm_nt_packed(rows, out, in, x, matrix.bf16, beta, y, w->widened, omp_get_max_threads());
    else
        zs_gemm_nt_bf16(rows, out, in, x, matrix.bf16, beta, y, w->widened, omp_get_max_threads());
}

/* Rows [begin, begin + rows): norm, q k v projections, rotation. */
static void project_qkv(const zs_model *model, zs_workspace *w, int64_t layer, const zs_layer_state *s,
                        int64_t begin, int64_t rows) {
    const zs_model_config *c = &model->config;
    const zs_layer_offsets *o = &model->layers[layer];
    int64_t h = c->hidden_size, heads = c->num_attention_heads + c->num_key_value_heads;
    int64_t width = (heads + c->num_key_value_heads) * c->head_dim;
    float *qkv = s->qkv + begin * width;
    zs_rmsnorm_forward(rows, h, c->rms_norm_eps, s->x + begin * h, zs_model_vector(model, o->input_norm),
                       w->normed, s->inv1 + begin);
    zs_linear_forward(model, w, o->qkv, rows, width, h, w->normed, 0, qkv);
    if (o->qkv_bias >= 0) zs_bias_forward(rows, width, zs_model_vector(model, o->qkv_bias), qkv);
    zs_rope_apply(rows, heads, c->head_dim, width, w->positions + begin, w->cos_table, w->sin_table, false,
                  qkv);
}

/* Rows [begin, begin + rows): output projection, residual, norm, SwiGLU, residual into next. */
static void project_out_and_mlp(const zs_model *model, zs_workspace *w, int64_t layer,
                                const zs_layer_state *s, int64_t begin, int64_t rows, float *next) {
    const zs_model_config *c = &model->config;
    const zs_layer_offsets *o = &model->layers[layer];
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    float *x2 = s->x2 + begin * h, *gate_up = s->gate_up + begin * 2 * wide;
    copy_rows(x2, s->x + begin * h, rows * h);
    zs_linear_forward(model, w, o->o_proj, rows, h, q, s->mixed + begin * q, 1, x2);
    zs_rmsnorm_forward(rows, h, c->rms_norm_eps, x2, zs_model_vector(model, o->post_norm), w->normed,
                       s->inv2 + begin);
    zs_linear_forward(model, w, o->gate_up, rows, 2 * wide, h, w->normed, 0, gate_up);
    if (!next) return;
    zs_swiglu_forward(rows, wide, gate_up, w->wide);
    copy_rows(next + begin * h, x2, rows * h);
    zs_linear_forward(model, w, o->down_proj, rows, h, wide, w->wide, 1, next + begin * h);
}

void zs_layer_forward(const zs_model *model, zs_workspace *w, const zs_batch *batch, int64_t layer,
                      const zs_layer_state *s, float *next) {
    const zs_model_config *c = &model->config;
    int64_t tokens = batch->num_tokens;
    for (int64_t begin = 0; begin < tokens; begin += w->block)
        project_qkv(model, w, layer, s, begin, tokens - begin < w->block ? tokens - begin : w->block);
    zs_attention_forward(batch->num_sequences, batch->offsets, c->num_attention_heads, c->num_key_value_heads,
                         c->head_dim, s->qkv, s->mixed, s->lse, w->attn_work);
    for (int64_t begin = 0; begin < tokens; begin += w->block)
        project_out_and_mlp(model, w, layer, s, begin, tokens - begin < w->block ? tokens - begin : w->block,
                            next);
}

/* A bad batch is the caller's fault: input from outside is checked where it is read. */
static void check_batch(const zs_model *model, const zs_workspace *w, const zs_batch *batch) {
    ZS_ASSERT(zs_model_dtype(model) != ZS_DTYPE_OTHER, "forward through a layout without weights");
    ZS_ASSERT(batch->num_tokens <= w->max_tokens, "%lld tokens in a workspace for %lld",
              (long long)batch->num_tokens, (long long)w->max_tokens);
    ZS_ASSERT(omp_get_max_threads() <= w->threads, "%d threads, workspace for %d", omp_get_max_threads(),
              w->threads);
    ZS_ASSERT(batch->offsets[0] == 0 && batch->offsets[batch->num_sequences] == batch->num_tokens,
              "offsets do not bound the tokens");
    for (int64_t s = 0; s < batch->num_sequences; s++)
        ZS_ASSERT(batch->offsets[s] <= batch->offsets[s + 1], "offsets fall at sequence %lld", (long long)s);
    for (int64_t t = 0; t < batch->num_tokens; t++)
        ZS_ASSERT(batch->ids[t] >= 0 && batch->ids[t] < model->config.vocab_size, "token id %d at %lld",
                  (int)batch->ids[t], (long long)t);
}

static void look_up(const zs_model *model, const zs_batch *batch, float *x) {
    int64_t tokens = batch->num_tokens, h = model->config.hidden_size;
    zs_matrix table = zs_model_matrix(model, model->embed);
    if (table.f32) {
        zs_embed_forward(tokens, h, batch->ids, table.f32, x);
        return;
    }
#pragma omp parallel for schedule(static) if (tokens * h > 1 << 16)
    for (int64_t t = 0; t < tokens; t++)
        zs_matrix_row(table, model->config.vocab_size, h, batch->ids[t], x + t * h);
}

void zs_model_forward(const zs_model *model, zs_workspace *w, const zs_batch *batch) {
    const zs_model_config *c = &model->config;
    int64_t tokens = batch->num_tokens, h = c->hidden_size, layers = c->num_hidden_layers;
    check_batch(model, w, batch);
    w->have_gradient = false;
    for (int64_t s = 0; s < batch->num_sequences; s++)
        for (int64_t t = batch->offsets[s]; t < batch->offsets[s + 1]; t++)
            w->positions[t] = (int32_t)(t - batch->offsets[s]);
    look_up(model, batch, w->layers[0].x);
    for (int64_t layer = 0; layer < layers; layer++)
        zs_layer_forward(model, w, batch, layer, &w->layers[layer],
                         layer + 1 < layers ? w->layers[layer + 1].x : w->x_last);
    zs_rmsnorm_forward(tokens, h, c->rms_norm_eps, w->x_last, zs_model_vector(model, model->final_norm),
                       w->final, w->inv_last);
}
