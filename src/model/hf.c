/* Hugging Face model folders: weights in.
 *
 * Loading checks every tensor of the layout against the files before the parameters are allocated, so that a
 * config that asks for more than the files hold costs a message and not the machine's memory. */
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES  4400
#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"

typedef struct shards { /* the weight files of a folder */
    int count;
    char (*names)[256];
    zs_safetensors **files;
    json_t *weight_map; /* tensor -> file name; NULL for a single file */
} shards;

static void shards_close(shards *shards) {
    for (int i = 0; i < shards->count; i++)
        zs_safetensors_close(shards->files[i]);
    zs_free(shards->files);
    zs_free(shards->names);
    json_decref(shards->weight_map);
}

static int shard_index(const shards *shards, const char *name) {
    for (int i = 0; i < shards->count; i++)
        if (strcmp(shards->names[i], name) == 0) return i;
    return -1;
}

static zs_status shard_open(shards *shards, const char *folder, const char *name, zs_error *err) {
    char path[PATH_BYTES];
    zs_path_join(path, sizeof path, folder, name);
    shards->files = zs_grow(shards->files, shards->count, shards->count + 1, sizeof *shards->files);
    shards->names = zs_grow(shards->names, shards->count, shards->count + 1, sizeof *shards->names);
    zs_status status = zs_safetensors_open(path, &shards->files[shards->count], err);
    if (status) return status;
    snprintf(shards->names[shards->count++], sizeof *shards->names, "%s", name);
    return ZS_OK;
}

/* Opens every shard that the index names, and finds every tensor where the index says it is. */
static zs_status shards_open_index(shards *shards, const char *folder, const char *index, zs_error *err) {
    zs_string text = {0};
    zs_status status = zs_file_read(index, &text, err);
    if (status) return status;
    json_error_t fault;
    json_t *object = json_loadb(text.data, (size_t)text.length, JSON_REJECT_DUPLICATES, &fault);
    zs_string_free(&text);
    if (!object) return zs_fail(err, ZS_FAILED, "%s: line %d: %s", index, fault.line, fault.text);
    shards->weight_map = json_incref(json_object_get(object, "weight_map"));
    json_decref(object);
    if (!json_is_object(shards->weight_map))
        return zs_fail(err, ZS_FAILED, "%s: weight_map is missing or no object", index);
    const char *tensor;
    json_t *value;
    json_object_foreach(shards->weight_map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || name[0] == '\0' || name[0] == '.' || strchr(name, '/') || strlen(name) > 250)
            return zs_fail(err, ZS_FAILED,
                           "%s: weight_map: %.100s: expected the name of a file in this folder", index,
                           tensor);
        int shard = shard_index(shards, name);
        if (shard < 0) {
            status = shard_open(shards, folder, name, err);
            if (status) return status;
            shard = shards->count - 1;
        }
        if (!zs_safetensors_find(shards->files[shard], tensor))
            return zs_fail(err, ZS_FAILED, "%s/%s: tensor %.100s is not in this file; %s says that it is",
                           folder, name, tensor, INDEX_FILE);
    }
    return ZS_OK;
}

static zs_status shards_open(shards *shards, const char *folder, zs_error *err) {
    char path[PATH_BYTES];
    zs_path_join(path, sizeof path, folder, SINGLE_FILE);
    if (zs_file_exists(path)) return shard_open(shards, folder, SINGLE_FILE, err);
    zs_path_join(path, sizeof path, folder, INDEX_FILE);
    if (zs_file_exists(path)) return shards_open_index(shards, folder, path, err);
    static const char *const others[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                         "consolidated.00.pth"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (zs_file_exists(zs_path_join(path, sizeof path, folder, others[i])))
            return zs_fail(err, ZS_FAILED,
                           "%s: weights in safetensors are needed; %s is there, which cannot be read "
                           "(transformers makes them: save_pretrained with safe_serialization=True)",
                           folder, others[i]);
    return zs_fail(err, ZS_FAILED, "%s: neither %s nor %s is there", folder, SINGLE_FILE, INDEX_FILE);
}

static const zs_st_tensor *shards_find(const shards *shards, const char *name, int *shard) {
    if (shards->weight_map) {
        const char *file = json_string_value(json_object_get(shards->weight_map, name));
        *shard = file ? shard_index(shards, file) : -1;
        return *shard < 0 ? NULL : zs_safetensors_find(shards->files[*shard], name);
    }
    *shard = 0;
    return zs_safetensors_find(shards->files[0], name);
}

static void print_shape(char *out, size_t size, int num_dims, const int64_t *dims) {
    int used = snprintf(out, size, "[");
    for (int i = 0; i < num_dims; i++)
        used += snprintf(out + used, size - (size_t)used, "%s%lld", i ? ", " : "", (long long)dims[i]);
    snprintf(out + used, size - (size_t)used, "]");
}

typedef struct source { /* where the files hold a tensor */
    const zs_st_tensor *tensor;
    int shard;
} source;

/* Two tensors may be missing: of a tied model the embedding, where the head that equals it is there (writers
 * that drop shared tensors keep one of the two names); and the bias of a value head, which is then zero
 * (transformers' heads for sequence classification have none). */
static const zs_st_tensor *find_with_excuses(const shards *shards, const zs_model *layout,
                                             const zs_tensor *want, int *shard, bool *zero) {
    const zs_st_tensor *found = shards_find(shards, want->name, shard);
    *zero = !found && want->offset == layout->score_bias;
    bool tied = want->offset == layout->embed && layout->config.tie_word_embeddings;
    return found || !tied ? found : shards_find(shards, "lm_head.weight", shard);
}

static zs_status find_source(const char *folder, const shards *shards, const zs_model *layout,
                             const zs_tensor *want, source *out, zs_error *err) {
    int shard;
    bool zero;
    const zs_st_tensor *found = find_with_excuses(shards, layout, want, &shard, &zero);
    *out = (source){found, shard};
    if (zero) return ZS_OK;
    int64_t dims[2] = {want->rows, want->cols};
    char expected[64], shape[240];
    print_shape(expected, sizeof expected, want->num_dims, dims);
    if (!found) {
        const zs_safetensors *any = shards->count > 0 ? shards->files[0] : NULL;
        bool some = any && zs_safetensors_count(any) > 0;
        return zs_fail(err, ZS_FAILED,
                       "%s/%s: tensor %s is missing; config.json asks for one of shape %s%s%.100s", folder,
                       shards->weight_map ? INDEX_FILE : SINGLE_FILE, want->name, expected,
                       some ? "; the first one there is " : "", some ? zs_safetensors_at(any, 0)->name : "");
    }
    print_shape(shape, sizeof shape, found->num_dims, found->dims);
    bool same = found->num_dims == want->num_dims && found->dims[0] == want->rows &&
                (want->num_dims < 2 || found->dims[1] == want->cols);
    if (!same)
        return zs_fail(err, ZS_FAILED, "%s/%s: tensor %s has shape %s; config.json asks for %s", folder,
                       shards->names[shard], found->name, shape, expected);
    if (found->dtype != ZS_F32 && found->dtype != ZS_BF16 && found->dtype != ZS_F16)
        return zs_fail(err, ZS_FAILED, "%s/%s: tensor %s is not F32, BF16 or F16", folder,
                       shards->names[shard], found->name);
    return ZS_OK;
}

/* Whether all of a tensor's bytes are zero. */
static zs_status is_zero(const zs_safetensors *file, const zs_st_tensor *tensor, bool *out, zs_error *err) {
    int64_t bytes = tensor->count * zs_dtype_size(tensor->dtype);
    unsigned char *data = zs_alloc(bytes, 1);
    zs_status status = zs_safetensors_read(file, tensor, 0, tensor->count, tensor->dtype, data, err);
    *out = true;
    for (int64_t b = 0; b < bytes; b++)
        *out &= data[b] == 0;
    zs_free(data);
    return status;
}

/* Whether a tensor belongs to a layer after the last that config.json asks for. */
static bool is_of_later_layer(const char *name, const zs_model *layout) {
    long long layer;
    return sscanf(name, "model.layers.%lld.", &layer) == 1 && layer >= layout->config.num_hidden_layers;
}

/* Tensors that the layout does not know are left out (rotary buffers, the head of a tied model), layers with
 * a warning. A bias that is not zero would change the result, so it is refused (attention_bias of Llama means
 * one on o_proj too). */
static zs_status check_extras(const char *folder, const shards *shards, const zs_model *model,
                              zs_error *err) {
    bool warned = false;
    for (int s = 0; s < shards->count; s++) {
        for (int i = 0; i < zs_safetensors_count(shards->files[s]); i++) {
            const zs_st_tensor *tensor = zs_safetensors_at(shards->files[s], i);
            if (zs_model_find(model, tensor->name)) continue;
            if (!warned && is_of_later_layer(tensor->name, model)) {
                zs_log(ZS_LOG_WARNING, "%s: config.json asks for %lld layers; %.100s and others are left out",
                       folder, (long long)model->config.num_hidden_layers, tensor->name);
                warned = true;
            }
            if (is_of_later_layer(tensor->name, model)) continue;
            size_t length = strlen(tensor->name);
            bool zero = true;
            if (length > 5 && strcmp(tensor->name + length - 5, ".bias") == 0) {
                zs_status status = is_zero(shards->files[s], tensor, &zero, err);
                if (status) return status;
            }
            if (!zero)
                return zs_fail(err, ZS_FAILED,
                               "%s/%s: tensor %.100s: a bias that this kind of model does not have here",
                               folder, shards->names[s], tensor->name);
            zs_log(ZS_LOG_DEBUG, "%s/%s: tensor %.100s is not part of the model, left out", folder,
                   shards->names[s], tensor->name);
        }
    }
    return ZS_OK;
}

struct zs_hf_folder {
    shards files;
    zs_model *layout;
    source *sources; /* [num_tensors] of the layout, where the files hold them */
};

void zs_hf_close(zs_hf_folder *folder) {
    if (!folder) return;
    shards_close(&folder->files);
    zs_model_destroy(folder->layout);
    zs_free(folder->sources);
    zs_free(folder);
}

zs_status zs_hf_open(const char *path, zs_hf_folder **out, zs_error *err) {
    *out = NULL;
    zs_model_config config;
    zs_status status = zs_hf_read_config(path, &config, err);
    if (status) return status;
    zs_hf_folder *folder = ZS_NEW(zs_hf_folder, 1);
    zs_model *layout = folder->layout = zs_model_layout(&config);
    folder->sources = ZS_NEW(source, layout->num_tensors);
    status = shards_open(&folder->files, path, err);
    for (int i = 0; status == ZS_OK && i < layout->num_tensors; i++)
        status = find_source(path, &folder->files, layout, &layout->tensors[i], &folder->sources[i], err);
    if (status == ZS_OK) status = check_extras(path, &folder->files, layout, err);
    if (status)
        zs_hf_close(folder);
    else
        *out = folder;
    return status;
}

const zs_model *zs_hf_layout(const zs_hf_folder *folder) {
    return folder->layout;
}

zs_dtype zs_hf_dtype(const zs_hf_folder *folder) {
    zs_dtype dtype = folder->sources[0].tensor->dtype;
    for (int i = 1; i < folder->layout->num_tensors; i++) {
        const zs_st_tensor *tensor = folder->sources[i].tensor;
        if (tensor && tensor->dtype != dtype) return ZS_F32;
    }
    return dtype;
}

/* The tensor of the layout that holds element `at`. */
static int tensor_at(const zs_model *layout, int64_t at) {
    int low = 0, high = layout->num_tensors;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (layout->tensors[middle].offset <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static zs_status read_range(const zs_hf_folder *folder, int64_t begin, int64_t end, zs_dtype dtype, char *to,
                            zs_error *err) {
    const zs_model *layout = folder->layout;
    zs_status status = ZS_OK;
    for (int i = tensor_at(layout, begin); status == ZS_OK && begin < end; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        int64_t last = tensor->offset + tensor->rows * tensor->cols,
                count = (last < end ? last : end) - begin;
        const source *from = &folder->sources[i];
        if (!from->tensor)
            memset(to, 0, (size_t)(count * zs_dtype_size(dtype)));
        else
            status = zs_safetensors_read(folder->files.files[from->shard], from->tensor,
                                         begin - tensor->offset, count, dtype, to, err);
        begin += count;
        to += count * zs_dtype_size(dtype);
    }
    return status;
}

/* Threads that read pieces here and there look like random access to the system, which then reads no further
 * than it must: without this hint a cold file comes at a fraction of the disk's rate. */
static void will_read(const zs_hf_folder *folder, int64_t begin, int64_t end) {
    const zs_model *layout = folder->layout;
    if (end > layout->num_params) end = layout->num_params;
    for (int i = begin < end ? tensor_at(layout, begin) : 0; begin < end; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        const source *from = &folder->sources[i];
        int64_t last = tensor->offset + tensor->rows * tensor->cols, stop = last < end ? last : end;
        if (from->tensor)
            zs_safetensors_will_read(folder->files.files[from->shard], from->tensor, begin - tensor->offset,
                                     stop - begin);
        begin = stop;
    }
}

#define SPAN  ((int64_t)512 << 10) /* elements that a thread takes at a time */
#define AHEAD (32 * SPAN)          /* elements that the system is told of at a time, one such step ahead */

zs_status zs_hf_read(const zs_hf_folder *folder, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                     zs_error *err) {
    ZS_ASSERT(dtype == ZS_F32 || dtype == ZS_BF16 || dtype == ZS_F16, "read as %s", zs_dtype_name(dtype));
    ZS_ASSERT(begin >= 0 && end <= folder->layout->num_params, "elements %lld to %lld", (long long)begin,
              (long long)end);
    zs_status first = ZS_OK;
    will_read(folder, begin, end - begin < AHEAD ? end : begin + AHEAD);
#pragma omp parallel for schedule(dynamic) if (end - begin > 2 * SPAN)
    for (int64_t at = begin; at < end; at += SPAN) {
        zs_error local = {0};
        zs_status status = __atomic_load_n(&first, __ATOMIC_RELAXED);
        if (status) continue; /* one error is enough */
        if ((at - begin) % AHEAD == 0 && end - at > AHEAD)
            will_read(folder, at + AHEAD, end - at < 2 * AHEAD ? end : at + 2 * AHEAD);
        status = read_range(folder, at, end - at < SPAN ? end : at + SPAN, dtype,
                            (char *)to + (at - begin) * zs_dtype_size(dtype), &local);
#pragma omp critical(zs_hf_read_failed)
        if (status && !first) {
            __atomic_store_n(&first, status, __ATOMIC_RELAXED);
            if (err) *err = local;
        }
    }
    return first;
}

int64_t zs_hf_bytes_read(const zs_hf_folder *folder) {
    int64_t bytes = 0;
    for (int i = 0; i < folder->files.count; i++)
        bytes += zs_safetensors_bytes_read(folder->files.files[i]);
    return bytes;
}

zs_status zs_hf_read_piece(const zs_hf_folder *folder, const zs_model_piece *piece, float *work, zs_model *to,
                           zs_error *err) {
    zs_status status = zs_hf_read(folder, piece->begin, piece->end, ZS_F32, work, err);
    if (status == ZS_OK) zs_model_quantize_piece(to, piece, work);
    return status;
}

static zs_status read_int8(const zs_hf_folder *folder, zs_model *to, zs_error *err) {
    const int64_t most = 4 << 20;
    float *work = ZS_NEW(float, zs_model_piece_params(to, most));
    zs_status status = ZS_OK;
    for (zs_model_piece p = {0}; status == ZS_OK && zs_model_next_piece(to, most, &p);)
        status = zs_hf_read_piece(folder, &p, work, to, err);
    zs_free(work);
    return status;
}

zs_status zs_hf_load_as(const char *path, zs_dtype dtype, zs_model **out, zs_error *err) {
    zs_hf_folder *folder;
    *out = NULL;
    zs_status status = zs_hf_open(path, &folder, err);
    if (status) return status;
    const zs_model_config *config = &folder->layout->config;
    zs_model *model = dtype == ZS_F32 ? zs_model_create(config) : zs_model_create_narrow(config, dtype);
    if (dtype == ZS_INT8)
        status = read_int8(folder, model, err);
    else
        status = zs_hf_read(folder, 0, model->num_params, dtype, zs_model_weights(model), err);
    zs_hf_close(folder);
    zs_model_widen_vectors(model);
    if (status)
        zs_model_destroy(model);
    else
        *out = model;
    return status;
}

zs_status zs_hf_load(const char *path, zs_model **out, zs_error *err) {
    return zs_hf_load_as(path, ZS_F32, out, err);
}

zs_status zs_hf_source(void *folder, int64_t begin, int64_t end, zs_dtype dtype, void *to, zs_error *err) {
    will_read(folder, end, end + AHEAD / 4);
    return zs_hf_read(folder, begin, end, dtype, to, err);
}
