/* Temperature, top-k, top-p and the draw, without sorting the vocabulary.
 *
 * The kept set is {weight > threshold} and the first few ids equal to it; the threshold is found by
 * histograms over the bits of the weights exp((logit - max) / temperature), which order as the floats do.
 * They look only at weights among which it must lie, a few hundred or thousand: passes of vector code narrow
 * it down, by fixed floors where the distribution is peaked and by a sample where it is flat. */
#include "internal.h"

#include <math.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* Is any lane set? */
static inline bool any(zs_v16i mask) {
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int32_t lanes[ZS_LANES], found = 0;
    memcpy(lanes, &mask, sizeof lanes);
    for (int i = 0; i < ZS_LANES; i++)
        found |= lanes[i];
    return found != 0;
#endif
}

/* Sixteen numbers, or the `left` last ones with `fill` behind them; lengths that are constants are loads. */
static inline zs_v16 load(const float *from, int64_t left, float fill) {
    zs_v16 block = (zs_v16){0} + fill;
    if (left >= ZS_LANES)
        memcpy(&block, from, sizeof block);
    else
        memcpy(&block, from, (size_t)left * sizeof(float));
    return block;
}

static inline void store(float *to, int64_t left, zs_v16 block) {
    if (left >= ZS_LANES)
        memcpy(to, &block, sizeof block);
    else
        memcpy(to, &block, (size_t)left * sizeof(float));
}

/* weights = exp((logits - top) inverse_temperature) in place; returns their sum. */
static double exponentiate(float *logits, int64_t vocab, float top, float inverse_temperature) {
    double sum = 0;
    int64_t i = 0;
    for (; i + ZS_LANES <= vocab; i += ZS_LANES) {
        zs_v16 x;
        memcpy(&x, logits + i, sizeof x);
        x = zs_v16_exp((x - top) * inverse_temperature);
        memcpy(logits + i, &x, sizeof x);
        sum += (double)zs_v16_sum(x);
    }
    if (i < vocab) { /* the tail goes through the same exponential */
        zs_v16 x = (zs_v16){0} - 1e30f;
        size_t bytes = (size_t)(vocab - i) * sizeof(float);
        for (int64_t j = i; j < vocab; j++)
            x[j - i] = (logits[j] - top) * inverse_temperature;
        x = zs_v16_exp(x);
        memcpy(logits + i, &x, bytes);
        sum += (double)zs_v16_sum(x);
    }
    return sum;
}

/* The lowest id with the largest logit. */
static int64_t find_largest(const float *logits, int64_t vocab) {
    zs_v16 largest = (zs_v16){0} - INFINITY;
    int64_t i = 0;
    for (; i + ZS_LANES <= vocab; i += ZS_LANES) {
        zs_v16 x;
        memcpy(&x, logits + i, sizeof x);
        largest = zs_v16_max(x, largest);
    }
    float top = zs_v16_largest(largest);
    for (; i < vocab; i++)
        top = logits[i] > top ? logits[i] : top;
    for (i = 0; i + ZS_LANES <= vocab; i += ZS_LANES) {
        zs_v16 x;
        memcpy(&x, logits + i, sizeof x);
        if (any(x == top)) break;
    }
    for (; i < vocab; i++)
        if (logits[i] == top) return i;
    return 0; /* all NaN */
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

typedef struct edge { /* where the kept set ends */
    float threshold;  /* the smallest weight in it */
    int64_t ties;     /* how many that equal it are in */
} edge;

/* The edge of the largest weights: at most `count`, or the fewest that hold `mass`. `number` candidates hold
 * it; above_count others are larger than all of them and come to above_mass. By histograms over the bits of
 * the candidates, which order as the floats do: each looks into one bin of that before it. */
static edge find_edge(const float *weights, int64_t number, int64_t count, double mass, int64_t above_count,
                      double above_mass) {
    enum { BITS = 11, BINS = 1 << BITS };
    uint32_t low = UINT32_MAX, high = 0;
    for (int64_t i = 0; i < number; i++) {
        uint32_t bits = bits_of(weights[i]);
        low = bits < low ? bits : low;
        high = bits > high ? bits : high;
    }
    for (int shift = 32;;) {
        shift = shift > BITS ? shift - BITS : 0;
        while (shift > 0 && (high - low) >> (shift - 1) < BINS)
            shift--;
        int64_t counts[BINS] = {0}, bin = (high - low) >> shift, lowest = -1;
        double sums[BINS] = {0};
        for (int64_t i = 0; i < number; i++) {
            uint32_t bits = bits_of(weights[i]);
            if (bits < low || bits > high) continue;
            counts[(bits - low) >> shift]++;
            sums[(bits - low) >> shift] += (double)weights[i];
        }
        for (; bin >= 0; bin--) {
            if (counts[bin] == 0) continue;
            lowest = bin;
            if (above_count + counts[bin] >= count || above_mass + sums[bin] >= mass) break;
            above_count += counts[bin];
            above_mass += sums[bin];
        }
        if (bin < 0) { /* rounding: all of them together fall short, so the smallest bin is the edge */
            above_count -= counts[lowest];
            above_mass -= sums[lowest];
            bin = lowest;
        }
        low += (uint32_t)bin << shift;
        uint32_t last = low + ((1u << shift) - 1);
        high = last < high ? last : high;
        if (shift > 0) continue;
        edge e = {.threshold = float_of(low)};
        while (e.ties < counts[bin] && above_count < count && (above_count == 0 || above_mass < mass)) {
            above_count++;
            above_mass += (double)e.threshold;
            e.ties++;
        }
        return e;
    }
}

typedef struct range { /* weights in [low, high) and above */
    int64_t number;
    int64_t above_count;
    double sum, above_sum;
} range;

static inline int64_t count_lanes(zs_v16i mask) {
#ifdef __AVX512F__
    return __builtin_popcount(_mm512_test_epi32_mask((__m512i)mask, (__m512i)mask));
#else
    int64_t count = 0;
    for (int j = 0; j < ZS_LANES; j++)
        count -= mask[j];
    return count;
#endif
}

/* Copies the weights in [low, high) to `chosen` [room + ZS_LANES], while there is room. Of every `stride`
 * blocks of 16 one is looked at. */
static range gather(const float *weights, int64_t vocab, int64_t stride, float low, float high, int64_t room,
                    float *chosen) {
    enum { BLOCKS = 32 }; /* added up in f32 before their sum goes into a double */
    range r = {0};
    zs_v16 inside_sum = {0}, above_sum = {0};
    int64_t added = 0;
    for (int64_t i = 0; i < vocab; i += stride * ZS_LANES) {
        zs_v16 block = load(weights + i, vocab - i, -1.0f);
        zs_v16i reaches = block >= low, above = block >= high, inside = reaches & ~above;
        if (!any(reaches)) continue;
        above_sum += (zs_v16)((zs_v16i)block & above);
        inside_sum += (zs_v16)((zs_v16i)block & inside);
        r.above_count += count_lanes(above);
        if (++added % BLOCKS == 0) {
            r.above_sum += (double)zs_v16_sum(above_sum);
            r.sum += (double)zs_v16_sum(inside_sum);
            above_sum = inside_sum = (zs_v16){0};
        }
#ifdef __AVX512F__
        __mmask16 mask = _mm512_test_epi32_mask((__m512i)inside, (__m512i)inside);
        if (r.number <= room)
            _mm512_storeu_ps(chosen + r.number, _mm512_maskz_compress_ps(mask, (__m512)block));
        r.number += __builtin_popcount(mask);
#else
        for (int j = 0; j < ZS_LANES; j++) {
            if (inside[j] && r.number <= room) chosen[r.number] = block[j];
            r.number -= inside[j];
        }
#endif
    }
    r.above_sum += (double)zs_v16_sum(above_sum);
    r.sum += (double)zs_v16_sum(inside_sum);
    return r;
}

/* Zeroes what is below the threshold, and what equals it after the first `ties`. Returns the sum of the rest.
 */
static double cut(float *weights, int64_t vocab, float threshold, int64_t ties) {
    double kept = 0;
    for (int64_t i = 0; i < vocab; i += ZS_LANES) {
        zs_v16 block = load(weights + i, vocab - i, -1.0f);
        zs_v16i above = block > threshold, equal = block == threshold;
        if (any(equal))
            for (int j = 0; j < ZS_LANES && ties > 0; j++)
                if (equal[j]) {
                    above[j] = -1;
                    ties--;
                }
        block = (zs_v16)((zs_v16i)block & above);
        store(weights + i, vocab - i, block);
        if (any(above)) kept += (double)zs_v16_sum(block);
    }
    return kept;
}

/* More candidates in [low, high), which `r` tells of and the edge is in, than there is room for: a sample of
 * them says between which weights the edge most likely lies, and one look at all tells whether it does. */
static bool find_edge_by_sample(const float *weights, int64_t vocab, float low, float high, range r,
                                int64_t count, double mass, int64_t room, float *chosen, edge *out) {
    enum { SAMPLED_BLOCKS = 512 };
    const double margin = 0.015; /* of the range, either way */
    int64_t stride = (vocab / ZS_LANES) / SAMPLED_BLOCKS;
    if (stride < 2) return false;
    range sample = gather(weights, vocab, stride, low, high, room, chosen);
    if (sample.number > room || sample.number < 1) return false;
    double number = (double)(count - r.above_count) / (double)r.number, part = (mass - r.above_sum) / r.sum;
    float bounds[2] = {low, high};
    for (int side = 0; side < 2; side++) {
        double shift = side ? -margin : margin, n = (number + shift) * (double)sample.number;
        double share = part + shift;
        if (side ? n < 1 || share <= 0 : n >= (double)sample.number && share >= 1) continue;
        int64_t most = n < (double)sample.number ? (int64_t)n : sample.number;
        bounds[side] = find_edge(chosen, sample.number, most, share * sample.sum, 0, 0).threshold;
    }
    r = gather(weights, vocab, 1, bounds[0], bounds[1], room, chosen);
    bool before = r.above_count < count && r.above_sum < mass;
    bool reached = r.above_count + r.number >= count || r.above_sum + r.sum >= mass;
    if (r.number > room || !before || !reached) return false;
    *out = find_edge(chosen, r.number, count, mass, r.above_count, r.above_sum);
    return true;
}

/* Zeroes all but the largest weights: at most `count` of them, or the fewest that hold `mass`.
 * Ties go to the lower ids. Returns the sum of what is kept. */
static double keep_largest(float *weights, int64_t vocab, int64_t count, double mass) {
    enum { ROOM = 16384 };
    float chosen[ROOM + 2 * ZS_LANES];
    edge e;
    float low = 0x1p-4f, high = INFINITY;
    for (int look = 0; look < 6; look++, high = low, low *= 0x1p-4f) { /* down to 2^-24 */
        range r = gather(weights, vocab, 1, low, high, ROOM, chosen);
        if (r.above_count + r.number < count && !(r.above_sum + r.sum >= mass)) continue;
        if (r.number <= ROOM)
            e = find_edge(chosen, r.number, count, mass, r.above_count, r.above_sum);
        else if (!find_edge_by_sample(weights, vocab, low, high, r, count, mass, ROOM, chosen, &e))
            break;
        return cut(weights, vocab, e.threshold, e.ties);
    }
    e = find_edge(weights, vocab, count, mass, 0, 0);
    return cut(weights, vocab, e.threshold, e.ties);
}

/* Inverse of the cumulative distribution over ids in order: the first id whose running sum passes u * sum.
 * Blocks of 16 are stepped over by their sums. */
static int64_t invert(const float *weights, int64_t vocab, double target, int64_t fallback) {
    double running = 0;
    int64_t last = fallback;
    for (int64_t i = 0; i < vocab; i += ZS_LANES) {
        int64_t width = vocab - i < ZS_LANES ? vocab - i : ZS_LANES;
        zs_v16 block = load(weights + i, vocab - i, 0);
        double sum = (double)zs_v16_sum(block);
        if (sum > 0 && running + sum > target) {
            for (int64_t j = 0; j < width; j++)
                if (block[j] > 0) {
                    last = i + j;
                    running += (double)block[j];
                    if (running > target) break;
                }
            return last;
        }
        running += sum;
        if (sum > 0)
            for (int64_t j = width - 1; j >= 0; j--)
                if (block[j] > 0) {
                    last = i + j;
                    break;
                }
    }
    return last; /* u so near 1 that rounding ate the rest */
}

int32_t zs_sample(float *logits, int64_t vocab, const zs_sampling *sampling, double u, float *log_prob) {
    int64_t token = find_largest(logits, vocab);
    bool greedy = sampling->temperature <= 0;
    double sum = exponentiate(logits, vocab, logits[token],
                              greedy ? 1.0f : (float)fmin(1 / sampling->temperature, 1e6));
    if (!greedy) {
        double kept = sum;
        /* The weights before the filters give the log-probability, so keep the sum of all of them. */
        if (sampling->top_k > 0 && sampling->top_k < vocab)
            kept = keep_largest(logits, vocab, sampling->top_k, INFINITY);
        if (sampling->top_p < 1) kept = keep_largest(logits, vocab, vocab, sampling->top_p * kept);
        token = invert(logits, vocab, u * kept, token);
    }
    *log_prob = (float)log((double)logits[token] / sum);
    return (int32_t)token;
}
