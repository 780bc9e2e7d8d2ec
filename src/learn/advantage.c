/* Advantages: what an episode's score, or a token, is worth beside its peers. */
#include "zerosearch/learn.h"

#include <math.h>

void zs_advantage_of_scores(zs_advantage kind, int64_t n, const double *score, const int64_t *group,
                            double *advantage) {
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0, squares = 0.0, size = 0.0;
        for (int64_t j = 0; j < n; j++)
            if (group[j] == group[i]) {
                sum += score[j];
                size += 1.0;
            }
        double mean = sum / size;
        for (int64_t j = 0; j < n; j++)
            if (group[j] == group[i]) squares += (score[j] - mean) * (score[j] - mean);
        advantage[i] = kind == ZS_ADVANTAGE_SCORE ? score[i] : size > 1.0 ? score[i] - mean : 0.0;
        if (size == 1.0) continue;
        if (kind == ZS_ADVANTAGE_GRPO) advantage[i] /= sqrt(squares / (size - 1.0)) + 1e-6;
        if (kind == ZS_ADVANTAGE_RLOO) advantage[i] *= size / (size - 1.0); /* the others' mean instead */
    }
}

void zs_advantage_gae(int64_t n, const uint8_t *mask, const float *reward, const float *value, double gamma,
                      double lambda, float *advantage, float *returns) {
    double next_value = 0.0, next_advantage = 0.0;
    for (int64_t t = n - 1; t >= 0; t--) {
        advantage[t] = returns[t] = 0.0f;
        if (!mask[t]) continue;
        double delta = reward[t] + gamma * next_value - value[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = value[t];
        advantage[t] = (float)next_advantage;
        returns[t] = (float)(next_advantage + next_value);
    }
}

void zs_moments_add(zs_moments *moments, int64_t n, const uint8_t *mask, const float *x) {
    for (int64_t t = 0; t < n; t++)
        if (mask[t]) {
            moments->count += 1.0;
            moments->sum += x[t];
            moments->squares += (double)x[t] * x[t];
        }
}

void zs_whiten(const zs_moments *moments, int64_t n, const uint8_t *mask, float *x) {
    if (moments->count == 0.0) return;
    double mean = moments->sum / moments->count, scale = 1.0;
    if (moments->count > 1.0) {
        double variance = (moments->squares - moments->sum * mean) / (moments->count - 1.0);
        scale = 1.0 / sqrt(fmax(0.0, variance) + 1e-8);
    }
    for (int64_t t = 0; t < n; t++)
        if (mask[t]) x[t] = (float)((x[t] - mean) * scale);
}

double zs_overlong_penalty(double length, double limit, double buffer) {
    if (buffer <= 0.0 || length <= limit - buffer) return 0.0;
    return fmax(-1.0, (limit - buffer - length) / buffer);
}
