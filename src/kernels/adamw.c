/* AdamW in one pass, and the norm that clipping needs. */
#include "zerosearch/kernels.h"

#include "vector_math.h"

#include <math.h>

/* sqrtf may set errno, which keeps gcc from vectorising it; nothing here reads errno. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno")
#endif

void zs_adamw_update(int64_t n, int64_t step, zs_adamw settings, float grad_scale, const float *grads,
                     float *params, float *m, float *v) {
    double correction1 = 1.0 - pow(settings.beta1, (double)step);
    double correction2 = 1.0 - pow(settings.beta2, (double)step);
    float beta1 = (float)settings.beta1, rest1 = (float)(1.0 - settings.beta1);
    float beta2 = (float)settings.beta2, rest2 = (float)(1.0 - settings.beta2);
    float rate = (float)(settings.learning_rate / correction1);
    float root = (float)(1.0 / sqrt(correction2));
    float eps = (float)settings.eps;
    float keep = (float)(1.0 - settings.learning_rate * settings.weight_decay);
#pragma omp parallel for simd schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        float g = grads[i] * grad_scale;
        float mi = beta1 * m[i] + rest1 * g;
        float vi = beta2 * v[i] + rest2 * g * g;
        m[i] = mi;
        v[i] = vi;
        params[i] = params[i] * keep - rate * mi / (sqrtf(vi) * root + eps);
    }
}

/* Blocks of fixed size, summed in order whatever the number of threads. */
#define SQUARES_BLOCK 4096
#define SQUARES_GROUP 256

/* Several sums side by side: one would wait for its own last addition, and memory for it. */
static double block_squares(int64_t n, const float *x) {
    enum { LANES = 32 };
    double lane[LANES] = {0}, sum = 0;
    int64_t whole = n / LANES * LANES;
    for (int64_t at = 0; at < whole; at += LANES)
#pragma omp simd
        for (int i = 0; i < LANES; i++)
            lane[i] += (double)x[at + i] * (double)x[at + i];
    for (int i = 0; i < LANES; i++)
        sum += lane[i];
    for (int64_t i = whole; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

double zs_sum_of_squares(int64_t n, const float *x) {
    double total = 0;
    int64_t blocks = (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
    for (int64_t first = 0; first < blocks; first += SQUARES_GROUP) {
        int64_t count = blocks - first < SQUARES_GROUP ? blocks - first : SQUARES_GROUP;
        double sums[SQUARES_GROUP];
#pragma omp parallel for schedule(static) if (count > 16)
        for (int64_t b = 0; b < count; b++) {
            int64_t begin = (first + b) * SQUARES_BLOCK;
            int64_t end = begin + SQUARES_BLOCK < n ? begin + SQUARES_BLOCK : n;
            sums[b] = block_squares(end - begin, x + begin);
        }
        for (int64_t b = 0; b < count; b++)
            total += sums[b];
    }
    return total;
}
