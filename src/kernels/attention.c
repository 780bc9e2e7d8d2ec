/* Causal attention over packed sequences in tiles with a running softmax (Dao et al. 2022, FlashAttention):
 * the only score matrix is one tile for each thread. Backward computes the probabilities again from the
 * log-sum-exp.
 *
 * Forward has a task for each (tile of queries, sequence, head). In backward the query heads of one key-value
 * head add into the same dk and dv, and every tile of keys into the same dq; so either one task does all of a
 * (sequence, key-value head), or, where those are too few for the threads, the scores are computed twice:
 * once by tasks that own a tile of keys, once by tasks that own a tile of queries. */
#include "zerosearch/kernels.h"

#include "vector_math.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#define TILE 64 /* queries and keys of a tile: two 16 KiB score tiles stay in the first cache */
static const float masked = -1e30f;

int64_t zs_attention_work(int64_t head_dim) {
    return 2 * TILE * TILE + TILE * head_dim + 2 * TILE;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* y [m, n] = beta y + alpha op(a) op(b), every matrix with its own row stride. */
static void tile_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                      int64_t lda, const float *b, int64_t ldb, float beta, float *y, int64_t ldy) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (blasint)m,
                (blasint)n, (blasint)k, alpha, a, (blasint)lda, b, (blasint)ldb, beta, y, (blasint)ldy);
}

/* Columns of row i that the causal mask and the end of the sequence leave, of a tile whose keys start at
 * `key` and whose queries start at `query`; the rest is overwritten so that loops may run over whole rows. */
static void mask_row(float *row, int64_t i, int64_t query, int64_t key, int64_t columns) {
    int64_t seen = smaller(columns, query + i - key + 1);
    for (int64_t j = seen; j < TILE; j++)
        row[j] = masked;
}

static void forward_tile_rows(int64_t length, int64_t query, int64_t head_dim, int64_t stride, float scale,
                              const float *q, const float *k, const float *v, float *out, int64_t out_stride,
                              float *lse, int64_t lse_stride, float *work) {
    int64_t rows = smaller(TILE, length - query);
    float *score = work, *sum_out = work + 2 * TILE * TILE, *highest = sum_out + TILE * head_dim;
    float *total = highest + TILE;
    memset(sum_out, 0, (size_t)(rows * head_dim) * sizeof(float));
    for (int64_t i = 0; i < rows; i++) {
        highest[i] = masked;
        total[i] = 0;
    }
    for (int64_t key = 0; key < query + rows; key += TILE) {
        int64_t columns = smaller(TILE, length - key);
        tile_gemm(false, true, rows, columns, head_dim, scale, q + query * stride, stride, k + key * stride,
                  stride, 0, score, TILE);
        for (int64_t i = 0; i < rows; i++) {
            float *row = score + i * TILE;
            mask_row(row, i, query, key, columns);
            float top = highest[i], sum = 0;
#pragma omp simd reduction(max : top)
            for (int64_t j = 0; j < TILE; j++)
                top = row[j] > top ? row[j] : top;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < TILE; j++) {
                float p = zs_expf(row[j] - top);
                sum += p;
                row[j] = p;
            }
            float shrink = zs_expf(highest[i] - top);
            highest[i] = top;
            total[i] = total[i] * shrink + sum;
            if (shrink != 1.0f) {
                float *so_far = sum_out + i * head_dim;
#pragma omp simd
                for (int64_t d = 0; d < head_dim; d++)
                    so_far[d] *= shrink;
            }
        }
        tile_gemm(false, false, rows, head_dim, columns, 1, score, TILE, v + key * stride, stride, 1, sum_out,
                  head_dim);
    }
    for (int64_t i = 0; i < rows; i++) {
        float inverse = 1.0f / total[i];
        float *to = out + (query + i) * out_stride;
        const float *from = sum_out + i * head_dim;
#pragma omp simd
        for (int64_t d = 0; d < head_dim; d++)
            to[d] = from[d] * inverse;
        lse[(query + i) * lse_stride] = highest[i] + logf(total[i]);
    }
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

/* Adds what queries [query, query + TILE) and keys [key, key + TILE) give each other: to dq, to dk and dv, or
 * to all three. */
static void backward_tile(const head_view *h, int64_t query, int64_t key, bool to_query, bool to_key) {
    int64_t rows = smaller(TILE, h->length - query), columns = smaller(TILE, h->length - key);
    int64_t d = h->head_dim, q_at = query * h->stride, k_at = key * h->stride;
    const float *dout = h->dout + query * h->out_stride;
    float *prob = h->work, *dprob = h->work + TILE * TILE;
    tile_gemm(false, true, rows, columns, d, h->scale, h->q + q_at, h->stride, h->k + k_at, h->stride, 0,
              prob, TILE);
    tile_gemm(false, true, rows, columns, d, 1, dout, h->out_stride, h->v + k_at, h->stride, 0, dprob, TILE);
    for (int64_t i = 0; i < rows; i++) {
        float *p = prob + i * TILE, *dp = dprob + i * TILE;
        mask_row(p, i, query, key, columns);
        for (int64_t j = columns; j < TILE; j++)
            dp[j] = 0; /* not written by the GEMM: it may hold anything, NaN too */
        float norm = h->lse[(query + i) * h->lse_stride], less = h->delta[(query + i) * h->lse_stride];
        float scale = h->scale;
#pragma omp simd
        for (int64_t j = 0; j < TILE; j++) {
            p[j] = zs_expf(p[j] - norm);
            dp[j] = p[j] * (dp[j] - less) * scale;
        }
    }
    if (to_key) {
        tile_gemm(true, false, columns, d, rows, 1, prob, TILE, dout, h->out_stride, 1, h->dv + k_at,
                  h->stride);
        tile_gemm(true, false, columns, d, rows, 1, dprob, TILE, h->q + q_at, h->stride, 1, h->dk + k_at,
                  h->stride);
    }
    if (to_query)
        tile_gemm(false, false, rows, d, columns, 1, dprob, TILE, h->k + k_at, h->stride, 1, h->dq + q_at,
                  h->stride);
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

/* Five GEMMs a tile, a task for each key-value head of each sequence. */
static void backward_by_kv_head(const batch_view *b, int64_t num_sequences) {
    int64_t group = b->heads / b->kv_heads;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (b->offsets[num_sequences] * b->heads > 128)
    for (int64_t s = 0; s < num_sequences; s++) {
        for (int64_t kv = 0; kv < b->kv_heads; kv++) {
            for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                head_view h = view_head(b, s, head);
                for (int64_t query = 0; query < h.length; query += TILE)
                    for (int64_t key = 0; key <= query; key += TILE)
                        backward_tile(&h, query, key, true, true);
            }
        }
    }
}

/* Seven GEMMs a tile, but a task for each tile: for long sequences and few key-value heads on many threads.
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
                        for (int64_t query = tile * TILE; query < h.length; query += TILE)
                            backward_tile(&h, query, tile * TILE, false, true);
                    }
#pragma omp for collapse(3) schedule(dynamic, 1)
        for (int64_t tile = tiles - 1; tile >= 0; tile--)
            for (int64_t s = 0; s < num_sequences; s++)
                for (int64_t head = 0; head < b->heads; head++) {
                    head_view h = view_head(b, s, head);
                    for (int64_t key = 0; tile * TILE < h.length && key <= tile * TILE; key += TILE)
                        backward_tile(&h, tile * TILE, key, true, false);
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
