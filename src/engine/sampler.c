/* Temperature, top-k, top-p and the draw, without sorting the vocabulary.
 *
 * The kept set is {weight > threshold} and the first few ids equal to it; the threshold is found by radix
 * selection on the bits of the weights exp((logit - max) / temperature), which order as the floats do. */
#include "internal.h"

#include <math.h>
#include <string.h>

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
    for (i = 0; i < vocab; i++)
        if (logits[i] == top) return i;
    return 0; /* all NaN */
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Zeroes all but the largest weights: at most `count` of them, or the fewest that hold `mass`. Ties go to the
 * lower ids. Returns the sum of what is kept. */
static double keep_largest(float *weights, int64_t vocab, int64_t count, double mass) {
    enum { BITS = 11, BINS = 1 << BITS };
    uint32_t prefix = 0;
    int64_t above_count = 0;
    double above_mass = 0;
    /* Weights are in [0, 1], so the sign bit is 0: three rounds of 11, 11 and 10 of the 32 bits. */
    for (int shift = 21, width = BITS; shift >= 0; width = shift < BITS ? shift : BITS, shift -= width) {
        int64_t counts[BINS] = {0};
        double sums[BINS] = {0};
        uint32_t bins = 1u << width;
        for (int64_t i = 0; i < vocab; i++) {
            uint32_t bits = bits_of(weights[i]);
            if (shift + width >= 32 || bits >> (shift + width) == prefix) {
                counts[(bits >> shift) & (bins - 1)]++;
                sums[(bits >> shift) & (bins - 1)] += (double)weights[i];
            }
        }
        int64_t bin = bins - 1, lowest = -1;
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
        prefix = prefix << width | (uint32_t)bin;
        if (shift == 0) break;
    }
    double kept = 0;
    for (int64_t i = 0; i < vocab; i++) {
        uint32_t bits = bits_of(weights[i]);
        bool tie = bits == prefix && above_count < count && above_mass < mass;
        if (tie) {
            above_count++;
            above_mass += (double)weights[i];
        }
        if (bits > prefix || tie)
            kept += (double)weights[i];
        else
            weights[i] = 0;
    }
    return kept;
}

/* Inverse of the cumulative distribution over ids in order: the first id whose running sum passes u * sum.
 * Blocks of 16 are stepped over by their sums. */
static int64_t invert(const float *weights, int64_t vocab, double target, int64_t fallback) {
    double running = 0;
    int64_t last = fallback;
    for (int64_t i = 0; i < vocab; i += ZS_LANES) {
        int64_t width = vocab - i < ZS_LANES ? vocab - i : ZS_LANES;
        zs_v16 block = {0};
        memcpy(&block, weights + i, (size_t)width * sizeof(float));
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
