/* Packing of sequences into micro-batches without padding. */
#include "zerosearch/learn.h"

int64_t zs_pack(int64_t n, const int64_t *lengths, int64_t max_tokens, int64_t *first) {
    int64_t batches = 0, tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || tokens + lengths[i] > max_tokens) {
            first[batches++] = i;
            tokens = 0;
        }
        tokens += lengths[i];
    }
    first[batches] = n;
    return batches;
}
