/* What the engine's files share: the paged cache, the packed step, the sampler.
 *
 * Vectors are of 16 floats by the compiler's vector extension: one AVX-512 register, two of AVX2, four of SSE
 * or NEON, from the same source. */
#ifndef ZEROSEARCH_ENGINE_INTERNAL_H
#define ZEROSEARCH_ENGINE_INTERNAL_H

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* gcc -std=c11 leaves fused multiply-add unused otherwise */
#endif

#include "zerosearch/engine.h"

#include <stdint.h>
#include <string.h>

#define ZS_LANES 16
typedef float zs_v16 __attribute__((vector_size(64)));
typedef int32_t zs_v16i __attribute__((vector_size(64)));
typedef uint32_t zs_v16u __attribute__((vector_size(64)));

/* exp(x) for x <= 0, exactly 0 below -87 (so a masked score of -1e30 adds nothing); relative error under
 * 2e-7. Cody-Waite reduction and a polynomial of degree 6. */
static inline zs_v16 zs_v16_exp(zs_v16 x) {
    const zs_v16 lowest = (zs_v16){0} - 87.0f;
    zs_v16i keep = x > lowest;
    x = (zs_v16)(((zs_v16i)x & keep) | ((zs_v16i)lowest & ~keep));
    const zs_v16 magic = (zs_v16){0} + 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest integer */
    zs_v16 shifted = x * 1.44269504f + magic;
    zs_v16 n = shifted - magic;
    zs_v16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    zs_v16 p = r * 1.3888889e-3f + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    zs_v16i scale = ((zs_v16i)shifted - (zs_v16i)magic + 127) << 23;
    return (zs_v16)((zs_v16i)(p * (zs_v16)scale) & keep);
}

static inline zs_v16 zs_v16_max(zs_v16 a, zs_v16 b) {
    zs_v16i larger = a > b;
    return (zs_v16)(((zs_v16i)a & larger) | ((zs_v16i)b & ~larger));
}

/* Always the same tree, so that a row's sum does not depend on its neighbours. */
static inline float zs_v16_sum(zs_v16 x) {
    typedef float v8 __attribute__((vector_size(32)));
    typedef float v4 __attribute__((vector_size(16)));
    struct {
        v8 low, high;
    } eights;
    memcpy(&eights, &x, sizeof x);
    v8 eight = eights.low + eights.high;
    struct {
        v4 low, high;
    } fours;
    memcpy(&fours, &eight, sizeof eight);
    v4 four = fours.low + fours.high;
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static inline float zs_v16_largest(zs_v16 x) {
    float m = x[0];
    for (int i = 1; i < ZS_LANES; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static inline int64_t zs_round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

/* Paged cache (kv_cache.c). A page holds page_size tokens of every layer and KV head. Inside, blocks of 16
 * tokens: keys transposed, so that 16 scores are one vector and need no horizontal sum. In f32 keys are
 * [head_dim, 16] and values [16, padded_dim]; in bf16 neighbours share a 32-bit word, from which a shift and
 * a mask make two vectors: keys [head_dim / 2, 16, 2], values [8, padded_dim, 2]. */
typedef struct zs_kv_cache {
    zs_dtype dtype;                                 /* ZS_F32 or ZS_BF16 */
    int64_t layers, kv_heads, head_dim, padded_dim; /* padded_dim: head_dim rounded up to 16 */
    int64_t page_size, num_pages, num_free, least_free;
    int block_shift;     /* log2(page_size / 16) */
    char *keys, *values; /* [layers][num_pages][kv_heads][page_size / 16][block] */
    int32_t *references; /* [num_pages] */
    int32_t *free_pages; /* a stack */
} zs_kv_cache;

void zs_kv_create(zs_kv_cache *cache, const zs_model_config *config, int64_t tokens, int64_t page_size,
                  zs_dtype dtype);
void zs_kv_destroy(zs_kv_cache *cache);
int64_t zs_kv_bytes(const zs_model_config *config, int64_t tokens, zs_dtype dtype); /* whole pages */
int64_t zs_kv_page_size(int64_t wanted); /* rounded up to a power of two of at least 16 */
int32_t zs_kv_take(zs_kv_cache *cache);
void zs_kv_share(zs_kv_cache *cache, int32_t page);
void zs_kv_drop(zs_kv_cache *cache, int32_t page);
/* The first `tokens` slots of a page, all layers. */
void zs_kv_copy(zs_kv_cache *cache, int32_t from, int32_t to, int64_t tokens);

/* Start of one block of 16 tokens; `block` counts from the sequence's start. */
static inline int64_t zs_kv_block(const zs_kv_cache *cache, int64_t layer, int64_t kv_head,
                                  const int32_t *pages, int64_t block) {
    int64_t page = pages[block >> cache->block_shift];
    int64_t inside = block & ((1 << cache->block_shift) - 1);
    return ((((layer * cache->num_pages + page) * cache->kv_heads + kv_head) << cache->block_shift) +
            inside) *
           ZS_LANES;
}
static inline char *zs_kv_keys(const zs_kv_cache *cache, int64_t block_start) {
    return cache->keys + block_start * cache->head_dim * (cache->dtype == ZS_BF16 ? 2 : 4);
}
static inline char *zs_kv_values(const zs_kv_cache *cache, int64_t block_start) {
    return cache->values + block_start * cache->padded_dim * (cache->dtype == ZS_BF16 ? 2 : 4);
}

/* Attention (paged_attention.c). */

typedef struct zs_segment { /* consecutive tokens of one sequence in the packed batch */
    int64_t row, count;     /* count <= ZS_SEGMENT_ROWS */
    int64_t position;       /* of its first token in the sequence */
    const int32_t *pages;
} zs_segment;
#define ZS_SEGMENT_ROWS 16

typedef struct zs_paged_work { /* made once for steps of at most max_rows rows */
    int threads;
    int64_t group; /* query heads of a KV head */
    int64_t part_floats, scratch_bytes, max_queries, max_chunks;
    int64_t split_rows; /* of so few rows each chunk is a piece of its own */
    char *scratch;      /* [threads, scratch_bytes] */
    float *parts;       /* [split_rows, heads, max_chunks, part_floats] */
    struct zs_paged_place {
        int32_t page, segment;
    } * order;         /* [max_rows] segments, those with the same first page side by side */
    int32_t *clusters; /* [max_rows + 1] places in `order` where each cluster begins */
} zs_paged_work;

void zs_paged_work_create(zs_paged_work *work, const zs_model_config *config, int64_t max_rows,
                          int64_t max_length, int threads);
void zs_paged_work_destroy(zs_paged_work *work);
int64_t zs_paged_work_bytes(const zs_model_config *config, int64_t max_rows, int64_t max_length, int threads);

/* Writes the keys and values of the rows of qkv [rows, qkv_stride] into the cache, in bf16 rounded to nearest
 * even. */
void zs_paged_store(zs_kv_cache *cache, int64_t layer, int64_t num_segments, const zs_segment *segments,
                    int64_t heads, const float *qkv, int64_t qkv_stride, int threads);
/* out [rows, heads head_dim], the segments' rows being 0 .. rows-1; a query sees its sequence up to itself. A
 * row's bits depend on its own sequence alone: not on threads, nor on who stands beside it. */
void zs_paged_attention(const zs_kv_cache *cache, int64_t layer, int64_t num_segments,
                        const zs_segment *segments, int64_t heads, const float *qkv, int64_t qkv_stride,
                        float *out, zs_paged_work *work);

/* Sampler (sampler.c). */

/* Draws one token from logits [vocab] by the uniform `u`; overwrites logits. *log_prob as in engine.h. */
int32_t zs_sample(float *logits, int64_t vocab, const zs_sampling *sampling, double u, float *log_prob);

/* One packed step (forward.c). */

typedef struct zs_step_buffers {
    int64_t max_rows, max_samples, logit_rows; /* logit_rows: rows of logits computed at a time */
    int threads;
    float *cos_table, *sin_table;                             /* [max_length, head_dim / 2] */
    float *x, *normed, *qkv, *attended, *gate_up, *activated; /* [max_rows, ...] */
    float *inv_rms, *logits;
    float *widened; /* [threads, zs_gemm_bf16_work] pieces of bf16 weights */
    zs_paged_work attention;
} zs_step_buffers;

typedef struct zs_step {
    int64_t rows, num_segments, num_samples;
    int32_t *ids, *positions; /* [rows] */
    zs_segment *segments;
    int64_t *sample_rows;         /* ascending rows whose successor is sampled */
    int32_t *sample_segments;     /* the (last) segment of each */
    const zs_sampling **sampling; /* [num_samples] */
    double *uniforms;
    int32_t *tokens; /* out */
    float *log_prob; /* out */
} zs_step;

void zs_step_buffers_create(zs_step_buffers *buffers, const zs_model_config *config, int64_t max_rows,
                            int64_t max_samples, int64_t max_length);
void zs_step_buffers_destroy(zs_step_buffers *buffers);
int64_t zs_step_buffers_bytes(const zs_model_config *config, int64_t max_rows, int64_t max_samples,
                              int64_t max_length);
void zs_step_run(const zs_model *model, zs_kv_cache *cache, zs_step_buffers *buffers, zs_step *step);

/* y [m, n] = beta y + x [m, k] w [n, k]^T, by whichever kernel is faster for m rows (row_gemm.c). Up to
 * ZS_ROWS_F32 or ZS_ROWS_BF16 rows (with int8 weights any number) a row's bits do not depend on the others,
 * and bf16 weights give the bits of f32 weights of the same values. `work`: zs_gemm_bf16_work floats for each
 * thread. */
enum { ZS_ROWS_F32 = 48, ZS_ROWS_BF16 = 160 };
void zs_row_gemm(int64_t m, int64_t n, int64_t k, const float *x, zs_matrix w, float beta, float *y,
                 float *work, int threads);

#endif
