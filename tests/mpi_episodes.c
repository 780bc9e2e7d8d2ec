/* ranks: 1 2 3 4 */
/* The trajectory exchange: every episode arrives once, whole and in order, and the loads are even. Episodes
 * can be made again from (seed, question, sample), so any rank knows what any episode must be. */
#include "zerosearch/comm.h"
#include "zerosearch/episode.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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

static void check_exchange(int seed, int64_t num_questions, zs_episodes *mine, zs_episodes *received) {
    static text_t text;
    zs_rng dealer = zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, 99, 0, 0);
    zs_episodes_clear(mine);
    int64_t *order = ZS_NEW(int64_t, num_questions); /* rollouts do not hold questions in order */
    for (int64_t q = 0; q < num_questions; q++)
        order[q] = q;
    zs_rng_shuffle(&dealer, order, num_questions);
    for (int64_t i = 0; i < num_questions; i++) {
        bool is_mine = zs_rng_below(&dealer, comm.num_pod_rollouts) == my_place();
        for (int64_t s = SAMPLES - 1; is_mine && s >= 0; s--) {
            make_episode(seed, order[i], s, &text);
            zs_episodes_append(mine, &text.info, text.ids, text.kind, text.log_prob);
        }
    }
    zs_free(order);
    zs_episodes_exchange(&comm, comm.is_rollout ? mine : NULL, comm.is_learner ? received : NULL);

    /* What came, as it was made, in order. */
    int num_marks = (int)(num_questions * SAMPLES);
    double *seen = ZS_NEW(double, num_marks + 1); /* of (question, sample) */
    double longest = 0, tokens = 0;
    if (comm.is_learner) {
        int64_t last = -1;
        for (int64_t e = 0; e < received->count; e++) {
            const zs_episode_info *info = &received->info[e];
            int64_t mark = info->question * SAMPLES + info->sample;
            assert_true(mark > last);
            last = mark;
            assert_true(mark < num_marks);
            seen[mark] += 1;
            make_episode(seed, info->question, info->sample, &text);
            assert_memory_equal(info, &text.info, sizeof *info);
            int64_t at = received->offsets[e];
            assert_int_equal(received->offsets[e + 1] - at, info->length);
            assert_memory_equal(received->ids + at, text.ids, (size_t)info->length * 4);
            assert_memory_equal(received->kind + at, text.kind, (size_t)info->length);
            assert_memory_equal(received->log_prob + at, text.log_prob, (size_t)info->length * 4);
            tokens += (double)info->length;
            if ((double)info->length > longest) longest = (double)info->length;
        }
        assert_float_equal((double)received->num_tokens, tokens, 0);
    }
    zs_comm_sum(&comm, &comm.pod, seen, num_marks, "the test");
    for (int i = 0; i < num_marks; i++)
        assert_float_equal(seen[i], 1, 0); /* once in the pod */
    double extremes[3] = {comm.is_learner ? tokens : -1e300, comm.is_learner ? -tokens : -1e300, longest};
    zs_comm_max(&comm, &comm.pod, extremes, 3, "the test");
    assert_true(extremes[0] + extremes[1] <= extremes[2]); /* greatest - least load <= longest episode */
    zs_free(seen);
}

static void check_seeds(void) {
    zs_episodes mine = {0}, received = {0};
    for (int seed = 1; seed <= 12; seed++) {
        zs_rng rng = zs_rng_make((uint64_t)seed, ZS_STREAM_TEST, 98, 0, 0);
        check_exchange(seed, seed == 1 ? 0 : seed == 2 ? 1 : zs_rng_below(&rng, 40), &mine, &received);
    }
    zs_episodes_free(&mine);
    zs_episodes_free(&received);
}

static void divide(zs_layout layout, int s, int r, int l, int pods) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, s, r, l, pods, true, &err), ZS_OK);
}

static void test_colocated(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    check_seeds();
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, comm.world.size);
    check_seeds();
}

static void test_split(void **state) {
    (void)state;
    divide(ZS_LAYOUT_AUTO, 1, 2, 1, 1); /* on 4: two rollouts, one learner */
    check_seeds();
    divide(ZS_LAYOUT_AUTO, 1, 1, 2, 1); /* on 4: one rollout, two learners */
    check_seeds();
    if (comm.world.size < 4) return;
    divide(ZS_LAYOUT_AUTO, 1, 1, 1, 2);
    check_seeds();
}

/* Where an episode goes does not depend on who generated it. */
static void test_deal_ignores_source(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    static text_t text;
    zs_episodes mine = {0}, first = {0}, second = {0};
    for (int turn = 0; turn < 2; turn++) {
        zs_episodes_clear(&mine);
        for (int64_t q = 0; q < 20; q++) {
            if ((q + turn * (q / 3)) % comm.world.size != comm.world.rank) continue;
            make_episode(5, q, 0, &text);
            zs_episodes_append(&mine, &text.info, text.ids, text.kind, text.log_prob);
        }
        zs_episodes_exchange(&comm, &mine, turn ? &second : &first);
    }
    assert_int_equal(first.count, second.count);
    for (int64_t e = 0; e < first.count; e++)
        assert_int_equal(first.info[e].question, second.info[e].question);
    zs_episodes_free(&mine);
    zs_episodes_free(&first);
    zs_episodes_free(&second);
}

/* One long episode and as many short ones as make the loads exactly even: only a deal by tokens finds it. */
static void test_even_loads(void **state) {
    (void)state;
    divide(ZS_LAYOUT_COLOCATED, 1, 1, 1, 1);
    static text_t text;
    zs_episodes mine = {0}, received = {0};
    int size = comm.world.size;
    if (comm.world.rank == size - 1) {
        for (int64_t q = 0; q < 3 * (size - 1) + 1; q++) {
            text.info = (zs_episode_info){.question = q, .length = q == 0 ? 300 : 100};
            zs_episodes_append(&mine, &text.info, text.ids, text.kind, text.log_prob);
        }
    }
    zs_episodes_exchange(&comm, &mine, &received);
    assert_int_equal(received.num_tokens, 300);
    zs_episodes_free(&mine);
    zs_episodes_free(&received);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_colocated), cmocka_unit_test(test_split),
                                       cmocka_unit_test(test_deal_ignores_source),
                                       cmocka_unit_test(test_even_loads)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
