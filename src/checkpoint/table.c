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
    hsize_t dims[3] = {0, (hsize_t)column->width, (hsize_t)column->depth};
    hsize_t most[3] = {H5S_UNLIMITED, dims[1], dims[2]}, chunk[3] = {64, dims[1], dims[2]};
    int num_dims = column->numbers ? (column->depth > 1 ? 3 : column->width > 1 ? 2 : 1) : 1;
    hid_t space = H5Screate_simple(num_dims, dims, most), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, num_dims, chunk);
    hid_t set = H5Dcreate2(file, column->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    H5Pclose(create);
    H5Sclose(space);
    return set;
}

/* The shape of a data set; returns its number of dimensions. */
static int shape_of(hid_t set, hsize_t dims[3]) {
    hid_t space = H5Dget_space(set);
    dims[0] = dims[1] = dims[2] = 1;
    int num_dims = H5Sget_simple_extent_ndims(space);
    if (num_dims >= 1 && num_dims <= 3) H5Sget_simple_extent_dims(space, dims, NULL);
    H5Sclose(space);
    return num_dims;
}

static zs_status append_column(hid_t file, const char *path, const zs_column *column, int64_t rows,
                               zs_error *err) {
    hid_t type = column->numbers ? H5Tcopy(H5T_NATIVE_DOUBLE) : H5Tcopy(H5T_C_S1);
    if (!column->numbers) H5Tset_size(type, H5T_VARIABLE);
    hid_t set = open_column(file, column, type);
    hsize_t dims[3], width = column->numbers ? (hsize_t)column->width : 1,
                     depth = column->numbers ? (hsize_t)column->depth : 1;
    zs_status status = ZS_OK;
    int num_dims = set < 0 ? 0 : shape_of(set, dims);
    if (set < 0 || num_dims < 1) {
        status = zs_fail(err, ZS_FAILED, "%s: column %s cannot be made or opened", path, column->name);
    } else if (dims[1] != width || dims[2] != depth) {
        status =
            zs_fail(err, ZS_FAILED, "%s: column %s has rows of %llu x %llu numbers, expected %llu x %llu",
                    path, column->name, (unsigned long long)dims[1], (unsigned long long)dims[2],
                    (unsigned long long)width, (unsigned long long)depth);
    } else {
        hsize_t start[3] = {dims[0], 0, 0}, count[3] = {(hsize_t)rows, width, depth};
        dims[0] += (hsize_t)rows;
        bool good = H5Dset_extent(set, dims) >= 0;
        hid_t space = H5Dget_space(set), memory = H5Screate_simple(num_dims, count, NULL);
        good = good && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
               H5Dwrite(set, type, memory, space, H5P_DEFAULT,
                        column->numbers ? (const void *)column->numbers : (const void *)column->texts) >= 0;
        H5Sclose(memory);
        H5Sclose(space);
        if (!good)
            status =
                zs_fail(err, ZS_FAILED, "%s: column %s cannot be written (disk full?)", path, column->name);
    }
    if (set >= 0) H5Dclose(set);
    H5Tclose(type);
    return status;
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
static hsize_t rows_below(hid_t file, const char *name, double limit) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    hsize_t dims[3] = {0, 1, 1}, kept = 0;
    if (set >= 0 && shape_of(set, dims) == 1) {
        double *values = ZS_NEW(double, (int64_t)dims[0]);
        if (H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0)
            while (kept < dims[0] && values[kept] < limit)
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
    hsize_t kept = rows_below(file, name, limit), count = 0;
    H5G_info_t info;
    if (H5Gget_info(file, &info) >= 0) count = info.nlinks;
    for (hsize_t i = 0; i < count; i++) {
        char column[256];
        if (H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, column, sizeof column, H5P_DEFAULT) <
            0)
            continue;
        hid_t set = H5Dopen2(file, column, H5P_DEFAULT);
        hsize_t dims[3];
        if (set >= 0 && shape_of(set, dims) >= 1 && dims[0] > kept) {
            dims[0] = kept;
            H5Dset_extent(set, dims);
        }
        if (set >= 0) H5Dclose(set);
    }
    return H5Fclose(file) >= 0 ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: cannot be closed (disk full?)", path);
}
