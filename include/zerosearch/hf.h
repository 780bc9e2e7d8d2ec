/* Hugging Face model folders: config.json, model.safetensors or shards with an index; F32, BF16 and F16. */
#ifndef ZEROSEARCH_HF_H
#define ZEROSEARCH_HF_H

#include "zerosearch/model.h"
#include "zerosearch/strings.h"

/* One safetensors file, memory-mapped; the header is checked whole (offsets inside the file, no overlaps, no
 * holes, sizes = shape x dtype, names unique) before a byte of data is used. Opening touches the header only.
 */
typedef struct zs_safetensors zs_safetensors;
typedef struct zs_st_tensor {
    const char *name;
    zs_dtype dtype;
    int num_dims;
    int64_t dims[8];
    int64_t count;    /* elements */
    const void *data; /* into the map, at whatever address the file has it; weights are better read by
                         zs_safetensors_read, which reports a file that is cut meanwhile */
} zs_st_tensor;
zs_status zs_safetensors_open(const char *path, zs_safetensors **out, zs_error *err);
void zs_safetensors_close(zs_safetensors *file);
int zs_safetensors_count(const zs_safetensors *file);
const zs_st_tensor *zs_safetensors_at(const zs_safetensors *file, int index);
const zs_st_tensor *zs_safetensors_find(const zs_safetensors *file, const char *name); /* NULL: absent */
/* Elements [first, first + count) of a tensor into `to`, in its own dtype or as ZS_F32, ZS_BF16 or ZS_F16
 * (rounded to nearest even). Only they are read. Threads may call it on one file at once. */
zs_status zs_safetensors_read(const zs_safetensors *file, const zs_st_tensor *tensor, int64_t first,
                              int64_t count, zs_dtype dtype, void *to, zs_error *err);
/* Asks the system to fetch these elements from the disk while other work is done; returns at once. */
void zs_safetensors_will_read(const zs_safetensors *file, const zs_st_tensor *tensor, int64_t first,
                              int64_t count);
int64_t zs_safetensors_bytes_read(const zs_safetensors *file); /* by zs_safetensors_read since the opening */

/* Writes tensors (data in the dtype given) in order; complete or absent. */
zs_status zs_safetensors_write(const char *path, const zs_st_tensor *tensors, int count, zs_error *err);

/* The same bit by bit, for data that is larger than memory: opened with the tensors' names and shapes (data
 * is not looked at), given all bytes in order, closed with how it went. Any `status` but ZS_OK, given or
 * found, leaves nothing behind and is returned; it is to be closed in each case but a failed open. */
typedef struct zs_st_writer zs_st_writer;
zs_status zs_st_writer_open(const char *path, const zs_st_tensor *tensors, int count, zs_st_writer **out,
                            zs_error *err);
zs_status zs_st_writer_append(zs_st_writer *writer, const void *data, int64_t bytes, zs_error *err);
zs_status zs_st_writer_close(zs_st_writer *writer, zs_status status, zs_error *err);

/* The text of a config.json, both ways; checkpoints hold it too. `where` names the text in messages. */
zs_status zs_hf_parse_config(const char *json, int64_t length, const char *where, zs_model_config *out,
                             zs_error *err);
void zs_hf_print_config(const zs_model_config *config, zs_dtype dtype, zs_string *out);

/* Reads config.json (and generation_config.json for more end tokens when there). */
zs_status zs_hf_read_config(const char *folder, zs_model_config *out, zs_error *err);
/* An opened folder: the files mapped, every tensor found and its shape checked against the config; of the
 * weights nothing is read yet. Local. */
typedef struct zs_hf_folder zs_hf_folder;
zs_status zs_hf_open(const char *folder, zs_hf_folder **out, zs_error *err);
void zs_hf_close(zs_hf_folder *folder);
const zs_model *zs_hf_layout(const zs_hf_folder *folder); /* without parameters; owned by the folder */
/* ZS_BF16 when every tensor is BF16, ZS_F16 alike, else ZS_F32. */
zs_dtype zs_hf_dtype(const zs_hf_folder *folder);
/* Elements [begin, end) of the flat layout into `to` as `dtype` (ZS_F32, ZS_BF16 or ZS_F16, rounded to
 * nearest even where the file holds more), by all threads. Nothing else is read from the files, so that ranks
 * that keep a part read a part. An error names file and tensor (a file that was cut after it was opened, a
 * disk that fails); `to` is then filled in part. */
zs_status zs_hf_read(const zs_hf_folder *folder, int64_t begin, int64_t end, zs_dtype dtype, void *to,
                     zs_error *err);
int64_t zs_hf_bytes_read(const zs_hf_folder *folder); /* bytes of weights read from the files so far */

/* zs_hf_read with the zs_hf_folder as its context, for readers that go on in order: what comes next is
 * fetched from the disk meanwhile. */
zs_model_source zs_hf_source;

/* A piece of an int8 model, read in f32 into `work` (zs_model_piece_params) and quantised into `to`. */
zs_status zs_hf_read_piece(const zs_hf_folder *folder, const zs_model_piece *piece, float *work, zs_model *to,
                           zs_error *err);

/* Reads the whole folder into a new model: in f32, or in ZS_F32, ZS_BF16 or ZS_INT8. Local. */
zs_status zs_hf_load(const char *folder, zs_model **out, zs_error *err);
zs_status zs_hf_load_as(const char *folder, zs_dtype dtype, zs_model **out, zs_error *err);

/* Writes config.json, generation_config.json and the weights as F32, BF16 or F16 (shards of at most
 * shard_bytes with an index; 0: one file). From the folder `carry_from`, when not NULL, it copies the
 * tokenizer's files and keeps what its two configs say of matters that this program does not know (sampling
 * settings, for example). `params` [num_params] replaces the model's weights when not NULL. All or nothing:
 * on failure the folder's old model stands. */
zs_status zs_hf_save(const char *folder, const zs_model *model, const float *params, zs_dtype dtype,
                     int64_t shard_bytes, const char *carry_from, zs_error *err);
/* The same for weights that are nowhere whole: they are asked for in order, a block at a time, so that a few
 * dozen megabytes do for a model of any size. */
zs_status zs_hf_save_from(const char *folder, const zs_model *layout, zs_model_source *source, void *context,
                          zs_dtype dtype, int64_t shard_bytes, const char *carry_from, zs_error *err);

#endif
