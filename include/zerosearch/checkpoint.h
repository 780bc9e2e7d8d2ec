/* Checkpoints in parallel HDF5: complete or absent, any layout to any layout.
 *
 * A checkpoint file holds named 1-D float arrays of global length (model/params, optimizer/m, optimizer/v),
 * the model's configuration and tensor table (so that `convert` can make a Hugging Face folder of it), and
 * one JSON text of everything else that the next step reads. Each rank gives the pieces of each array that it
 * owns. Flat arrays rather than one data set a tensor: every rank writes one even stripe whatever the layout,
 * and resuming on another number of ranks is only another division of the same array. */
#ifndef ZEROSEARCH_CHECKPOINT_H
#define ZEROSEARCH_CHECKPOINT_H

#include "zerosearch/comm.h"
#include "zerosearch/error.h"
#include "zerosearch/model.h"
#include "zerosearch/strings.h"

#include <mpi.h>
#include <stdint.h>

typedef struct zs_piece {
    int64_t begin, count; /* elements of the global array */
    float *data;
} zs_piece;

typedef struct zs_checkpoint_array {
    const char *name; /* e.g. "model/params" */
    int64_t total;    /* global length, the same on every rank */
    int num_pieces;   /* on this rank; may be 0 */
    const zs_piece *pieces;
} zs_checkpoint_array;

/* Writing while the arrays go on changing: begin copies them, a thread of each rank writes the copy, finish
 * seals and renames the file. One is under way at a time. Collective on the group, except poll; every rank
 * returns the same status and text. path.tmp becomes path when all is flushed to disk, with a CRC-32 of each
 * block of the arrays. On failure (disk full, folder gone) path.tmp is removed and other files are as
 * they were. */
typedef struct zs_checkpoint_writer zs_checkpoint_writer;
/* `background`: with memory for a copy of what a rank writes (all arrays / ranks), taken at the first begin
 * and kept. Without it, or with one warning where a node lacks the memory, begin lasts as long as the
 * writing. */
zs_checkpoint_writer *zs_checkpoint_writer_create(const zs_comm *comm, const zs_group *group,
                                                  bool background);
void zs_checkpoint_writer_destroy(zs_checkpoint_writer *writer);
/* What the arguments point to is read before it returns. Bits are kept as they are, whatever they mean. After
 * a failure nothing is under way. */
zs_status zs_checkpoint_begin(zs_checkpoint_writer *writer, const char *path, const zs_model *layout,
                              const zs_checkpoint_array *arrays, int num_arrays, const char *state_json,
                              zs_error *err);
/* Would finish not wait for this rank's thread? Local. */
bool zs_checkpoint_poll(const zs_checkpoint_writer *writer);
typedef struct zs_checkpoint_written {
    double bytes, seconds; /* of the arrays; from begin to the last byte on disk */
} zs_checkpoint_written;
/* Waits for the threads of all ranks. `written` may be NULL. */
zs_status zs_checkpoint_finish(zs_checkpoint_writer *writer, zs_checkpoint_written *written, zs_error *err);

/* Both at once, without a copy. Collective on group. */
zs_status zs_checkpoint_write(const zs_comm *comm, const zs_group *group, const char *path,
                              const zs_model *layout, const zs_checkpoint_array *arrays, int num_arrays,
                              const char *state_json, zs_error *err);

/* Collective on comm. Verifies the file (complete mark, sizes, CRCs) before anything is used; a damaged file
 * is refused by name. Fills the pieces; appends the JSON to state_json. `layout` is checked against the
 * file's model. */
zs_status zs_checkpoint_read(MPI_Comm comm, const char *path, const zs_model *layout,
                             const zs_checkpoint_array *arrays, int num_arrays, zs_string *state_json,
                             zs_error *err);

/* Local. The model configuration and state of a file, without the arrays. state_json may be NULL. */
zs_status zs_checkpoint_inspect(const char *path, zs_model_config *config, zs_string *state_json,
                                zs_error *err);

/* A model alone as a file of the same form, in ZS_F32, ZS_BF16 or ZS_F16, written block by block from a
 * source that gives the weights in order: for models larger than memory. Complete or absent, as above. Local.
 */
zs_status zs_checkpoint_write_model(const char *path, const zs_model *layout, zs_dtype dtype,
                                    zs_model_source *source, void *context, zs_error *err);

/* The model of any file, to be read block by block; only its envelope and metadata are read here. Local. */
typedef struct zs_checkpoint_model zs_checkpoint_model;
zs_status zs_checkpoint_open_model(const char *path, zs_checkpoint_model **out, zs_error *err);
void zs_checkpoint_close_model(zs_checkpoint_model *model);
const zs_model *zs_checkpoint_layout(const zs_checkpoint_model *model); /* without parameters */
zs_dtype zs_checkpoint_dtype(const zs_checkpoint_model *model);         /* as stored */
/* Reads, with the zs_checkpoint_model as its context. Every block is checked against its CRC-32 before it is
 * used, so damage may show only after other blocks have been used; once in order is the fast way. */
zs_model_source zs_checkpoint_source;

/* folder/step-N.h5, newest first: fills steps[] with up to `max` step numbers; returns how many. Local. */
int zs_checkpoint_list(const char *folder, int64_t *steps, int max);
void zs_checkpoint_path(char *out, size_t size, const char *folder, int64_t step);
/* Removes all but the `keep` newest. Local (call on one rank). */
void zs_checkpoint_prune(const char *folder, int keep);

#endif
