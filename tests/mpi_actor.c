/* ranks: 1 2 3 4 */
/* The actor: what rollouts play after a refresh, in each precision, on ranks that learn, play, do both or
 * neither, at once or a step ahead; a rank that only plays in bf16 or int8 holds no f32. */
#include "zerosearch/actor.h"
#include "zerosearch/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static zs_comm comm;

static zs_config *make_config(zs_dtype dtype, bool ahead) {
    static const char *const names[] = {[ZS_F32] = "f32", [ZS_BF16] = "bf16", [ZS_INT8] = "int8"};
    char text[60];
    snprintf(text, sizeof text, "rollout.dtype=%s", names[dtype]);
    const char *settings[] = {text, "learn.bucket_params=1000",
                              ahead ? "rollout.staleness=1" : "rollout.staleness=0"};
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, 3, &config, &err), ZS_OK);
    return config;
}

/* Weights of an update: the same on every learner of the world. */
static void set_params(zs_model *model, int64_t update) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, update, 0, 0);
    for (int64_t i = 0; i < model->num_params; i++)
        model->params[i] = (float)zs_rng_normal(&rng);
}

/* The bytes that test_int8_model.c looks into, and norms and biases where the engine reads them. */
static void check_int8(const zs_model *played, const zs_model *expected) {
    zs_model *block = zs_model_create_narrow(&expected->config, ZS_INT8);
    zs_model_narrow(expected, block);
    assert_memory_equal(played->int8, block->int8, (size_t)zs_model_bytes(expected, ZS_INT8));
    zs_model_destroy(block);
    int64_t offset = expected->layers[1].qkv_bias;
    assert_float_equal(*zs_model_vector(played, offset), expected->params[offset], 0);
}

static void check_played(const zs_model *played, const zs_model *expected, zs_dtype dtype) {
    assert_int_equal(zs_model_dtype(played), dtype);
    if (dtype == ZS_INT8) check_int8(played, expected);
    if (dtype == ZS_F32)
        assert_memory_equal(played->params, expected->params, (size_t)expected->num_params * sizeof(float));
    if (dtype != ZS_BF16) return;
    zs_model *rounded = zs_model_create_narrow(&expected->config, ZS_BF16); /* packed as test_bf16.c has it */
    for (int64_t i = 0; i < expected->num_params; i++)
        rounded->params_bf16[i] = zs_f32_to_bf16(expected->params[i]);
    zs_model_pack(rounded, 0, 1);
    assert_true(played->packed);
    assert_memory_equal(played->params_bf16, rounded->params_bf16,
                        (size_t)expected->num_params * sizeof(uint16_t));
    zs_model_destroy(rounded);
    for (int i = 0; i < expected->num_tensors; i++) { /* norms and biases as the engine reads them */
        const zs_tensor *t = &expected->tensors[i];
        if (t->num_dims != 1 || strstr(t->name, "k_proj") || strstr(t->name, "v_proj")) continue;
        const float *vector = zs_model_vector(played, t->offset);
        for (int64_t e = 0; e < t->rows; e++)
            assert_float_equal(vector[e], zs_bf16_to_f32(zs_f32_to_bf16(expected->params[t->offset + e])), 0);
    }
}

static void check_layout(zs_layout layout, int learners, int pods, zs_dtype dtype, bool ahead) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, 1, 1, learners, pods, true, &err), ZS_OK);
    zs_config *config = make_config(dtype, ahead);
    zs_model_config shape;
    assert_true(zs_model_shape("tiny", &shape));
    shape.architecture = ZS_QWEN2;
    shape.attention_bias = true;
    zs_model *policy = NULL, *expected = zs_model_create(&shape);
    assert_int_equal(zs_actor_dtype(&comm, config), comm.is_learner ? ZS_F32 : dtype);
    if (comm.is_learner || (comm.is_rollout && dtype == ZS_F32))
        policy = zs_model_create(&shape);
    else if (comm.is_rollout)
        policy = zs_model_create_narrow(&shape, dtype);
    zs_actor *actor = zs_actor_create(&comm, config, policy);
    const zs_model *played = zs_actor_model(actor);
    assert_int_equal(played != NULL, comm.is_rollout);
    for (int64_t update = 0; update < 3; update++) {
        zs_actor_expect(actor); /* what is played stays meanwhile */
        for (int i = 0; i < 5; i++)
            zs_actor_poll(actor);
        if (played && update > 0) check_played(played, expected, dtype);
        set_params(expected, update);
        if (comm.is_learner) set_params(policy, update);
        zs_actor_refresh(actor);
        if (played) check_played(played, expected, dtype);
        if (comm.is_learner) /* the master is untouched */
            assert_memory_equal(policy->params, expected->params,
                                (size_t)expected->num_params * sizeof(float));
    }
    zs_actor_destroy(actor);
    zs_model_destroy(policy);
    zs_model_destroy(expected);
    zs_config_free(config);
}

static void check_layouts(zs_dtype dtype) {
    for (int ahead = 0; ahead < 2; ahead++) {
        check_layout(ZS_LAYOUT_COLOCATED, 1, 1, dtype, ahead);
        check_layout(ZS_LAYOUT_AUTO, 1, 1, dtype, ahead);
        check_layout(ZS_LAYOUT_AUTO, 2, 1, dtype, ahead);
        if (comm.world.size == 4) check_layout(ZS_LAYOUT_AUTO, 1, 2, dtype, ahead);
    }
}

static void test_f32(void **state) {
    (void)state;
    check_layouts(ZS_F32);
}

static void test_bf16(void **state) {
    (void)state;
    check_layouts(ZS_BF16);
}

static void test_int8(void **state) {
    (void)state;
    check_layouts(ZS_INT8);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_int8)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
