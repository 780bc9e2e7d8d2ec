/* The collapse guard on series of numbers that are healthy, and on each kind that is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "zerosearch/guard.h"
#include "zerosearch/rng.h"

static zs_guard make(void) {
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, NULL, 0, &config, &err), ZS_OK);
    zs_guard guard = zs_guard_make(config);
    zs_config_free(config);
    return guard;
}

/* A run that learns: reward and validity rise, entropy falls by half, KL grows to 1, norms vary twofold. */
static void healthy(int step, zs_rng *rng, double *v) {
    double x = step / 100.0, noise = zs_rng_uniform(rng) - 0.5;
    v[ZS_SIGNAL_REWARD] = 0.1 + 0.6 * x + 0.15 * noise;
    v[ZS_SIGNAL_ENTROPY] = 1.0 - 0.5 * x + 0.2 * noise;
    v[ZS_SIGNAL_KL] = x;
    v[ZS_SIGNAL_GRAD_NORM] = step % 7 ? 0.5 * exp(0.7 * zs_rng_normal(rng)) : 0.0;
    v[ZS_SIGNAL_VALID] = fmin(1.0, 0.6 + 0.4 * x + 0.1 * noise);
    v[ZS_SIGNAL_LENGTH] = 60 + 30 * x + 10 * noise;
    v[ZS_SIGNAL_LIKELIHOOD] = step % 5 ? -1.0 + 0.4 * x + 0.3 * noise : NAN;
}

static void healthy_runs_are_quiet(void **state) {
    (void)state;
    for (int seed = 1; seed <= 20; seed++) {
        zs_guard guard = make();
        zs_rng rng = zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, 3, 0, 0);
        for (int step = 0; step < 100; step++) {
            double v[ZS_SIGNALS];
            healthy(step, &rng, v);
            assert_int_equal(zs_guard_watch(&guard, v), 0);
        }
    }
}

static void each_fault_raises_its_alarm_once(void **state) {
    (void)state;
    const double sick[ZS_SIGNALS] = {0.0, 8.0, 40.0, 300.0, 0.1, 400.0, -4.0};
    for (int signal = 0; signal < ZS_SIGNALS; signal++) {
        zs_guard guard = make();
        zs_rng rng = zs_rng_make(7, ZS_STREAM_TEST, 4, 0, 0);
        unsigned raised = 0;
        int times = 0;
        for (int step = 0; step < 80; step++) {
            double v[ZS_SIGNALS];
            healthy(step, &rng, v);
            if (step >= 50) v[signal] = sick[signal];
            unsigned alarms = zs_guard_watch(&guard, v);
            if (step < 50) assert_int_equal(alarms, 0);
            times += alarms != 0;
            raised |= alarms;
        }
        if (raised != 1u << signal || times != 1)
            fail_msg("%s: alarms %x, %d times", zs_signal_names[signal], raised, times);
    }
}

static void norms_that_are_no_numbers(void **state) {
    (void)state;
    zs_guard guard = make();
    double v[ZS_SIGNALS] = {0.5, 1, 0, NAN, 1, 10, -1};
    assert_true(isinf(zs_guard_norm_limit(&guard)));
    assert_int_equal(zs_guard_watch(&guard, v), 1u << ZS_SIGNAL_GRAD_NORM);
    assert_true(isinf(zs_guard_norm_limit(&guard)));
    v[ZS_SIGNAL_GRAD_NORM] = 2;
    for (int i = 0; i < 40; i++)
        assert_int_equal(zs_guard_watch(&guard, v), 0);
    assert_float_equal(zs_guard_norm_limit(&guard), 2 * exp(5 * 0.3), 1e-9); /* equal norms */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(healthy_runs_are_quiet),
                                       cmocka_unit_test(each_fault_raises_its_alarm_once),
                                       cmocka_unit_test(norms_that_are_no_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
