/* What golden/rl.jsonl does not hold, against references written here from the papers, in double: GSPO's
 * ratio, DAPO's clip, the aggregations, LLDS, whitening, the adaptive KL, overlong shaping. Gradients by
 * central differences of those references. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "zerosearch/learn.h"
#include "zerosearch/presets.h"
#include "zerosearch/rng.h"

static double uniform(zs_rng *rng, double low, double high) {
    return low + (high - low) * ((double)zs_rng_next(rng) + 0.5) / 4294967296.0;
}

enum { EPISODES = 6, WIDTH = 20, N = EPISODES * WIDTH };

typedef struct batch {
    float log_prob[N], old[N], ref[N], advantage[N];
    uint8_t mask[N];
} batch;

/* Episodes of two actions with a document between them; the advantage is the episode's. */
static void draw(batch *b, uint64_t seed) {
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_TEST, 1, 0, 0);
    memset(b, 0, sizeof *b);
    for (int e = 0; e < EPISODES; e++) {
        double advantage = uniform(&rng, -1.5, 1.5);
        for (int t = 0; t < WIDTH; t++) {
            int at = e * WIDTH + t;
            b->mask[at] = t >= 4 && (t < 8 + e || t >= 15);
            b->old[at] = (float)uniform(&rng, -3, -0.1);
            b->log_prob[at] = b->old[at] + (float)uniform(&rng, -0.4, 0.4);
            b->ref[at] = b->old[at] + (float)uniform(&rng, -0.5, 0.5);
            b->advantage[at] = (float)advantage;
        }
    }
}

typedef struct settings {
    bool sequence;
    double low, high, kl_coef, llds, length;
    zs_aggregation aggregation;
} settings;

static double k3(double ref, double log_prob) {
    return exp(ref - log_prob) - (ref - log_prob) - 1;
}

static double clipped_surrogate(double r, double a, double low, double high) {
    double inside = r < 1 - low ? 1 - low : r > 1 + high ? 1 + high : r;
    return -(r * a < inside * a ? r * a : inside * a);
}

/* The whole loss of the batch as the papers write it, for log-probabilities x. `frozen` is where
 * stop-gradient stops: the sequence's ratio comes from there for all tokens but through pi / sg[pi] of the
 * token itself. */
static double reference_loss(const batch *b, const settings *s, const double *x, const double *frozen) {
    double total = 0, tokens = 0;
    for (int e = 0; e < EPISODES; e++) {
        double sum = 0, length = 0, log_s = 0;
        for (int t = 0; t < WIDTH; t++) {
            int at = e * WIDTH + t;
            length += b->mask[at];
            if (b->mask[at]) log_s += frozen[at] - b->old[at];
        }
        log_s /= length;
        for (int t = 0; t < WIDTH; t++) {
            int at = e * WIDTH + t;
            if (!b->mask[at]) continue;
            double r = s->sequence ? exp(log_s + x[at] - frozen[at]) : exp(x[at]) / exp(b->old[at]);
            double part = clipped_surrogate(r, b->advantage[at], s->low, s->high);
            part += s->kl_coef * k3(b->ref[at], x[at]);
            /* LLDS: the action that the token belongs to has lost likelihood, and so has the token */
            int begin = at, end = at;
            double fall = 0;
            while (begin > e * WIDTH && b->mask[begin - 1])
                begin--;
            while (end + 1 < (e + 1) * WIDTH && b->mask[end + 1])
                end++;
            for (int k = begin; k <= end; k++)
                fall += b->old[k] - frozen[k];
            if (fall > 0 && b->advantage[at] >= 0) part += s->llds * fmax(0, b->old[at] - x[at]);
            sum += part;
        }
        total += s->aggregation == ZS_SEQUENCE_MEAN     ? sum / length / EPISODES
                 : s->aggregation == ZS_CONSTANT_LENGTH ? sum / s->length / EPISODES
                                                        : sum;
        tokens += length;
    }
    return s->aggregation == ZS_TOKEN_MEAN ? total / tokens : total;
}

static void loss_of(const batch *b, const settings *s, float *coefficient, zs_policy_sums *sums) {
    static float log_ratio[N], share[N];
    static uint8_t preserved[N];
    double tokens = 0;
    for (int e = 0; e < EPISODES; e++) {
        int at = e * WIDTH;
        double length = 0;
        for (int t = 0; t < WIDTH; t++)
            length += b->mask[at + t];
        for (int t = 0; t < WIDTH; t++)
            share[at + t] = (float)(1 / length);
        tokens += length;
        zs_sequence_log_ratio(WIDTH, b->mask + at, b->log_prob + at, b->old + at, log_ratio + at);
        zs_llds_gate(WIDTH, b->mask + at, b->log_prob + at, b->old + at, b->advantage + at, preserved + at);
    }
    zs_policy_loss loss = {.clip_low = s->low,
                           .clip_high = s->high,
                           .kl_coef = s->kl_coef,
                           .kl_type = ZS_KL_K3,
                           .llds = s->llds,
                           .denominator = zs_loss_denominator(s->aggregation, tokens, EPISODES, s->length)};
    zs_policy_tokens in = {.mask = b->mask,
                           .log_prob = b->log_prob,
                           .old_log_prob = b->old,
                           .ref_log_prob = b->ref,
                           .advantage = b->advantage,
                           .share = s->aggregation == ZS_SEQUENCE_MEAN ? share : NULL,
                           .log_ratio = s->sequence ? log_ratio : NULL,
                           .preserved = s->llds > 0 ? preserved : NULL};
    *sums = (zs_policy_sums){0};
    zs_policy_loss_tokens(&loss, N, &in, coefficient, sums);
}

/* Value and gradient of the loss; tokens at the very edge of a clip are left out of the differences. */
static void check(const settings *s) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        static batch b;
        static float coefficient[N];
        double x[N], frozen[N];
        zs_policy_sums sums;
        draw(&b, seed);
        loss_of(&b, s, coefficient, &sums);
        for (int t = 0; t < N; t++)
            x[t] = frozen[t] = b.log_prob[t];
        assert_float_equal(sums.loss, reference_loss(&b, s, x, frozen), 1e-6);
        assert_float_equal(sums.loss, sums.surrogate + sums.kl_term + sums.llds, 1e-9);
        for (int t = 0; t < N; t++) {
            double h = 1e-6;
            x[t] = frozen[t] + h;
            double above = reference_loss(&b, s, x, frozen);
            x[t] = frozen[t] - h;
            double below = reference_loss(&b, s, x, frozen);
            x[t] = frozen[t];
            assert_float_equal(coefficient[t], (above - below) / (2 * h), 1e-6);
        }
    }
}

static void the_grid(void **state) {
    (void)state;
    for (int sequence = 0; sequence < 2; sequence++)
        for (int aggregation = ZS_TOKEN_MEAN; aggregation <= ZS_CONSTANT_LENGTH; aggregation++)
            for (int llds = 0; llds < 2; llds++) {
                settings s = {.sequence = sequence,
                              .low = sequence ? 0.01 : 0.2,
                              .high = sequence ? 0.02 : 0.28,
                              .kl_coef = 0.03,
                              .llds = 0.2 * llds,
                              .length = 17,
                              .aggregation = (zs_aggregation)aggregation};
                check(&s);
            }
}

/* DAPO eq. 10: the upper clip alone is wider. */
static void clip_higher(void **state) {
    (void)state;
    const double ratios[] = {0.7, 0.79, 0.81, 1.0, 1.19, 1.27, 1.29};
    for (int sign = -1; sign <= 1; sign += 2)
        for (int i = 0; i < 7; i++) {
            float log_prob = (float)log(ratios[i]), old = 0, advantage = (float)sign, coefficient;
            uint8_t mask = 1;
            zs_policy_loss loss = {.clip_low = 0.2, .clip_high = 0.28, .denominator = 1};
            zs_policy_tokens in = {
                .mask = &mask, .log_prob = &log_prob, .old_log_prob = &old, .advantage = &advantage};
            zs_policy_sums sums = {0};
            zs_policy_loss_tokens(&loss, 1, &in, &coefficient, &sums);
            bool cut = sign > 0 ? ratios[i] > 1.28 : ratios[i] < 0.8;
            assert_float_equal(coefficient, cut ? 0 : -sign * ratios[i], 1e-6);
            assert_float_equal(sums.clipped, cut, 0);
        }
}

/* Rounding between two passes is no fall of the likelihood; nor is what a document loses. */
static void llds_leaves_rounding_alone(void **state) {
    (void)state;
    static batch b;
    static uint8_t preserved[N];
    draw(&b, 9);
    for (int t = 0; t < N; t++) {
        b.advantage[t] = 1;
        b.log_prob[t] = b.old[t] - (b.mask[t] ? 1e-6f : 1.0f);
    }
    for (int at = 0; at < N; at += WIDTH)
        zs_llds_gate(WIDTH, b.mask + at, b.log_prob + at, b.old + at, b.advantage + at, preserved + at);
    for (int t = 0; t < N; t++)
        assert_int_equal(preserved[t], 0);
}

static void whitening(void **state) {
    (void)state;
    zs_rng rng = zs_rng_make(4, ZS_STREAM_TEST, 2, 0, 0);
    float x[50], whole[50];
    uint8_t mask[50];
    double mean = 0, squares = 0, n = 0;
    for (int t = 0; t < 50; t++) {
        whole[t] = x[t] = (float)uniform(&rng, -3, 7);
        mask[t] = t % 3 != 0;
        n += mask[t];
        mean += mask[t] ? x[t] : 0;
    }
    mean /= n;
    for (int t = 0; t < 50; t++)
        squares += mask[t] ? (x[t] - mean) * (x[t] - mean) : 0;
    zs_moments moments = {0}; /* in two pieces, as two ranks have them */
    zs_moments_add(&moments, 20, mask, x);
    zs_moments_add(&moments, 30, mask + 20, x + 20);
    zs_whiten(&moments, 50, mask, x);
    for (int t = 0; t < 50; t++)
        assert_float_equal(x[t], mask[t] ? (whole[t] - mean) / sqrt(squares / (n - 1) + 1e-8) : whole[t],
                           1e-6);
    float one = 3;
    uint8_t here = 1;
    zs_moments single = {0};
    zs_moments_add(&single, 1, &here, &one);
    zs_whiten(&single, 1, &here, &one);
    assert_float_equal(one, 0, 0);
}

/* Ziegler et al. 2019: a KL above the target raises the coefficient, by a fifth in `horizon` episodes at
 * most. */
static void adaptive_kl(void **state) {
    (void)state;
    assert_float_equal(zs_kl_adapt(0.1, 0.11, 0.1, 1000, 100), 0.1 * (1 + 0.1 * 0.1), 1e-12);
    assert_float_equal(zs_kl_adapt(0.1, 5.0, 0.1, 1000, 100), 0.1 * 1.02, 1e-12);
    assert_float_equal(zs_kl_adapt(0.1, 0.0, 0.1, 1000, 100), 0.1 * 0.98, 1e-12);
    assert_float_equal(zs_kl_adapt(0.1, 0.1, 0.1, 1000, 100), 0.1, 1e-12);
}

static void overlong(void **state) {
    (void)state;
    assert_float_equal(zs_overlong_penalty(80, 100, 20), 0, 0);
    assert_float_equal(zs_overlong_penalty(90, 100, 20), -0.5, 1e-12);
    assert_float_equal(zs_overlong_penalty(100, 100, 20), -1, 1e-12);
    assert_float_equal(zs_overlong_penalty(150, 100, 20), -1, 1e-12);
    assert_float_equal(zs_overlong_penalty(99, 100, 0), 0, 0);
}

/* Presets. */

static zs_config *config_of(const char *const *settings, int n) {
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, n, &config, &err), ZS_OK);
    zs_presets_apply(config);
    return config;
}

static void presets_give_way(void **state) {
    (void)state;
    const char *dapo[] = {"learn.algorithm=dapo", "learn.clip_high=0.5"};
    zs_config *config = config_of(dapo, 2);
    assert_float_equal(zs_config_float(config, "learn.clip_high"), 0.5, 0);
    assert_float_equal(zs_config_float(config, "learn.kl_coef"), 0, 0);
    assert_int_equal(zs_config_int(config, "rollout.redraws"), 3);
    assert_false(zs_config_is_set(config, "rollout.redraws"));
    zs_config_free(config);
    const char *gspo[] = {"learn.algorithm=gspo"};
    config = config_of(gspo, 1);
    assert_string_equal(zs_config_string(config, "learn.ratio"), "sequence");
    assert_string_equal(zs_config_string(config, "learn.aggregation"), "sequence_mean");
    assert_float_equal(zs_config_float(config, "learn.clip_high"), 4e-4, 0);
    zs_config_free(config);
    const char *names[] = {"reinforce", "reinforce++", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "ppo"};
    for (int i = 0; i < 8; i++) { /* each works as it is */
        char text[60];
        const char *one = text;
        zs_error err = {0};
        snprintf(text, sizeof text, "learn.algorithm=%s", names[i]);
        config = config_of(&one, 1);
        if (zs_presets_check(config, &err) != ZS_OK) fail_msg("%s: %s", names[i], err.text);
        zs_config_free(config);
    }
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    const struct {
        const char *settings[3], *key;
    } wrong[] = {{{"rollout.samples=1"}, "rollout.samples"},
                 {{"learn.minibatches=9", "rollout.questions=8"}, "learn.minibatches"},
                 {{"learn.kl_target=0.1", "learn.kl_coef=0"}, "learn.kl_target"},
                 {{"learn.llds=0.2"}, "learn.llds"},
                 {{"model.value=somewhere"}, "model.value"},
                 {{"learn.algorithm=ppo", "rollout.redraws=2"}, "rollout.redraws"},
                 {{"learn.algorithm=dapo", "rollout.staleness=1"}, "rollout.redraws"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int n = 0;
        while (n < 3 && wrong[i].settings[n])
            n++;
        zs_config *config = config_of(wrong[i].settings, n);
        zs_error err = {0};
        assert_int_equal(zs_presets_check(config, &err), ZS_USAGE);
        if (!strstr(err.text, wrong[i].key)) fail_msg("%s is not in: %s", wrong[i].key, err.text);
        zs_config_free(config);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_grid),
                                       cmocka_unit_test(clip_higher),
                                       cmocka_unit_test(llds_leaves_rounding_alone),
                                       cmocka_unit_test(whitening),
                                       cmocka_unit_test(adaptive_kl),
                                       cmocka_unit_test(overlong),
                                       cmocka_unit_test(presets_give_way),
                                       cmocka_unit_test(what_cannot_be_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
