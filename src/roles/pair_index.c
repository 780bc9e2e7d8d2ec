#include "pair_index.h"

#include "zerosearch/memory.h"

uint64_t zs_hash_text(const char *text, uint64_t from) {
    uint64_t hash = from ? from : 14695981039346656037ULL;
    do
        hash = (hash ^ (unsigned char)*text) * 1099511628211ULL;
    while (*text++);
    return hash;
}

zs_pair_index zs_pair_index_make(int64_t count, bool (*same)(const zs_pair *, const zs_pair *),
                                 uint64_t (*hash)(const zs_pair *)) {
    zs_pair_index index = {.same = same, .hash = hash, .capacity = 16};
    while (index.capacity < 2 * count)
        index.capacity *= 2;
    index.slots = ZS_NEW(int64_t, index.capacity);
    return index;
}

int64_t zs_pair_index_put(zs_pair_index *index, const zs_pair *pairs, int64_t place) {
    uint64_t at = index->hash(&pairs[place]);
    for (at ^= at >> 29;; at++) {
        int64_t *slot = &index->slots[at & (uint64_t)(index->capacity - 1)];
        if (*slot == 0) *slot = place + 1;
        if (*slot == place + 1 || index->same(&pairs[*slot - 1], &pairs[place])) return *slot - 1;
    }
}

void zs_pair_index_free(zs_pair_index *index) {
    zs_free(index->slots);
    index->slots = NULL;
}
