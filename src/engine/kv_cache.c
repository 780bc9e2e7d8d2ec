/* Pages of keys and values, with reference counts for the pages that sequences share. */
#include "internal.h"

#include "zerosearch/memory.h"

#include <string.h>

int64_t zs_kv_page_size(int64_t wanted) {
    int64_t size = ZS_LANES;
    while (size < wanted)
        size *= 2;
    return size;
}

int64_t zs_kv_bytes(const zs_model_config *config, int64_t tokens, zs_dtype dtype) {
    int64_t key_and_value = config->head_dim + zs_round_up(config->head_dim, ZS_LANES);
    return tokens * config->num_hidden_layers * config->num_key_value_heads * key_and_value *
           zs_dtype_size(dtype);
}

void zs_kv_create(zs_kv_cache *cache, const zs_model_config *config, int64_t tokens, int64_t page_size,
                  zs_dtype dtype) {
    ZS_ASSERT(dtype == ZS_F32 || dtype == ZS_BF16, "a KV cache holds f32 or bf16");
    ZS_ASSERT(config->head_dim % 2 == 0, "heads of an odd number of dimensions have no rotary embedding");
    *cache = (zs_kv_cache){
        .dtype = dtype,
        .layers = config->num_hidden_layers,
        .kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .padded_dim = zs_round_up(config->head_dim, ZS_LANES),
        .page_size = page_size,
        .num_pages = (tokens + page_size - 1) / page_size,
    };
    while ((ZS_LANES << cache->block_shift) < page_size)
        cache->block_shift++;
    int64_t slots = cache->layers * cache->num_pages * cache->kv_heads * page_size;
    cache->keys = ZS_NEW(char, slots * cache->head_dim * zs_dtype_size(dtype));
    cache->values = ZS_NEW(char, slots * cache->padded_dim * zs_dtype_size(dtype));
    cache->references = ZS_NEW(int32_t, cache->num_pages);
    cache->free_pages = ZS_NEW(int32_t, cache->num_pages);
    cache->num_free = cache->least_free = cache->num_pages;
    for (int64_t i = 0; i < cache->num_pages; i++)
        cache->free_pages[i] = (int32_t)(cache->num_pages - 1 - i);
}

void zs_kv_destroy(zs_kv_cache *cache) {
    zs_free(cache->keys);
    zs_free(cache->values);
    zs_free(cache->references);
    zs_free(cache->free_pages);
}

int32_t zs_kv_take(zs_kv_cache *cache) {
    ZS_ASSERT(cache->num_free > 0, "a page was promised but none is free");
    int32_t page = cache->free_pages[--cache->num_free];
    if (cache->num_free < cache->least_free) cache->least_free = cache->num_free;
    cache->references[page] = 1;
    return page;
}

void zs_kv_share(zs_kv_cache *cache, int32_t page) {
    cache->references[page]++;
}

void zs_kv_drop(zs_kv_cache *cache, int32_t page) {
    ZS_ASSERT(cache->references[page] > 0, "page %d given back twice", (int)page);
    if (--cache->references[page] == 0) cache->free_pages[cache->num_free++] = page;
}

void zs_kv_copy(zs_kv_cache *cache, int32_t from, int32_t to, int64_t tokens) {
    /* Whole blocks: the slots past `tokens` are written by the new owner before it reads them. */
    int64_t slots = zs_round_up(tokens, ZS_LANES), element = zs_dtype_size(cache->dtype);
    for (int64_t layer = 0; layer < cache->layers; layer++)
        for (int64_t head = 0; head < cache->kv_heads; head++) {
            int64_t source = zs_kv_block(cache, layer, head, &from, 0);
            int64_t target = zs_kv_block(cache, layer, head, &to, 0);
            memcpy(zs_kv_keys(cache, target), zs_kv_keys(cache, source),
                   (size_t)(slots * cache->head_dim * element));
            memcpy(zs_kv_values(cache, target), zs_kv_values(cache, source),
                   (size_t)(slots * cache->padded_dim * element));
        }
}
