/* ranks: 1 2 3 4 */
/* The trajectory stream: every episode arrives once and whole, in an order that does not depend on timing,
 * and the loads are even. Episodes can be made again from (seed, question, sample), so any rank knows what
 * any episode must be. */
#include "zerosearch/comm.h"
#include "zerosearch/episode.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"
#include "zerosearch/trajectories.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LONGEST = 2000, SAMPLES = 5 };

static zs_comm comm;

typedef struct text_t {
    zs_episode_info info;
    int32_t ids[LONGEST];
    uint8_t kind[LONGEST];
    float log_prob[LONGEST];
} text_t;

static void make_episode(int seed, int64_t question, int64_t sample, text_t *out) {
    zs_rng rng = zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, 0, question, sample);
    memset(&out->info, 0, sizeof out->info);
    zs_episode_info *info = &out->info;
    info->question = question;
    info->sample = sample;
    info->length = zs_rng_below(&rng, 10) ? zs_rng_below(&rng, 100) : zs_rng_below(&rng, LONGEST);
    info->reward = zs_rng_uniform(&rng);
    info->em = zs_rng_uniform(&rng);
    info->cover_em = zs_rng_uniform(&rng);
    info->f1 = zs_rng_uniform(&rng);
    info->advantage = zs_rng_normal(&rng);
    info->turns = (int32_t)zs_rng_below(&rng, 9);
    info->searches = (int32_t)zs_rng_below(&rng, 9);
    info->noisy_searches = (int32_t)zs_rng_below(&rng, 9);
    info->invalid_actions = (int32_t)zs_rng_below(&rng, 9);
    info->policy_tokens = (int32_t)zs_rng_below(&rng, 999);
    info->answered = (int32_t)zs_rng_below(&rng, 2);
    info->truncated = (int32_t)zs_rng_below(&rng, 2);
    for (int64_t i = 0; i < info->length; i++) {
        out->ids[i] = (int32_t)zs_rng_next(&rng);
        out->kind[i] = (uint8_t)zs_rng_below(&rng, 4);
        out->log_prob[i] = -(float)zs_rng_uniform(&rng);
    }
}

/* The rollouts' place among all rollouts of the pod; questions are dealt to them at random, whole groups. */
static int my_place(void) {
    for (int i = 0; i < comm.num_pod_rollouts; i++)
        if (comm.pod_rollouts[i] == comm.pod.rank) return i;
    return -1;
}

static uint64_t mix(uint64_t order, int64_t mark) {
    return (order ^ (uint64_t)mark) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Sends this rank's episodes of a phase, as they "end": whole groups, dealt to rollouts at random. `jitter`
 * differs between runs; no result may. */
static void send_phase(zs_trajectories *stream, int seed, int64_t num_questions, zs_rng *jitter) {
    static text_t text;
    zs_rng dealer = zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, 99, 0, 0);
    for (int64_t q = 0; q < num_questions; q++) {
        bool is_mine = zs_rng_below(&dealer, comm.num_pod_rollouts) == my_place();
        for (int64_t s = SAMPLES - 1; is_mine && s >= 0; s--) {
            make_episode(seed, q, s, &text);
            zs_trajectories_send(stream, &text.info, text.ids, text.kind, text.log_prob);
            if (zs_rng_below(jitter, 3) == 0) zs_trajectories_poll(stream);
            if (zs_rng_below(jitter, 30) == 0) usleep((unsigned)zs_rng_below(jitter, 2000));
        }
    }
    zs_trajectories_end(stream);
}

/* Takes a phase on a learner: each as it was made. Returns a number that any other order would change. */
static uint64_t take_phase(zs_trajectories *stream, int seed, double *seen, int num_marks, zs_episodes *into,
                           zs_rng *jitter) {
    static text_t text;
    uint64_t order = 1;
    zs_episodes_clear(into);
    for (int64_t e = 0; zs_trajectories_take(stream, into); e++) {
        assert_int_equal(into->count, e + 1);
        const zs_episode_info *info = &into->info[e];
        int64_t mark = info->question * SAMPLES + info->sample;
        assert_true(mark >= 0 && mark < num_marks);
        seen[mark] += 1;
        order = mix(order, mark);
        make_episode(seed, info->question, info->sample, &text);
        assert_memory_equal(info, &text.info, sizeof *info);
        int64_t at = into->offsets[e];
        assert_int_equal(into->offsets[e + 1] - at, info->length);
        assert_memory_equal(into->ids + at, text.ids, (size_t)info->length * 4);
        assert_memory_equal(into->kind + at, text.kind, (size_t)info->length);
        assert_memory_equal(into->log_prob + at, text.log_prob, (size_t)info->length * 4);
        if (zs_rng_below(jitter, 30) == 0) usleep((unsigned)zs_rng_below(jitter, 2000));
    }
    return order;
}

/* All phases; rollouts that do not learn run ahead of the learners by as many as they like. */
static uint64_t check_stream(int run) {
    enum { PHASES = 12 };
    zs_rng jitter = zs_rng_make((uint64_t)run, ZS_STREAM_TEST, 97, comm.world.rank, 0);
    zs_trajectories *stream = zs_trajectories_create(&comm);
    zs_episodes received = {0};
    uint64_t order = 1;
    double *seen[PHASES], loads[PHASES] = {0}, longest[PHASES] = {0};
    int64_t questions[PHASES];
    for (int p = 0; p < PHASES; p++) {
        zs_rng rng = zs_rng_make((uint64_t)p, ZS_STREAM_TEST, 98, 0, 0);
        questions[p] = p == 0 ? 0 : p == 1 ? 1 : zs_rng_below(&rng, 40);
        seen[p] = ZS_NEW(double, questions[p] * SAMPLES + 1);
        if (comm.is_rollout) send_phase(stream, p, questions[p], &jitter);
        if (!comm.is_learner) continue;
        order = mix(order, (int64_t)take_phase(stream, p, seen[p], (int)(questions[p] * SAMPLES), &received,
                                               &jitter));
        loads[p] = (double)received.num_tokens;
        for (int64_t e = 0; e < received.count; e++)
            longest[p] =
                longest[p] > (double)received.info[e].length ? longest[p] : (double)received.info[e].length;
    }
    for (int p = 0; p < PHASES; p++) {
        zs_comm_sum(&comm, &comm.pod, seen[p], (int)(questions[p] * SAMPLES), "the test");
        for (int64_t i = 0; i < questions[p] * SAMPLES; i++)
            assert_float_equal(seen[p][i], 1, 0); /* once in the pod */
        double extremes[3] = {comm.is_learner ? loads[p] : -1e300, comm.is_learner ? -loads[p] : -1e300,
                              longest[p]};
        zs_comm_max(&comm, &comm.pod, extremes, 3, "the test");
        assert_true(extremes[0] + extremes[1] <= comm.num_pod_rollouts * extremes[2]);
        zs_free(seen[p]);
    }
    zs_trajectories_destroy(stream);
    zs_episodes_free(&received);
    return order;
}

static void check_runs(void) {
    uint64_t first = check_stream(1);
    assert_true(check_stream(2) == first);
}

static void divide(zs_layout layout, int s, int r, int l, int pods) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, s, r, l, pods, true, &err), ZS_OK);
}

static void test_colocated(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    check_runs();
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, comm.world.size);
    check_runs();
}

static void test_split(void **state) {
    (void)state;
    divide(ZS_LAYOUT_AUTO, 1, 2, 1, 1); /* on 4: two rollouts, one learner */
    check_runs();
    divide(ZS_LAYOUT_AUTO, 1, 1, 2, 1); /* on 4: one rollout, two learners */
    check_runs();
    if (comm.world.size < 4) return;
    divide(ZS_LAYOUT_AUTO, 1, 1, 1, 2);
    check_runs();
}

/* Learners that leave a phase untaken, as when a run ends early, hang nobody and lose no memory. */
static void test_untaken(void **state) {
    (void)state;
    divide(ZS_LAYOUT_AUTO, 1, 1, 1, 1);
    zs_rng jitter = zs_rng_make(3, ZS_STREAM_TEST, 97, comm.world.rank, 0);
    zs_trajectories *stream = zs_trajectories_create(&comm);
    if (comm.is_rollout) send_phase(stream, 4, 10, &jitter);
    zs_comm_barrier(&comm, &comm.pod, "the test");
    zs_trajectories_poll(stream);
    zs_trajectories_destroy(stream);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_colocated), cmocka_unit_test(test_split),
                                       cmocka_unit_test(test_untaken)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
