/* Attention of a few queries over one chunk of the cache, by tiles of up to four queries.
 *
 * Keys pass first, for all tiles, then values: each stays in the nearest cache meanwhile. Scores of a block
 * of 16 keys are one vector for each query. Even and odd dimensions, and even and odd slots, are summed
 * apart: twice as many sums under way, and what a 32-bit word of two bf16 comes apart into. */
#include "paged_chunk.h"

/* Kernels; nq, bf16 and the like are constants at each call, so the sums stay in registers. */

/* Two rows of 16 numbers, `stride` numbers apart in f32, interleaved in bf16. */
static inline __attribute__((always_inline)) void load_pair(const bool bf16, const char *from, int64_t pair,
                                                            int64_t stride, zs_v16 *even, zs_v16 *odd) {
    if (bf16) {
        zs_v16u both = *(const zs_v16u *)(from + pair * stride * 4);
        *even = (zs_v16)(both << 16);
        *odd = (zs_v16)(both & 0xffff0000u);
    } else {
        *even = *(const zs_v16 *)(from + 2 * pair * stride * 4);
        *odd = *(const zs_v16 *)(from + (2 * pair + 1) * stride * 4);
    }
}

static void prefetch(const char *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(from + i);
}

/* Scores of `blocks` neighbouring blocks for nq queries. */
static inline __attribute__((always_inline)) void score_blocks(const bool bf16, const int nq,
                                                               const int blocks, const zs_chunk *c,
                                                               const float *const *queries,
                                                               float *const *scores, int64_t first) {
    zs_v16 even[4][ZS_TILE_QUERIES], odd[4][ZS_TILE_QUERIES];
#pragma GCC unroll 16
    for (int b = 0; b < blocks; b++)
#pragma GCC unroll 16
        for (int q = 0; q < nq; q++)
            even[b][q] = odd[b][q] = (zs_v16){0};
    for (int64_t d = 0; d < c->head_dim; d += 2)
#pragma GCC unroll 16
        for (int b = 0; b < blocks; b++) {
            zs_v16 k0, k1;
            load_pair(bf16, c->keys[first + b], d / 2, ZS_LANES, &k0, &k1);
#pragma GCC unroll 16
            for (int q = 0; q < nq; q++) {
                even[b][q] += k0 * queries[q][d];
                odd[b][q] += k1 * queries[q][d + 1];
            }
        }
#pragma GCC unroll 16
    for (int b = 0; b < blocks; b++)
#pragma GCC unroll 16
        for (int q = 0; q < nq; q++)
            *(zs_v16 *)(scores[q] + (first + b) * ZS_LANES) = even[b][q] + odd[b][q];
}

/* How many blocks of keys go together: with four queries so many sums as there are registers for. */
#ifdef __AVX512F__
enum { BLOCKS_OF_FOUR = 2 };
#else
enum { BLOCKS_OF_FOUR = 1 };
#endif

static inline __attribute__((always_inline)) void score_tile(const bool bf16, const int nq, const zs_chunk *c,
                                                             const float *const *queries,
                                                             float *const *scores, int64_t blocks,
                                                             bool fetches) {
    const int together = nq == 1 ? 4 : nq == 2 ? 2 : BLOCKS_OF_FOUR;
    int64_t bytes = c->padded_dim * ZS_LANES * (bf16 ? 2 : 4), b = 0;
    for (; b + together <= blocks; b += together) {
        for (int i = 0; fetches && i < together; i++) /* values come next and lie elsewhere */
            prefetch(c->values[b + i], bytes);
        score_blocks(bf16, nq, together, c, queries, scores, b);
    }
    for (; b < blocks; b++) {
        if (fetches) prefetch(c->values[b], bytes);
        score_blocks(bf16, nq, 1, c, queries, scores, b);
    }
}

/* Masks what a query does not see of its scores, then exponentials in place. */
static void exponentiate(float *scores, int64_t seen, int64_t padded, float *part) {
    for (int64_t i = seen; i < padded; i++)
        scores[i] = -1e30f;
    zs_v16 *row = (zs_v16 *)scores;
    zs_v16 largest = row[0];
    for (int64_t b = 1; b < padded / ZS_LANES; b++)
        largest = zs_v16_max(largest, row[b]);
    part[ZS_LARGEST] = zs_v16_largest(largest);
    zs_v16 sum = {0};
    for (int64_t b = 0; b < padded / ZS_LANES; b++) {
        row[b] = zs_v16_exp(row[b] - part[ZS_LARGEST]);
        sum += row[b];
    }
    part[ZS_SUM] = zs_v16_sum(sum);
}

/* mixed[q] = scores[q] values, `vectors` vectors of the head's dimensions from `offset` on. */
static inline __attribute__((always_inline)) void mix_values(const bool bf16, const int nq, const int vectors,
                                                             const zs_chunk *c, const float *const *scores,
                                                             float *const *mixed, int64_t keys,
                                                             int64_t offset) {
    zs_v16 even[ZS_TILE_QUERIES][2], odd[ZS_TILE_QUERIES][2];
#pragma GCC unroll 16
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            even[q][v] = odd[q][v] = (zs_v16){0};
    for (int64_t begin = 0; begin < keys; begin += ZS_LANES) {
        const char *values = c->values[begin / ZS_LANES] + offset * 4; /* a pair of bf16 is as wide */
        int64_t slots = keys - begin < ZS_LANES ? keys - begin : ZS_LANES;
        for (int64_t j = 0; j + 2 <= slots; j += 2)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) {
                zs_v16 v0, v1;
                load_pair(bf16, values + v * ZS_LANES * 4, j / 2, c->padded_dim, &v0, &v1);
#pragma GCC unroll 16
                for (int q = 0; q < nq; q++) {
                    even[q][v] += v0 * scores[q][begin + j];
                    odd[q][v] += v1 * scores[q][begin + j + 1];
                }
            }
        if (slots % 2)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) {
                zs_v16 v0, v1;
                load_pair(bf16, values + v * ZS_LANES * 4, slots / 2, c->padded_dim, &v0, &v1);
#pragma GCC unroll 16
                for (int q = 0; q < nq; q++)
                    even[q][v] += v0 * scores[q][begin + slots - 1];
            }
    }
#pragma GCC unroll 16
    for (int q = 0; q < nq; q++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            *(zs_v16 *)(mixed[q] + offset + v * ZS_LANES) = even[q][v] + odd[q][v];
}

static inline __attribute__((always_inline)) void mix_tile(const bool bf16, const int nq, const zs_chunk *c,
                                                           const float *const *scores, float *const *mixed,
                                                           int64_t keys) {
    int64_t d = 0;
    for (; d + 2 * ZS_LANES <= c->padded_dim; d += 2 * ZS_LANES)
        mix_values(bf16, nq, 2, c, scores, mixed, keys, d);
    if (d < c->padded_dim) mix_values(bf16, nq, 1, c, scores, mixed, keys, d);
}

/* Never inlined: the same instructions wherever it is called from. */
__attribute__((noinline)) void zs_part_fold(float *state, const float *part, int64_t part_floats) {
    float top = part[ZS_LARGEST] > state[ZS_LARGEST] ? part[ZS_LARGEST] : state[ZS_LARGEST];
    zs_v16 factors = {0};
    factors[0] = state[ZS_LARGEST] - top;
    factors[1] = part[ZS_LARGEST] - top;
    factors = zs_v16_exp(factors);
    state[ZS_LARGEST] = top;
    state[ZS_SUM] = state[ZS_SUM] * factors[0] + part[ZS_SUM] * factors[1];
    for (int64_t i = ZS_MIXED; i < part_floats; i += ZS_LANES) {
        zs_v16 *s = (zs_v16 *)(state + i), mixed = *s * factors[0];
        *s = *(const zs_v16 *)(part + i) * factors[1] + mixed;
    }
}

void zs_part_finish(const float *state, int64_t head_dim, float *out) {
    float inverse = 1.0f / state[ZS_SUM];
    for (int64_t d = 0; d < head_dim; d++)
        out[d] = state[ZS_MIXED + d] * inverse;
}

/* One chunk. */

/* Keys of the chunk that the nq active queries from `from` on see at most. */
static int64_t tile_keys(const zs_chunk_queries *a, const zs_chunk *c, int64_t from, int nq) {
    int64_t keys = 0;
    for (int q = 0; q < nq; q++) {
        int64_t seen = a->lengths[c->active[from + q]] - c->begin;
        keys = seen > keys ? seen : keys;
    }
    return keys < ZS_CHUNK ? keys : ZS_CHUNK;
}

static inline __attribute__((always_inline)) void score_chunk(const bool bf16, const zs_chunk_queries *a,
                                                              const zs_chunk *c) {
    for (int64_t from = 0; from < c->count; from += ZS_TILE_QUERIES) {
        int nq = c->count - from < ZS_TILE_QUERIES ? (int)(c->count - from) : ZS_TILE_QUERIES;
        const float *queries[ZS_TILE_QUERIES];
        float *scores[ZS_TILE_QUERIES];
        for (int q = 0; q < nq; q++) {
            queries[q] = a->queries + c->active[from + q] * c->head_dim;
            scores[q] = a->scores + c->active[from + q] * ZS_CHUNK;
        }
        int64_t blocks = (tile_keys(a, c, from, nq) + ZS_LANES - 1) / ZS_LANES;
        switch (nq) {
        case 1:
            score_tile(bf16, 1, c, queries, scores, blocks, from == 0);
            break;
        case 2:
            score_tile(bf16, 2, c, queries, scores, blocks, from == 0);
            break;
        case 3:
            score_tile(bf16, 3, c, queries, scores, blocks, from == 0);
            break;
        default:
            score_tile(bf16, 4, c, queries, scores, blocks, from == 0);
        }
    }
}

/* Exponentials and values; the parts become the states where the chunk is the first, else are folded in. */
static inline __attribute__((always_inline)) void mix_chunk(const bool bf16, const zs_chunk_queries *a,
                                                            const zs_chunk *c, bool first) {
    for (int64_t from = 0; from < c->count; from += ZS_TILE_QUERIES) {
        int nq = c->count - from < ZS_TILE_QUERIES ? (int)(c->count - from) : ZS_TILE_QUERIES;
        const float *scores[ZS_TILE_QUERIES];
        float *mixed[ZS_TILE_QUERIES];
        int64_t keys = tile_keys(a, c, from, nq);
        for (int q = 0; q < nq; q++) {
            int64_t query = c->active[from + q], seen = a->lengths[query] - c->begin;
            float *part = first ? a->states + query * a->part_floats : a->fresh + q * a->part_floats;
            exponentiate(a->scores + query * ZS_CHUNK, seen < ZS_CHUNK ? seen : ZS_CHUNK,
                         zs_round_up(keys, ZS_LANES), part);
            scores[q] = a->scores + query * ZS_CHUNK;
            mixed[q] = part + ZS_MIXED;
        }
        switch (nq) {
        case 1:
            mix_tile(bf16, 1, c, scores, mixed, keys);
            break;
        case 2:
            mix_tile(bf16, 2, c, scores, mixed, keys);
            break;
        case 3:
            mix_tile(bf16, 3, c, scores, mixed, keys);
            break;
        default:
            mix_tile(bf16, 4, c, scores, mixed, keys);
        }
        for (int q = 0; !first && q < nq; q++)
            zs_part_fold(a->states + c->active[from + q] * a->part_floats, a->fresh + q * a->part_floats,
                         a->part_floats);
    }
}

static void attend_chunk_f32(const zs_chunk_queries *a, const zs_chunk *c, bool first) {
    score_chunk(false, a, c);
    mix_chunk(false, a, c, first);
}

static void attend_chunk_bf16(const zs_chunk_queries *a, const zs_chunk *c, bool first) {
    score_chunk(true, a, c);
    mix_chunk(true, a, c, first);
}

void zs_chunk_attend(zs_dtype dtype, const zs_chunk_queries *q, const zs_chunk *chunk, bool first) {
    if (dtype == ZS_BF16)
        attend_chunk_bf16(q, chunk, first);
    else
        attend_chunk_f32(q, chunk, first);
}
