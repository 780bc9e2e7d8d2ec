/* What forward leaves for the head and for backward; private to src/model. */
#ifndef ZEROSEARCH_MODEL_WORKSPACE_H
#define ZEROSEARCH_MODEL_WORKSPACE_H

#include "zerosearch/model.h"

/* Activations of one layer that its backward reads. T = max_tokens. */
typedef struct zs_layer_state {
    float *x;       /* [T, hidden] the layer's input */
    float *inv1;    /* [T] 1/rms of x */
    float *qkv;     /* [T, (heads + 2 kv) head_dim] rotated */
    float *mixed;   /* [T, heads head_dim] attention's result */
    float *lse;     /* [T, heads] */
    float *x2;      /* [T, hidden] after attention's residual */
    float *inv2;    /* [T] */
    float *gate_up; /* [T, 2 intermediate]; backward leaves its gradient in it */
} zs_layer_state;

struct zs_workspace {
    zs_model_config config;
    int64_t max_tokens;
    int64_t block; /* rows that the row-wise parts of a layer take at a time */
    int64_t chunk; /* rows of logits that exist at a time */
    bool with_backward, recompute;
    int threads; /* that attn_work is for */
    void *memory;
    int64_t bytes;

    zs_layer_state *layers;       /* [num_hidden_layers]; entries share memory where it need not be kept */
    float *x_last;                /* [T, hidden] the last layer's output */
    float *inv_last;              /* [T] */
    float *final;                 /* [T, hidden] after the final norm */
    float *cos_table, *sin_table; /* [T, head_dim / 2] */
    int32_t *positions;           /* [T] */
    float *attn_work;
    float *widened; /* [threads, zs_gemm_bf16_work] pieces of bf16 weights */
    float *normed;  /* [block, hidden] */
    float *wide;    /* [block, intermediate] */

    float *logits;                                          /* [chunk, vocab] */
    float *head_x, *head_dx;                                /* [chunk, hidden] rows gathered for the head */
    int64_t *head_row;                                      /* [chunk] their places in the batch */
    int32_t *head_target;                                   /* [chunk] */
    float *head_coefficient, *head_log_prob, *head_entropy; /* [chunk] */
    double *head_sum;                                       /* [chunk] of a row's exponentials */

    float *dfinal;      /* [T, hidden] gradient of `final`, left by the head */
    float *dx;          /* [T, hidden] gradient that runs down the layers */
    float *dnormed;     /* [block, hidden] */
    float *dwide;       /* [block, intermediate] */
    float *dmixed;      /* [T, heads head_dim] */
    float *dqkv;        /* [T, (heads + 2 kv) head_dim] */
    float *delta;       /* [T, heads] */
    bool have_gradient; /* dfinal belongs to the batch of the last forward */
};

/* y [rows, out] = beta y + x [rows, in] w^T with the weights [out, in] at `offset`, however they are kept. */
void zs_linear_forward(const zs_model *model, zs_workspace *workspace, int64_t offset, int64_t rows,
                       int64_t out, int64_t in, const float *x, float beta, float *y);

/* Runs layer `layer` on state->x; `next` [T, hidden] receives its output (NULL: only the state is wanted). */
void zs_layer_forward(const zs_model *model, zs_workspace *workspace, const zs_batch *batch, int64_t layer,
                      const zs_layer_state *state, float *next);

#endif
