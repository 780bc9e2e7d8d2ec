/* One chunk of keys and values under the queries that see it: what paged_attention.c is made of.
 *
 * Of each chunk a query gets a part: [ZS_LARGEST] its largest score, [ZS_SUM] the sum of the exponentials of
 * the scores less that, [ZS_MIXED ..] the values mixed by them. Parts fold into one another (Milakov and
 * Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention"). */
#ifndef ZEROSEARCH_ENGINE_PAGED_CHUNK_H
#define ZEROSEARCH_ENGINE_PAGED_CHUNK_H

#include "internal.h"

enum { ZS_CHUNK = 128, ZS_CHUNK_BLOCKS = ZS_CHUNK / ZS_LANES, ZS_TILE_QUERIES = 4 };
enum { ZS_LARGEST = 0, ZS_SUM = 1, ZS_MIXED = ZS_LANES };

typedef struct zs_chunk {
    const char *keys[ZS_CHUNK_BLOCKS], *values[ZS_CHUNK_BLOCKS]; /* blocks as in zs_kv_cache */
    int64_t begin;                                               /* of its first key in the sequence */
    int64_t head_dim, padded_dim;
    int64_t count;         /* queries that see it */
    const int32_t *active; /* [count] which of those below */
} zs_chunk;

typedef struct zs_chunk_queries { /* n query heads of one KV head */
    int64_t part_floats;          /* ZS_MIXED + padded_dim */
    const int64_t *lengths;       /* [n] keys that each sees, from the sequence's start */
    const float *queries;         /* [n, head_dim], scaled */
    float *scores;                /* [n, ZS_CHUNK] work */
    float *states;                /* [n, part_floats] parts folded so far */
    float *fresh;                 /* [ZS_TILE_QUERIES, part_floats] work */
} zs_chunk_queries;

/* The chunk's parts of its active queries: they become the states where `first`, else are folded into them.
 * A query's bits depend on nothing but itself and the keys and values that it sees. */
void zs_chunk_attend(zs_dtype dtype, const zs_chunk_queries *q, const zs_chunk *chunk, bool first);
/* state = state and part together */
void zs_part_fold(float *state, const float *part, int64_t part_floats);
/* out [head_dim] = values / sum */
void zs_part_finish(const float *state, int64_t head_dim, float *out);

#endif
