/* Attention of a packed mixed batch over the paged cache: decode rows and prompt chunks by one kernel.
 *
 * Up to four queries that share a KV head (heads of a group, neighbouring tokens of a chunk) go through the
 * pages together: scores of a block of 16 keys are one vector for each query. Every query's arithmetic runs
 * in an order that depends on its own length alone (even and odd dimensions, even and odd slots apart), so
 * its result is the same to the bit whoever stands beside it. */
#include "internal.h"

#include "zerosearch/memory.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define QUERIES 4

typedef struct attention {
    const zs_kv_cache *cache;
    int64_t layer, kv_head;
    const int32_t *pages;
    int64_t length;       /* keys that the block's last query sees */
    int64_t score_stride; /* floats between the scores of two queries */
    float *queries;       /* [QUERIES, head_dim], scaled */
    float *scores;        /* [QUERIES, score_stride] */
    float *out[QUERIES];
    int64_t lengths[QUERIES]; /* keys that each query sees */
} attention;

int64_t zs_paged_scratch(int64_t max_length, int64_t padded_dim) {
    return QUERIES * (zs_round_up(max_length, ZS_LANES) + padded_dim);
}

void zs_paged_store(zs_kv_cache *cache, int64_t layer, int64_t num_segments, const zs_segment *segments,
                    int64_t heads, const float *qkv, int64_t qkv_stride) {
    int64_t head_dim = cache->head_dim;
    for (int64_t s = 0; s < num_segments; s++)
        for (int64_t i = 0; i < segments[s].count; i++) {
            const float *row = qkv + (segments[s].row + i) * qkv_stride;
            int64_t position = segments[s].position + i, slot = position % ZS_LANES;
            for (int64_t h = 0; h < cache->kv_heads; h++) {
                int64_t start = zs_kv_block(cache, layer, h, segments[s].pages, position / ZS_LANES);
                float *keys = zs_kv_keys(cache, start) + slot;
                float *values = zs_kv_values(cache, start) + slot * cache->padded_dim;
                const float *key = row + (heads + h) * head_dim;
                for (int64_t d = 0; d < head_dim; d++)
                    keys[d * ZS_LANES] = key[d];
                memcpy(values, key + cache->kv_heads * head_dim, (size_t)head_dim * sizeof(float));
            }
        }
}

/* Scores of `blocks` neighbouring blocks; nq and blocks are constants at each call, so the sums stay in
 * registers. */
static inline __attribute__((always_inline)) void score_blocks(const attention *a, const int nq,
                                                               const int blocks, int64_t first) {
    int64_t head_dim = a->cache->head_dim;
    const float *keys[4], *values[4];
    zs_v16 even[4][QUERIES], odd[4][QUERIES];
#pragma GCC unroll 16
    for (int b = 0; b < blocks; b++) {
        int64_t start = zs_kv_block(a->cache, a->layer, a->kv_head, a->pages, first + b);
        keys[b] = zs_kv_keys(a->cache, start);
        values[b] = zs_kv_values(a->cache, start);
#pragma GCC unroll 16
        for (int q = 0; q < nq; q++)
            even[b][q] = odd[b][q] = (zs_v16){0};
    }
    for (int64_t d = 0; d < head_dim; d += 2)
#pragma GCC unroll 16
        for (int b = 0; b < blocks; b++) {
            zs_v16 k0 = *(const zs_v16 *)(keys[b] + d * ZS_LANES);
            zs_v16 k1 = *(const zs_v16 *)(keys[b] + (d + 1) * ZS_LANES);
            /* The values come next and lie elsewhere: have them on their way. */
            __builtin_prefetch(values[b] + d * ZS_LANES);
            __builtin_prefetch(values[b] + (d + 1) * ZS_LANES);
#pragma GCC unroll 16
            for (int q = 0; q < nq; q++) {
                even[b][q] += k0 * a->queries[q * head_dim + d];
                odd[b][q] += k1 * a->queries[q * head_dim + d + 1];
            }
        }
#pragma GCC unroll 16
    for (int b = 0; b < blocks; b++)
#pragma GCC unroll 16
        for (int q = 0; q < nq; q++)
            *(zs_v16 *)(a->scores + q * a->score_stride + (first + b) * ZS_LANES) = even[b][q] + odd[b][q];
}

/* Masks what a query does not see, then exponentials in place; returns 1 / their sum. */
static float softmax_row(float *scores, int64_t length, int64_t padded) {
    for (int64_t i = length; i < padded; i++)
        scores[i] = -1e30f;
    zs_v16 *row = (zs_v16 *)scores;
    zs_v16 largest = row[0];
    for (int64_t b = 1; b < padded / ZS_LANES; b++)
        largest = zs_v16_max(largest, row[b]);
    float top = zs_v16_largest(largest);
    zs_v16 sum = {0};
    for (int64_t b = 0; b < padded / ZS_LANES; b++) {
        row[b] = zs_v16_exp(row[b] - top);
        sum += row[b];
    }
    return 1.0f / zs_v16_sum(sum);
}

/* out[q] = scores[q] values, `vectors` vectors of the head's dimensions from `offset` on. */
static inline __attribute__((always_inline)) void
mix_values(const attention *a, const int nq, const int vectors, int64_t offset, const float *inverse) {
    zs_v16 even[QUERIES][2], odd[QUERIES][2];
#pragma GCC unroll 16
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            even[q][v] = odd[q][v] = (zs_v16){0};
    int64_t stride = a->cache->padded_dim;
    for (int64_t begin = 0; begin < a->length; begin += ZS_LANES) {
        int64_t start = zs_kv_block(a->cache, a->layer, a->kv_head, a->pages, begin / ZS_LANES);
        const float *values = zs_kv_values(a->cache, start) + offset;
        int64_t slots = a->length - begin < ZS_LANES ? a->length - begin : ZS_LANES;
        int64_t j = 0;
        for (; j + 2 <= slots; j += 2)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) {
                zs_v16 v0 = *(const zs_v16 *)(values + j * stride + v * ZS_LANES);
                zs_v16 v1 = *(const zs_v16 *)(values + (j + 1) * stride + v * ZS_LANES);
#pragma GCC unroll 16
                for (int q = 0; q < nq; q++) {
                    even[q][v] += v0 * a->scores[q * a->score_stride + begin + j];
                    odd[q][v] += v1 * a->scores[q * a->score_stride + begin + j + 1];
                }
            }
        if (j < slots)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) {
                zs_v16 v0 = *(const zs_v16 *)(values + j * stride + v * ZS_LANES);
#pragma GCC unroll 16
                for (int q = 0; q < nq; q++)
                    even[q][v] += v0 * a->scores[q * a->score_stride + begin + j];
            }
    }
#pragma GCC unroll 16
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            zs_v16 sum = (even[q][v] + odd[q][v]) * inverse[q];
            int64_t left = a->cache->head_dim - offset - v * ZS_LANES;
            memcpy(a->out[q] + offset + v * ZS_LANES, &sum,
                   (size_t)(left < ZS_LANES ? left : ZS_LANES) * sizeof(float));
        }
}

static inline __attribute__((always_inline)) void attend(const attention *a, const int nq,
                                                         const int blocks_at_once) {
    int64_t blocks = (a->length + ZS_LANES - 1) / ZS_LANES, b = 0;
    for (; b + blocks_at_once <= blocks; b += blocks_at_once)
        score_blocks(a, nq, blocks_at_once, b);
    for (; b < blocks; b++)
        score_blocks(a, nq, 1, b);
    float inverse[QUERIES];
#pragma GCC unroll 16
    for (int q = 0; q < nq; q++)
        inverse[q] = softmax_row(a->scores + q * a->score_stride, a->lengths[q], blocks * ZS_LANES);
    int64_t d = 0;
    for (; d + 2 * ZS_LANES <= a->cache->padded_dim; d += 2 * ZS_LANES)
        mix_values(a, nq, 2, d, inverse);
    if (d < a->cache->padded_dim) mix_values(a, nq, 1, d, inverse);
}

/* All queries of one segment that share a KV head. */
static void attend_segment(attention *a, const zs_segment *segment, int64_t heads, const float *qkv,
                           int64_t qkv_stride, float *out) {
    int64_t head_dim = a->cache->head_dim, group = heads / a->cache->kv_heads;
    int64_t total = segment->count * group;
    float scale = 1.0f / sqrtf((float)head_dim);
    a->pages = segment->pages;
    for (int64_t begin = 0; begin < total; begin += QUERIES) {
        int nq = (int)(total - begin < QUERIES ? total - begin : QUERIES);
#pragma GCC unroll 16
        for (int q = 0; q < nq; q++) {
            int64_t token = (begin + q) / group, head = a->kv_head * group + (begin + q) % group;
            const float *query = qkv + (segment->row + token) * qkv_stride + head * head_dim;
            for (int64_t d = 0; d < head_dim; d++)
                a->queries[q * head_dim + d] = query[d] * scale;
            a->out[q] = out + ((segment->row + token) * heads + head) * head_dim;
            a->lengths[q] = segment->position + token + 1;
        }
        a->length = segment->position + (begin + nq - 1) / group + 1;
        switch (nq) { /* eight running sums in each case keep the multipliers busy */
        case 1:
            attend(a, 1, 4);
            break;
        case 2:
            attend(a, 2, 2);
            break;
        case 3:
            attend(a, 3, 1);
            break;
        default:
            attend(a, 4, 1);
        }
    }
}

void zs_paged_attention(const zs_kv_cache *cache, int64_t layer, int64_t num_segments,
                        const zs_segment *segments, int64_t heads, const float *qkv, int64_t qkv_stride,
                        float *out, float *scratch, int64_t scratch_stride, int threads) {
    int64_t items = num_segments * cache->kv_heads;
#pragma omp parallel num_threads(threads) if (threads > 1 && items > 1)
    {
        float *mine = scratch + omp_get_thread_num() * scratch_stride;
        attention a = {.cache = cache, .layer = layer};
        a.queries = mine;
        a.scores = mine + QUERIES * cache->padded_dim;
        a.score_stride = scratch_stride / QUERIES - cache->padded_dim;
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < items; i++) {
            a.kv_head = i % cache->kv_heads;
            attend_segment(&a, &segments[i / cache->kv_heads], heads, qkv, qkv_stride, out);
        }
    }
}
