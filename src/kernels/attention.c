/* Causal attention over packed sequences in tiles with a running softmax (Dao et al. 2022, FlashAttention):
 * the only score matrix is one tile for each thread. Backward computes the probabilities again from the
 * log-sum-exp.
 *
 * Tasks are (sequence, head) in forward; (sequence, key-value head) in backward, since the query heads of one
 * key-value head add into the same dk and dv. */
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

void zs_attention_forward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                          int64_t head_dim, const float *qkv, float *out, float *lse, float *work) {
    int64_t stride = (heads + 2 * kv_heads) * head_dim, group = heads / kv_heads;
    float scale = (float)(1.0 / sqrt((double)head_dim));
#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (offsets[num_sequences] * heads > 128)
    for (int64_t s = 0; s < num_sequences; s++) {
        for (int64_t head = 0; head < heads; head++) {
            float *mine = work + omp_get_thread_num() * zs_attention_work(head_dim);
            int64_t begin = offsets[s], length = offsets[s + 1] - begin;
            const float *q = qkv + begin * stride + head * head_dim;
            const float *k = qkv + begin * stride + (heads + head / group) * head_dim;
            const float *v = k + kv_heads * head_dim;
            for (int64_t query = 0; query < length; query += TILE)
                forward_tile_rows(length, query, head_dim, stride, scale, q, k, v,
                                  out + (begin * heads + head) * head_dim, heads * head_dim,
                                  lse + begin * heads + head, heads, mine);
        }
    }
}

/* One head of one sequence: adds into dq, dk, dv. delta_i = dout_i . out_i */
static void backward_head(int64_t length, int64_t head_dim, int64_t stride, float scale, const float *q,
                          const float *k, const float *v, const float *dout, int64_t out_stride,
                          const float *lse, const float *delta, int64_t lse_stride, float *dq, float *dk,
                          float *dv, float *work) {
    float *prob = work, *dprob = work + TILE * TILE;
    for (int64_t query = 0; query < length; query += TILE) {
        int64_t rows = smaller(TILE, length - query);
        const float *dout_tile = dout + query * out_stride;
        for (int64_t key = 0; key < query + rows; key += TILE) {
            int64_t columns = smaller(TILE, length - key);
            tile_gemm(false, true, rows, columns, head_dim, scale, q + query * stride, stride,
                      k + key * stride, stride, 0, prob, TILE);
            tile_gemm(false, true, rows, columns, head_dim, 1, dout_tile, out_stride, v + key * stride,
                      stride, 0, dprob, TILE);
            for (int64_t i = 0; i < rows; i++) {
                float *p = prob + i * TILE, *dp = dprob + i * TILE;
                mask_row(p, i, query, key, columns);
                for (int64_t j = columns; j < TILE; j++)
                    dp[j] = 0; /* not written by the GEMM: it may hold anything, NaN too */
                float norm = lse[(query + i) * lse_stride], less = delta[(query + i) * lse_stride];
#pragma omp simd
                for (int64_t j = 0; j < TILE; j++) {
                    p[j] = zs_expf(p[j] - norm);
                    dp[j] = p[j] * (dp[j] - less) * scale;
                }
            }
            tile_gemm(true, false, columns, head_dim, rows, 1, prob, TILE, dout_tile, out_stride, 1,
                      dv + key * stride, stride);
            tile_gemm(true, false, columns, head_dim, rows, 1, dprob, TILE, q + query * stride, stride, 1,
                      dk + key * stride, stride);
            tile_gemm(false, false, rows, head_dim, columns, 1, dprob, TILE, k + key * stride, stride, 1,
                      dq + query * stride, stride);
        }
    }
}

void zs_attention_backward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                           int64_t head_dim, const float *qkv, const float *out, const float *lse,
                           const float *dout, float *dqkv, float *delta, float *work) {
    int64_t stride = (heads + 2 * kv_heads) * head_dim, group = heads / kv_heads;
    int64_t num_tokens = offsets[num_sequences];
    float scale = (float)(1.0 / sqrt((double)head_dim));
#pragma omp parallel if (num_tokens * heads > 128)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < num_tokens; t++) {
            memset(dqkv + t * stride, 0, (size_t)stride * sizeof(float));
            for (int64_t head = 0; head < heads; head++) {
                const float *a = out + (t * heads + head) * head_dim;
                const float *b = dout + (t * heads + head) * head_dim;
                float dot = 0;
#pragma omp simd reduction(+ : dot)
                for (int64_t d = 0; d < head_dim; d++)
                    dot += a[d] * b[d];
                delta[t * heads + head] = dot;
            }
        }
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t s = 0; s < num_sequences; s++) {
            for (int64_t kv = 0; kv < kv_heads; kv++) {
                float *mine = work + omp_get_thread_num() * zs_attention_work(head_dim);
                int64_t begin = offsets[s], length = offsets[s + 1] - begin;
                int64_t k_at = begin * stride + (heads + kv) * head_dim, v_at = k_at + kv_heads * head_dim;
                for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
                    int64_t q_at = begin * stride + head * head_dim;
                    backward_head(length, head_dim, stride, scale, qkv + q_at, qkv + k_at, qkv + v_at,
                                  dout + (begin * heads + head) * head_dim, heads * head_dim,
                                  lse + begin * heads + head, delta + begin * heads + head, heads,
                                  dqkv + q_at, dqkv + k_at, dqkv + v_at, mine);
                }
            }
        }
    }
}
