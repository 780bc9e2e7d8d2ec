/* Work memory of forward and backward: one allocation, cut up by one list. */
#include "workspace.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include <omp.h>

/* A first pass with base NULL counts, a second one hands out. */
typedef struct cutter {
    char *base;
    int64_t used;
} cutter;

static void *cut(cutter *c, int64_t count, size_t size) {
    void *piece = c->base ? c->base + c->used : NULL;
    int64_t bytes = (count * (int64_t)size + 63) / 64 * 64;
    if (piece) zs_zero(piece, bytes);
    c->used += bytes;
    return piece;
}

static float *floats(cutter *c, int64_t count) {
    return cut(c, count, sizeof(float));
}

/* Rows at a time: small models go through a layer in blocks whose widest matrix stays in the second cache;
 * large ones take all rows in one GEMM, since there the weights are what should be read once. */
static int64_t choose_block(const zs_model_config *c, int64_t max_tokens) {
    int64_t widest = 2 * c->intermediate_size * (int64_t)sizeof(float);
    if (c->hidden_size > 256) return max_tokens;
    int64_t rows =
        ((512 * 1024) / widest + 64) / 128 * 128; /* BLAS likes multiples: 256 rows beat 192 by 7 % */
    rows = rows < 128 ? 128 : rows;
    return rows < max_tokens ? rows : max_tokens;
}

static void cut_layer(cutter *c, const zs_model_config *m, int64_t t, zs_layer_state *s) {
    s->inv1 = floats(c, t);
    s->qkv = floats(c, t * (m->num_attention_heads + 2 * m->num_key_value_heads) * m->head_dim);
    s->mixed = floats(c, t * m->num_attention_heads * m->head_dim);
    s->lse = floats(c, t * m->num_attention_heads);
    s->x2 = floats(c, t * m->hidden_size);
    s->inv2 = floats(c, t);
    s->gate_up = floats(c, t * 2 * m->intermediate_size);
}

static void cut_layers(cutter *c, zs_workspace *w) {
    const zs_model_config *m = &w->config;
    int64_t t = w->max_tokens, layers = m->num_hidden_layers;
    w->layers = cut(c, layers, sizeof(zs_layer_state));
    zs_layer_state one = {0};
    if (!w->with_backward || w->recompute) cut_layer(c, m, t, &one);
    float *x = w->with_backward ? NULL : floats(c, t * m->hidden_size);
    for (int64_t i = 0; i < layers; i++) {
        zs_layer_state state = one;
        if (w->with_backward && !w->recompute) cut_layer(c, m, t, &state);
        state.x = w->with_backward ? floats(c, t * m->hidden_size) : x;
        if (!w->with_backward) state.x2 = x; /* updated in place */
        if (c->base) w->layers[i] = state;
    }
    w->x_last = w->with_backward ? floats(c, t * m->hidden_size) : x;
}

static void cut_all(cutter *c, zs_workspace *w) {
    const zs_model_config *m = &w->config;
    int64_t t = w->max_tokens, h = m->hidden_size, wide = m->intermediate_size;
    cut_layers(c, w);
    w->inv_last = floats(c, t);
    w->final = floats(c, t * h);
    w->cos_table = floats(c, t * (m->head_dim / 2));
    w->sin_table = floats(c, t * (m->head_dim / 2));
    w->positions = cut(c, t, sizeof(int32_t));
    w->attn_work = floats(c, w->threads * zs_attention_work(m->head_dim));
    w->widened = floats(c, w->threads * zs_gemm_bf16_work());
    w->normed = floats(c, w->block * h);
    w->wide = floats(c, w->block * wide);
    w->logits = floats(c, m->value_head ? 0 : w->chunk * m->vocab_size);
    w->head_x = floats(c, w->chunk * h);
    w->head_row = cut(c, w->chunk, sizeof(int64_t));
    w->head_target = cut(c, w->chunk, sizeof(int32_t));
    w->head_coefficient = floats(c, w->chunk);
    w->head_log_prob = floats(c, w->chunk);
    w->head_entropy = floats(c, w->chunk);
    w->head_sum = cut(c, w->chunk, sizeof(double));
    if (!w->with_backward) return;
    w->head_dx = floats(c, w->chunk * h);
    w->dfinal = floats(c, t * h);
    w->dx = floats(c, t * h);
    w->dnormed = floats(c, w->block * h);
    w->dwide = floats(c, w->block * wide);
    w->dmixed = floats(c, t * m->num_attention_heads * m->head_dim);
    w->dqkv = floats(c, t * (m->num_attention_heads + 2 * m->num_key_value_heads) * m->head_dim);
    w->delta = floats(c, t * m->num_attention_heads);
}

static zs_workspace plan(const zs_model_config *config, int64_t max_tokens, bool with_backward,
                         bool recompute) {
    zs_workspace w = {.config = *config,
                      .max_tokens = max_tokens,
                      .block = choose_block(config, max_tokens),
                      .chunk = max_tokens < 256 ? max_tokens : 256,
                      .with_backward = with_backward,
                      .recompute = recompute,
                      .threads = omp_get_max_threads()};
    cutter count = {NULL, 0};
    cut_all(&count, &w);
    w.bytes = count.used;
    return w;
}

zs_workspace *zs_workspace_create(const zs_model_config *config, int64_t max_tokens, bool with_backward,
                                  bool recompute) {
    ZS_ASSERT(max_tokens > 0, "a workspace for %lld tokens", (long long)max_tokens);
    zs_workspace *workspace = ZS_NEW(zs_workspace, 1);
    *workspace = plan(config, max_tokens, with_backward, recompute);
    workspace->memory = zs_alloc_untouched(workspace->bytes, 1);
    cutter hand_out = {workspace->memory, 0};
    cut_all(&hand_out, workspace);
    double *inv_freq = ZS_NEW(double, config->head_dim / 2);
    zs_rope_frequencies(config, inv_freq);
    zs_rope_tables(max_tokens, config->head_dim / 2, inv_freq, workspace->cos_table, workspace->sin_table);
    zs_free(inv_freq);
    return workspace;
}

void zs_workspace_destroy(zs_workspace *workspace) {
    if (!workspace) return;
    zs_free(workspace->memory);
    zs_free(workspace);
}

int64_t zs_workspace_bytes(const zs_model_config *config, int64_t max_tokens, bool with_backward,
                           bool recompute) {
    return plan(config, max_tokens, with_backward, recompute).bytes;
}
