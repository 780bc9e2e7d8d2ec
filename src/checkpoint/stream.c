/* The model of a checkpoint file, written and read a block at a time by one process (`convert`). A block is
 * what one CRC-32 covers. */
#include "store.h"
#include "zerosearch/memory.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ARRAY "model/params"

/* Block `block` of the array between the file and `data`, both in `type`. */
static bool pass_block(hid_t set, hid_t type, bool write, int64_t block, int64_t count, void *data) {
    hsize_t start[1] = {(hsize_t)(block * ZS_CRC_BLOCK)}, length[1] = {(hsize_t)count};
    hid_t there = H5Dget_space(set), here = H5Screate_simple(1, length, NULL);
    H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, length, NULL);
    herr_t result = write ? H5Dwrite(set, type, here, there, H5P_DEFAULT, data)
                          : H5Dread(set, type, here, there, H5P_DEFAULT, data);
    H5Sclose(here);
    H5Sclose(there);
    return result >= 0;
}

static int64_t block_length(int64_t total, int64_t block) {
    int64_t left = total - block * ZS_CRC_BLOCK;
    return left < ZS_CRC_BLOCK ? left : ZS_CRC_BLOCK;
}

/* Writing. */

static zs_status write_blocks(const char *path, int64_t total, zs_dtype dtype, zs_model_source *source,
                              void *context, uint32_t *crcs, zs_error *err) {
    hid_t access = zs_store_access(MPI_COMM_NULL), file = H5Fopen(path, H5F_ACC_RDWR, access);
    H5Pclose(access);
    if (file < 0) return zs_store_fail(path, "cannot be opened again", err);
    hid_t set = H5Dopen2(file, ARRAY, H5P_DEFAULT), type = zs_store_type(dtype);
    zs_status status = set >= 0 ? ZS_OK : zs_store_fail(path, "cannot be opened again", err);
    void *data = zs_alloc(ZS_CRC_BLOCK, (size_t)zs_dtype_size(dtype));
    for (int64_t block = 0; status == ZS_OK && block < zs_crc_blocks(total); block++) {
        int64_t begin = block * ZS_CRC_BLOCK, count = block_length(total, block);
        status = source(context, begin, begin + count, dtype, data, err);
        if (status) break;
        crcs[block] = zs_crc_of(data, count * zs_dtype_size(dtype));
        if (!pass_block(set, type, true, block, count, data))
            status = zs_store_fail(path, "not written", err);
    }
    zs_free(data);
    H5Tclose(type);
    if (set >= 0) H5Dclose(set);
    if (H5Fclose(file) < 0 && status == ZS_OK) status = zs_store_fail(path, "not written", err);
    return status;
}

zs_status zs_checkpoint_write_model(const char *path, const zs_model *layout, zs_dtype dtype,
                                    zs_model_source *source, void *context, zs_error *err) {
    char aside[PATH_MAX];
    if (strlen(path) + 5 > sizeof aside)
        return zs_fail(err, ZS_USAGE, "%.200s...: the path is too long", path);
    snprintf(aside, sizeof aside, "%s.tmp", path);
    zs_quiet quiet = zs_quiet_begin();
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGXFSZ, &ignore, &before); /* a file size limit is an error to report, not a death */
    zs_checkpoint_array array = {ARRAY, layout->num_params, 0, NULL};
    uint32_t *crcs = ZS_NEW(uint32_t, zs_crc_blocks(array.total));
    zs_extent extent;
    zs_status status = zs_store_create(aside, layout, &array, 1, dtype, "{}", &extent, err);
    if (status == ZS_OK) status = write_blocks(aside, array.total, dtype, source, context, crcs, err);
    if (status == ZS_OK) status = zs_store_finish(aside, &array, 1, crcs, err);
    if (status == ZS_OK) status = zs_envelope_seal(aside, &extent, 1, err);
    if (status == ZS_OK) status = zs_store_rename(aside, path, err);
    if (status) unlink(aside);
    zs_free(crcs);
    sigaction(SIGXFSZ, &before, NULL);
    zs_quiet_end(quiet);
    return status;
}

/* Reading. */

struct zs_checkpoint_model {
    char *path;
    zs_model *layout;
    hid_t file, set, type;
    zs_dtype dtype;
    uint32_t *crcs;
    char *data;    /* [ZS_CRC_BLOCK] of dtype */
    int64_t block; /* that is in data; -1: none */
};

zs_status zs_checkpoint_open_model(const char *path, zs_checkpoint_model **out, zs_error *err) {
    *out = NULL;
    zs_model_config config;
    zs_status status = zs_envelope_check(path, err);
    if (status) return status;
    zs_quiet quiet = zs_quiet_begin();
    zs_checkpoint_model *model = ZS_NEW(zs_checkpoint_model, 1);
    hid_t access = zs_store_access(MPI_COMM_NULL);
    *model = (zs_checkpoint_model){.path = zs_strdup(path), .set = -1, .type = -1, .block = -1};
    model->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (model->file < 0) status = zs_store_fail(path, "cannot be opened", err);
    if (status == ZS_OK) status = zs_store_read_config(model->file, path, &config, err);
    if (status == ZS_OK) {
        model->layout = zs_model_layout(&config);
        int64_t total = model->layout->num_params;
        model->crcs = ZS_NEW(uint32_t, zs_crc_blocks(total));
        status = zs_store_open_array(model->file, path, ARRAY, total, &model->dtype, &model->set, model->crcs,
                                     err);
    }
    if (status == ZS_OK) {
        model->type = zs_store_type(model->dtype);
        model->data = zs_alloc(ZS_CRC_BLOCK, (size_t)zs_dtype_size(model->dtype));
    }
    zs_quiet_end(quiet);
    if (status)
        zs_checkpoint_close_model(model);
    else
        *out = model;
    return status;
}

void zs_checkpoint_close_model(zs_checkpoint_model *model) {
    if (!model) return;
    if (model->type >= 0) H5Tclose(model->type);
    if (model->set >= 0) H5Dclose(model->set);
    if (model->file >= 0) H5Fclose(model->file);
    zs_model_destroy(model->layout);
    zs_free(model->crcs);
    zs_free(model->data);
    zs_free(model->path);
    zs_free(model);
}

const zs_model *zs_checkpoint_layout(const zs_checkpoint_model *model) {
    return model->layout;
}

zs_dtype zs_checkpoint_dtype(const zs_checkpoint_model *model) {
    return model->dtype;
}

static zs_status load_block(zs_checkpoint_model *model, int64_t block, zs_error *err) {
    if (model->block == block) return ZS_OK;
    int64_t count = block_length(model->layout->num_params, block);
    model->block = -1;
    zs_quiet quiet = zs_quiet_begin();
    bool good = pass_block(model->set, model->type, false, block, count, model->data);
    zs_status status = good ? ZS_OK : zs_store_fail(model->path, ARRAY, err);
    zs_quiet_end(quiet);
    if (status == ZS_OK && zs_crc_of(model->data, count * zs_dtype_size(model->dtype)) != model->crcs[block])
        status = zs_fail(err, ZS_FAILED, "%s: damaged: the CRC-32 of block %lld of array %s is wrong",
                         model->path, (long long)block, ARRAY);
    if (status == ZS_OK) model->block = block;
    return status;
}

zs_status zs_checkpoint_source(void *context, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                               zs_error *err) {
    zs_checkpoint_model *model = context;
    ZS_ASSERT(begin >= 0 && end <= model->layout->num_params, "elements %lld to %lld", (long long)begin,
              (long long)end);
    char *out = to;
    while (begin < end) {
        int64_t block = begin / ZS_CRC_BLOCK, stop = (block + 1) * ZS_CRC_BLOCK;
        int64_t count = (stop < end ? stop : end) - begin;
        zs_status status = load_block(model, block, err);
        if (status) return status;
        zs_convert(model->dtype, model->data + (begin - block * ZS_CRC_BLOCK) * zs_dtype_size(model->dtype),
                   count, dtype, out);
        begin += count;
        out += count * zs_dtype_size(dtype);
    }
    return ZS_OK;
}
