/* The curriculum: how likely noisy documents are at each step of training (ZeroSearch, eq. 3). */
#include "zerosearch/search.h"

#include <math.h>

double zs_curriculum_noise(double start, double end, double base, int64_t step, int64_t total) {
    if (total <= 0 || step <= 0) return start;
    if (step >= total) return end;
    double progress = (double)step / (double)total;
    /* Near base 1 the quotient loses all its digits, and its limit is linear. */
    bool linear = base <= 0 || fabs(base - 1) < 1e-9;
    double share = linear ? progress : (pow(base, progress) - 1) / (base - 1);
    return start + share * (end - start);
}
