/* An initialisation for small models that are to copy from their context within minutes.
 *
 * What a small transformer needs millions of tokens for is not the language but one circuit: heads that look
 * a fixed number of tokens back, and heads above them that find where the present token stood before (Olsson
 * et al. 2022, "In-context learning and induction heads"). As mimetic initialisation does for vision models
 * (Trockman and Kolter 2023), the weights start out near that circuit; training does the rest. Nothing about
 * any language, relation or name is in it.
 *
 * The residual stream starts as two halves: the token's embedding, and short codes of the tokens before it.
 * Layer 0, head h looks h + 1 tokens back and writes the code of that token into the second half. Layer 1,
 * head 0 looks for positions whose previous token is the present one; the others compare the codes of
 * earlier tokens ("the same word stood as far before, plus one"). All of layer 1's values copy embeddings. */
#include "zerosearch/model.h"

#include <math.h>
#include <string.h>

enum { HEADS = 4 };

typedef struct wiring {
    zs_model *model;
    zs_rng rng;
    int64_t d, half, code, head_dim; /* residual size, its first half, numbers of a code, of a head */
} wiring;

static float normal(wiring *w, double std) {
    return (float)(std * zs_rng_normal(&w->rng));
}

static void fill(wiring *w, int64_t offset, int64_t count, double std) {
    for (int64_t i = 0; i < count; i++)
        w->model->params[offset + i] = normal(w, std);
}

static float *row(wiring *w, int64_t matrix, int64_t index) {
    return w->model->params + matrix + index * w->d;
}

/* Row `index` of a matrix becomes: read number `c` of the code of the token `back` before (0: of the present
 * token, from its embedding by the code book). */
static void read_code(wiring *w, int64_t matrix, int64_t index, const float *book, int back, int64_t c,
                      double scale) {
    float *to = row(w, matrix, index);
    memset(to, 0, (size_t)w->d * sizeof *to);
    if (back == 0) {
        for (int64_t i = 0; i < w->half; i++)
            to[i] = (float)scale * book[c * w->half + i];
    } else {
        to[w->half + (back - 1) * w->code + c] = (float)scale;
    }
}

/* Layer 0: a rotary phase in the biases makes head h look h + 1 tokens back, whatever stands there. */
static void wire_offsets(wiring *w, const float *book) {
    const zs_layer_offsets *layer = &w->model->layers[0];
    double frequency[512];
    int64_t values = (HEADS + HEADS) * w->head_dim, rotations = w->head_dim / 2;
    zs_rope_frequencies(&w->model->config, frequency);
    fill(w, layer->qkv, 3 * HEADS * w->head_dim * w->d, 0.02);
    for (int h = 0; h < HEADS; h++) {
        float *q = w->model->params + layer->qkv_bias + h * w->head_dim;
        float *k = q + HEADS * w->head_dim;
        for (int64_t f = 0; f < 4; f++) { /* the fast rotations tell neighbours apart */
            q[f] = 6.4f;
            k[f] = (float)(6.4 * cos(frequency[f] * (h + 1)));
            k[f + rotations] = (float)(6.4 * sin(frequency[f] * (h + 1)));
        }
        for (int64_t c = 0; c < w->code; c++) {
            read_code(w, layer->qkv, values + h * w->head_dim + c, book, 0, c, 1.0);
            w->model->params[layer->o_proj + (w->half + h * w->code + c) * HEADS * w->head_dim +
                             h * w->head_dim + c] = 0.088f;
        }
    }
}

/* Layer 1: queries and keys compare codes in the slow rotations, where distance hardly matters. */
static void wire_matches(wiring *w, const float *book) {
    static const int query[HEADS] = {0, 1, 2, 1}, key[HEADS] = {1, 2, 3, 4};
    const zs_layer_offsets *layer = &w->model->layers[1];
    int64_t rotations = w->head_dim / 2, width = HEADS * w->head_dim;
    fill(w, layer->qkv, 3 * width * w->d, 0.02);
    for (int h = 0; h < HEADS; h++) {
        for (int64_t c = 0; c < w->code; c++) {
            int64_t slot = c % (w->code / 2) + rotations / 2 + (c < w->code / 2 ? 0 : rotations);
            read_code(w, layer->qkv, h * w->head_dim + slot, book, query[h], c, 1.7);
            read_code(w, layer->qkv, width + h * w->head_dim + slot, book, key[h], c, 1.7);
        }
        for (int64_t i = 0; i < w->head_dim; i++) { /* values: a projection of the embedding, and back */
            float *value = row(w, layer->qkv, 2 * width + h * w->head_dim + i);
            for (int64_t j = 0; j < w->half; j++) {
                value[j] = normal(w, 1.0 / sqrt((double)w->half));
                w->model->params[layer->o_proj + j * width + h * w->head_dim + i] = 0.25f * value[j];
            }
        }
    }
}

bool zs_model_init_wired(zs_model *model, uint64_t seed) {
    const zs_model_config *config = &model->config;
    wiring w = {.model = model,
                .rng = zs_rng_make(seed, ZS_STREAM_INIT, 1, 0, 0),
                .d = config->hidden_size,
                .half = config->hidden_size / 2,
                .code = config->hidden_size / 2 / HEADS,
                .head_dim = config->head_dim};
    float book[64 * 256];
    if (!config->attention_bias || !config->tie_word_embeddings || config->num_hidden_layers < 2 ||
        config->num_attention_heads != HEADS || config->num_key_value_heads != HEADS || w.d % 16 != 0 ||
        w.d > 512 || w.head_dim < 2 * w.code) {
        return false;
    }
    zs_model_init(model, seed);
    for (int64_t i = 0; i < w.code * w.half; i++)
        book[i] = normal(&w, 1.0 / sqrt((double)w.half));
    for (int64_t v = 0; v < config->vocab_size; v++) {
        for (int64_t i = 0; i < w.d; i++) {
            *(row(&w, model->embed, v) + i) = normal(&w, i < w.half ? 1.0 / sqrt((double)w.half) : 0.01);
        }
    }
    int64_t width = HEADS * w.head_dim;
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        const zs_layer_offsets *layer = &model->layers[l];
        fill(&w, layer->qkv, 3 * width * w.d, 0.06);
        fill(&w, layer->o_proj, w.d * width, l < 2 ? 0.004 : 0.02);
        fill(&w, layer->gate_up, 2 * config->intermediate_size * w.d, 0.06);
        fill(&w, layer->down_proj, config->intermediate_size * w.d, 0.01);
    }
    wire_offsets(&w, book);
    wire_matches(&w, book);
    return true;
}
