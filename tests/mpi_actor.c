/* ranks: 1 2 3 4 */
/* The actor: what rollouts play after a refresh, in either precision, on ranks that learn, play, do both or
 * neither; a rank that only plays in bf16 holds no f32. */
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

static zs_config *make_config(const char *dtype) {
    char text[60];
    snprintf(text, sizeof text, "rollout.dtype=%s", dtype);
    const char *settings[] = {text, "learn.bucket_params=1000"};
    zs_config *config;
    zs_error err = {0};
    assert_int_equal(zs_config_load(NULL, settings, 2, &config, &err), ZS_OK);
    return config;
}

/* Weights of an update: the same on every learner of the world. */
static void set_params(zs_model *model, int64_t update) {
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, update, 0, 0);
    for (int64_t i = 0; i < model->num_params; i++)
        model->params[i] = (float)zs_rng_normal(&rng);
}

static void check_played(const zs_model *played, const zs_model *expected, zs_dtype dtype) {
    if (dtype == ZS_F32) {
        assert_null(played->params_bf16);
        assert_memory_equal(played->params, expected->params, (size_t)expected->num_params * sizeof(float));
        return;
    }
    assert_null(played->params);
    zs_model *rounded = zs_model_create_bf16(&expected->config); /* packed as test_bf16.c has it */
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

static void check_layout(zs_layout layout, int learners, int pods, const char *dtype_name) {
    zs_error err = {0};
    assert_int_equal(zs_comm_divide(&comm, layout, 1, 1, learners, pods, true, &err), ZS_OK);
    zs_config *config = make_config(dtype_name);
    zs_model_config shape;
    assert_true(zs_model_shape("tiny", &shape));
    shape.architecture = ZS_QWEN2;
    shape.attention_bias = true;
    zs_model *policy = NULL, *expected = zs_model_create(&shape);
    zs_dtype dtype = strcmp(dtype_name, "f32") ? ZS_BF16 : ZS_F32;
    assert_int_equal(zs_actor_needs_f32(&comm, config),
                     comm.is_learner || (comm.is_rollout && dtype == ZS_F32));
    if (zs_actor_needs_f32(&comm, config))
        policy = zs_model_create(&shape);
    else if (comm.is_rollout)
        policy = zs_model_create_bf16(&shape);
    zs_actor *actor = zs_actor_create(&comm, config, policy);
    const zs_model *played = zs_actor_model(actor);
    assert_int_equal(played != NULL, comm.is_rollout);
    for (int64_t update = 0; update < 3; update++) {
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

static void check_layouts(const char *dtype) {
    check_layout(ZS_LAYOUT_COLOCATED, 1, 1, dtype);
    check_layout(ZS_LAYOUT_AUTO, 1, 1, dtype);
    check_layout(ZS_LAYOUT_AUTO, 2, 1, dtype);
    if (comm.world.size == 4) check_layout(ZS_LAYOUT_AUTO, 1, 2, dtype);
}

static void test_f32(void **state) {
    (void)state;
    check_layouts("f32");
}

static void test_bf16(void **state) {
    (void)state;
    check_layouts("bf16");
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    comm.deadline = 900; /* a failed assert on one rank leaves the others waiting */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) MPI_Abort(comm.world.comm, 1);
    zs_comm_finish(&comm);
    return 0;
}
