/* Policy losses over tokens: the clipped surrogate and the KL to the reference. */
#include "zerosearch/learn.h"

#include <math.h>

double zs_kl_estimate(zs_kl_type type, double log_prob, double ref_log_prob, double *gradient) {
    double d = ref_log_prob - log_prob, value = 0.0, slope = 0.0;
    switch (type) {
    case ZS_KL_K1:
        value = -d;
        slope = 1.0;
        break;
    case ZS_KL_K2:
        value = 0.5 * d * d;
        slope = -d;
        break;
    case ZS_KL_K3:
        value = exp(d) - d - 1.0;
        slope = 1.0 - exp(d);
        break;
    }
    if (gradient) *gradient = slope;
    return value;
}

void zs_policy_loss_tokens(const zs_policy_loss *loss, int64_t n, const uint8_t *mask, const float *log_prob,
                           const float *old_log_prob, const float *ref_log_prob, const float *advantage,
                           const float *entropy, float *coefficient, zs_policy_sums *sums) {
    for (int64_t t = 0; t < n; t++) {
        coefficient[t] = 0.0f;
        if (!mask[t]) continue;
        double a = advantage[t], ratio = exp((double)log_prob[t] - old_log_prob[t]);
        double clipped = fmin(fmax(ratio, 1.0 - loss->clip_low), 1.0 + loss->clip_high);
        bool active =
            ratio * a <= clipped * a; /* the unclipped term is the smaller one: it has the gradient */
        double value = active ? -ratio * a : -clipped * a, slope = active ? -ratio * a : 0.0;
        double kl = 0.0, kl_slope = 0.0;
        if (ref_log_prob) {
            kl = zs_kl_estimate(loss->kl_type, log_prob[t], ref_log_prob[t], &kl_slope);
            value += loss->kl_coef * kl;
            slope += loss->kl_coef * kl_slope;
        }
        coefficient[t] = (float)(slope / loss->denominator);
        sums->tokens += 1.0;
        sums->loss += value / loss->denominator;
        sums->kl += kl;
        sums->clipped += active ? 0.0 : 1.0;
        sums->entropy += entropy ? entropy[t] : 0.0;
        sums->mismatch += fabs((double)log_prob[t] - old_log_prob[t]);
    }
}
