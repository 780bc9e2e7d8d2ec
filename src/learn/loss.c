/* Losses over tokens: importance weights, the clipped surrogate, the KL to the reference, LLDS; values. */
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

void zs_importance_weights(double cap, int64_t n, const uint8_t *mask, const float *old_log_prob,
                           const float *rollout_log_prob, float *weight, zs_drift_sums *sums) {
    for (int64_t t = 0; t < n; t++) {
        if (weight) weight[t] = 0.0f;
        if (!mask[t]) continue;
        double d = (double)old_log_prob[t] - rollout_log_prob[t], ratio = exp(d), w = fmin(ratio, cap);
        if (weight) weight[t] = (float)w;
        sums->tokens += 1.0;
        sums->weight += w;
        sums->capped += ratio > cap ? 1.0 : 0.0;
        sums->mismatch += fabs(d);
        sums->kl += zs_kl_estimate(ZS_KL_K3, rollout_log_prob[t], old_log_prob[t], NULL);
        sums->max = fmax(sums->max, fabs(d));
    }
}

double zs_kl_adapt(double coef, double kl, double target, double horizon, double episodes) {
    double error = fmin(fmax(kl / target - 1.0, -0.2), 0.2);
    return coef * fmax(0.0, 1.0 + error * episodes / horizon);
}

double zs_loss_denominator(zs_aggregation aggregation, double tokens, double episodes, double length) {
    double sum = aggregation == ZS_TOKEN_MEAN      ? tokens
                 : aggregation == ZS_SEQUENCE_MEAN ? episodes
                                                   : episodes * length;
    return fmax(1.0, sum);
}

void zs_sequence_log_ratio(int64_t n, const uint8_t *mask, const float *log_prob, const float *old_log_prob,
                           float *out) {
    double sum = 0.0, tokens = 0.0;
    for (int64_t t = 0; t < n; t++)
        if (mask[t]) {
            sum += (double)log_prob[t] - old_log_prob[t];
            tokens += 1.0;
        }
    for (int64_t t = 0; t < n; t++)
        out[t] = mask[t] ? (float)(sum / tokens) : 0.0f;
}

/* Log-probabilities of the same weights differ by rounding between two passes (tests hold it below this): no
 * fall of the likelihood. */
#define SAME_LIKELIHOOD 1e-4

void zs_llds_gate(int64_t n, const uint8_t *mask, const float *log_prob, const float *old_log_prob,
                  const float *advantage, uint8_t *preserved) {
    for (int64_t begin = 0, end; begin < n; begin = end) {
        double fall = 0.0;
        for (end = begin; end < n && mask[end] == mask[begin]; end++)
            if (mask[end] && advantage[end] >= 0.0f) fall += (double)old_log_prob[end] - log_prob[end];
        for (int64_t t = begin; t < end; t++)
            preserved[t] = mask[t] && advantage[t] >= 0.0f && fall > SAME_LIKELIHOOD;
    }
}

void zs_policy_loss_tokens(const zs_policy_loss *loss, int64_t n, const zs_policy_tokens *tokens,
                           float *coefficient, zs_policy_sums *sums) {
    for (int64_t t = 0; t < n; t++) {
        coefficient[t] = 0.0f;
        if (!tokens->mask[t]) continue;
        double log_prob = tokens->log_prob[t], own = log_prob - tokens->old_log_prob[t];
        double ratio = exp(tokens->log_ratio ? tokens->log_ratio[t] : own);
        double a = tokens->weight ? (double)tokens->weight[t] * tokens->advantage[t] : tokens->advantage[t];
        double clipped = fmin(fmax(ratio, 1.0 - loss->clip_low), 1.0 + loss->clip_high);
        bool active =
            ratio * a <= clipped * a; /* the unclipped term is the smaller one: it has the gradient */
        double surrogate = active ? -ratio * a : -clipped * a, slope = active ? -ratio * a : 0.0;
        double kl = 0.0, kl_slope = 0.0, fall = 0.0;
        if (tokens->ref_log_prob)
            kl = zs_kl_estimate(loss->kl_type, log_prob, tokens->ref_log_prob[t], &kl_slope);
        if (tokens->preserved && tokens->preserved[t] && -own > SAME_LIKELIHOOD) fall = -own;
        slope += loss->kl_coef * kl_slope - (fall > 0.0 ? loss->llds : 0.0);
        double share = (tokens->share ? tokens->share[t] : 1.0) / loss->denominator;
        coefficient[t] = (float)(slope * share);
        sums->tokens += 1.0;
        sums->surrogate += surrogate * share;
        sums->kl_term += loss->kl_coef * kl * share;
        sums->llds += loss->llds * fall * share;
        sums->loss += (surrogate + loss->kl_coef * kl + loss->llds * fall) * share;
        sums->kl += kl;
        sums->clipped += active ? 0.0 : 1.0;
        sums->entropy += tokens->entropy ? tokens->entropy[t] : 0.0;
    }
}

void zs_value_loss_tokens(double clip_range, double denominator, int64_t n, const uint8_t *mask,
                          const float *value, const float *old_value, const float *returns,
                          float *coefficient, zs_value_sums *sums) {
    for (int64_t t = 0; t < n; t++) {
        coefficient[t] = 0.0f;
        if (!mask[t]) continue;
        double v = value[t], old = old_value[t], target = returns[t], error = v - target;
        double clipped = fmin(fmax(v, old - clip_range), old + clip_range) - target;
        bool active = error * error >= clipped * clipped;
        coefficient[t] = active ? (float)(error / denominator) : 0.0f;
        sums->loss += 0.5 * fmax(error * error, clipped * clipped) / denominator;
        sums->tokens += 1.0;
        sums->clipped += active ? 0.0 : 1.0;
        sums->value += v;
        sums->returns += target;
        sums->returns_squares += target * target;
        sums->error += error;
        sums->error_squares += error * error;
    }
}
