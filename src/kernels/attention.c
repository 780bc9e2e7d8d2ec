/* Causal attention over packed sequences in tiles with a running softmax (Dao et al. 2022, FlashAttention):
 * the only score matrix is one tile for each thread. Backward computes the probabilities again from the
 * log-sum-exp.
 *
 * A tile is kept transposed, [keys, queries]: a vector register then holds 16 queries, so that maxima, sums,
 * exponentials and the mask go lane by lane without a horizontal step, keys and values are used where they
 * lie, and only the queries of a tile are copied.
 *
 * Forward has a task for each (sequence, head, tile of queries). In backward the query heads of one key-value
 * head add into the same dk and dv, and every tile of keys into the same dq; so either one task does all of a
 * (sequence, key-value head), or, where those are too few for the threads, the scores are computed twice:
 * once by tasks that own a tile of keys, once by tasks that own a tile of queries. */
#include "zerosearch/kernels.h"

#include "tile_product.h"
#include "vector_math.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define TILE  64
#define LANES 16 /* queries of one register */
static const float masked = -1e30f;

int64_t zs_attention_work(int64_t head_dim) {
    return 2 * TILE * TILE + 3 * TILE * head_dim + 3 * TILE;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The pieces of a thread's work memory. */
typedef struct tile_work {
    float *score, *dscore; /* [keys, TILE queries] */
    float *q, *dout;       /* [head_dim, TILE] the tile's queries (scaled), the gradients of their results */
    float *sum;            /* [head_dim, TILE] result, or gradient of the queries */
    float *first, *second; /* [TILE] one number a query: maximum and total; lse and delta */
    float *shrink;         /* [TILE] */
} tile_work;

static tile_work cut_work(float *work, int64_t head_dim) {
    float *transposed = work + 2 * TILE * TILE, *rows = transposed + 3 * TILE * head_dim;
    return (tile_work){.score = work,
                       .dscore = work + TILE * TILE,
                       .q = transposed,
                       .dout = transposed + TILE * head_dim,
                       .sum = transposed + 2 * TILE * head_dim,
                       .first = rows,
                       .second = rows + TILE,
                       .shrink = rows + 2 * TILE};
}

/* to [head_dim, TILE] = scale * from [rows, head_dim]^T, 0 beyond `rows` up to whole registers. */
static void transpose(int64_t rows, int64_t head_dim, float scale, const float *from, int64_t stride,
                      float *to) {
    int64_t lanes = (rows + LANES - 1) / LANES * LANES;
    zs_tile_transpose(rows, head_dim, scale, from, stride, to, TILE);
    for (int64_t i = rows; i < lanes; i++)
        for (int64_t d = 0; d < head_dim; d++)
            to[d * TILE + i] = 0;
}

/* Whole tiles are one step. On the diagonal, keys go in steps of LANES: those before a step's first query
 * have no lane in it, so three eighths of the tile need not be computed. */
static int64_t step_of(int64_t query, int64_t key) {
    return query == key ? LANES : TILE;
}

/* score [columns, lanes] = rows_of [columns, head_dim] (stride apart) . right [head_dim, TILE]. */
static void scores(int64_t columns, int64_t lanes, int64_t head_dim, int64_t step, const float *rows_of,
                   int64_t stride, const float *right, float *score) {
    for (int64_t j = 0; j < columns; j += step) {
        int64_t skip = step == TILE ? 0 : j;
        zs_tile_product(smaller(step, columns - j), lanes - skip, head_dim, rows_of + j * stride, stride, 1,
                        right + skip, TILE, false, score + j * TILE + skip, TILE);
    }
}

/* sum [head_dim, lanes] += rows_of^T . weight [columns, lanes]. */
static void weigh(int64_t columns, int64_t lanes, int64_t head_dim, int64_t step, const float *rows_of,
                  int64_t stride, const float *weight, float *sum) {
    for (int64_t j = 0; j < columns; j += step) {
        int64_t skip = step == TILE ? 0 : j;
        zs_tile_product(head_dim, lanes - skip, smaller(step, columns - j), rows_of + j * stride, 1, stride,
                        weight + j * TILE + skip, TILE, true, sum + skip, TILE);
    }
}

/* to [columns, head_dim] (stride apart) += weight [columns, rows] . of [rows, head_dim]. */
static void spread(int64_t columns, int64_t rows, int64_t head_dim, int64_t step, const float *weight,
                   const float *of, int64_t of_stride, float *to, int64_t stride) {
    for (int64_t j = 0; j < columns; j += step) {
        int64_t skip = step == TILE ? 0 : j;
        zs_tile_product(smaller(step, columns - j), head_dim, rows - skip, weight + j * TILE + skip, TILE, 1,
                        of + skip * of_stride, of_stride, true, to + j * stride, stride);
    }
}

/* On the diagonal key j is not seen by the queries before it. */
static void mask_diagonal(int64_t columns, int64_t lanes, float *score) {
    for (int64_t j = 1; j < columns; j++)
        for (int64_t i = 0; i < smaller(j, lanes); i++)
            score[j * TILE + i] = masked;
}

/* Scores to probabilities under the running maximum; sum and total shrink as it grows. */
static void running_softmax(int64_t columns, int64_t lanes, int64_t head_dim, const tile_work *w) {
    float *highest = w->first, *total = w->second, *shrink = w->shrink;
    for (int64_t v = 0; v < lanes; v += LANES) {
        float best[LANES], added[LANES];
        for (int i = 0; i < LANES; i++) {
            best[i] = highest[v + i];
            added[i] = 0;
        }
        for (int64_t j = 0; j < columns; j++) {
            const float *s = w->score + j * TILE + v;
#pragma omp simd
            for (int i = 0; i < LANES; i++)
                best[i] = s[i] > best[i] ? s[i] : best[i];
        }
        for (int64_t j = 0; j < columns; j++) {
            float *s = w->score + j * TILE + v;
#pragma omp simd
            for (int i = 0; i < LANES; i++) {
                float p = zs_expf(s[i] - best[i]);
                added[i] += p;
                s[i] = p;
            }
        }
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            shrink[v + i] = zs_expf(highest[v + i] - best[i]);
            total[v + i] = total[v + i] * shrink[v + i] + added[i];
            highest[v + i] = best[i];
        }
    }
    for (int64_t d = 0; d < head_dim; d++)
#pragma omp simd
        for (int64_t i = 0; i < lanes; i++)
            w->sum[d * TILE + i] *= shrink[i];
}

static void forward_tile_rows(int64_t length, int64_t query, int64_t head_dim, int64_t stride, float scale,
                              const float *q, const float *k, const float *v, float *out, int64_t out_stride,
                              float *lse, int64_t lse_stride, float *work) {
    int64_t rows = smaller(TILE, length - query), lanes = (rows + LANES - 1) / LANES * LANES;
    tile_work w = cut_work(work, head_dim);
    transpose(rows, head_dim, scale, q + query * stride, stride, w.q);
    memset(w.sum, 0, (size_t)(head_dim * TILE) * sizeof(float));
    for (int64_t i = 0; i < TILE; i++) {
        w.first[i] = masked;
        w.second[i] = 0;
    }
    for (int64_t key = 0; key <= query; key += TILE) {
        int64_t columns = smaller(TILE, length - key), step = step_of(query, key);
        scores(columns, lanes, head_dim, step, k + key * stride, stride, w.q, w.score);
        if (key == query) mask_diagonal(columns, lanes, w.score);
        running_softmax(columns, lanes, head_dim, &w);
        weigh(columns, lanes, head_dim, step, v + key * stride, stride, w.score, w.sum);
    }
    for (int64_t i = 0; i < rows; i++) {
        lse[(query + i) * lse_stride] = w.first[i] + logf(w.second[i]);
        w.second[i] = 1.0f / w.second[i];
    }
    for (int64_t d = 0; d < head_dim; d++)
#pragma omp simd
        for (int64_t i = 0; i < rows; i++)
            w.sum[d * TILE + i] *= w.second[i];
    zs_tile_transpose(head_dim, rows, 1, w.sum, TILE, out + query * out_stride, out_stride);
}

/* Tiles of the longest sequence: the bound of a task loop in which shorter sequences leave tasks empty. */
static int64_t most_tiles(int64_t num_sequences, const int64_t *offsets) {
    int64_t longest = 0;
    for (int64_t s = 0; s < num_sequences; s++)
        longest = offsets[s + 1] - offsets[s] > longest ? offsets[s + 1] - offsets[s] : longest;
    return (longest + TILE - 1) / TILE;
}

void zs_attention_forward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                          int64_t head_dim, const float *qkv, float *out, float *lse, float *work) {
    int64_t stride = (heads + 2 * kv_heads) * head_dim, group = heads / kv_heads;
    int64_t tiles = most_tiles(num_sequences, offsets);
    float scale = (float)(1.0 / sqrt((double)head_dim));
#pragma omp parallel for collapse(3) schedule(dynamic, 1) if (offsets[num_sequences] * heads > 128)
    for (int64_t s = 0; s < num_sequences; s++) {
        for (int64_t head = 0; head < heads; head++) {
            for (int64_t tile = tiles - 1; tile >= 0; tile--) { /* the longest rows first, to end evenly */
                int64_t begin = offsets[s], length = offsets[s + 1] - begin;
                if (tile * TILE >= length) continue;
                float *mine = work + omp_get_thread_num() * zs_attention_work(head_dim);
                const float *q = qkv + begin * stride + head * head_dim;
                const float *k = qkv + begin * stride + (heads + head / group) * head_dim;
                forward_tile_rows(length, tile * TILE, head_dim, stride, scale, q, k, k + kv_heads * head_dim,
                                  out + (begin * heads + head) * head_dim, heads * head_dim,
                                  lse + begin * heads + head, heads, mine);
            }
        }
    }
}

/* One head of one sequence in backward. delta_i = dout_i . out_i; strides in floats. */
typedef struct head_view {
    int64_t length, head_dim, stride, out_stride, lse_stride;
    float scale;
    const float *q, *k, *v, *dout, *lse, *delta;
    float *dq, *dk, *dv;
    float *work;
} head_view;

/* The tile's queries and their numbers, for any number of key tiles after it. */
static tile_work load_queries(const head_view *h, int64_t query) {
    int64_t rows = smaller(TILE, h->length - query);
    tile_work w = cut_work(h->work, h->head_dim);
    transpose(rows, h->head_dim, h->scale, h->q + query * h->stride, h->stride, w.q);
    transpose(rows, h->head_dim, 1, h->dout + query * h->out_stride, h->out_stride, w.dout);
    for (int64_t i = 0; i < TILE; i++) {
        w.first[i] = i < rows ? h->lse[(query + i) * h->lse_stride] : -masked; /* no weight beyond the end */
        w.second[i] = i < rows ? h->delta[(query + i) * h->lse_stride] : 0;
    }
    memset(w.sum, 0, (size_t)(h->head_dim * TILE) * sizeof(float));
    return w;
}

/* What the loaded queries and keys [key, key + TILE) give each other: to w->sum (the gradient of the
 * queries), to dk and dv, or to all three. */
static void backward_tile(const head_view *h, const tile_work *w, int64_t query, int64_t key, bool to_query,
                          bool to_key) {
    int64_t rows = smaller(TILE, h->length - query), columns = smaller(TILE, h->length - key);
    int64_t lanes = (rows + LANES - 1) / LANES * LANES, step = step_of(query, key);
    int64_t d = h->head_dim, k_at = key * h->stride;
    scores(columns, lanes, d, step, h->k + k_at, h->stride, w->q, w->score);
    scores(columns, lanes, d, step, h->v + k_at, h->stride, w->dout, w->dscore);
    float scale = h->scale;
    for (int64_t j = 0; j < columns; j++) {
        float *p = w->score + j * TILE, *dp = w->dscore + j * TILE;
        int64_t from = step == TILE ? 0 : j / LANES * LANES; /* lanes that were computed */
        for (int64_t i = from; step < TILE && i < j; i++)
            p[i] = masked;
        const float *lse = w->first, *delta = w->second;
#pragma omp simd
        for (int64_t i = from; i < lanes; i++) {
            p[i] = zs_expf(p[i] - lse[i]);
            dp[i] = p[i] * (dp[i] - delta[i]) * scale;
        }
    }
    if (to_key) {
        spread(columns, rows, d, step, w->score, h->dout + query * h->out_stride, h->out_stride, h->dv + k_at,
               h->stride);
        spread(columns, rows, d, step, w->dscore, h->q + query * h->stride, h->stride, h->dk + k_at,
               h->stride);
    }
    if (to_query) weigh(columns, lanes, d, step, h->k + k_at, h->stride, w->dscore, w->sum);
}

static void store_query_gradient(const head_view *h, const tile_work *w, int64_t query) {
    int64_t rows = smaller(TILE, h->length - query);
    zs_tile_transpose(h->head_dim, rows, 1, w->sum, TILE, h->dq + query * h->stride, h->stride);
}

typedef struct batch_view {
    const int64_t *offsets;
    int64_t heads, kv_heads, head_dim;
    const float *qkv, *lse, *dout, *delta;
    float *dqkv, *work;
} batch_view;

static head_view view_head(const batch_view *b, int64_t sequence, int64_t head) {
    int64_t stride = (b->heads + 2 * b->kv_heads) * b->head_dim, begin = b->offsets[sequence];
    int64_t q = begin * stride + head * b->head_dim;
    int64_t k = begin * stride + (b->heads + head / (b->heads / b->kv_heads)) * b->head_dim;
    int64_t v = k + b->kv_heads * b->head_dim, row = begin * b->heads + head;
    return (head_view){.length = b->offsets[sequence + 1] - begin,
                       .head_dim = b->head_dim,
                       .stride = stride,
                       .out_stride = b->heads * b->head_dim,
                       .lse_stride = b->heads,
                       .scale = (float)(1.0 / sqrt((double)b->head_dim)),
                       .q = b->qkv + q,
                       .k = b->qkv + k,
                       .v = b->qkv + v,
                       .dout = b->dout + row * b->head_dim,
                       .lse = b->lse + row,
                       .delta = b->delta + row,
                       .dq = b->dqkv + q,
                       .dk = b->dqkv + k,
                       .dv = b->dqkv + v,
                       .work = b->work + omp_get_thread_num() * zs_attention_work(b->head_dim)};
}

/* dqkv = 0 and delta, before any tile adds. */
static void backward_prepare(const batch_view *b, int64_t num_tokens, const float *out, float *delta) {
    int64_t d = b->head_dim, stride = (b->heads + 2 * b->kv_heads) * d;
#pragma omp parallel for schedule(static) if (num_tokens * b->heads > 128)
    for (int64_t t = 0; t < num_tokens; t++) {
        memset(b->dqkv + t * stride, 0, (size_t)stride * sizeof(float));
        for (int64_t head = 0; head < b->heads; head++) {
            const float *o = out + (t * b->heads + head) * d, *g = b->dout + (t * b->heads + head) * d;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < d; i++)
                dot += o[i] * g[i];
            delta[t * b->heads + head] = dot;
        }
    }
}

/* Five products a tile, a task for each key-value head of each sequence. */
static void backward_by_kv_head(const batch_view *b, int64_t num_sequences) {
    int64_t group = b->heads / b->kv_heads;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (b->offsets[num_sequences] * b->heads > 128)
    for (int64_t s = 0; s < num_sequences; s++) {
        for (int64_t kv = 0; kv < b->kv_heads; kv++) {
            for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                head_view h = view_head(b, s, head);
                for (int64_t query = 0; query < h.length; query += TILE) {
                    tile_work w = load_queries(&h, query);
                    for (int64_t key = 0; key <= query; key += TILE)
                        backward_tile(&h, &w, query, key, true, true);
                    store_query_gradient(&h, &w, query);
                }
            }
        }
    }
}

/* Seven products a tile, but a task for each tile: for long sequences and few key-value heads on many
 * threads.
 */
static void backward_by_tile(const batch_view *b, int64_t num_sequences) {
    int64_t group = b->heads / b->kv_heads, tiles = most_tiles(num_sequences, b->offsets);
#pragma omp parallel
    {
#pragma omp for collapse(3) schedule(dynamic, 1) nowait
        for (int64_t tile = 0; tile < tiles; tile++) /* early keys are seen by most queries: longest first */
            for (int64_t s = 0; s < num_sequences; s++)
                for (int64_t kv = 0; kv < b->kv_heads; kv++)
                    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                        head_view h = view_head(b, s, head);
                        if (tile * TILE >= h.length) break;
                        for (int64_t query = tile * TILE; query < h.length; query += TILE) {
                            tile_work w = load_queries(&h, query);
                            backward_tile(&h, &w, query, tile * TILE, false, true);
                        }
                    }
#pragma omp for collapse(3) schedule(dynamic, 1)
        for (int64_t tile = tiles - 1; tile >= 0; tile--)
            for (int64_t s = 0; s < num_sequences; s++)
                for (int64_t head = 0; head < b->heads; head++) {
                    head_view h = view_head(b, s, head);
                    if (tile * TILE >= h.length) continue;
                    tile_work w = load_queries(&h, tile * TILE);
                    for (int64_t key = 0; key <= tile * TILE; key += TILE)
                        backward_tile(&h, &w, tile * TILE, key, true, false);
                    store_query_gradient(&h, &w, tile * TILE);
                }
    }
}

void zs_attention_backward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                           int64_t head_dim, const float *qkv, const float *out, const float *lse,
                           const float *dout, float *dqkv, float *delta, float *work) {
    batch_view b = {offsets, heads, kv_heads, head_dim, qkv, lse, dout, delta, dqkv, work};
    backward_prepare(&b, offsets[num_sequences], out, delta);
    int threads = omp_get_max_threads();
    if (threads > 1 && num_sequences * kv_heads < 2 * threads)
        backward_by_tile(&b, num_sequences);
    else
        backward_by_kv_head(&b, num_sequences);
}
