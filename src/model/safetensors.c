/* Safetensors files: 8 bytes of header length (little-endian), a JSON header, the data.
 *
 * A file from elsewhere is not trusted: its header is checked whole before a byte of data is used, so that
 * whoever holds a zs_st_tensor may read count elements at data without thinking. */
#include "zerosearch/hf.h"
#include "zerosearch/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_HEADER (100 << 20) /* bytes; the reference implementation has the same limit */

typedef struct entry { /* a tensor and where it stands in the data section */
    zs_st_tensor tensor;
    int64_t begin, end; /* bytes */
    void *copy;         /* of data that is not aligned in the file, else NULL */
} entry;

struct zs_safetensors {
    char *path;
    char *map;
    int64_t bytes;
    json_t *header; /* owns the names */
    int count;
    entry *entries; /* by offset */
    int *by_name;   /* indices of entries, sorted by name */
};

static const struct {
    const char *name;
    zs_dtype dtype;
    int64_t size;
} dtypes[] = {{"F32", ZS_F32, 4},
              {"BF16", ZS_BF16, 2},
              {"F16", ZS_F16, 2},
              {"I32", ZS_I32, 4},
              {"I64", ZS_I64, 8},
              {"F64", ZS_DTYPE_OTHER, 8},
              {"U64", ZS_DTYPE_OTHER, 8},
              {"U32", ZS_DTYPE_OTHER, 4},
              {"I16", ZS_DTYPE_OTHER, 2},
              {"U16", ZS_DTYPE_OTHER, 2},
              {"I8", ZS_DTYPE_OTHER, 1},
              {"U8", ZS_DTYPE_OTHER, 1},
              {"BOOL", ZS_DTYPE_OTHER, 1},
              {"F8_E4M3", ZS_DTYPE_OTHER, 1},
              {"F8_E5M2", ZS_DTYPE_OTHER, 1}};

static int compare_offsets(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

/* One header entry: {"dtype": D, "shape": [...], "data_offsets": [begin, end]}. */
static zs_status read_entry(const char *path, const char *name, json_t *object, int64_t data_bytes,
                            entry *out, zs_error *err) {
    zs_st_tensor *tensor = &out->tensor;
    tensor->name = name;
    if (!json_is_object(object))
        return zs_fail(err, ZS_FAILED,
                       "%s: tensor %.100s: expected an object with dtype, shape and data_offsets", path,
                       name);
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    int64_t size = 0;
    for (size_t i = 0; dtype && i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtype, dtypes[i].name) == 0) {
            tensor->dtype = dtypes[i].dtype;
            size = dtypes[i].size;
        }
    }
    if (size == 0)
        return zs_fail(
            err, ZS_FAILED,
            "%s: tensor %.100s: dtype is %.40s; expected F32, BF16, F16, I32, I64 or another of the format",
            path, name, dtype ? dtype : "missing");

    json_t *shape = json_object_get(object, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > 8)
        return zs_fail(err, ZS_FAILED, "%s: tensor %.100s: shape is missing or not a list of at most 8 sizes",
                       path, name);
    tensor->num_dims = (int)json_array_size(shape);
    tensor->count = 1;
    int64_t bytes = size;
    for (int i = 0; i < tensor->num_dims; i++) {
        json_t *dim = json_array_get(shape, (size_t)i);
        tensor->dims[i] = json_integer_value(dim);
        if (!json_is_integer(dim) || tensor->dims[i] < 0)
            return zs_fail(err, ZS_FAILED, "%s: tensor %.100s: size %d of its shape is not a number >= 0",
                           path, name, i);
        if (__builtin_mul_overflow(bytes, tensor->dims[i], &bytes))
            return zs_fail(err, ZS_FAILED, "%s: tensor %.100s: its shape has more bytes than fit in 64 bits",
                           path, name);
    }
    tensor->count = bytes / size;

    json_t *offsets = json_object_get(object, "data_offsets");
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return zs_fail(err, ZS_FAILED, "%s: tensor %.100s: data_offsets is missing or not [begin, end]", path,
                       name);
    out->begin = json_integer_value(begin);
    out->end = json_integer_value(end);
    if (out->begin < 0 || out->end < out->begin || out->end > data_bytes)
        return zs_fail(
            err, ZS_FAILED,
            "%s: tensor %.100s: data_offsets [%lld, %lld] lie outside the %lld bytes of data in the file "
            "(truncated?)",
            path, name, (long long)out->begin, (long long)out->end, (long long)data_bytes);
    if (out->end - out->begin != bytes)
        return zs_fail(err, ZS_FAILED, "%s: tensor %.100s: holds %lld bytes; its shape and %s need %lld",
                       path, name, (long long)(out->end - out->begin), dtype, (long long)bytes);
    return ZS_OK;
}

static zs_status read_header(zs_safetensors *file, zs_error *err) {
    const char *path = file->path;
    const unsigned char *bytes = (const unsigned char *)file->map;
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > MAX_HEADER || (int64_t)length > file->bytes - 8)
        return zs_fail(
            err, ZS_FAILED,
            "%s: header length %llu does not fit in the file of %lld bytes (truncated, or not a safetensors "
            "file)",
            path, (unsigned long long)length, (long long)file->bytes);
    if (length < 2 || bytes[8] != '{')
        return zs_fail(err, ZS_FAILED, "%s: the header is not a JSON object (not a safetensors file)", path);
    json_error_t fault;
    file->header = json_loadb(file->map + 8, (size_t)length, JSON_REJECT_DUPLICATES, &fault);
    if (!json_is_object(file->header))
        return zs_fail(err, ZS_FAILED, "%s: header: %s", path, file->header ? "not an object" : fault.text);

    file->entries = ZS_NEW(entry, (int64_t)json_object_size(file->header));
    int64_t data_bytes = file->bytes - 8 - (int64_t)length;
    const char *name;
    json_t *object;
    json_object_foreach(file->header, name, object) {
        if (strcmp(name, "__metadata__") == 0) continue;
        zs_status status = read_entry(path, name, object, data_bytes, &file->entries[file->count], err);
        if (status) return status;
        file->count++;
    }

    /* In order of offset each tensor must begin where the one before it ends: no overlap, no hole. */
    qsort(file->entries, (size_t)file->count, sizeof(entry), compare_offsets);
    int64_t at = 0;
    for (int i = 0; i < file->count; i++) {
        entry *e = &file->entries[i];
        if (e->begin != at)
            return zs_fail(
                err, ZS_FAILED, "%s: tensor %.100s begins at byte %lld of the data; %lld expected (%s)", path,
                e->tensor.name, (long long)e->begin, (long long)at, e->begin < at ? "overlap" : "hole");
        at = e->end;
    }
    if (at != data_bytes)
        return zs_fail(err, ZS_FAILED, "%s: %lld bytes of data, but its tensors end at %lld", path,
                       (long long)data_bytes, (long long)at);

    char *data = file->map + 8 + length;
    for (int i = 0; i < file->count; i++) {
        entry *e = &file->entries[i];
        e->tensor.data = data + e->begin;
        int64_t size = zs_dtype_size(e->tensor.dtype);
        if (size > 1 && (uintptr_t)e->tensor.data % (uintptr_t)size != 0) {
            /* The format does not promise alignment, C wants it. */
            e->copy = zs_alloc(e->end - e->begin, 1);
            memcpy(e->copy, e->tensor.data, (size_t)(e->end - e->begin));
            e->tensor.data = e->copy;
        }
    }
    return ZS_OK;
}

static int compare_names(const void *a, const void *b, void *context) {
    const zs_safetensors *file = context;
    return strcmp(file->entries[*(const int *)a].tensor.name, file->entries[*(const int *)b].tensor.name);
}

zs_status zs_safetensors_open(const char *path, zs_safetensors **out, zs_error *err) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return zs_fail(err, ZS_FAILED, "%s: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < 8) {
        close(fd);
        return zs_fail(err, ZS_FAILED,
                       "%s: not a file of at least 8 bytes (truncated, or not a safetensors file)", path);
    }
    char *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return zs_fail(err, ZS_FAILED, "%s: cannot be mapped: %s", path, strerror(errno));

    zs_safetensors *file = ZS_NEW(zs_safetensors, 1);
    file->path = zs_strdup(path);
    file->map = map;
    file->bytes = info.st_size;
    zs_status status = read_header(file, err);
    if (status) {
        zs_safetensors_close(file);
        return status;
    }
    file->by_name = ZS_NEW(int, file->count);
    for (int i = 0; i < file->count; i++)
        file->by_name[i] = i;
    qsort_r(file->by_name, (size_t)file->count, sizeof(int), compare_names, file);
    *out = file;
    return ZS_OK;
}

void zs_safetensors_close(zs_safetensors *file) {
    if (!file) return;
    if (file->entries)
        for (int i = 0; i < file->count; i++)
            zs_free(file->entries[i].copy);
    zs_free(file->entries);
    zs_free(file->by_name);
    zs_free(file->path);
    json_decref(file->header);
    munmap(file->map, (size_t)file->bytes);
    zs_free(file);
}

int zs_safetensors_count(const zs_safetensors *file) {
    return file->count;
}

const zs_st_tensor *zs_safetensors_at(const zs_safetensors *file, int index) {
    ZS_ASSERT(index >= 0 && index < file->count, "tensor %d of %d", index, file->count);
    return &file->entries[index].tensor;
}

const zs_st_tensor *zs_safetensors_find(const zs_safetensors *file, const char *name) {
    int low = 0, high = file->count;
    while (low < high) {
        int middle = (low + high) / 2;
        const zs_st_tensor *tensor = &file->entries[file->by_name[middle]].tensor;
        int order = strcmp(name, tensor->name);
        if (order == 0) return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Writing. */

/* The header, padded with blanks so that the data begins at a multiple of 8. */
static void print_header(const zs_st_tensor *tensors, int count, zs_string *out) {
    json_t *header = json_object();
    json_object_set_new(header, "__metadata__", json_pack("{s:s}", "format", "pt"));
    int64_t at = 0;
    for (int i = 0; i < count; i++) {
        const zs_st_tensor *tensor = &tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < tensor->num_dims; d++)
            json_array_append_new(shape, json_integer(tensor->dims[d]));
        int64_t end = at + tensor->count * zs_dtype_size(tensor->dtype);
        json_object_set_new(header, tensor->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", zs_dtype_name(tensor->dtype), "shape",
                                      shape, "data_offsets", (json_int_t)at, (json_int_t)end));
        at = end;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    ZS_ASSERT(text, "a tensor's name is not UTF-8");
    zs_string_puts(out, text);
    free(text);
    json_decref(header);
    while (out->length % 8 != 0)
        zs_string_append(out, " ", 1);
}

zs_status zs_safetensors_write(const char *path, const zs_st_tensor *tensors, int count, zs_error *err) {
    char aside[PATH_MAX], folder[PATH_MAX];
    if (strlen(path) + 5 > sizeof aside)
        return zs_fail(err, ZS_USAGE, "%.200s...: the path is too long", path);
    snprintf(aside, sizeof aside, "%s.tmp", path);
    for (int i = 0; i < count; i++) {
        int64_t elements = 1;
        for (int d = 0; d < tensors[i].num_dims; d++)
            elements *= tensors[i].dims[d];
        ZS_ASSERT(zs_dtype_size(tensors[i].dtype) > 0 && elements == tensors[i].count, "%s", tensors[i].name);
    }
    FILE *file = fopen(aside, "wb");
    if (!file) return zs_fail(err, ZS_FAILED, "%s: %s", aside, strerror(errno));

    zs_string header = {0};
    print_header(tensors, count, &header);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header.length >> 8 * i);
    bool good = fwrite(length, 1, 8, file) == 8 &&
                fwrite(header.data, 1, (size_t)header.length, file) == (size_t)header.length;
    zs_string_free(&header);
    for (int i = 0; good && i < count; i++) {
        size_t bytes = (size_t)(tensors[i].count * zs_dtype_size(tensors[i].dtype));
        good = bytes == 0 || fwrite(tensors[i].data, 1, bytes, file) == bytes;
    }
    good = good && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int fault = errno;
    if (fclose(file) != 0 && good) {
        good = false;
        fault = errno;
    }
    if (good && rename(aside, path) != 0) {
        good = false;
        fault = errno;
    }
    if (!good) {
        unlink(aside);
        return zs_fail(err, ZS_FAILED, "%s: not written: %s", path, strerror(fault));
    }
    snprintf(folder, sizeof folder, "%s", path);
    int fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd); /* the rename itself; some file systems refuse it for folders, which is no loss of data */
        close(fd);
    }
    return ZS_OK;
}
