/* Log-softmax, entropy and their gradient, row by row over a chunk of logits. */
#include "zerosearch/kernels.h"

#include "vector_math.h"

#include <math.h>
#include <string.h>

/* A vocabulary may have 150,000 entries: f32 partial sums over blocks, double over the blocks. */
#define BLOCK 2048

/* In lanes, since a plain maximum of floats is a chain that clang does not break up. */
static float row_max(int64_t n, const float *x) {
    enum { LANES = 32 };
    float lane[LANES], highest = x[0];
    for (int i = 0; i < LANES; i++)
        lane[i] = highest;
    int64_t whole = n / LANES * LANES;
    for (int64_t at = 0; at < whole; at += LANES)
        for (int i = 0; i < LANES; i++)
            lane[i] = x[at + i] > lane[i] ? x[at + i] : lane[i];
    for (int i = 0; i < LANES; i++)
        highest = lane[i] > highest ? lane[i] : highest;
    for (int64_t i = whole; i < n; i++)
        highest = x[i] > highest ? x[i] : highest;
    return highest;
}

void zs_log_softmax_rows(int64_t rows, int64_t vocab, float inv_temperature, const int32_t *targets,
                         const float *coefficient, float *logits, float *log_prob, float *entropy) {
#pragma omp parallel for schedule(static) if (rows * vocab > 16384)
    for (int64_t r = 0; r < rows; r++) {
        float *z = logits + r * vocab;
        float highest = row_max(vocab, z);
        float target = targets[r] >= 0 ? (z[targets[r]] - highest) * inv_temperature : 0;
        double sum = 0, weighted = 0;
        for (int64_t begin = 0; begin < vocab; begin += BLOCK) {
            int64_t end = begin + BLOCK < vocab ? begin + BLOCK : vocab;
            float part = 0, part_weighted = 0;
            if (entropy) {
#pragma omp simd reduction(+ : part, part_weighted)
                for (int64_t i = begin; i < end; i++) {
                    float s = (z[i] - highest) * inv_temperature, e = zs_expf(s);
                    part += e;
                    part_weighted += e * s;
                    z[i] = e;
                }
            } else {
#pragma omp simd reduction(+ : part)
                for (int64_t i = begin; i < end; i++) {
                    float e = zs_expf((z[i] - highest) * inv_temperature);
                    part += e;
                    z[i] = e;
                }
            }
            sum += part;
            weighted += part_weighted;
        }
        double log_sum = log(sum);
        if (log_prob) log_prob[r] = targets[r] >= 0 ? (float)((double)target - log_sum) : 0;
        if (entropy) entropy[r] = (float)(log_sum - weighted / sum);
        if (!coefficient) continue;
        /* d log p(target) / d logit_i = ([i = target] - p_i) / temperature */
        float c = targets[r] >= 0 ? coefficient[r] * inv_temperature : 0;
        if (c == 0) {
            memset(z, 0, (size_t)vocab * sizeof(float));
            continue;
        }
        float scale = (float)(-(double)c / sum);
#pragma omp simd
        for (int64_t i = 0; i < vocab; i++)
            z[i] *= scale;
        z[targets[r]] += c;
    }
}
