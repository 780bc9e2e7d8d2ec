/* ranks: 1 2 3 4 */
/* Model folders onto ranks: whoever reads, in whatever precision, on one node or two, every rank holds the
 * weights that were written, and a folder that cannot be read is one error for all. */
#include "zerosearch/hf.h"
#include "zerosearch/load.h"
#include "zerosearch/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static zs_comm comm;
static char root[200];
static int64_t num_params;

static const char *in_root(const char *name) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

/* Multiples of 1/8 below 8: exact in every format. */
static float expected_weight(int64_t i) {
    return (float)((int)((uint64_t)i * 2654435761u >> 11 & 127) - 64) / 8;
}

static void barrier(void) {
    zs_comm_barrier(&comm, &comm.world, "the test");
}

static int make_folders(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s/zs_load_%ld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getppid());
    zs_model_config config;
    zs_error err = {0};
    if (!zs_model_shape("demo", &config)) return 1;
    config.vocab_size = 60000; /* so that there are several pieces and blocks */
    zs_model *model = zs_model_layout(&config);
    num_params = model->num_params;
    zs_model_destroy(model);
    int failed = 0;
    if (comm.world.rank == 0) {
        model = zs_model_create(&config);
        for (int64_t i = 0; i < num_params; i++)
            model->params[i] = expected_weight(i);
        failed = zs_hf_save(in_root("f32"), model, NULL, ZS_F32, 0, NULL, &err) ||
                 zs_hf_save(in_root("bf16"), model, NULL, ZS_BF16, 5 << 20, NULL, &err) ||
                 zs_hf_save(in_root("f16"), model, NULL, ZS_F16, 0, NULL, &err) ||
                 zs_hf_save(in_root("torn"), model, NULL, ZS_BF16, 0, NULL, &err) ||
                 truncate(in_root("torn/model.safetensors"), num_params) != 0;
        zs_model_destroy(model);
    }
    return zs_comm_agree(&comm, &comm.world, failed ? ZS_FAILED : ZS_OK, &err);
}

static int remove_folders(void **state) {
    (void)state;
    barrier();
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return comm.world.rank == 0 && system(command) != 0;
}

/* What zs_model_narrow makes of all of them at once. */
static void check_int8(const zs_model *model) {
    zs_model *wide = zs_model_create(&model->config);
    zs_model *narrow = zs_model_create_narrow(&model->config, ZS_INT8);
    for (int64_t i = 0; i < num_params; i++)
        wide->params[i] = expected_weight(i);
    zs_model_narrow(wide, narrow);
    assert_memory_equal(model->int8, narrow->int8, (size_t)zs_model_bytes(narrow, ZS_INT8));
    zs_model_destroy(wide);
    zs_model_destroy(narrow);
}

static void check_weights(const zs_model *model, zs_dtype dtype) {
    assert_int_equal(model->num_params, num_params);
    assert_int_equal(zs_model_dtype(model), dtype);
    if (dtype == ZS_INT8) check_int8(model);
    for (int64_t i = 0; dtype != ZS_INT8 && i < num_params; i++) {
        float weight = model->params ? model->params[i] : zs_bf16_to_f32(model->params_bf16[i]);
        if (weight != expected_weight(i)) fail_msg("weight %lld is %g", (long long)i, (double)weight);
    }
    float norm = *zs_model_vector(model, model->final_norm);
    assert_true(norm == expected_weight(model->final_norm));
}

/* Each rank packs its part; then all read every row of a matrix where it was. */
static void check_packed(zs_frozen *frozen) {
    zs_frozen_pack(&comm, frozen);
    const zs_model *model = frozen->model;
    const zs_model_config *c = &model->config;
    assert_true(model->packed);
    const int64_t matrices[][3] = {{model->embed, c->vocab_size, c->hidden_size},
                                   {model->layers[1].gate_up, 2 * c->intermediate_size, c->hidden_size},
                                   {model->layers[0].down_proj, c->hidden_size, c->intermediate_size}};
    for (int i = 0; i < 3; i++) {
        int64_t rows = matrices[i][1], cols = matrices[i][2];
        float *row = ZS_NEW(float, cols);
        for (int64_t r = 0; r < rows; r++) {
            zs_matrix_row(zs_model_matrix(model, matrices[i][0]), rows, cols, r, row);
            for (int64_t p = 0; p < cols; p++)
                if (row[p] != expected_weight(matrices[i][0] + r * cols + p))
                    fail_msg("row %lld, column %lld is %g", (long long)r, (long long)p, (double)row[p]);
        }
        zs_free(row);
    }
}

static const zs_read reads[] = {ZS_READ_ALL, ZS_READ_NODE, ZS_READ_ROOT};

/* Each byte is read once a node (ALL, NODE) or once (ROOT). */
static void check_bytes_read(int64_t bytes_read, zs_read read, int64_t stored, int nodes, int copies) {
    double sum = (double)bytes_read;
    zs_comm_sum(&comm, &comm.world, &sum, 1, "the test");
    int times = read == ZS_READ_ROOT ? 1 : read == ZS_READ_NODE ? nodes : copies;
    assert_true(sum == (double)(num_params * stored * times));
}

static void test_frozen(void **state) {
    (void)state;
    static const struct {
        const char *folder;
        zs_dtype asked, kept;
        int64_t stored;
    } cases[] = {{"f32", ZS_DTYPE_OTHER, ZS_F32, 4},   {"f32", ZS_BF16, ZS_BF16, 4},
                 {"bf16", ZS_DTYPE_OTHER, ZS_BF16, 2}, {"bf16", ZS_F32, ZS_F32, 2},
                 {"f32", ZS_INT8, ZS_INT8, 4},         {"bf16", ZS_INT8, ZS_INT8, 2},
                 {"f16", ZS_DTYPE_OTHER, ZS_F32, 2}};
    for (int nodes = 1; nodes <= 2 && nodes <= comm.world.size; nodes++) {
        setenv("ZS_TEST_NODES", nodes == 1 ? "1" : "2", 1);
        int ranks = nodes == 1 ? comm.world.size : (comm.world.size + 1) / 2; /* of the first node */
        if (nodes == 2 && comm.world.rank >= ranks) ranks = comm.world.size - ranks;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int r = 0; r < 3; r++) {
                zs_frozen frozen;
                zs_error err = {0};
                if (zs_load_frozen(&comm, &comm.world, in_root(cases[i].folder), cases[i].asked, reads[r],
                                   &frozen, &err) != ZS_OK)
                    fail_msg("%s", err.text);
                assert_int_equal(frozen.memory.size, ranks);
                check_weights(frozen.model, cases[i].kept);
                if (cases[i].kept == ZS_BF16) check_packed(&frozen);
                assert_true(frozen.memory.bytes == zs_model_bytes(frozen.model, cases[i].kept));
                check_bytes_read(frozen.bytes_read, reads[r], cases[i].stored, nodes, nodes);
                zs_frozen_free(&frozen);
                assert_null(frozen.model);
            }
    }
    unsetenv("ZS_TEST_NODES");
}

/* One node shares, the other cannot. */
static void test_frozen_where_sharing_fails(void **state) {
    (void)state;
    setenv("ZS_TEST_NODES", comm.world.size > 1 ? "2" : "1", 1);
    setenv("ZS_TEST_SHARE", "fail:0", 1);
    for (int r = 0; r < 6; r++) {
        zs_frozen frozen;
        zs_error err = {0};
        zs_dtype dtype = r < 3 ? ZS_F32 : ZS_INT8;
        assert_int_equal(
            zs_load_frozen(&comm, &comm.world, in_root("bf16"), dtype, reads[r % 3], &frozen, &err), ZS_OK);
        if (comm.world.rank == 0) assert_int_equal(frozen.memory.size, 1);
        check_weights(frozen.model, dtype);
        zs_frozen_free(&frozen);
    }
    unsetenv("ZS_TEST_NODES");
    unsetenv("ZS_TEST_SHARE");
}

static void test_own_copies(void **state) {
    (void)state;
    static const char *const folders[] = {"f32", "bf16", "f16"};
    for (int nodes = 1; nodes <= 2 && nodes <= comm.world.size; nodes++) {
        setenv("ZS_TEST_NODES", nodes == 1 ? "1" : "2", 1);
        for (int f = 0; f < 3; f++)
            for (int r = 0; r < 3; r++) {
                zs_model *model;
                zs_error err = {0};
                int64_t bytes;
                if (zs_load_model(&comm, &comm.world, in_root(folders[f]), reads[r], &model, &bytes, &err) !=
                    ZS_OK)
                    fail_msg("%s", err.text);
                check_weights(model, ZS_F32);
                check_bytes_read(bytes, reads[r], f == 0 ? 4 : 2, nodes, comm.world.size);
                zs_model_destroy(model);
            }
    }
    unsetenv("ZS_TEST_NODES");
}

static void test_part_of_the_world(void **state) {
    (void)state;
    bool last = comm.world.rank == comm.world.size - 1;
    zs_group some = zs_group_select(&comm, &comm.world, last, 0, "the test");
    zs_frozen frozen;
    zs_model *model;
    zs_error err = {0};
    assert_int_equal(zs_load_frozen(&comm, &some, in_root("f32"), ZS_F32, ZS_READ_NODE, &frozen, &err),
                     ZS_OK);
    assert_int_equal(zs_load_model(&comm, &some, in_root("f32"), ZS_READ_ROOT, &model, NULL, &err), ZS_OK);
    assert_int_equal(frozen.model != NULL, last);
    assert_int_equal(model != NULL, last);
    if (last) check_weights(frozen.model, ZS_F32);
    zs_frozen_free(&frozen);
    zs_model_destroy(model);
    zs_group_free(&some);
}

static void test_bad_folders(void **state) {
    (void)state;
    static const struct {
        const char *folder, *words;
    } cases[] = {{"torn", "(truncated?)"}, {"nowhere", "config.json"}};
    for (int i = 0; i < 2; i++)
        for (int r = 0; r < 3; r++) {
            zs_frozen frozen;
            zs_model *model;
            zs_error err = {0};
            for (int d = 0; d < 2; d++) {
                assert_int_equal(zs_load_frozen(&comm, &comm.world, in_root(cases[i].folder),
                                                d ? ZS_INT8 : ZS_F32, reads[r], &frozen, &err),
                                 ZS_FAILED);
                assert_non_null(strstr(err.text, cases[i].words));
                assert_null(frozen.model);
            }
            assert_int_equal(
                zs_load_model(&comm, &comm.world, in_root(cases[i].folder), reads[r], &model, NULL, &err),
                ZS_FAILED);
            assert_null(model);
        }
    /* one rank alone sees it torn: all hear of it, with its number */
    zs_frozen frozen;
    zs_error err = {0};
    bool last = comm.world.rank == comm.world.size - 1;
    assert_int_equal(zs_load_frozen(&comm, &comm.world, in_root(last ? "torn" : "bf16"), ZS_F32, ZS_READ_ALL,
                                    &frozen, &err),
                     ZS_FAILED);
    char expected[20];
    snprintf(expected, sizeof expected, "rank %d: ", comm.world.size - 1);
    assert_non_null(strstr(err.text, "(truncated?)"));
    if (comm.world.size > 1) assert_memory_equal(err.text, expected, strlen(expected));
    if (comm.world.size == 1) return;
    /* the nodes' folders hold different models */
    assert_int_equal(zs_load_frozen(&comm, &comm.world, in_root(last ? "f32" : "bf16"), ZS_F32, ZS_READ_ALL,
                                    &frozen, &err),
                     ZS_FAILED);
    assert_non_null(strstr(err.text, "nodes see different models"));
}

int main(int argc, char **argv) {
    zs_error err;
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen),      cmocka_unit_test(test_frozen_where_sharing_fails),
        cmocka_unit_test(test_own_copies),  cmocka_unit_test(test_part_of_the_world),
        cmocka_unit_test(test_bad_folders),
    };
    int failed = cmocka_run_group_tests_name("load", tests, make_folders, remove_folders);
    zs_comm_finish(&comm);
    return failed;
}
