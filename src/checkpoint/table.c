/* Result tables: columns as chunked data sets that grow along their first dimension. */
#include "zerosearch/table.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <hdf5.h>
#include <stdbool.h>
#include <stdio.h>

/* Opens a column, or makes it with no rows; < 0: failed. */
static hid_t open_column(hid_t file, const zs_column *column, hid_t type) {
    hid_t there = -1;
    H5E_BEGIN_TRY { /* probing is no error */
        there = H5Dopen2(file, column->name, H5P_DEFAULT);
    }
    H5E_END_TRY
    if (there >= 0) return there;
    hsize_t none = 0, most = H5S_UNLIMITED, chunk = 256;
    hid_t space = H5Screate_simple(1, &none, &most), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 1, &chunk);
    hid_t set = H5Dcreate2(file, column->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    H5Pclose(create);
    H5Sclose(space);
    return set;
}

/* The rows of a column; < 0: not a column of this kind of table. */
static int64_t rows_of(hid_t set) {
    hid_t space = H5Dget_space(set);
    hsize_t rows = 0;
    bool flat = H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &rows, NULL) == 1;
    H5Sclose(space);
    return flat ? (int64_t)rows : -1;
}

static zs_status append_column(hid_t file, const char *path, const zs_column *column, int64_t rows,
                               zs_error *err) {
    hid_t type = column->numbers ? H5Tcopy(H5T_NATIVE_DOUBLE) : H5Tcopy(H5T_C_S1);
    if (!column->numbers) H5Tset_size(type, H5T_VARIABLE);
    hid_t set = open_column(file, column, type);
    int64_t before = set < 0 ? -1 : rows_of(set);
    bool good = before >= 0;
    if (good) {
        hsize_t start = (hsize_t)before, count = (hsize_t)rows, total = start + count;
        good = H5Dset_extent(set, &total) >= 0;
        hid_t space = H5Dget_space(set), memory = H5Screate_simple(1, &count, NULL);
        good = good && H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL) >= 0 &&
               H5Dwrite(set, type, memory, space, H5P_DEFAULT,
                        column->numbers ? (const void *)column->numbers : (const void *)column->texts) >= 0;
        H5Sclose(memory);
        H5Sclose(space);
    }
    if (set >= 0) H5Dclose(set);
    H5Tclose(type);
    return good ? ZS_OK
                : zs_fail(err, ZS_FAILED, "%s: column %s cannot be written (disk full, or no such table?)",
                          path, column->name);
}

/* Opens for reading and writing, without HDF5's own words on failure. */
static hid_t open_quietly(const char *path) {
    hid_t file = -1;
    H5E_BEGIN_TRY {
        file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    }
    H5E_END_TRY
    return file;
}

zs_status zs_table_append(const char *path, const zs_column *columns, int num_columns, int64_t rows,
                          zs_error *err) {
    hid_t file =
        zs_file_exists(path) ? open_quietly(path) : H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    if (file < 0) return zs_fail(err, ZS_FAILED, "%s: cannot be opened as an HDF5 table", path);
    zs_status status = ZS_OK;
    for (int i = 0; i < num_columns && status == ZS_OK; i++)
        status = append_column(file, path, &columns[i], rows, err);
    if (H5Fclose(file) < 0 && status == ZS_OK)
        status = zs_fail(err, ZS_FAILED, "%s: cannot be closed (disk full?)", path);
    return status;
}

/* The number of leading rows whose value is below the limit. */
static int64_t rows_below(hid_t file, const char *name, double limit) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    int64_t rows = set < 0 ? -1 : rows_of(set), kept = 0;
    if (rows > 0) {
        double *values = ZS_NEW(double, rows);
        if (H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0)
            while (kept < rows && values[kept] < limit)
                kept++;
        zs_free(values);
    }
    if (set >= 0) H5Dclose(set);
    return kept;
}

zs_status zs_table_cut(const char *path, const char *name, double limit, zs_error *err) {
    if (!zs_file_exists(path)) return ZS_OK;
    hid_t file = open_quietly(path);
    if (file < 0) {
        char aside[1000];
        snprintf(aside, sizeof aside, "%s.damaged", path);
        zs_log(ZS_LOG_WARNING, "%s: not a whole HDF5 file; moved to %s", path, aside);
        return rename(path, aside) == 0 ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: cannot be moved aside", path);
    }
    hsize_t kept = (hsize_t)rows_below(file, name, limit), count = 0;
    H5G_info_t info;
    if (H5Gget_info(file, &info) >= 0) count = info.nlinks;
    for (hsize_t i = 0; i < count; i++) {
        char column[256];
        if (H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, column, sizeof column, H5P_DEFAULT) <
            0)
            continue;
        hid_t set = H5Dopen2(file, column, H5P_DEFAULT);
        if (set >= 0 && rows_of(set) > (int64_t)kept) H5Dset_extent(set, &kept);
        if (set >= 0) H5Dclose(set);
    }
    return H5Fclose(file) >= 0 ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: cannot be closed (disk full?)", path);
}
