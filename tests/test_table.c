/* Result tables: rows appended over several openings, cut by a column, damaged files moved aside; read back
 * by HDF5 itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zerosearch/strings.h"
#include "zerosearch/table.h"

static char path[200];

static int setup(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%s/zs_table_%ld.h5", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    remove(path);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    remove(path);
    return 0;
}

/* Reads a column of doubles; returns its rows. */
static hsize_t read_column(const char *name, double *out) {
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(file, name, H5P_DEFAULT);
    assert_true(set >= 0);
    hid_t space = H5Dget_space(set);
    hsize_t rows;
    assert_int_equal(H5Sget_simple_extent_dims(space, &rows, NULL), 1);
    assert_true(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    return rows;
}

static void rows_are_appended_and_cut(void **state) {
    (void)state;
    double step[] = {1, 1, 2}, value[] = {0.5, 0.25, 4}, out[8];
    const char *names[] = {"a", "", "Zürich"};
    zs_column columns[] = {{"step", step, NULL}, {"value", value, NULL}, {"name", NULL, names}};
    zs_error err = {0};
    assert_int_equal(zs_table_cut(path, "step", 1, &err), ZS_OK); /* a missing file is fine */
    assert_int_equal(zs_table_append(path, columns, 3, 3, &err), ZS_OK);
    step[0] = step[1] = step[2] = 3;
    assert_int_equal(zs_table_append(path, columns, 3, 3, &err), ZS_OK);
    assert_int_equal(read_column("step", out), 6);
    const double steps[] = {1, 1, 2, 3, 3, 3};
    assert_memory_equal(out, steps, sizeof steps);
    assert_int_equal(zs_table_cut(path, "step", 3, &err), ZS_OK);
    assert_int_equal(read_column("step", out), 3);
    assert_int_equal(read_column("value", out), 3);
    assert_memory_equal(out, value, sizeof value);
    assert_int_equal(zs_table_append(path, columns, 3, 2, &err), ZS_OK);
    assert_int_equal(read_column("value", out), 5);
}

static void damaged_files_are_moved_aside(void **state) {
    (void)state;
    zs_error err = {0};
    assert_int_equal(zs_file_write(path, "torn", 4, &err), ZS_OK);
    double one = 1;
    zs_column column = {"step", &one, NULL};
    assert_int_equal(zs_table_append(path, &column, 1, 1, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(zs_table_cut(path, "step", 1, &err), ZS_OK);
    assert_false(zs_file_exists(path));
    char aside[220];
    snprintf(aside, sizeof aside, "%s.damaged", path);
    assert_true(zs_file_exists(aside));
    remove(aside);
    assert_int_equal(zs_table_append(path, &column, 1, 1, &err), ZS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_are_appended_and_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_moved_aside, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
