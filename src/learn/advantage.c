/* Advantages: what an episode's score is worth beside its peers. One function for each estimator. */
#include "zerosearch/learn.h"

#include <math.h>

void zs_advantage_grpo(int64_t n, const double *score, const int64_t *group, bool normalize,
                       double *advantage) {
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        int64_t size = 0;
        for (int64_t j = 0; j < n; j++)
            if (group[j] == group[i]) {
                sum += score[j];
                size++;
            }
        double mean = sum / (double)size, squares = 0.0;
        for (int64_t j = 0; j < n; j++)
            if (group[j] == group[i]) squares += (score[j] - mean) * (score[j] - mean);
        double deviation = size > 1 ? sqrt(squares / (double)(size - 1)) : 0.0;
        advantage[i] = size > 1 ? score[i] - mean : 0.0;
        if (normalize) advantage[i] /= deviation + 1e-6;
    }
}
