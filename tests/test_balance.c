/* The split of ranks over roles: against every split there is; and what is read from a run's metrics. */
#include "../src/commands/balance.h"

#include "zerosearch/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static double step_of(const double work[3], bool ahead, int64_t s, int64_t r, int64_t l) {
    double a = s ? work[0] / (double)s : 0, b = work[1] / (double)r, c = work[2] / (double)l;
    double playing = a > b ? a : b;
    if (ahead) return playing > c ? playing : c;
    return playing + c;
}

static void best_of_all_splits(void **state) {
    (void)state;
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, 0, 0, 0);
    for (int trial = 0; trial < 300; trial++) {
        int64_t simulated = trial % 2, world = 2 + simulated + zs_rng_below(&rng, 30), best[3];
        zs_balance measured = {.ranks = {simulated, 1, world - 1 - simulated}, .pods = 1, .ahead = trial % 4 > 1};
        for (int i = 0; i < 3; i++)
            measured.work[i] = i || simulated ? 0.01 + (double)zs_rng_below(&rng, 1000) : 0;
        double least = INFINITY, fraction, extra = (double)zs_rng_below(&rng, 100);
        for (int64_t s = simulated; s <= (simulated ? world - 2 : 0); s++)
            for (int64_t l = 1; s + l < world; l++) {
                double step = step_of(measured.work, measured.ahead, s, world - s - l, l);
                if (step < least) least = step;
            }
        double now = step_of(measured.work, measured.ahead, simulated, 1, world - 1 - simulated);
        measured.step_seconds = now + extra;
        assert_true(zs_balance_propose(&measured, world, best, &fraction));
        assert_int_equal(best[0] + best[1] + best[2], world);
        assert_true((best[0] > 0) == (simulated > 0) && best[1] > 0 && best[2] > 0);
        assert_true(fabs(step_of(measured.work, measured.ahead, best[0], best[1], best[2]) - least) < 1e-9 * least);
        assert_true(fabs(fraction - (least + extra) / (now + extra)) < 1e-9);
    }
}

static void too_few_ranks(void **state) {
    (void)state;
    zs_balance measured = {.work = {1, 1, 1}, .step_seconds = 3, .ranks = {1, 1, 1}, .pods = 1};
    int64_t best[3];
    double fraction;
    assert_false(zs_balance_propose(&measured, 2, best, &fraction));
    assert_true(zs_balance_propose(&measured, 3, best, &fraction));
    assert_true(fabs(fraction - 1) < 1e-12);
    measured.ranks[0] = 0;
    measured.work[0] = 0;
    assert_true(zs_balance_propose(&measured, 2, best, &fraction));
}

static void metrics_are_read(void **state) {
    (void)state;
    static const char *const lines[] = {
        "{\"step\":0,\"eval\":{}}\n",
        "{\"step\":1,\"step_seconds\":100,\"time\":{\"rollout\":{\"ranks\":2},\"learner\":{\"ranks\":1}},"
        "\"work\":{\"simulators\":0,\"rollouts\":50,\"learners\":9}}\n",
        "{\"step\":2,\"step_seconds\":10,\"time\":{\"rollout\":{\"ranks\":2},\"learner\":{\"ranks\":1}},"
        "\"work\":{\"simulators\":0,\"rollouts\":12,\"learners\":3}}\n",
        "{\"step\":3,\"step_seconds\":14,\"time\":{\"rollout\":{\"ranks\":2},\"learner\":{\"ranks\":1}},"
        "\"work\":{\"simulators\":0,\"rollouts\":16,\"learners\":5}}\n",
        "{\"step\":4,\"step_seconds\":1,\"time\":{\"rollout+learner\":{\"ranks\":3}},"
        "\"work\":{\"simulators\":0,\"rollouts\":1,\"learners\":1}}\n"};
    char folder[] = "/tmp/zerosearch-balance-XXXXXX", path[100];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 4; i++)
        fputs(lines[i], file);
    fclose(file);
    zs_balance measured;
    zs_error err = {0};
    int64_t steps;
    assert_int_equal(zs_balance_read(folder, &measured, &steps, &err), ZS_OK);
    assert_int_equal(steps, 2); /* the first warms up */
    assert_true(measured.step_seconds == 12 && measured.work[ROLLOUT] == 14 && measured.work[LEARNER] == 4);
    assert_true(measured.ranks[SIMULATOR] == 0 && measured.ranks[ROLLOUT] == 2 &&
                measured.ranks[LEARNER] == 1);
    file = fopen(path, "a");
    assert_non_null(file);
    fputs(lines[4], file);
    fclose(file);
    assert_int_equal(zs_balance_read(folder, &measured, &steps, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "each rank played one role"));
    file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(zs_balance_read(folder, &measured, &steps, &err), ZS_FAILED);
    unlink(path);
    assert_int_not_equal(zs_balance_read(folder, &measured, &steps, &err), ZS_OK);
    assert_non_null(strstr(err.text, path));
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(best_of_all_splits), cmocka_unit_test(too_few_ranks),
                                       cmocka_unit_test(metrics_are_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
