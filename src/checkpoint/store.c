#include "store.h"
#include "zerosearch/hf.h"
#include "zerosearch/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct row { /* of the tensor table */
    char name[80];
    int64_t offset, rows, cols;
    int32_t num_dims;
} row;

/* HDF5 calls this at each API function that fails, while its stack still stands (the next call, be it the
 * close of a property list, clears it). The first failure says most. */
static char first_failure[300];

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *error, void *unused) {
    (void)unused;
    if (depth == 0) snprintf(first_failure, sizeof first_failure, "%s", error->desc ? error->desc : "");
    return 0;
}

static herr_t on_failure(hid_t stack, void *unused) {
    if (first_failure[0] == '\0') H5Ewalk2(stack, H5E_WALK_UPWARD, keep_innermost, unused);
    return 0;
}

zs_quiet zs_quiet_begin(void) {
    zs_quiet quiet;
    H5Eget_auto2(H5E_DEFAULT, &quiet.function, &quiet.data);
    H5Eset_auto2(H5E_DEFAULT, on_failure, NULL);
    first_failure[0] = '\0';
    return quiet;
}

void zs_quiet_end(zs_quiet quiet) {
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, quiet.function, quiet.data);
}

zs_status zs_store_fail(const char *path, const char *what, zs_error *err) {
    zs_status status = zs_fail(err, ZS_FAILED, "%s: %s: HDF5 says: %s", path, what,
                               first_failure[0] ? first_failure : "nothing");
    first_failure[0] = '\0';
    return status;
}

hid_t zs_store_access(MPI_Comm comm) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (comm != MPI_COMM_NULL)
        H5Pset_fapl_mpio(access, comm, MPI_INFO_NULL);
    else
        H5Pset_alignment(access, 1 << 20,
                         4096); /* large arrays begin on pages; the user block sets the bound */
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(access, 0, 1);
#endif
    return access;
}

/* HDF5 has no bfloat16 of its own and describes any: 16 bits made of sign, exponent and mantissa. */
hid_t zs_store_type(zs_dtype dtype) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    ZS_ASSERT(dtype == ZS_F32 || dtype == ZS_BF16 || dtype == ZS_F16, "%s", zs_dtype_name(dtype));
    if (dtype == ZS_F32) return type;
    size_t mantissa = dtype == ZS_BF16 ? 7 : 10, exponent = 15 - mantissa;
    H5Tset_fields(type, 15, mantissa, exponent, 0, mantissa);
    H5Tset_precision(type, 16);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, ((size_t)1 << (exponent - 1)) - 1);
    return type;
}

/* ZS_DTYPE_OTHER: none of the three. */
static zs_dtype dtype_of(hid_t set) {
    static const zs_dtype known[] = {ZS_F32, ZS_BF16, ZS_F16};
    zs_dtype found = ZS_DTYPE_OTHER;
    hid_t type = H5Dget_type(set);
    for (int i = 0; i < 3; i++) {
        hid_t other = zs_store_type(known[i]);
        if (H5Tequal(type, other) > 0) found = known[i];
        H5Tclose(other);
    }
    H5Tclose(type);
    return found;
}

/* A data set of one dimension, allocated now and not filled; its missing groups are made. -1: failed. */
static hid_t make_set(hid_t file, const char *name, hid_t type, int64_t count) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = H5Screate_simple(1, dims, NULL);
    hid_t links = H5Pcreate(H5P_LINK_CREATE), creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(creation, false); /* the same state gives the same file */
    hid_t set = H5Dcreate2(file, name, type, space, links, creation, H5P_DEFAULT);
    H5Pclose(creation);
    H5Pclose(links);
    H5Sclose(space);
    return set;
}

/* A scalar data set of fixed-length UTF-8 text; a fixed length keeps the bytes in the file's own data, where
 * the envelope's CRC sees them. */
static bool write_text(hid_t file, const char *name, const char *text) {
    size_t length = strlen(text);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), links = H5Pcreate(H5P_LINK_CREATE);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(creation, false);
    H5Tset_size(type, length > 0 ? length : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    H5Pset_create_intermediate_group(links, 1);
    hid_t set = H5Dcreate2(file, name, type, space, links, creation, H5P_DEFAULT);
    bool good = set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    if (set >= 0) good &= H5Dclose(set) >= 0;
    H5Pclose(creation);
    H5Pclose(links);
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

static bool write_number(hid_t file, const char *name, int64_t value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0;
    if (attribute >= 0) good &= H5Aclose(attribute) >= 0;
    H5Sclose(space);
    return good;
}

static bool write_tensors(hid_t file, const zs_model *layout) {
    row *rows = ZS_NEW(row, layout->num_tensors);
    for (int i = 0; i < layout->num_tensors; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        memcpy(rows[i].name, tensor->name, sizeof rows[i].name);
        rows[i].offset = tensor->offset;
        rows[i].rows = tensor->rows;
        rows[i].cols = tensor->cols;
        rows[i].num_dims = tensor->num_dims;
    }
    hid_t name = H5Tcopy(H5T_C_S1), type = H5Tcreate(H5T_COMPOUND, sizeof(row));
    H5Tset_size(name, sizeof rows->name);
    H5Tinsert(type, "name", offsetof(row, name), name);
    H5Tinsert(type, "offset", offsetof(row, offset), H5T_NATIVE_INT64);
    H5Tinsert(type, "rows", offsetof(row, rows), H5T_NATIVE_INT64);
    H5Tinsert(type, "cols", offsetof(row, cols), H5T_NATIVE_INT64);
    H5Tinsert(type, "num_dims", offsetof(row, num_dims), H5T_NATIVE_INT32);
    hid_t set = make_set(file, "model/tensors", type, layout->num_tensors);
    bool good = set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) >= 0;
    if (set >= 0) good &= H5Dclose(set) >= 0;
    H5Tclose(type);
    H5Tclose(name);
    zs_free(rows);
    return good;
}

static zs_status create_file(const char *path, const zs_model *layout, const zs_checkpoint_array *arrays,
                             int num_arrays, zs_dtype dtype, const char *state_json, zs_extent *extents,
                             zs_error *err) {
    hid_t access = zs_store_access(MPI_COMM_NULL), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(creation, ZS_ENVELOPE_BYTES);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    H5Pclose(creation);
    H5Pclose(access);
    if (file < 0) return zs_store_fail(path, "cannot be created", err);
    bool good = write_number(file, "format_version", ZS_FORMAT_VERSION) &&
                write_number(file, "block", ZS_CRC_BLOCK) && write_text(file, "state", state_json);
    if (good && layout) {
        zs_string text = {0};
        zs_hf_print_config(&layout->config, dtype, &text);
        good = write_text(file, "model/config", text.data) && write_tensors(file, layout);
        zs_string_free(&text);
    }
    for (int i = 0; good && i < num_arrays; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s.crc32", arrays[i].name);
        hid_t crcs = make_set(file, name, H5T_STD_U32LE, zs_crc_blocks(arrays[i].total));
        hid_t type = zs_store_type(dtype), data = make_set(file, arrays[i].name, type, arrays[i].total);
        good = crcs >= 0 && data >= 0;
        H5Tclose(type);
        extents[i] = (zs_extent){ZS_ENVELOPE_BYTES, 0};
        if (good && arrays[i].total > 0) {
            haddr_t at = H5Dget_offset(data);
            extents[i] = (zs_extent){(int64_t)at, (int64_t)H5Dget_storage_size(data)};
            good = at != HADDR_UNDEF;
        }
        if (crcs >= 0) good &= H5Dclose(crcs) >= 0;
        if (data >= 0) good &= H5Dclose(data) >= 0;
    }
    zs_status status = good ? ZS_OK : zs_store_fail(path, "not written", err);
    if (H5Fclose(file) < 0 && status == ZS_OK) status = zs_store_fail(path, "not written", err);
    return status;
}

zs_status zs_store_create(const char *path, const zs_model *layout, const zs_checkpoint_array *arrays,
                          int num_arrays, zs_dtype dtype, const char *state_json, zs_extent *extents,
                          zs_error *err) {
    int64_t data = 0, metadata = (1 << 20) + (int64_t)strlen(state_json);
    for (int i = 0; i < num_arrays; i++) {
        data += arrays[i].total * zs_dtype_size(dtype);
        metadata += zs_crc_blocks(arrays[i].total) * (int64_t)sizeof(uint32_t) + 4096;
    }
    unlink(path);
    zs_status status = zs_envelope_reserve(path, data + metadata, metadata, err);
    if (status == ZS_OK)
        status = create_file(path, layout, arrays, num_arrays, dtype, state_json, extents, err);
    if (status == ZS_OK) status = zs_envelope_reserve(path, 0, 0, err);
    return status;
}

zs_status zs_store_rename(const char *aside, const char *path, zs_error *err) {
    if (rename(aside, path) != 0)
        return zs_fail(err, ZS_FAILED, "%s: not renamed to %s: %s", aside, path, strerror(errno));
    zs_flush_folder(path);
    return ZS_OK;
}

zs_status zs_store_finish(const char *path, const zs_checkpoint_array *arrays, int num_arrays,
                          const uint32_t *crcs, zs_error *err) {
    hid_t access = zs_store_access(MPI_COMM_NULL), file = H5Fopen(path, H5F_ACC_RDWR, access);
    H5Pclose(access);
    if (file < 0) return zs_store_fail(path, "cannot be opened again", err);
    bool good = true;
    for (int i = 0; good && i < num_arrays; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s.crc32", arrays[i].name);
        hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
        good = set >= 0;
        if (good && arrays[i].total > 0)
            good = H5Dwrite(set, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, crcs) >= 0;
        crcs += zs_crc_blocks(arrays[i].total);
        if (set >= 0) good &= H5Dclose(set) >= 0;
    }
    zs_status status = good ? ZS_OK : zs_store_fail(path, "not written", err);
    if (H5Fclose(file) < 0 && status == ZS_OK) status = zs_store_fail(path, "not written", err);
    return status;
}

/* Reading. */

zs_status zs_store_read_text(hid_t file, const char *path, const char *name, zs_string *out, zs_error *err) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return zs_fail(err, ZS_FAILED, "%s: holds no %s", path, name);
    hid_t type = H5Dget_type(set);
    bool good = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    if (good) {
        size_t size = H5Tget_size(type);
        char *text = zs_alloc((int64_t)size + 1, 1);
        good = H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
        if (good) zs_string_puts(out, text);
        zs_free(text);
    }
    zs_status status = good ? ZS_OK : zs_store_fail(path, name, err);
    H5Tclose(type);
    H5Dclose(set);
    return status;
}

zs_status zs_store_read_config(hid_t file, const char *path, zs_model_config *config, zs_error *err) {
    zs_string text = {0};
    zs_status status = zs_store_read_text(file, path, "model/config", &text, err);
    if (status == ZS_OK) {
        char where[PATH_MAX + 20];
        snprintf(where, sizeof where, "%s: model/config", path);
        status = zs_hf_parse_config(text.data, text.length, where, config, err);
    }
    zs_string_free(&text);
    return status;
}

/* Whether a set has one dimension of `count` elements of that class and size. */
static bool has_form(hid_t set, H5T_class_t class, size_t size, int64_t count) {
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    hsize_t dims[1] = {0};
    bool good = H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, dims, NULL) == 1 &&
                (int64_t)dims[0] == count && H5Tget_class(type) == class && H5Tget_size(type) == size;
    H5Tclose(type);
    H5Sclose(space);
    return good;
}

zs_status zs_store_open_array(hid_t file, const char *path, const char *name, int64_t total, zs_dtype *dtype,
                              hid_t *set, uint32_t *crcs, zs_error *err) {
    char crc_name[200];
    snprintf(crc_name, sizeof crc_name, "%s.crc32", name);
    *set = H5Dopen2(file, name, H5P_DEFAULT);
    if (*set < 0) return zs_fail(err, ZS_FAILED, "%s: holds no array %s", path, name);
    hid_t other = H5Dopen2(file, crc_name, H5P_DEFAULT);
    zs_status status = ZS_OK;
    zs_dtype found = dtype_of(*set);
    if (dtype) *dtype = found;
    int64_t bytes = dtype && found != ZS_DTYPE_OTHER ? zs_dtype_size(found) : 4;
    if (!dtype && (found == ZS_BF16 || found == ZS_F16)) {
        status = zs_fail(err, ZS_FAILED, "%s: array %s is stored as %s; F32 expected (convert makes it)",
                         path, name, zs_dtype_name(found));
    } else if (found == ZS_DTYPE_OTHER || !has_form(*set, H5T_FLOAT, (size_t)bytes, total)) {
        hid_t space = H5Dget_space(*set);
        status = zs_fail(err, ZS_FAILED, "%s: array %s has %lld elements; %lld float32 expected", path, name,
                         (long long)H5Sget_simple_extent_npoints(space), (long long)total);
        H5Sclose(space);
    } else if (other < 0 || !has_form(other, H5T_INTEGER, 4, zs_crc_blocks(total)) ||
               (total > 0 && H5Dread(other, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, crcs) < 0)) {
        status = zs_fail(err, ZS_FAILED, "%s: %s does not hold the CRCs of the array", path, crc_name);
    }
    if (other >= 0) H5Dclose(other);
    if (status) {
        H5Dclose(*set);
        *set = -1;
    }
    return status;
}
