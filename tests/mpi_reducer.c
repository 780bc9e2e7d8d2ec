/* ranks: 1 2 3 4 */
/* Gradient reduction against a sum in double, against itself bit for bit, and gathering; weight broadcast. */
#include "zerosearch/comm.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static zs_comm comm;
static zs_rng jitter; /* timing and cuts: differs from run to run */

static void divide(zs_layout layout, int s, int r, int l, int pods) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, s, r, l, pods, true, &err), ZS_OK);
}

static void fill(float *values, int64_t count, int64_t which, int rank) {
    zs_rng rng = zs_rng_make(7, ZS_STREAM_TEST, which, rank, 0);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)zs_rng_normal(&rng);
}

/* Gives the buffer from its top down in random pieces, as backward does, to a random depth. A gradient is in
 * the buffer only once it is given: what is posted too early sends NaN. */
static void give_ready(zs_reducer *reducer, float *grads, const float *mine, int64_t num_params) {
    int64_t end = num_params;
    for (int64_t i = 0; i < num_params; i++)
        grads[i] = NAN;
    while (end > 0 && zs_rng_below(&jitter, 8)) {
        int64_t begin = end - 1 - zs_rng_below(&jitter, end < 400 ? end : 400);
        memcpy(grads + begin, mine + begin, (size_t)(end - begin) * sizeof(float));
        zs_reducer_ready(reducer, grads, begin, end);
        if (zs_rng_below(&jitter, 2)) zs_reducer_poll(reducer);
        if (zs_rng_below(&jitter, 30) == 0) usleep(200);
        end = begin;
    }
    memcpy(grads, mine, (size_t)end * sizeof(float));
}

static void check_shards(const zs_reducer *reducer, int64_t num_params) {
    double *owners = ZS_NEW(double, num_params);
    const zs_span *spans;
    int count = zs_reducer_spans(reducer, &spans);
    int64_t end = 0;
    for (int s = 0; s < count; s++) {
        assert_true(spans[s].begin >= end && spans[s].count > 0);
        end = spans[s].begin + spans[s].count;
        assert_true(end <= num_params);
        for (int64_t i = spans[s].begin; i < end; i++)
            owners[i] += 1;
    }
    zs_comm_sum(&comm, &comm.learners, owners, (int)num_params, "the test");
    for (int64_t i = 0; i < num_params; i++)
        assert_float_equal(owners[i], 1, 0); /* each has one owner */
    if (comm.learners.size == 1 && num_params > 0) assert_int_equal(count, 1);
    zs_free(owners);
}

static void check_reduction(int64_t num_params, int64_t bucket) {
    zs_reducer *reducer = zs_reducer_create(&comm, num_params, bucket);
    if (!comm.is_learner) { /* harmless elsewhere */
        const zs_span *spans;
        assert_int_equal(zs_reducer_spans(reducer, &spans), 0);
        zs_reducer_finish(reducer, NULL);
        zs_reducer_gather(reducer, NULL);
        zs_reducer_destroy(reducer);
        return;
    }
    check_shards(reducer, num_params);
    float *grads = ZS_NEW(float, num_params), *first = ZS_NEW(float, num_params);
    double *sum = ZS_NEW(double, num_params), *size = ZS_NEW(double, num_params);
    for (int r = 0; r < comm.learners.size; r++) {
        fill(grads, num_params, num_params, r);
        for (int64_t i = 0; i < num_params; i++)
            sum[i] += grads[i], size[i] += fabs(grads[i]);
    }
    float *mine = ZS_NEW(float, num_params);
    fill(mine, num_params, num_params, comm.learners.rank);
    const zs_span *spans;
    int count = zs_reducer_spans(reducer, &spans);
    for (int repeat = 0; repeat < 3; repeat++) {
        give_ready(reducer, grads, mine, num_params);
        zs_reducer_finish(reducer, grads);
        for (int s = 0; s < count; s++) {
            size_t bytes = (size_t)spans[s].count * sizeof(float);
            for (int64_t i = spans[s].begin; i < spans[s].begin + spans[s].count; i++)
                assert_true(fabs(grads[i] - sum[i]) <= 4e-7 * size[i]);
            if (repeat) assert_memory_equal(grads + spans[s].begin, first + spans[s].begin, bytes);
            memcpy(first + spans[s].begin, grads + spans[s].begin, bytes);
        }
    }
    /* Every learner knows its own spans only; after gathering all have all. */
    float *params = ZS_NEW(float, num_params), *whole = ZS_NEW(float, num_params);
    fill(whole, num_params, -1, 0);
    for (int64_t i = 0; i < num_params; i++)
        params[i] = NAN;
    for (int s = 0; s < count; s++)
        memcpy(params + spans[s].begin, whole + spans[s].begin, (size_t)spans[s].count * sizeof(float));
    zs_reducer_gather(reducer, params);
    assert_memory_equal(params, whole, (size_t)num_params * sizeof(float));
    zs_free(params);
    zs_free(whole);
    zs_free(grads);
    zs_free(mine);
    zs_free(first);
    zs_free(sum);
    zs_free(size);
    zs_reducer_destroy(reducer);
}

static void check_sizes(void) {
    static const int64_t sizes[][2] = {{10000, 1000}, {10007, 640}, {5000, 1 << 20}, {1000, 999},
                                       {3, 1},        {2, 100},     {1, 1},          {0, 10}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        check_reduction(sizes[i][0], sizes[i][1]);
}

static void test_all_learners(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    check_sizes();
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, comm.world.size); /* pods do not part the learners */
    assert_int_equal(comm.learners.size, comm.world.size);
    check_sizes();
}

static void test_some_learners(void **state) {
    (void)state;
    divide(ZS_LAYOUT_AUTO, 1, 1, 5, 1); /* 1, 1, 1, 2 learners */
    check_sizes();
    if (comm.world.size < 4) return;
    divide(ZS_LAYOUT_AUTO, 1, 1, 1, 2); /* in each pod one learner and one rollout */
    check_sizes();
}

/* Weights. */

/* The nearest bf16 of a number, ties to the one with an even last digit, worked out from its neighbours. */
static uint16_t nearest_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t low = (uint16_t)(bits >> 16), high = (uint16_t)(low + 1); /* next to each other around x */
    double to_low = fabs((double)x - zs_bf16_to_f32(low)), to_high = fabs((double)x - zs_bf16_to_f32(high));
    if (to_low == to_high) return low % 2 == 0 ? low : high;
    return to_low < to_high ? low : high;
}

static void check_weights(int64_t num_params, int64_t bucket, zs_dtype dtype) {
    zs_weights *weights = zs_weights_create(&comm, num_params, bucket, dtype);
    float *params = ZS_NEW(float, num_params), *expected = ZS_NEW(float, num_params);
    uint16_t *narrow = ZS_NEW(uint16_t, num_params);
    bool takes_part = comm.is_learner || comm.is_rollout;
    bool in_bf16 = dtype == ZS_BF16 && !comm.is_learner; /* learners keep their f32 */
    for (int step = 0; step < 3; step++) {
        fill(expected, num_params, step, comm.pod_index);
        for (int64_t i = 0; i < num_params; i += 5) /* bf16 has the even ones: halfway */
            expected[i] = (i % 2 ? -1.0f : 1.0f) * (float)(257 + 2 * (i % 100));
        for (int64_t i = 0; i < num_params; i++) {
            params[i] = comm.is_learner ? expected[i] : NAN;
            narrow[i] = 0x7fc0;
        }
        zs_weights_begin(weights, in_bf16 ? (void *)narrow : params);
        for (int64_t polls = zs_rng_below(&jitter, 20); polls > 0; polls--)
            zs_weights_poll(weights);
        zs_weights_finish(weights);
        for (int64_t i = 0; i < num_params; i++)
            if (in_bf16)
                assert_int_equal(narrow[i], takes_part ? nearest_bf16(expected[i]) : 0x7fc0);
            else
                assert_true(takes_part ? params[i] == expected[i] : isnan(params[i]));
    }
    /* destroy ends what is under way */
    zs_weights_begin(weights, in_bf16 ? (void *)narrow : params);
    zs_weights_destroy(weights);
    zs_free(params);
    zs_free(expected);
    zs_free(narrow);
}

/* An int8 block: the learner's bytes as they are. */
static void check_bytes(int64_t count, int64_t bucket) {
    zs_weights *weights = zs_weights_create(&comm, count, bucket, ZS_INT8);
    uint8_t *block = ZS_NEW(uint8_t, count);
    bool takes_part = comm.is_learner || comm.is_rollout;
    assert_false(zs_weights_sends(weights) && !comm.is_learner);
    for (int step = 1; step < 3; step++) {
        for (int64_t i = 0; i < count; i++)
            block[i] = (uint8_t)(comm.is_learner ? i * 7 + step + comm.pod_index : 0);
        zs_weights_begin(weights, block);
        zs_weights_finish(weights);
        for (int64_t i = 0; i < count; i++)
            assert_int_equal(block[i], takes_part ? (i * 7 + step + comm.pod_index) & 255 : 0);
    }
    zs_weights_destroy(weights);
    zs_free(block);
}

static void check_weight_sizes(void) {
    static const zs_dtype dtypes[] = {ZS_F32, ZS_BF16};
    for (int i = 0; i < 2; i++) {
        check_weights(10000, 100, dtypes[i]); /* more buckets than are in flight */
        check_weights(1001, 250, dtypes[i]);
        check_weights(5, 1 << 20, dtypes[i]);
        check_weights(0, 10, dtypes[i]);
    }
    check_bytes(10000, 100);
    check_bytes(1001, 250);
    check_bytes(0, 10);
}

static void test_weights(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    check_weight_sizes();
    divide(ZS_LAYOUT_AUTO, 1, 2, 1, 1);
    check_weight_sizes();
    divide(ZS_LAYOUT_AUTO, 1, 1, 2, 1);
    check_weight_sizes();
    if (comm.world.size < 4) return;
    divide(ZS_LAYOUT_AUTO, 1, 1, 1, 2);
    check_weight_sizes();
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    jitter = zs_rng_make((uint64_t)getpid(), ZS_STREAM_TEST, 0, 0, comm.world.rank);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_learners),
                                       cmocka_unit_test(test_some_learners), cmocka_unit_test(test_weights)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
