/* Truncated importance weights: the loss and its gradient against the formula in double, worked out here; the
 * edges of the cap; the expectation over a small policy, which must not depend on who drew the tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "zerosearch/learn.h"

static double uniform(zs_rng *rng, double low, double high) {
    return low + (high - low) * ((double)zs_rng_next(rng) + 0.5) / 4294967296.0;
}

/* The formula of one token, in double and from what the paper says: w = min(old / mu, cap) is a constant. */
static double token_loss(double log_prob, double old, double mu, double ref, double a, double cap,
                         double clip, double kl_coef) {
    double w = exp(old) / exp(mu);
    if (w > cap) w = cap;
    double r = exp(log_prob) / exp(old), inside = r;
    if (inside < 1 - clip) inside = 1 - clip;
    if (inside > 1 + clip) inside = 1 + clip;
    double surrogate = r * a < inside * a ? r * a : inside * a;
    double k3 = exp(ref) / exp(log_prob) - 1 - (ref - log_prob);
    return -w * surrogate + kl_coef * k3;
}

enum { N = 400 };
typedef struct case_data {
    float log_prob[N], old[N], mu[N], ref[N], advantage[N];
    uint8_t mask[N];
} case_data;

static void draw(case_data *c, uint64_t seed, double drift) {
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_TEST, 0, 0, 0);
    for (int t = 0; t < N; t++) {
        c->old[t] = (float)uniform(&rng, -6, -0.01);
        c->log_prob[t] = c->old[t] + (float)uniform(&rng, -0.5, 0.5);
        c->mu[t] = c->old[t] + (float)uniform(&rng, -drift, drift);
        c->ref[t] = c->old[t] + (float)uniform(&rng, -1, 1);
        c->advantage[t] = (float)uniform(&rng, -2, 2);
        c->mask[t] = zs_rng_next(&rng) % 3 != 0;
        if (!c->mask[t]) /* prompts and documents: whatever stands there is not looked at */
            c->log_prob[t] = c->old[t] = c->mu[t] = c->ref[t] = c->advantage[t] = NAN;
    }
}

static void check_against_formula(uint64_t seed, double drift, double cap) {
    static case_data c;
    static float weight[N], coefficient[N];
    draw(&c, seed, drift);
    double tokens = 0, expected = 0, capped = 0, weights = 0, mismatch = 0, most = 0, kl = 0;
    for (int t = 0; t < N; t++)
        tokens += c.mask[t];
    zs_drift_sums drifted = {0};
    zs_policy_sums sums = {0};
    zs_policy_loss loss = {0.2, 0.2, 0.05, ZS_KL_K3, tokens, 0.0};
    zs_importance_weights(cap, N, c.mask, c.old, c.mu, weight, &drifted);
    zs_policy_tokens in = {.mask = c.mask,
                           .log_prob = c.log_prob,
                           .old_log_prob = c.old,
                           .ref_log_prob = c.ref,
                           .weight = weight,
                           .advantage = c.advantage};
    zs_policy_loss_tokens(&loss, N, &in, coefficient, &sums);
    for (int t = 0; t < N; t++) {
        if (!c.mask[t]) {
            assert_float_equal(coefficient[t], 0.0, 0.0);
            assert_float_equal(weight[t], 0.0, 0.0);
            continue;
        }
        double x = c.log_prob[t], h = 1e-5, d = (double)c.old[t] - c.mu[t];
        expected += token_loss(x, c.old[t], c.mu[t], c.ref[t], c.advantage[t], cap, 0.2, 0.05) / tokens;
        double above = token_loss(x + h, c.old[t], c.mu[t], c.ref[t], c.advantage[t], cap, 0.2, 0.05),
               below = token_loss(x - h, c.old[t], c.mu[t], c.ref[t], c.advantage[t], cap, 0.2, 0.05);
        double r = exp(x - c.old[t]);
        if (fabs(r - 0.8) > 1e-4 && fabs(r - 1.2) > 1e-4) /* no derivative where the clip begins */
            assert_float_equal(coefficient[t] * tokens, (above - below) / (2 * h), 1e-4);
        weights += exp(d) < cap ? exp(d) : cap;
        capped += exp(d) > cap;
        mismatch += fabs(d);
        kl += exp(d) - 1 - d;
        most = fmax(most, fabs(d));
    }
    assert_float_equal(sums.loss, expected, 1e-6);
    assert_float_equal(sums.tokens, tokens, 0.0);
    assert_float_equal(drifted.tokens, tokens, 0.0);
    assert_float_equal(drifted.weight, weights, 1e-6);
    assert_float_equal(drifted.capped, capped, 0.0);
    assert_float_equal(drifted.mismatch, mismatch, 1e-6);
    assert_float_equal(drifted.kl, kl, 1e-6);
    assert_float_equal(drifted.max, most, 1e-12);
    if (drift > 1 && cap == 2.0)
        assert_true(capped > 10 && capped < tokens / 2); /* both branches were seen */
}

static void weighted_loss_is_the_formula(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        check_against_formula(seed, 1.5, 2.0);
        check_against_formula(seed, 0.01, 2.0);
        check_against_formula(seed, 1.5, 0.7); /* caps below 1 cut even what agrees */
        check_against_formula(seed, 1.5, INFINITY);
    }
}

static void cap_edges(void **state) {
    (void)state;
    const uint8_t mask[] = {1, 1, 1, 0};
    const float old[] = {-1.0f, -1.0f, -5.0f, 0.0f}, mu[] = {-1.75f, -1.0f, -1.0f, -3.0f};
    float weight[4];
    double ratio = exp(0.75); /* of the first token, exactly: the difference is a float */
    zs_drift_sums at = {0};
    zs_importance_weights(ratio, 4, mask, old, mu, weight, &at);
    assert_float_equal(weight[0], (float)ratio, 0.0);
    assert_float_equal(weight[1], 1.0, 0.0); /* agreement weighs exactly 1 */
    assert_float_equal(weight[2], exp(-4.0), 1e-9);
    assert_float_equal(at.capped, 0.0, 0.0); /* at the cap is not above it */
    zs_drift_sums below = {0};
    zs_importance_weights(nextafter(ratio, 0), 4, mask, old, mu, weight, &below);
    assert_float_equal(below.capped, 1.0, 0.0);
    zs_drift_sums none = {0};
    zs_importance_weights(INFINITY, 4, mask, old, mu, weight, &none);
    assert_float_equal(weight[0], (float)ratio, 0.0);
    assert_float_equal(none.capped, 0.0, 0.0);
    zs_drift_sums measured = {0};
    zs_importance_weights(INFINITY, 4, mask, old, mu, NULL, &measured); /* nothing to write to */
    assert_memory_equal(&measured, &none, sizeof none);
    /* a token that mu held nearly impossible: its ratio overflows, its weight is the cap */
    const float sure[] = {0.0f}, impossible[] = {-2000.0f};
    zs_drift_sums far = {0};
    zs_importance_weights(2.0, 1, mask, sure, impossible, weight, &far);
    assert_float_equal(weight[0], 2.0, 0.0);
    assert_float_equal(far.capped, 1.0, 0.0);
}

static void weights_of_one_change_no_bit(void **state) {
    (void)state;
    static case_data c;
    static float weight[N], with[N], without[N];
    draw(&c, 9, 0.0);
    zs_drift_sums drift = {0};
    zs_importance_weights(2.0, N, c.mask, c.old, c.old, weight, &drift);
    zs_policy_loss loss = {0.2, 0.2, 0.05, ZS_KL_K3, 100.0, 0.0};
    zs_policy_tokens in = {.mask = c.mask,
                           .log_prob = c.log_prob,
                           .old_log_prob = c.old,
                           .ref_log_prob = c.ref,
                           .weight = weight,
                           .advantage = c.advantage};
    zs_policy_sums a = {0}, b = {0};
    zs_policy_loss_tokens(&loss, N, &in, with, &a);
    in.weight = NULL;
    zs_policy_loss_tokens(&loss, N, &in, without, &b);
    assert_memory_equal(with, without, sizeof with);
    assert_memory_equal(&a, &b, sizeof a);
}

/* One token over K actions with logits theta. Exactly, over all actions: the gradient that tokens of mu give
 * is the one of the expected advantage under the policy when nothing is capped; with a cap the policy's
 * probability counts up to cap * mu. */
static void check_expectation(uint64_t seed, double cap) {
    enum { K = 7 };
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_TEST, 1, 0, 0);
    double theta[K], mu[K], pi[K], sum_pi = 0, sum_mu = 0;
    float advantage[K], log_pi[K], log_mu[K], weight[K], coefficient[K];
    uint8_t mask[K];
    for (int a = 0; a < K; a++) {
        theta[a] = uniform(&rng, -2, 2);
        sum_pi += pi[a] = exp(theta[a]);
        sum_mu += mu[a] = exp(theta[a] + uniform(&rng, -1, 1));
        advantage[a] = (float)uniform(&rng, -1, 1);
        mask[a] = 1;
    }
    for (int a = 0; a < K; a++) {
        pi[a] /= sum_pi;
        mu[a] /= sum_mu;
        log_pi[a] = (float)log(pi[a]);
        log_mu[a] = (float)log(mu[a]);
    }
    zs_drift_sums drift = {0};
    zs_policy_sums sums = {0};
    zs_policy_loss loss = {.clip_low = 0.2, .clip_high = 0.2, .denominator = 1.0};
    zs_importance_weights(cap, K, mask, log_pi, log_mu, weight, &drift);
    zs_policy_tokens in = {
        .mask = mask, .log_prob = log_pi, .old_log_prob = log_pi, .weight = weight, .advantage = advantage};
    zs_policy_loss_tokens(&loss, K, &in, coefficient, &sums);
    for (int k = 0; k < K; k++) {
        double got = 0, want = 0, plain = 0;
        for (int a = 0; a < K; a++) {
            double slope = (a == k) - pi[k]; /* d log pi(a) / d theta_k */
            got += mu[a] * coefficient[a] * slope;
            want -= fmin(pi[a], cap * mu[a]) * advantage[a] * slope;
            plain -= mu[a] * advantage[a] * slope;
        }
        assert_float_equal(got, want, 1e-6);
        if (k == 0) assert_true(fabs(plain - want) > 1e-4); /* without weights it is another gradient */
    }
}

static void expectation_is_the_policys(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        check_expectation(seed, INFINITY);
        check_expectation(seed, 1.2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weighted_loss_is_the_formula),
        cmocka_unit_test(cap_edges),
        cmocka_unit_test(weights_of_one_change_no_bit),
        cmocka_unit_test(expectation_is_the_policys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
