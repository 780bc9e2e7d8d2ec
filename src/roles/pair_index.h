/* Which pairs are the same in some respect: an open hash table of places in an array of pairs. Inside roles/.
 */
#ifndef ZEROSEARCH_ROLES_PAIR_INDEX_H
#define ZEROSEARCH_ROLES_PAIR_INDEX_H

#include "zerosearch/collect.h"

typedef struct zs_pair_index {
    bool (*same)(const zs_pair *a, const zs_pair *b);
    uint64_t (*hash)(const zs_pair *pair);
    int64_t *slots, capacity; /* place + 1, 0: free; a power of two, at least twice the pairs */
} zs_pair_index;

zs_pair_index zs_pair_index_make(int64_t count, bool (*same)(const zs_pair *, const zs_pair *),
                                 uint64_t (*hash)(const zs_pair *));
/* The place of the first pair put that is the same as pairs[place]; `place` if it is the first. */
int64_t zs_pair_index_put(zs_pair_index *index, const zs_pair *pairs, int64_t place);
void zs_pair_index_free(zs_pair_index *index);

/* FNV-1a (64 bits) of the text and its final NUL, going on from another hash; 0 begins. */
uint64_t zs_hash_text(const char *text, uint64_t from);

#endif
