/* The memory of a model's weights: f32 as files have them, bf16 packed in place, or an int8 block.
 *
 * An int8 block holds the matrices one after another (zs_quantize_int8): embedding, each layer's, the head if
 * it is not tied; then the vectors in f32. Each matrix is as the products take it and whole in itself.
 * The alternative, one byte a parameter in place of the flat layout as bf16 is kept, has no room for scales,
 * and needs code for rows that are no whole panel and for k that are no whole block in every kernel. */
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"
#include "zerosearch/model.h"

#include <omp.h>
#include <string.h>

/* Parts. */

/* A matrix as the products take it (q, k and v are one, gate and up another), or a vector. */
typedef struct part {
    int64_t offset;     /* of its first parameter in the flat layout */
    int64_t rows, cols; /* cols 0: a vector */
    int64_t place;      /* of its first byte in an int8 block */
} part;

static int64_t size_of(const part *p) {
    return p->cols > 0 ? p->rows * p->cols : p->rows;
}

enum { MOST_PARTS = 7 };

/* The parts of a layer in order of offset; their number. Places are left out. */
static int layer_parts(const zs_model *model, int64_t layer, part out[MOST_PARTS]) {
    const zs_model_config *c = &model->config;
    const zs_layer_offsets *o = &model->layers[layer];
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    int64_t qkv = q + 2 * c->num_key_value_heads * c->head_dim;
    const part all[MOST_PARTS] = {{o->input_norm, h, 0, 0},  {o->qkv, qkv, h, 0},
                                  {o->qkv_bias, qkv, 0, 0},  {o->o_proj, h, q, 0},
                                  {o->post_norm, h, 0, 0},   {o->gate_up, 2 * wide, h, 0},
                                  {o->down_proj, h, wide, 0}};
    int count = 0;
    for (int i = 0; i < MOST_PARTS; i++)
        if (all[i].offset >= 0) out[count++] = all[i];
    return count;
}

static part embedding(const zs_model *model) {
    return (part){model->embed, model->config.vocab_size, model->config.hidden_size, 0};
}

/* What follows the last layer. */
static int last_parts(const zs_model *model, part out[MOST_PARTS]) {
    const zs_model_config *c = &model->config;
    int count = 0;
    out[count++] = (part){model->final_norm, c->hidden_size, 0, 0};
    if (model->head != model->embed)
        out[count++] = (part){model->head, c->value_head ? 1 : c->vocab_size, c->hidden_size, 0};
    if (model->score_bias >= 0) out[count++] = (part){model->score_bias, 1, 0, 0};
    return count;
}

typedef struct cursor { /* the next free byte of the block, for matrices and for vectors */
    int64_t matrix, vector;
} cursor;

static void place(part *parts, int count, cursor *at) {
    for (int i = 0; i < count; i++) {
        bool matrix = parts[i].cols > 0;
        parts[i].place = matrix ? at->matrix : at->vector;
        if (matrix)
            at->matrix += zs_int8_bytes(parts[i].rows, parts[i].cols);
        else
            at->vector += parts[i].rows * (int64_t)sizeof(float);
    }
}

typedef struct block { /* of int8 weights, in bytes */
    cursor layer;      /* what a layer takes */
    cursor begin, end; /* where the first layer's parts begin and those of all layers end */
    int64_t bytes;
} block;

/* Layers have equal spans. */
static block block_of(const zs_model *model) {
    part parts[MOST_PARTS], first = embedding(model);
    int64_t layers = model->config.num_hidden_layers;
    block b = {0};
    cursor last = {0};
    place(parts, layer_parts(model, 0, parts), &b.layer);
    place(parts, last_parts(model, parts), &last);
    b.begin.matrix = zs_int8_bytes(first.rows, first.cols);
    b.end.matrix = b.begin.matrix + layers * b.layer.matrix;
    b.begin.vector = b.end.matrix + last.matrix;
    b.end.vector = b.begin.vector + layers * b.layer.vector;
    b.bytes = (b.end.vector + last.vector + 63) / 64 * 64;
    return b;
}

/* The part that holds parameter `offset`. */
static part part_at(const zs_model *model, int64_t offset) {
    if (offset < model->layers[0].begin) return embedding(model);
    part parts[MOST_PARTS];
    int64_t span = model->layers[0].end - model->layers[0].begin;
    block b = block_of(model);
    int count;
    if (offset >= model->final_norm) {
        count = last_parts(model, parts);
        place(parts, count, &b.end);
    } else {
        int64_t layer = (offset - model->layers[0].begin) / span;
        cursor at = {b.begin.matrix + layer * b.layer.matrix, b.begin.vector + layer * b.layer.vector};
        count = layer_parts(model, layer, parts);
        place(parts, count, &at);
    }
    for (int i = 0; i < count; i++)
        if (offset < parts[i].offset + size_of(&parts[i])) return parts[i];
    ZS_ASSERT(false, "no parameter %lld", (long long)offset);
    return parts[0];
}

/* Memory. */

int64_t zs_model_bytes(const zs_model *layout, zs_dtype dtype) {
    return dtype == ZS_INT8 ? block_of(layout).bytes : layout->num_params * zs_dtype_size(dtype);
}

zs_dtype zs_model_dtype(const zs_model *model) {
    return model->params ? ZS_F32 : model->params_bf16 ? ZS_BF16 : model->int8 ? ZS_INT8 : ZS_DTYPE_OTHER;
}

void *zs_model_weights(const zs_model *model) {
    return model->params        ? (void *)model->params
           : model->params_bf16 ? (void *)model->params_bf16
                                : (void *)model->int8;
}

/* Vectors of a layer: its two norms and the biases of q, k, v. */
static int64_t layer_vectors(const zs_model_config *c) {
    int64_t qkv = (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
    return 2 * c->hidden_size + (c->attention_bias ? qkv : 0);
}

static void take_weights(zs_model *model, zs_dtype dtype, void *weights) {
    const zs_model_config *c = &model->config;
    if (dtype == ZS_F32) {
        model->params = weights;
    } else if (dtype == ZS_BF16) {
        model->params_bf16 = weights;
        model->vectors =
            ZS_NEW(float, c->num_hidden_layers *layer_vectors(c) + c->hidden_size + (c->value_head ? 1 : 0));
    } else {
        ZS_ASSERT(dtype == ZS_INT8, "weights of type %s", zs_dtype_name(dtype));
        model->int8 = weights;
        model->vectors = (float *)(void *)(model->int8 + block_of(model).begin.vector);
    }
}

static zs_model *create(const zs_model_config *config, zs_dtype dtype) {
    zs_model *model = zs_model_layout(config);
    take_weights(model, dtype, zs_alloc(zs_model_bytes(model, dtype), 1));
    return model;
}

zs_model *zs_model_create(const zs_model_config *config) {
    return create(config, ZS_F32);
}

zs_model *zs_model_create_narrow(const zs_model_config *config, zs_dtype dtype) {
    ZS_ASSERT(dtype == ZS_BF16 || dtype == ZS_INT8, "narrow weights of type %s", zs_dtype_name(dtype));
    return create(config, dtype);
}

zs_model *zs_model_attach(const zs_model_config *config, zs_dtype dtype, void *weights) {
    zs_model *model = zs_model_layout(config);
    model->borrowed = true;
    take_weights(model, dtype, weights);
    zs_model_widen_vectors(model);
    return model;
}

zs_model *zs_model_clone(const zs_model *model) {
    zs_dtype dtype = zs_model_dtype(model);
    zs_model *copy = create(&model->config, dtype);
    memcpy(zs_model_weights(copy), zs_model_weights(model), (size_t)zs_model_bytes(model, dtype));
    copy->packed = model->packed;
    zs_model_widen_vectors(copy);
    return copy;
}

void zs_model_destroy(zs_model *model) {
    if (!model) return;
    zs_free(model->tensors);
    zs_free(model->layers);
    if (!model->int8) zs_free(model->vectors);
    if (!model->borrowed) zs_free(zs_model_weights(model));
    zs_free(model);
}

/* Narrow weights. */

void zs_model_widen_vectors(zs_model *model) {
    if (!model->params_bf16) return;
    float *to = model->vectors;
    for (int i = 0; i < model->num_tensors; i++) {
        const zs_tensor *tensor = &model->tensors[i];
        if (tensor->num_dims != 1) continue;
        zs_to_f32(ZS_BF16, model->params_bf16 + tensor->offset, tensor->rows, to);
        to += tensor->rows;
    }
}

bool zs_model_next_piece(const zs_model *layout, int64_t most, zs_model_piece *piece) {
    if (piece->end == layout->num_params) return false;
    part p = part_at(layout, piece->end);
    int64_t inside = piece->end - p.offset, left = size_of(&p) - inside;
    piece->begin = piece->end;
    if (p.cols == 0) {
        int64_t count = left < most ? left : most;
        piece->end += count;
        piece->from = p.place + inside * (int64_t)sizeof(float);
        piece->to = piece->from + count * (int64_t)sizeof(float);
        return true;
    }
    int64_t panels = most / (16 * p.cols), rows = left / p.cols;
    if (panels == 0) panels = 1;
    if (rows > 16 * panels) rows = 16 * panels;
    piece->end += rows * p.cols;
    piece->from = p.place + zs_int8_bytes(inside / p.cols, p.cols); /* whole panels come before it */
    piece->to = piece->from + zs_int8_bytes(rows, p.cols);
    return true;
}

int64_t zs_model_piece_params(const zs_model *layout, int64_t most) {
    int64_t largest = 0;
    for (zs_model_piece p = {0}; zs_model_next_piece(layout, most, &p);)
        if (p.end - p.begin > largest) largest = p.end - p.begin;
    return largest;
}

void zs_model_quantize_piece(zs_model *model, const zs_model_piece *piece, const float *values) {
    part p = part_at(model, piece->begin);
    int64_t count = piece->end - piece->begin;
    ZS_ASSERT(model->int8, "a model of type %s", zs_dtype_name(zs_model_dtype(model)));
    if (p.cols == 0)
        memcpy(model->int8 + piece->from, values, (size_t)count * sizeof(float));
    else
        zs_quantize_int8(count / p.cols, p.cols, values, model->int8 + piece->from, omp_get_max_threads());
}

void zs_model_narrow(const zs_model *from, zs_model *to) {
    ZS_ASSERT(from->params && !to->params && from->num_params == to->num_params, "models do not match");
    if (to->params_bf16) {
        zs_from_f32(ZS_BF16, from->params, from->num_params, to->params_bf16);
        to->packed = false;
        zs_model_widen_vectors(to);
        return;
    }
    for (zs_model_piece p = {0}; zs_model_next_piece(to, to->num_params, &p);)
        zs_model_quantize_piece(to, &p, from->params + p.begin);
}

/* Whole panels of a part, so that they are a matrix of their own; the last has the rows that stay. */
static void pack_part(zs_model *model, const part *p, int64_t part_index, int64_t parts, uint16_t *work) {
    int64_t panels = p->rows / 16;
    int64_t begin = panels * part_index / parts * 16, end = panels * (part_index + 1) / parts * 16;
    zs_pack_bf16(end - begin, p->cols, model->params_bf16 + p->offset + begin * p->cols, work,
                 omp_get_max_threads());
}

/* As the products take them. A score.weight, of one row, has no panel. */
void zs_model_pack(zs_model *model, int64_t part_index, int64_t parts) {
    if (!model->params_bf16) return;
    ZS_ASSERT(!model->packed, "a model is packed once");
    const zs_model_config *c = &model->config;
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim, wide = c->intermediate_size;
    int64_t longest = h > q ? h : q;
    longest = longest > wide ? longest : wide;
    uint16_t *work = ZS_NEW(uint16_t, omp_get_max_threads() * zs_pack_bf16_work(longest));
    for (int64_t at = 0; at < model->num_params;) {
        part p = part_at(model, at);
        if (p.cols > 0) pack_part(model, &p, part_index, parts, work);
        at += size_of(&p);
    }
    zs_free(work);
    model->packed = true;
}

/* Reading. */

zs_matrix zs_model_matrix(const zs_model *model, int64_t offset) {
    if (model->params) return (zs_matrix){.f32 = model->params + offset};
    if (model->params_bf16) return (zs_matrix){.bf16 = model->params_bf16 + offset, .packed = model->packed};
    part p = part_at(model, offset);
    ZS_ASSERT(p.offset == offset && p.cols > 0, "no matrix begins at %lld", (long long)offset);
    return (zs_matrix){.int8 = model->int8 + p.place};
}

const float *zs_model_vector(const zs_model *model, int64_t offset) {
    if (model->params) return model->params + offset;
    const zs_model_config *c = &model->config;
    int64_t per_layer = layer_vectors(c);
    if (offset == model->final_norm) return model->vectors + c->num_hidden_layers * per_layer;
    if (offset == model->score_bias)
        return model->vectors + c->num_hidden_layers * per_layer + c->hidden_size;
    int64_t span = model->layers[0].end - model->layers[0].begin;
    int64_t layer = (offset - model->layers[0].begin) / span;
    const zs_layer_offsets *o = &model->layers[layer];
    const float *vectors = model->vectors + layer * per_layer;
    if (offset == o->input_norm) return vectors;
    if (offset == o->qkv_bias) return vectors + c->hidden_size;
    ZS_ASSERT(offset == o->post_norm, "no vector begins at %lld", (long long)offset);
    return vectors + per_layer - c->hidden_size;
}

void zs_matrix_row(zs_matrix matrix, int64_t rows, int64_t cols, int64_t index, float *out) {
    if (matrix.f32)
        memcpy(out, matrix.f32 + index * cols, (size_t)cols * sizeof(float));
    else if (matrix.int8)
        zs_int8_row(cols, matrix.int8, index, out);
    else if (matrix.packed)
        zs_packed_row(rows, cols, matrix.bf16, index, out);
    else
        zs_to_f32(ZS_BF16, matrix.bf16 + index * cols, cols, out);
}
