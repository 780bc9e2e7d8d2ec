/* Backward: the layers in reverse order; gradients of weights are added into one flat buffer. */
#include "workspace.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

/* Rows [begin, begin + rows): from the gradient of the layer's output in w->dx to that of attention's result
 * in w->dmixed, with w->dx now the gradient of x2. */
static void backward_mlp_and_out(const zs_model *model, zs_workspace *w, int64_t layer,
                                 const zs_layer_state *s, int64_t begin, int64_t rows, float *grads) {
    const zs_model_config *c = &model->config;
    const zs_layer_offsets *o = &model->layers[layer];
    const float *params = model->params;
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    float *dx = w->dx + begin * h, *gate_up = s->gate_up + begin * 2 * wide;
    const float *x2 = s->x2 + begin * h;
    zs_gemm_nn(rows, wide, h, dx, params + o->down_proj, 0, w->dwide);
    zs_swiglu_backward(rows, wide, gate_up, w->dwide, gate_up, w->wide); /* from here on its gradient */
    zs_gemm_tn(h, wide, rows, dx, w->wide, 1, grads + o->down_proj);
    zs_gemm_nn(rows, h, 2 * wide, gate_up, params + o->gate_up, 0, w->dnormed);
    zs_rmsnorm_again(rows, h, x2, params + o->post_norm, s->inv2 + begin, w->normed);
    zs_gemm_tn(2 * wide, h, rows, gate_up, w->normed, 1, grads + o->gate_up);
    zs_rmsnorm_backward(rows, h, x2, params + o->post_norm, s->inv2 + begin, w->dnormed, dx,
                        grads + o->post_norm);
    zs_gemm_nn(rows, q, h, dx, params + o->o_proj, 0, w->dmixed + begin * q);
    zs_gemm_tn(h, q, rows, dx, s->mixed + begin * q, 1, grads + o->o_proj);
}

/* Rows [begin, begin + rows): from the gradient of the rotated q, k, v to that of the layer's input. */
static void backward_qkv(const zs_model *model, zs_workspace *w, int64_t layer, const zs_layer_state *s,
                         int64_t begin, int64_t rows, float *grads) {
    const zs_model_config *c = &model->config;
    const zs_layer_offsets *o = &model->layers[layer];
    const float *params = model->params;
    int64_t h = c->hidden_size, heads = c->num_attention_heads + c->num_key_value_heads;
    int64_t width = (heads + c->num_key_value_heads) * c->head_dim;
    float *dqkv = w->dqkv + begin * width;
    const float *x = s->x + begin * h;
    zs_rope_apply(rows, heads, c->head_dim, width, w->positions + begin, w->cos_table, w->sin_table, true,
                  dqkv);
    if (o->qkv_bias >= 0) zs_bias_backward(rows, width, dqkv, grads + o->qkv_bias);
    zs_gemm_nn(rows, h, width, dqkv, params + o->qkv, 0, w->dnormed);
    zs_rmsnorm_again(rows, h, x, params + o->input_norm, s->inv1 + begin, w->normed);
    zs_gemm_tn(width, h, rows, dqkv, w->normed, 1, grads + o->qkv);
    zs_rmsnorm_backward(rows, h, x, params + o->input_norm, s->inv1 + begin, w->dnormed, w->dx + begin * h,
                        grads + o->input_norm);
}

static void backward_layer(const zs_model *model, zs_workspace *w, const zs_batch *batch, int64_t layer,
                           float *grads) {
    const zs_model_config *c = &model->config;
    const zs_layer_state *s = &w->layers[layer];
    int64_t tokens = batch->num_tokens;
    if (w->recompute) zs_layer_forward(model, w, batch, layer, s, NULL);
    for (int64_t begin = 0; begin < tokens; begin += w->block)
        backward_mlp_and_out(model, w, layer, s, begin, tokens - begin < w->block ? tokens - begin : w->block,
                             grads);
    zs_attention_backward(batch->num_sequences, batch->offsets, c->num_attention_heads,
                          c->num_key_value_heads, c->head_dim, s->qkv, s->mixed, s->lse, w->dmixed, w->dqkv,
                          w->delta, w->attn_work);
    for (int64_t begin = 0; begin < tokens; begin += w->block)
        backward_qkv(model, w, layer, s, begin, tokens - begin < w->block ? tokens - begin : w->block, grads);
}

void zs_model_backward(const zs_model *model, zs_workspace *w, const zs_batch *batch, float *grads,
                       zs_grads_ready *ready, void *context) {
    const zs_model_config *c = &model->config;
    int64_t h = c->hidden_size;
    ZS_ASSERT(w->with_backward && w->have_gradient,
              "backward without the head's gradient of the last forward");
    ZS_ASSERT(model->params, "backward through narrow weights; they are trained in f32");
    w->have_gradient = false;
    zs_zero(w->dx, batch->num_tokens * h * (int64_t)sizeof(float));
    zs_rmsnorm_backward(batch->num_tokens, h, w->x_last, model->params + model->final_norm, w->inv_last,
                        w->dfinal, w->dx, grads + model->final_norm);
    if (ready) ready(context, model->final_norm, model->num_params);
    for (int64_t layer = c->num_hidden_layers - 1; layer >= 0; layer--) {
        backward_layer(model, w, batch, layer, grads);
        if (ready) ready(context, model->layers[layer].begin, model->layers[layer].end);
    }
    zs_embed_backward(batch->num_tokens, h, batch->ids, w->dx, grads + model->embed);
    if (ready) ready(context, 0, model->layers[0].begin);
}
