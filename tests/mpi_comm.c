/* ranks: 1 2 3 4 */
/* Groups: how ranks are divided, agreement on a fault, small collectives on the world and on pods. */
#include "zerosearch/comm.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static zs_comm comm;

static void
expect_roles(const char *expected) { /* one letter a rank: s r l, upper case: S = s+r+l, M = s+l */
    char mine = expected[comm.world.rank % (int)strlen(expected)];
    assert_int_equal(comm.is_simulator, mine == 's' || mine == 'S' || mine == 'M');
    assert_int_equal(comm.is_rollout, mine == 'r' || mine == 'S');
    assert_int_equal(comm.is_learner, mine == 'l' || mine == 'S' || mine == 'M');
    assert_int_equal(comm.pod.size, (int)strlen(expected));
    int count[3] = {0};
    for (int r = 0; expected[r]; r++) {
        char role = expected[r];
        if (role == 's' || role == 'S' || role == 'M') assert_int_equal(comm.pod_simulators[count[0]++], r);
        if (role == 'r' || role == 'S') assert_int_equal(comm.pod_rollouts[count[1]++], r);
        if (role == 'l' || role == 'S' || role == 'M') assert_int_equal(comm.pod_learners[count[2]++], r);
    }
    assert_int_equal(comm.num_pod_simulators, count[0]);
    assert_int_equal(comm.num_pod_rollouts, count[1]);
    assert_int_equal(comm.num_pod_learners, count[2]);
    assert_int_equal(comm.learners.size, comm.is_learner ? count[2] * comm.num_pods : 0);
    assert_int_equal(comm.rollouts.size, comm.is_rollout ? count[1] * comm.num_pods : 0);
    assert_int_equal(comm.learners.comm == MPI_COMM_NULL, !comm.is_learner);
    assert_int_equal(comm.learners.rank >= 0, comm.is_learner);
}

static void divide(zs_layout layout, int s, int r, int l, int pods, bool need) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, s, r, l, pods, need, &err), ZS_OK);
    assert_int_equal(comm.num_pods, pods);
    assert_int_equal(comm.pod_index, comm.world.rank / (comm.world.size / pods));
}

static void test_colocated(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, true);
    static const char *const all[] = {"S", "SS", "SSS", "SSSS"};
    if (comm.world.size <= 4) expect_roles(all[comm.world.size - 1]);
    assert_string_equal(comm.role, "simulator+rollout+learner");
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, comm.world.size, true);
    expect_roles("S");
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, comm.world.size, false);
    assert_string_equal(comm.role, "rollout+learner");
    expect_roles("S"); /* a rollout asks itself */
}

static void test_auto(void **state) {
    (void)state;
    static const char *const fitted[] = {"S", "Mr", "srl", "srrl"};
    divide(ZS_LAYOUT_AUTO, 1, 2, 1, 1, true);
    expect_roles(fitted[comm.world.size - 1]);
    divide(ZS_LAYOUT_AUTO, 0, 0, 0, 1, true); /* unset counts are shares of one */
    static const char *const even[] = {"S", "Mr", "srl", "srrl"};
    expect_roles(even[comm.world.size - 1]);
    divide(ZS_LAYOUT_AUTO, 100, 1, 1, 1, true);
    static const char *const skewed[] = {"S", "Mr", "srl", "ssrl"};
    expect_roles(skewed[comm.world.size - 1]);
    if (comm.world.size == 4) {
        divide(ZS_LAYOUT_AUTO, 1, 2, 1, 2, true);
        expect_roles("Mr");
        divide(ZS_LAYOUT_AUTO, 5, 1, 1, 1, false); /* rollouts stand in for simulators */
        assert_int_equal(comm.num_pod_rollouts, 2);
        assert_int_equal(comm.num_pod_learners, 2);
        assert_int_equal(comm.num_pod_simulators, 2);
        assert_memory_equal(comm.pod_simulators, comm.pod_rollouts, 2 * sizeof(int));
        assert_int_equal(comm.is_simulator, comm.is_rollout);
        assert_string_equal(comm.role, comm.world.rank < 2 ? "rollout" : "learner");
    }
}

static void test_split(void **state) {
    (void)state;
    zs_error err = {0};
    if (comm.world.size == 3) {
        divide(ZS_LAYOUT_SPLIT, 1, 1, 1, 1, true);
        expect_roles("srl");
        assert_string_equal(comm.role, comm.world.rank == 0   ? "simulator"
                                       : comm.world.rank == 1 ? "rollout"
                                                              : "learner");
    } else {
        assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_SPLIT, 1, 1, 1, 1, true, &err), ZS_USAGE);
        char expected[300];
        snprintf(expected, sizeof expected,
                 "groups: (1 simulators + 1 rollouts + 1 learners) x 1 pods = 3 ranks, but mpirun started %d "
                 "(set groups.layout = \"auto\" or \"colocated\", or run on 3)",
                 comm.world.size);
        assert_string_equal(err.text, expected);
    }
    if (comm.world.size == 4) {
        divide(ZS_LAYOUT_SPLIT, 1, 2, 1, 1, true);
        expect_roles("srrl");
        divide(ZS_LAYOUT_SPLIT, 9, 1, 1, 2, false); /* simulators not needed: not counted */
        assert_int_equal(comm.is_rollout, comm.world.rank % 2 == 0);
        assert_int_equal(comm.is_simulator, comm.is_rollout);
    }
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_SPLIT, 0, 1, 1, 1, true, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "each role needs at least 1"));
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 5, true, &err), ZS_USAGE);
    assert_non_null(strstr(err.text, "5 pods need a multiple of 5 ranks"));
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_AUTO, 1, 1, 1, 0, true, &err), ZS_USAGE);
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_AUTO, -1, 1, 1, 1, true, &err), ZS_USAGE);
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_SPLIT, 2147483647, 2147483647, 1, 1, true, &err),
                     ZS_USAGE);
}

static void test_agree(void **state) {
    (void)state;
    zs_error err = {0};
    assert_int_equal(zs_comm_agree(&comm, &comm.world, ZS_OK, &err), ZS_OK);
    assert_string_equal(err.text, "");
    /* The last rank fails alone; then all fail, each with its own text. */
    int last = comm.world.size - 1;
    zs_status status = ZS_OK;
    if (comm.world.rank == last) status = zs_fail(&err, ZS_USAGE, "model.cfg:3: no such key");
    assert_int_equal(zs_comm_agree(&comm, &comm.world, status, &err), ZS_USAGE);
    char expected[100];
    snprintf(expected, sizeof expected, "rank %d: model.cfg:3: no such key", last);
    assert_string_equal(err.text, last ? expected : "model.cfg:3: no such key");
    assert_int_equal(err.status, ZS_USAGE);
    status = zs_fail(&err, comm.world.rank == 0 ? ZS_STOPPED : ZS_FAILED, "text of %d", comm.world.rank);
    assert_int_equal(zs_comm_agree(&comm, &comm.world, status, &err), ZS_STOPPED);
    assert_string_equal(err.text, "text of 0");
    assert_int_equal(zs_comm_agree(&comm, &comm.world, ZS_FAILED, NULL), ZS_FAILED);
    /* In pods: only the pod with the fault sees it. */
    if (comm.world.size == 4) {
        divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 2, true);
        status = comm.world.rank == 3 ? zs_fail(&err, ZS_FAILED, "torn") : ZS_OK;
        assert_int_equal(zs_comm_agree(&comm, &comm.pod, status, &err),
                         comm.pod_index == 1 ? ZS_FAILED : ZS_OK);
        if (comm.pod_index == 1) assert_string_equal(err.text, "rank 3: torn");
        status = comm.pod_index == 1 ? ZS_FAILED : ZS_OK; /* the pod tells the world: no second context */
        assert_int_equal(zs_comm_agree(&comm, &comm.world, status, &err), ZS_FAILED);
        assert_string_equal(err.text, "rank 3: torn");
    }
    zs_group outside = {MPI_COMM_NULL, -1, 0};
    assert_int_equal(zs_comm_agree(&comm, &outside, ZS_FAILED, &err), ZS_FAILED);
}

static void check_collectives(const zs_group *group) {
    int size = group->size, rank = group->rank;
    zs_comm_barrier(&comm, group, "the test");
    double values[2] = {rank + 1, 0.5};
    zs_comm_sum(&comm, group, values, 2, "the test");
    assert_float_equal(values[0], size * (size + 1) / 2.0, 0);
    assert_float_equal(values[1], size * 0.5, 0);
    double greatest[2] = {-rank, rank};
    zs_comm_max(&comm, group, greatest, 2, "the test");
    assert_float_equal(greatest[0], 0, 0);
    assert_float_equal(greatest[1], size - 1, 0);
    for (int root = 0; root < size; root++) {
        char data[1000];
        memset(data, rank == root ? 'a' + root : 'z', sizeof data);
        zs_comm_broadcast_bytes(&comm, group, data, sizeof data, root, "the test");
        for (size_t i = 0; i < sizeof data; i++)
            assert_int_equal(data[i], 'a' + root);
        zs_comm_broadcast_bytes(&comm, group, NULL, 0, root, "the test");
        /* Rank r gives r * 700 bytes of its own letter; rank 0 gives none. */
        char *mine = ZS_NEW(char, rank * 700), *all = NULL;
        int64_t *lengths = NULL;
        memset(mine, 'a' + rank, (size_t)rank * 700);
        zs_comm_gather_bytes(&comm, group, mine, rank * 700, root, &all, &lengths, "the test");
        assert_int_equal(all != NULL, rank == root);
        assert_int_equal(lengths != NULL, rank == root);
        if (all) {
            const char *at = all;
            for (int r = 0; r < size; r++) {
                assert_int_equal(lengths[r], r * 700);
                for (int i = 0; i < r * 700; i++)
                    assert_int_equal(*at++, 'a' + r);
            }
        }
        zs_free(mine);
        zs_free(all);
        zs_free(lengths);
    }
}

static void test_collectives(void **state) {
    (void)state;
    check_collectives(&comm.world);
    check_collectives(&comm.node);
    for (int pods = 1; pods <= comm.world.size; pods++) {
        if (comm.world.size % pods) continue;
        divide(ZS_LAYOUT_AUTO, 1, 1, 1, pods, true);
        check_collectives(&comm.pod);
        if (comm.is_learner) check_collectives(&comm.learners);
        if (comm.is_rollout) check_collectives(&comm.rollouts);
    }
}

/* A rank that comes late is waited for, well within the deadline. */
static void test_patience(void **state) {
    (void)state;
    if (comm.world.rank == 0) {
        double start = zs_seconds();
        while (zs_seconds() - start < 0.05) {
        }
    }
    zs_comm_barrier(&comm, &comm.world, "rank 0, which is late");
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_colocated), cmocka_unit_test(test_auto),        cmocka_unit_test(test_split),
        cmocka_unit_test(test_agree),     cmocka_unit_test(test_collectives), cmocka_unit_test(test_patience),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1); /* the others may wait for what will never come */
    zs_comm_finish(&comm);
    return 0;
}
