#include "zerosearch/rng.h"
#include "zerosearch/error.h"

#include <math.h>

void zs_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0, product1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t high0 = (uint32_t)(product0 >> 32), high1 = (uint32_t)(product1 >> 32);
        c0 = high1 ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = high0 ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static uint64_t splitmix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

zs_rng zs_rng_make(uint64_t seed, zs_stream stream, int64_t step, int64_t question, int64_t sample) {
    uint64_t key = splitmix64(splitmix64(seed) ^ (uint64_t)stream);
    zs_rng rng = {.key = {(uint32_t)key, (uint32_t)(key >> 32)},
                  .counter = {0, (uint32_t)sample, (uint32_t)question, (uint32_t)step}};
    return rng;
}

double zs_rng_uniform_at(const zs_rng *rng, int64_t position) {
    uint32_t counter[4] = {(uint32_t)position, rng->counter[1], rng->counter[2], rng->counter[3]};
    uint32_t block[4];
    zs_philox(counter, rng->key, block);
    return block[0] * 0x1p-32;
}

uint32_t zs_rng_next(zs_rng *rng) {
    if (rng->buffered == 0) {
        zs_philox(rng->counter, rng->key, rng->buffer);
        rng->counter[0]++;
        ZS_ASSERT(rng->counter[0] != 0, "more than 2^34 draws from one random stream");
        rng->buffered = 4;
    }
    return rng->buffer[4 - rng->buffered--];
}

double zs_rng_uniform(zs_rng *rng) {
    return zs_rng_next(rng) * 0x1p-32;
}

int64_t zs_rng_below(zs_rng *rng, int64_t bound) {
    ZS_ASSERT(bound > 0 && bound < (INT64_C(1) << 32), "bound %lld", (long long)bound);
    /* Lemire's multiplication; the few values that would favour small results are drawn again. */
    uint32_t limit = (uint32_t)bound, reject = -limit % limit;
    uint64_t product;
    do
        product = (uint64_t)zs_rng_next(rng) * limit;
    while ((uint32_t)product < reject);
    return (int64_t)(product >> 32);
}

double zs_rng_normal(zs_rng *rng) {
    double radius = sqrt(-2.0 * log((zs_rng_next(rng) + 1.0) * 0x1p-32)); /* of (0, 1] */
    return radius * cos(6.283185307179586477 * zs_rng_uniform(rng));
}

void zs_rng_shuffle(zs_rng *rng, int64_t *items, int64_t count) {
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = zs_rng_below(rng, i + 1), item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}
