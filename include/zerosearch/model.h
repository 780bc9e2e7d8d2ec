/* The model: decoder-only transformers of the Llama and Qwen2 families, forward and backward.
 *
 * All parameters of a model live in one flat f32 buffer with a table of named tensors, because the
 * gradient reduction, the weight broadcast, AdamW and checkpoints all want "n floats", and because
 * q, k, v (and gate, up) of a layer, laid side by side, are one GEMM. The alternative, one allocation a
 * tensor, would need gather and scatter in each of these places.
 *
 * Batches are packed: the sequences stand one after another without padding, `offsets` bounds them,
 * attention and positions never cross a bound. */
#ifndef ZEROSEARCH_MODEL_H
#define ZEROSEARCH_MODEL_H

#include "zerosearch/dtype.h"
#include "zerosearch/error.h"
#include "zerosearch/rng.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum zs_architecture { ZS_LLAMA, ZS_QWEN2 } zs_architecture;

#define ZS_MAX_EOS 8
typedef struct zs_model_config {
    zs_architecture architecture;
    int64_t vocab_size, hidden_size, intermediate_size;
    int64_t num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
    int64_t max_position_embeddings;
    double rms_norm_eps, rope_theta;
    bool rope_llama3; /* rope_scaling of type llama3; the four numbers below are read only then */
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_position;
    bool attention_bias; /* bias on q, k, v (always so in Qwen2) */
    bool tie_word_embeddings;
    bool value_head;      /* one number a token instead of logits (the value model of PPO): score.weight [1,
                             hidden],      score.bias [1]; there is no lm_head then */
    int32_t bos_token_id; /* -1: none */
    int32_t eos_token_ids[ZS_MAX_EOS];
    int num_eos;
} zs_model_config;

typedef struct zs_tensor {
    char name[80];      /* as in Hugging Face files, e.g. model.layers.0.self_attn.q_proj.weight */
    int64_t rows, cols; /* a matrix is [rows, cols]; a vector has rows = its length, cols = 1 */
    int num_dims;       /* 1 or 2 */
    int64_t offset;     /* of its first element in the flat buffer */
    int layer;          /* -1: embedding; num_hidden_layers: final norm and head */
} zs_tensor;

/* Where one layer's tensors start in the flat buffer. q, k, v are adjacent: one matrix of
 * (num_attention_heads + 2 num_key_value_heads) * head_dim rows; so are their biases, and gate and up. */
typedef struct zs_layer_offsets {
    int64_t input_norm, qkv, qkv_bias /* -1: none */, o_proj, post_norm, gate_up, down_proj;
    int64_t begin, end; /* the layer's whole span */
} zs_layer_offsets;

typedef struct zs_model {
    zs_model_config config;
    int64_t num_params;
    int num_tensors;
    zs_tensor *tensors; /* ordered by offset: embedding, layers, final norm, head (absent when tied) */
    zs_layer_offsets *layers;
    int64_t embed, final_norm, head; /* offsets; head == embed when tied; value head: score.weight */
    int64_t score_bias;              /* -1 without a value head */
    /* The weights: f32, bf16 for models that are not trained here (frozen ones, rollouts), or int8 for those
     * that only generate. At most one of the three is set; none in a layout. */
    float *params;         /* [num_params] */
    uint16_t *params_bf16; /* [num_params] */
    uint8_t *int8;         /* a block of zs_model_bytes: matrices with a scale a row, then vectors in f32 */
    float *vectors; /* norms and biases in f32, in order of offset: of bf16 widened, of int8 in its block */
    bool packed;    /* the matrices of params_bf16 are (zs_model_pack) */
    bool borrowed;  /* the weights' memory belongs to another (shared by the ranks of a node) */
} zs_model;

/* A weight matrix wherever it is kept: exactly one pointer is not NULL. */
typedef struct zs_matrix {
    const float *f32;
    const uint16_t *bf16;
    bool packed;         /* bf16 in the layout of zs_pack_bf16 */
    const uint8_t *int8; /* as zs_quantize_int8 makes it */
} zs_matrix;

/* Checks that the numbers fit together (heads divide, sizes positive). Error text names the field. */
zs_status zs_model_config_check(const zs_model_config *config, zs_error *err);

/* A named shape: qwen2.5-0.5b|1.5b|3b|7b|14b, llama3.2-1b|3b, demo, tiny. False when unknown. */
bool zs_model_shape(const char *name, zs_model_config *out);
extern const char *const zs_model_shape_names; /* for messages: comma-separated */

/* Lays out the tensors and allocates zeroed parameters (owned by the model). Local. */
zs_model *zs_model_create(const zs_model_config *config);
/* The same layout without parameter memory (params == NULL): for planning and checking. */
zs_model *zs_model_layout(const zs_model_config *config);
/* The same in ZS_BF16 or ZS_INT8, zeroed. After bf16 parameters change (loading, a broadcast) call
 * zs_model_widen_vectors; an int8 model needs neither that nor zs_model_pack. */
zs_model *zs_model_create_narrow(const zs_model_config *config, zs_dtype dtype);
/* Over memory of another: zs_model_bytes of weights of `dtype` ZS_F32, ZS_BF16 or ZS_INT8 that outlive the
 * model. For bf16 the vectors are widened at once. */
zs_model *zs_model_attach(const zs_model_config *config, zs_dtype dtype, void *weights);
/* The weights of such a model as ZS_F32, ZS_BF16 or ZS_INT8; with the padding of int8, without the vectors
 * that a bf16 model widens. */
int64_t zs_model_bytes(const zs_model *layout, zs_dtype dtype);
zs_dtype zs_model_dtype(const zs_model *model);  /* ZS_DTYPE_OTHER for a layout */
void *zs_model_weights(const zs_model *model);   /* the one of the three that is set */
void zs_model_widen_vectors(zs_model *model);    /* nothing to do for f32 and int8 */
zs_model *zs_model_clone(const zs_model *model); /* in the same precision; owns its weights */
/* Rounds (to nearest even) or quantises an f32 model into a narrow one of the same shape. Vectors are rounded
 * too in bf16, which is not packed then, and stay f32 in int8. */
void zs_model_narrow(const zs_model *from, zs_model *to);
/* Packs the matrices of a bf16 model in place, for generation (zs_pack_bf16; nothing to do for f32 and int8):
 * what reads weights through zs_model_matrix goes on as before, what wants the flat buffer as files have it
 * must not come after. Of memory that others hold too, each packs its part of `parts`. */
void zs_model_pack(zs_model *model, int64_t part, int64_t parts);

/* A piece of an int8 model: parameters [begin, end) of the flat layout, which become bytes [from, to) of the
 * block: rows of one matrix in whole panels, or elements of a vector. Pieces come in order of begin and cover
 * all parameters; begin with a zeroed one. `most`: parameters of a piece, but at least a panel of 16 rows. So
 * a model is quantised that is nowhere whole in f32. */
typedef struct zs_model_piece {
    int64_t begin, end, from, to;
} zs_model_piece;
bool zs_model_next_piece(const zs_model *layout, int64_t most,
                         zs_model_piece *piece);                     /* false after the last */
int64_t zs_model_piece_params(const zs_model *layout, int64_t most); /* of the largest of these pieces */
void zs_model_quantize_piece(zs_model *model, const zs_model_piece *piece, const float *values);
void zs_model_destroy(zs_model *model);

/* The weights at an offset of the layout: a matrix in any precision, a vector (norm, bias) always in f32.
 */
zs_matrix zs_model_matrix(const zs_model *model, int64_t offset);
const float *zs_model_vector(const zs_model *model, int64_t offset);
/* Row `index` of a matrix [rows, cols] in f32 (an embedding) into out [cols]. */
void zs_matrix_row(zs_matrix matrix, int64_t rows, int64_t cols, int64_t index, float *out);
const zs_tensor *zs_model_find(const zs_model *model, const char *name); /* NULL: no such tensor */

/* Rotary frequencies [head_dim/2] of a configuration: theta^(-2i/head_dim), llama3 scaling applied when set.
 */
void zs_rope_frequencies(const zs_model_config *config, double *inv_freq);

/* Normal(0, 0.02) for matrices (o_proj and down_proj divided by sqrt(2 layers), as GPT-2), 1 for norms, 0 for
 * biases; the draw depends on the seed and the element only. A value head is 0, so that its values are: what
 * a first update learns from are then the rewards alone. */
void zs_model_init(zs_model *model, uint64_t seed);

/* Elements [begin, end) of the weights that zs_model_init gives a model of this layout. */
void zs_model_draw(const zs_model *layout, uint64_t seed, int64_t begin, int64_t end, float *to);

/* Gives elements [begin, end) of a model's flat layout into `to` as ZS_F32, ZS_BF16 or ZS_F16: how models
 * that are larger than memory pass from one form to another. */
typedef zs_status zs_model_source(void *context, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                                  zs_error *err);

/* Weights that start near the circuit which copies from the context (see wiring.c): for small models that
 * learn within minutes. False if the shape does not suit: it needs q, k, v biases, tied embeddings, two
 * layers or more, and four heads. */
bool zs_model_init_wired(zs_model *model, uint64_t seed);

/* A packed batch; the arrays belong to the caller. */
typedef struct zs_batch {
    int64_t num_sequences, num_tokens;
    const int64_t *offsets; /* [num_sequences + 1], offsets[0] = 0, offsets[num_sequences] = num_tokens */
    const int32_t *ids;     /* [num_tokens], each in [0, vocab_size) */
} zs_batch;

/* Work memory for batches of up to `max_tokens` tokens. With `recompute` only each layer's input is kept and
 * backward runs the layer forward again (activation recomputation: about a third more compute for about
 * a tenth of the memory). */
typedef struct zs_workspace zs_workspace;
zs_workspace *zs_workspace_create(const zs_model_config *config, int64_t max_tokens, bool with_backward,
                                  bool recompute);
void zs_workspace_destroy(zs_workspace *workspace);
int64_t zs_workspace_bytes(const zs_model_config *config, int64_t max_tokens, bool with_backward,
                           bool recompute);

/* Forward through the layers and the final norm; activations stay in the workspace for the calls below. */
void zs_model_forward(const zs_model *model, zs_workspace *workspace, const zs_batch *batch);

/* The head, chunked over tokens so that at most a small [chunk, vocab] block of logits exists.
 *   log_prob[t] [num_tokens]: log p(ids[t] | tokens before it), logits divided by `temperature`; 0 at the
 * first position of each sequence. May be NULL. entropy[t] [num_tokens]: of the distribution that position t
 * predicts its successor with, in nats (so the one that ids[t+1] was drawn from). May be NULL. coefficient[t]
 * [num_tokens]: d loss / d log_prob[t]. When not NULL, the gradient of the head is added to grads (layout of
 * params) and the gradient of the hidden states is left in the workspace for zs_model_backward. Entries at
 * first positions are not read. Tokens with coefficient 0 cost no head GEMM when log_prob and entropy are
 * both NULL. */
void zs_model_head(const zs_model *model, zs_workspace *workspace, const zs_batch *batch, float temperature,
                   float *log_prob, float *entropy, const float *coefficient, float *grads);

/* Log-probabilities, loss and gradient in one pass, for the tokens of a mask only: the others (prompts,
 * documents) cost no logits. log_prob[t], entropy[t] [num_tokens], the latter of the distribution that token
 * t was drawn from (NULL: not wanted): 0 outside the mask and at the first position of a sequence. With
 * grads, coefficient[t] [num_tokens] = d loss / d log_prob[t]. It may depend on the two above: as soon as
 * they are there for tokens [begin, end), loss(context, begin, end) is called to fill that part in; calls
 * come in order and cover all tokens. NULL: the coefficients are there already. Gradients go where
 * zs_model_head has them go. With grads NULL neither is used. */
typedef void zs_head_loss(void *context, int64_t begin, int64_t end);
void zs_model_head_masked(const zs_model *model, zs_workspace *workspace, const zs_batch *batch,
                          float temperature, const uint8_t *mask, float *log_prob, float *entropy,
                          const float *coefficient, zs_head_loss *loss, void *context, float *grads);

/* Backward from the hidden-state gradient that zs_model_head left, adding into grads [num_params].
 * After the last contribution to a span of grads is made, `ready(context, begin, end)` is called with it,
 * from the head down to the embedding, so that the reduction can start while backward goes on. NULL: not
 * called. */
typedef void zs_grads_ready(void *context, int64_t begin, int64_t end);
void zs_model_backward(const zs_model *model, zs_workspace *workspace, const zs_batch *batch, float *grads,
                       zs_grads_ready *ready, void *context);

/* Logits [num_tokens, vocab_size] of the last forward, for tests and `logprobs --logits`. */
void zs_model_logits(const zs_model *model, zs_workspace *workspace, const zs_batch *batch, float *logits);

/* Of a model with a value head: values [num_tokens] of the last forward, one a position (V of the tokens up
 * to and including it). */
void zs_model_values(const zs_model *model, zs_workspace *workspace, const zs_batch *batch, float *values);
/* ZS_FAILED, with a text that names `where` (a folder, a key), for a model with a value head: where text is
 * generated or judged. */
zs_status zs_model_check_logits(const zs_model_config *config, const char *where, zs_error *err);
/* The gradient of the value head: coefficient [num_tokens] = d loss / d value; adds to grads and leaves the
 * hidden-state gradient for zs_model_backward, as zs_model_head does. */
void zs_model_values_backward(const zs_model *model, zs_workspace *workspace, const zs_batch *batch,
                              const float *coefficient, float *grads);

#endif
