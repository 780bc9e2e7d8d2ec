/* Hugging Face model folders: weights out.
 *
 * Weights pass through in blocks, so that a model larger than memory can be saved from wherever it comes.
 * Every file is written aside and renamed only when all are on disk; config.json goes last, and first the old
 * one, so that a folder with a config.json never mixes two models. */
#include "hf_carry.h"
#include "zerosearch/memory.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES  4400
#define FOLDER_MAX  4000
#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"
#define BLOCK       ((int64_t)4 << 20) /* elements that are in memory at a time */

typedef struct saving { /* what is saved, where to, and what was seen on the way */
    const zs_model *layout;
    zs_model_source *source;
    void *context;
    zs_dtype dtype;
    char *block; /* [BLOCK] of dtype */

    char folder[PATH_BYTES]; /* files are written there under NAME.new, to be renamed together */
    int count;
    char (*names)[256];
} saving;

static const char *aside_path(saving *saving, const char *name, char out[PATH_BYTES]) {
    char aside[300];
    saving->names = zs_grow(saving->names, saving->count, saving->count + 1, sizeof *saving->names);
    snprintf(saving->names[saving->count++], sizeof *saving->names, "%s", name);
    snprintf(aside, sizeof aside, "%s.new", name);
    return zs_path_join(out, PATH_BYTES, saving->folder, aside);
}

/* Renames all, or removes all when something failed before. */
static zs_status saving_finish(saving *saving, zs_status status, zs_error *err) {
    char aside[300], from[PATH_BYTES], to[PATH_BYTES];
    for (int i = 0; i < saving->count; i++) {
        snprintf(aside, sizeof aside, "%s.new", saving->names[i]);
        zs_path_join(from, sizeof from, saving->folder, aside);
        zs_path_join(to, sizeof to, saving->folder, saving->names[i]);
        if (status)
            unlink(from);
        else if (rename(from, to) != 0)
            status = zs_fail(err, ZS_FAILED, "%s: not renamed: %s", to, strerror(errno));
    }
    if (status == ZS_OK) zs_flush_folder(to);
    zs_free(saving->names);
    return status;
}

/* The tensors [first, last) of the layout as one file. */
static zs_status save_tensors(saving *saving, const char *name, int first, int last, zs_error *err) {
    const zs_model *layout = saving->layout;
    zs_st_tensor *list = ZS_NEW(zs_st_tensor, last - first);
    for (int i = first; i < last; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        list[i - first] = (zs_st_tensor){tensor->name,
                                         saving->dtype,
                                         tensor->num_dims,
                                         {tensor->rows, tensor->cols},
                                         tensor->rows * tensor->cols,
                                         NULL};
    }
    char path[PATH_BYTES];
    zs_st_writer *writer;
    zs_status status = zs_st_writer_open(aside_path(saving, name, path), list, last - first, &writer, err);
    zs_free(list);
    if (status) return status;
    for (int i = first; i < last; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        int64_t end = tensor->offset + tensor->rows * tensor->cols;
        for (int64_t at = tensor->offset; status == ZS_OK && at < end; at += BLOCK) {
            int64_t n = end - at < BLOCK ? end - at : BLOCK;
            status = saving->source(saving->context, at, at + n, saving->dtype, saving->block, err);
            if (status == ZS_OK)
                status = zs_st_writer_append(writer, saving->block, n * zs_dtype_size(saving->dtype), err);
        }
    }
    return zs_st_writer_close(writer, status, err);
}

/* The last tensor (exclusive) of the shard that begins with `first`; at least one tensor goes into each. */
static int shard_end(const zs_model *model, int first, int64_t element_bytes, int64_t shard_bytes) {
    int64_t bytes = 0;
    int last = first;
    while (last < model->num_tensors) {
        bytes += model->tensors[last].rows * model->tensors[last].cols * element_bytes;
        if (shard_bytes > 0 && bytes > shard_bytes && last > first) break;
        last++;
    }
    return last;
}

static zs_status save_weights(saving *saving, int64_t shard_bytes, zs_error *err) {
    const zs_model *layout = saving->layout;
    int64_t size = zs_dtype_size(saving->dtype), total = 0;
    int num_shards = 0;
    for (int first = 0; first < layout->num_tensors; num_shards++)
        first = shard_end(layout, first, size, shard_bytes);
    if (num_shards <= 1) return save_tensors(saving, SINGLE_FILE, 0, layout->num_tensors, err);

    json_t *map = json_object();
    zs_status status = ZS_OK;
    for (int shard = 0, first = 0; status == ZS_OK && shard < num_shards; shard++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, num_shards);
        int last = shard_end(layout, first, size, shard_bytes);
        for (int i = first; i < last; i++) {
            json_object_set_new(map, layout->tensors[i].name, json_string(name));
            total += layout->tensors[i].rows * layout->tensors[i].cols * size;
        }
        status = save_tensors(saving, name, first, last, err);
        first = last;
    }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (status == ZS_OK) {
        char path[PATH_BYTES], *text = json_dumps(index, JSON_INDENT(2));
        status = zs_file_write(aside_path(saving, INDEX_FILE, path), text, (int64_t)strlen(text), err);
        free(text);
    }
    json_decref(index);
    return status;
}

static zs_status save_text(saving *saving, const char *name, const zs_string *text, zs_error *err) {
    char path[PATH_BYTES];
    return zs_file_write(aside_path(saving, name, path), text->data, text->length, err);
}

/* Files that go over as they are: the tokenizer's. */
static zs_status carry_files(saving *saving, const char *from, zs_error *err) {
    zs_status status = ZS_OK;
    for (int i = 0; status == ZS_OK && zs_hf_carried_files[i]; i++) {
        char source[PATH_BYTES];
        zs_path_join(source, sizeof source, from, zs_hf_carried_files[i]);
        if (!zs_file_exists(source)) continue;
        zs_string text = {0};
        status = zs_file_read(source, &text, err);
        if (status == ZS_OK) status = save_text(saving, zs_hf_carried_files[i], &text, err);
        zs_string_free(&text);
    }
    return status;
}

static zs_status save_configs(saving *saving, const char *carry_from, zs_error *err) {
    zs_string text = {0};
    const zs_model_config *config = &saving->layout->config;
    zs_status status = zs_hf_carry_generation_config(carry_from, config, &text, err);
    if (status == ZS_OK) status = save_text(saving, "generation_config.json", &text, err);
    zs_string_clear(&text);
    if (status == ZS_OK) status = zs_hf_carry_config(carry_from, config, saving->dtype, &text, err);
    if (status == ZS_OK) status = save_text(saving, "config.json", &text, err);
    zs_string_free(&text);
    return status;
}

/* Weights of the model that stood here before, where the new ones have other file names. */
static void remove_old_weights(const saving *saving, json_t *old_map) {
    char path[PATH_BYTES];
    const char *tensor;
    json_t *value;
    bool single = strcmp(saving->names[0], SINGLE_FILE) == 0;
    zs_path_join(path, sizeof path, saving->folder, single ? INDEX_FILE : SINGLE_FILE);
    unlink(path);
    json_object_foreach(old_map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || strchr(name, '/') || strlen(name) > 250) continue;
        bool kept = false;
        for (int i = 0; i < saving->count; i++)
            kept |= strcmp(saving->names[i], name) == 0;
        zs_path_join(path, sizeof path, saving->folder, name);
        if (!kept) unlink(path);
    }
}

zs_status zs_hf_save_from(const char *folder, const zs_model *layout, zs_model_source *source, void *context,
                          zs_dtype dtype, int64_t shard_bytes, const char *carry_from, zs_error *err) {
    if (strlen(folder) > FOLDER_MAX || (carry_from && strlen(carry_from) > FOLDER_MAX))
        return zs_fail(err, ZS_USAGE, "%.200s...: the path is too long", folder);
    ZS_ASSERT(dtype == ZS_F32 || dtype == ZS_BF16 || dtype == ZS_F16, "dtype %s", zs_dtype_name(dtype));
    zs_status status = zs_make_folder(folder, err);
    if (status) return status;
    saving saving = {.layout = layout, .source = source, .context = context, .dtype = dtype};
    saving.block =
        zs_alloc(layout->num_params < BLOCK ? layout->num_params : BLOCK, (size_t)zs_dtype_size(dtype));
    snprintf(saving.folder, sizeof saving.folder, "%s", folder);
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGXFSZ, &ignore, &before); /* a file size limit is an error to report, not a death */

    status = save_weights(&saving, shard_bytes, err);
    if (status == ZS_OK && carry_from) status = carry_files(&saving, carry_from, err);
    if (status == ZS_OK) status = save_configs(&saving, carry_from, err);
    if (status == ZS_OK) {
        char path[PATH_BYTES];
        zs_path_join(path, sizeof path, folder, "config.json");
        unlink(path);
        zs_path_join(path, sizeof path, folder, INDEX_FILE);
        json_t *old = json_load_file(path, 0, NULL);
        remove_old_weights(&saving, json_object_get(old, "weight_map"));
        json_decref(old);
    }
    status = saving_finish(&saving, status, err);
    sigaction(SIGXFSZ, &before, NULL);
    zs_free(saving.block);
    return status;
}

typedef struct in_memory {
    const float *f32;
    const uint16_t *bf16;
} in_memory;

static zs_status memory_source(void *context, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                               zs_error *err) {
    (void)err;
    const in_memory *from = context;
    if (from->f32)
        zs_from_f32(dtype, from->f32 + begin, end - begin, to);
    else
        zs_convert(ZS_BF16, from->bf16 + begin, end - begin, dtype, to);
    return ZS_OK;
}

zs_status zs_hf_save(const char *folder, const zs_model *model, const float *params, zs_dtype dtype,
                     int64_t shard_bytes, const char *carry_from, zs_error *err) {
    ZS_ASSERT(params || !(model->packed || model->int8),
              "packed and int8 weights are not as files have them");
    in_memory from = {params ? params : model->params, model->params_bf16};
    return zs_hf_save_from(folder, model, memory_source, &from, dtype, shard_bytes, carry_from, err);
}
