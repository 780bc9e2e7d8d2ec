/* Attention of a packed mixed batch over the paged cache: decode rows and prompt chunks by one path.
 *
 * Keys are taken in chunks (paged_chunk.h) counted from the sequence's start, whose parts are folded into one
 * another in order. Every sum runs in an order that depends on the query's own length alone, so a row has the
 * same bits whoever stands beside it and whichever thread does it. That leaves the work free to be cut:
 *   - sequences whose tables begin with the same page stand side by side, and a chunk whose pages they share
 *     is read once for all of them, as for the tokens of a prompt and the heads that share a KV head;
 *   - of few rows each chunk is a piece of its own, so that one long context keeps all threads busy. */
#include "paged_chunk.h"

#include "zerosearch/memory.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 4 }; /* pieces of work wanted for each thread */

typedef struct cluster { /* segments that go through the cache together: one thread's work */
    const zs_kv_cache *cache;
    int64_t layer, kv_head, group;
    const zs_segment *segments;
    const struct zs_paged_place *members; /* [num_members] */
    int64_t num_members, num_queries, longest;
    zs_chunk_queries q; /* of the query heads of the KV head, all rows of the cluster */
    float *queries;     /* q's */
    int64_t *lengths;   /* q's */
    int64_t *places;    /* row and head in the packed step: row * heads + head */
    int32_t *active;
} cluster;

/* Memory. */

static zs_paged_work lay_out(const zs_model_config *config, int64_t max_rows, int64_t max_length,
                             int threads) {
    int64_t padded = zs_round_up(config->head_dim, ZS_LANES);
    zs_paged_work w = {.threads = threads,
                       .group = config->num_attention_heads / config->num_key_value_heads,
                       .part_floats = ZS_MIXED + padded,
                       .max_chunks = (max_length + ZS_CHUNK - 1) / ZS_CHUNK};
    w.max_queries = ZS_SEGMENT_ROWS * w.group;
    int64_t few = PIECES * threads / config->num_key_value_heads;
    few = few < 1 ? 1 : few < max_rows ? few : max_rows;
    w.split_rows = threads > 1 && w.max_chunks > 1 ? few : 0;
    /* queries, scores, states; fresh parts; lengths, places, active */
    w.scratch_bytes =
        (w.max_queries * (padded + ZS_CHUNK + w.part_floats) + ZS_TILE_QUERIES * w.part_floats) *
            (int64_t)sizeof(float) +
        zs_round_up(w.max_queries * 20, 64);
    return w;
}

static int64_t count_parts(const zs_paged_work *w, const zs_model_config *config) {
    return w->split_rows * config->num_attention_heads * w->max_chunks;
}

int64_t zs_paged_work_bytes(const zs_model_config *config, int64_t max_rows, int64_t max_length,
                            int threads) {
    zs_paged_work w = lay_out(config, max_rows, max_length, threads);
    return threads * w.scratch_bytes + count_parts(&w, config) * w.part_floats * (int64_t)sizeof(float) +
           max_rows * (int64_t)sizeof *w.order + (max_rows + 1) * (int64_t)sizeof *w.clusters;
}

void zs_paged_work_create(zs_paged_work *work, const zs_model_config *config, int64_t max_rows,
                          int64_t max_length, int threads) {
    *work = lay_out(config, max_rows, max_length, threads);
    work->scratch = ZS_NEW(char, threads * work->scratch_bytes);
    work->parts = ZS_NEW(float, count_parts(work, config) * work->part_floats);
    work->order = ZS_NEW(struct zs_paged_place, max_rows);
    work->clusters = ZS_NEW(int32_t, max_rows + 1);
}

void zs_paged_work_destroy(zs_paged_work *work) {
    zs_free(work->scratch);
    zs_free(work->parts);
    zs_free(work->order);
    zs_free(work->clusters);
}

static cluster use_scratch(const zs_paged_work *w, const zs_kv_cache *cache, char *scratch) {
    cluster a = {.cache = cache, .group = w->group};
    int64_t n = w->max_queries;
    a.queries = (float *)scratch;
    a.q.queries = a.queries;
    a.q.scores = a.queries + n * cache->padded_dim;
    a.q.states = a.q.scores + n * ZS_CHUNK;
    a.q.fresh = a.q.states + n * w->part_floats;
    a.lengths = (int64_t *)(a.q.fresh + ZS_TILE_QUERIES * w->part_floats);
    a.q.lengths = a.lengths;
    a.places = a.lengths + n;
    a.active = (int32_t *)(a.places + n);
    a.q.part_floats = w->part_floats;
    return a;
}

/* Storing. */

static void store_token(zs_kv_cache *cache, int64_t start, int64_t slot, const float *key,
                        const float *value) {
    int64_t head_dim = cache->head_dim, padded = cache->padded_dim;
    char *keys = zs_kv_keys(cache, start), *values = zs_kv_values(cache, start);
    if (cache->dtype == ZS_BF16) {
        uint16_t *k = (uint16_t *)keys + 2 * slot;
        uint16_t *v = (uint16_t *)values + slot / 2 * 2 * padded + slot % 2;
        for (int64_t d = 0; d < head_dim; d++)
            k[d / 2 * 2 * ZS_LANES + d % 2] = zs_f32_to_bf16(key[d]);
        for (int64_t d = 0; d < head_dim; d++)
            v[2 * d] = zs_f32_to_bf16(value[d]);
    } else {
        for (int64_t d = 0; d < head_dim; d++)
            ((float *)keys)[d * ZS_LANES + slot] = key[d];
        memcpy((float *)values + slot * padded, value, (size_t)head_dim * sizeof(float));
    }
}

void zs_paged_store(zs_kv_cache *cache, int64_t layer, int64_t num_segments, const zs_segment *segments,
                    int64_t heads, const float *qkv, int64_t qkv_stride, int threads) {
    int64_t head_dim = cache->head_dim;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_segments > 8)
    for (int64_t s = 0; s < num_segments; s++)
        for (int64_t i = 0; i < segments[s].count; i++) {
            const float *row = qkv + (segments[s].row + i) * qkv_stride;
            int64_t position = segments[s].position + i;
            for (int64_t h = 0; h < cache->kv_heads; h++) {
                const float *key = row + (heads + h) * head_dim;
                int64_t block = zs_kv_block(cache, layer, h, segments[s].pages, position / ZS_LANES);
                store_token(cache, block, position % ZS_LANES, key, key + cache->kv_heads * head_dim);
            }
        }
}

/* Who goes together. */

static int by_page(const void *a, const void *b) {
    const struct zs_paged_place *x = a, *y = b;
    return x->page != y->page ? (x->page > y->page) - (x->page < y->page)
                              : (x->segment > y->segment) - (x->segment < y->segment);
}

/* Clusters of at most `limit` rows (or one segment) with one first page; returns how many. */
static int64_t make_clusters(zs_paged_work *w, int64_t num_segments, const zs_segment *segments,
                             int64_t limit) {
    for (int64_t s = 0; s < num_segments; s++)
        w->order[s] = (struct zs_paged_place){segments[s].pages[0], (int32_t)s};
    qsort(w->order, (size_t)num_segments, sizeof *w->order, by_page);
    int64_t count = 0, rows = 0;
    for (int64_t i = 0; i < num_segments; i++) {
        int64_t more = segments[w->order[i].segment].count;
        if (i == 0 || w->order[i].page != w->order[i - 1].page || rows + more > limit) {
            w->clusters[count++] = (int32_t)i;
            rows = 0;
        }
        rows += more;
    }
    w->clusters[count] = (int32_t)num_segments;
    return count;
}

/* Do both see the whole chunk, in the same pages? Segments of one sequence always go together. */
static bool share_chunk(const zs_kv_cache *cache, const zs_segment *x, const zs_segment *y, int64_t begin) {
    if (x->pages == y->pages) return true;
    int64_t end = begin + ZS_CHUNK;
    if (x->position + 1 < end || y->position + 1 < end) return false;
    int64_t first = begin / cache->page_size, last = (end - 1) / cache->page_size;
    return memcmp(x->pages + first, y->pages + first, (size_t)(last - first + 1) * sizeof(int32_t)) == 0;
}

/* One cluster. */

static void load_queries(cluster *a, int64_t heads, const float *qkv, int64_t qkv_stride) {
    int64_t head_dim = a->cache->head_dim, n = 0;
    float scale = 1.0f / sqrtf((float)head_dim);
    a->longest = 0;
    for (int64_t m = 0; m < a->num_members; m++) {
        const zs_segment *s = &a->segments[a->members[m].segment];
        for (int64_t i = 0; i < s->count; i++)
            for (int64_t h = 0; h < a->group; h++, n++) {
                int64_t head = a->kv_head * a->group + h;
                const float *query = qkv + (s->row + i) * qkv_stride + head * head_dim;
                for (int64_t d = 0; d < head_dim; d++)
                    a->queries[n * head_dim + d] = query[d] * scale;
                a->lengths[n] = s->position + i + 1;
                a->places[n] = (s->row + i) * heads + head;
            }
        if (s->position + s->count > a->longest) a->longest = s->position + s->count;
    }
    a->num_queries = n;
}

/* Members [from, to) have the chunk in common; their queries begin at `query`. */
static void attend_run(cluster *a, int64_t from, int64_t to, int64_t query, int64_t begin, bool first) {
    zs_chunk chunk = {.begin = begin,
                      .head_dim = a->cache->head_dim,
                      .padded_dim = a->cache->padded_dim,
                      .active = a->active};
    int64_t end = begin;
    for (int64_t m = from; m < to; m++)
        for (int64_t i = a->segments[a->members[m].segment].count * a->group; i > 0; i--, query++)
            if (a->lengths[query] > begin) {
                a->active[chunk.count++] = (int32_t)query;
                end = a->lengths[query] > end ? a->lengths[query] : end;
            }
    if (chunk.count == 0) return;
    end = end < begin + ZS_CHUNK ? end : begin + ZS_CHUNK;
    const int32_t *pages = a->segments[a->members[from].segment].pages;
    for (int64_t b = 0; begin + b * ZS_LANES < end; b++) {
        int64_t start = zs_kv_block(a->cache, a->layer, a->kv_head, pages, begin / ZS_LANES + b);
        chunk.keys[b] = zs_kv_keys(a->cache, start);
        chunk.values[b] = zs_kv_values(a->cache, start);
    }
    zs_chunk_attend(a->cache->dtype, &a->q, &chunk, first);
}

static void attend_chunk(cluster *a, int64_t begin, bool first) {
    int64_t query = 0;
    for (int64_t from = 0, to; from < a->num_members; from = to) {
        const zs_segment *s = &a->segments[a->members[from].segment];
        int64_t queries = s->count * a->group;
        for (to = from + 1; to < a->num_members; to++) {
            const zs_segment *other = &a->segments[a->members[to].segment];
            if (!share_chunk(a->cache, s, other, begin)) break;
            queries += other->count * a->group;
        }
        attend_run(a, from, to, query, begin, first);
        query += queries;
    }
}

/* All chunks, one after the other. */
static void attend_whole(cluster *a, float *out) {
    for (int64_t begin = 0; begin < a->longest; begin += ZS_CHUNK)
        attend_chunk(a, begin, begin == 0);
    for (int64_t q = 0; q < a->num_queries; q++)
        zs_part_finish(a->q.states + q * a->q.part_floats, a->cache->head_dim,
                       out + a->places[q] * a->cache->head_dim);
}

/* One chunk, whose parts go to `parts` [places, max_chunks, part_floats]. */
static void attend_piece(cluster *a, int64_t chunk, float *parts, int64_t max_chunks) {
    if (chunk * ZS_CHUNK >= a->longest) return;
    attend_chunk(a, chunk * ZS_CHUNK, true);
    for (int64_t q = 0; q < a->num_queries; q++)
        if (a->lengths[q] > chunk * ZS_CHUNK)
            memcpy(parts + (a->places[q] * max_chunks + chunk) * a->q.part_floats,
                   a->q.states + q * a->q.part_floats, (size_t)a->q.part_floats * sizeof(float));
}

static void fold_pieces(const zs_paged_work *w, const zs_segment *s, int64_t heads, int64_t head_dim,
                        float *out) {
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t place = (s->row + i) * heads + h, length = s->position + i + 1;
            float *parts = w->parts + place * w->max_chunks * w->part_floats;
            for (int64_t c = 1; c * ZS_CHUNK < length; c++)
                zs_part_fold(parts, parts + c * w->part_floats, w->part_floats);
            zs_part_finish(parts, head_dim, out + place * head_dim);
        }
}

void zs_paged_attention(const zs_kv_cache *cache, int64_t layer, int64_t num_segments,
                        const zs_segment *segments, int64_t heads, const float *qkv, int64_t qkv_stride,
                        float *out, zs_paged_work *work) {
    int64_t rows = 0, longest = 0;
    for (int64_t s = 0; s < num_segments; s++) {
        int64_t length = segments[s].position + segments[s].count;
        rows += segments[s].count;
        longest = length > longest ? length : longest;
    }
    bool split = rows <= work->split_rows && longest > ZS_CHUNK;
    int64_t chunks = split ? (longest + ZS_CHUNK - 1) / ZS_CHUNK : 1;
    int64_t limit = rows * cache->kv_heads * chunks / (PIECES * work->threads);
    limit = limit < 1 ? 1 : limit;
    if (work->threads == 1 || limit > ZS_SEGMENT_ROWS) limit = ZS_SEGMENT_ROWS;
    int64_t per_cluster = cache->kv_heads * chunks;
    int64_t items = make_clusters(work, num_segments, segments, limit) * per_cluster;
#pragma omp parallel num_threads(work->threads) if (work->threads > 1 && items > 1)
    {
        cluster a = use_scratch(work, cache, work->scratch + omp_get_thread_num() * work->scratch_bytes);
        a.layer = layer;
        a.segments = segments;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; i++) {
            const int32_t *bounds = work->clusters + i / per_cluster;
            a.members = work->order + bounds[0];
            a.num_members = bounds[1] - bounds[0];
            a.kv_head = i % per_cluster / chunks;
            load_queries(&a, heads, qkv, qkv_stride);
            if (split)
                attend_piece(&a, i % chunks, work->parts, work->max_chunks);
            else
                attend_whole(&a, out);
        }
        if (split)
#pragma omp for schedule(static)
            for (int64_t s = 0; s < num_segments; s++)
                fold_pieces(work, &segments[s], heads, cache->head_dim, out);
    }
}
