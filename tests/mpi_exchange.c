/* ranks: 1 2 3 4 */
/* The search exchange under random traffic: nothing lost, doubled, reordered or altered, whatever the timing.
 * Every message can be made again from (seed, round, sender, receiver), so the receiver knows what must come.
 */
#include "zerosearch/comm.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ROUNDS = 200, SEEDS = 3, LONGEST = 3000 };

static zs_comm comm;

static zs_rng traffic(int seed, int round, int from, int to) { /* pod_index keeps pods apart */
    return zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, round, from * 64 + comm.pod_index, to);
}

/* Most outboxes are empty, some hold several messages, some messages have no bytes. */
static int64_t num_messages(zs_rng *rng) {
    int64_t kind = zs_rng_below(rng, 10);
    return kind < 6 ? 0 : kind < 9 ? 1 : zs_rng_below(rng, 8);
}

static int64_t make_message(zs_rng *rng, uint8_t *message) {
    int64_t kind = zs_rng_below(rng, 10);
    int64_t length = kind == 0 ? 0 : kind < 8 ? zs_rng_below(rng, 60) : zs_rng_below(rng, LONGEST);
    for (int64_t i = 0; i < length; i++)
        message[i] = (uint8_t)zs_rng_next(rng);
    return length;
}

static int64_t unfinished_of(int seed, int round, int from) {
    zs_rng rng = traffic(seed, round, from, 63);
    return zs_rng_below(&rng, 5);
}

/* Pod ranks that search or answer; those that only learn take no part. */
static bool is_member(int pod_rank) {
    for (int i = 0; i < comm.num_pod_rollouts; i++)
        if (comm.pod_rollouts[i] == pod_rank) return true;
    for (int i = 0; i < comm.num_pod_simulators; i++)
        if (comm.pod_simulators[i] == pod_rank) return true;
    return false;
}

static void put_round(zs_exchange *exchange, int seed, int round) {
    uint8_t message[LONGEST];
    for (int to = 0; to < comm.pod.size; to++) {
        if (!is_member(to)) continue;
        zs_rng rng = traffic(seed, round, comm.pod.rank, to);
        for (int64_t n = num_messages(&rng); n > 0; n--) {
            int64_t length = make_message(&rng, message);
            zs_exchange_put(exchange, to, message, length);
            memset(message, 0xee, sizeof message); /* put has copied it */
        }
    }
}

static void check_round(zs_exchange *exchange, int seed, int round) {
    uint8_t expected[LONGEST];
    int from = -1;
    int64_t bytes = -1;
    for (int sender = 0; sender < comm.pod.size; sender++) {
        if (!is_member(sender)) continue;
        zs_rng rng = traffic(seed, round, sender, comm.pod.rank);
        for (int64_t n = num_messages(&rng); n > 0; n--) {
            int64_t length = make_message(&rng, expected);
            const void *message = zs_exchange_take(exchange, &from, &bytes);
            assert_non_null(message);
            assert_int_equal(from, sender);
            assert_int_equal(bytes, length);
            assert_int_equal((uintptr_t)message % 8, 0);
            assert_memory_equal(message, expected, (size_t)length);
        }
    }
    assert_null(zs_exchange_take(exchange, &from, &bytes));
    assert_null(zs_exchange_take(exchange, &from, &bytes));
}

/* `jitter` differs between ranks and runs; no result may. */
static void check_traffic(int seed, zs_rng *jitter) {
    zs_exchange *exchange = zs_exchange_create(&comm);
    assert_int_equal(exchange != NULL, is_member(comm.pod.rank));
    if (!exchange) return;
    int from;
    int64_t bytes;
    assert_null(zs_exchange_take(exchange, &from, &bytes));
    zs_exchange_poll(exchange);
    put_round(exchange, seed, 0);
    for (int round = 0; round < ROUNDS; round++) {
        zs_exchange_begin(exchange, unfinished_of(seed, round, comm.pod.rank));
        int64_t before = zs_rng_below(jitter, 3), after = zs_rng_below(jitter, 3);
        if (zs_rng_below(jitter, 20) == 0) usleep(300);
        while (before--)
            zs_exchange_poll(exchange);
        if (round + 1 < ROUNDS) put_round(exchange, seed, round + 1); /* while the round is under way */
        while (after--)
            zs_exchange_poll(exchange);
        int64_t expected = 0;
        for (int r = 0; r < comm.pod.size; r++)
            expected += is_member(r) ? unfinished_of(seed, round, r) : 0;
        assert_int_equal(zs_exchange_finish(exchange), expected);
        assert_int_equal(zs_exchange_finish(exchange), expected); /* harmless */
        check_round(exchange, seed, round);
    }
    zs_exchange_destroy(exchange);
}

static void test_random_traffic(void **state) {
    (void)state;
    zs_error err = {0};
    for (int pods = 1; pods <= comm.world.size; pods++) {
        if (comm.world.size % pods) continue;
        assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_AUTO, 1, 1, 1, pods, true, &err), ZS_OK);
        for (int seed = 1; seed <= SEEDS; seed++) {
            zs_rng jitter = zs_rng_make((uint64_t)getpid(), ZS_STREAM_TEST, seed, pods, comm.world.rank);
            check_traffic(seed, &jitter);
        }
    }
}

/* Received messages outlive puts for the next round, and an untaken rest is dropped by begin. */
static void test_lifetime(void **state) {
    (void)state;
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, true, &err), ZS_OK);
    zs_exchange *exchange = zs_exchange_create(&comm);
    int from;
    int64_t bytes;
    for (int r = 0; r < comm.pod.size; r++)
        zs_exchange_put(exchange, r, "first", 6);
    zs_exchange_begin(exchange, 0);
    assert_int_equal(zs_exchange_finish(exchange), 0);
    const char *message = zs_exchange_take(exchange, &from, &bytes);
    for (int i = 0; i < 1000; i++)
        zs_exchange_put(exchange, 0, "more", 5);
    assert_string_equal(message, "first");
    zs_exchange_begin(exchange, 1);
    zs_exchange_finish(exchange);
    int64_t expected = comm.pod.rank == 0 ? 1000 * comm.pod.size : 0, count = 0;
    while ((message = zs_exchange_take(exchange, &from, &bytes))) {
        assert_string_equal(message, "more");
        count++;
    }
    assert_int_equal(count, expected);
    zs_exchange_put(exchange, comm.pod.size - 1, "left", 5);
    zs_exchange_begin(exchange, 0); /* destroy ends a round that is under way */
    zs_exchange_destroy(exchange);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_traffic),
                                       cmocka_unit_test(test_lifetime)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
