/* What a checkpoint file holds, in HDF5's terms, and the serial part of making one.
 *
 *   /                     attributes format_version, block (elements that one CRC covers)
 *   /NAME                 float32 [total] for each array, contiguous, allocated at creation; a converted
 *                         model's may be bfloat16 or float16 (h5py gives bfloat16 as float32)
 *   /NAME.crc32           uint32 [blocks]: CRC-32 (zlib) of each fixed block of the array's bytes
 *   /model/config         the model's config.json as text
 *   /model/tensors        compound table: name, offset (elements into model/params), rows, cols, num_dims
 *   /state                JSON text
 *
 * In Python: f = h5py.File(path); t = f["model/tensors"]; f["model/params"][o : o + rows * cols]. */
#ifndef ZEROSEARCH_CHECKPOINT_STORE_H
#define ZEROSEARCH_CHECKPOINT_STORE_H

#include "envelope.h"
#include "zerosearch/checkpoint.h"

#include <hdf5.h>
#include <zlib.h>

#define ZS_CRC_BLOCK ((int64_t)1 << 20) /* elements that one CRC covers */

static inline int64_t zs_crc_blocks(int64_t total) {
    return (total + ZS_CRC_BLOCK - 1) / ZS_CRC_BLOCK;
}

/* HDF5 prints its own error stack by default; we carry the innermost line of it in ours. */
typedef struct zs_quiet {
    H5E_auto2_t function;
    void *data;
} zs_quiet;
zs_quiet zs_quiet_begin(void);
void zs_quiet_end(zs_quiet quiet);
zs_status zs_store_fail(const char *path, const char *what, zs_error *err);

/* A file access list: collective over comm, or serial for MPI_COMM_NULL; never with file locks (many cluster
 * file systems have none, and only one job writes here). */
hid_t zs_store_access(MPI_Comm comm);

static inline uint32_t zs_crc_of(const void *data, int64_t bytes) {
    return (uint32_t)crc32_z(crc32(0, NULL, 0), data, (size_t)bytes);
}

/* Makes the file with everything but the arrays' data and CRCs, and its room on the disk: that is asked for
 * before HDF5 begins, since an HDF5 file whose close fails cannot be got rid of in this process (the library
 * trips over it when MPI ends). *extents [num_arrays]: where their data belong. All arrays are of `dtype`:
 * ZS_F32, ZS_BF16 or ZS_F16. Local. */
zs_status zs_store_create(const char *path, const zs_model *layout, const zs_checkpoint_array *arrays,
                          int num_arrays, zs_dtype dtype, const char *state_json, zs_extent *extents,
                          zs_error *err);
/* Adds the CRCs, one array after another in crcs. Local. */
zs_status zs_store_finish(const char *path, const zs_checkpoint_array *arrays, int num_arrays,
                          const uint32_t *crcs, zs_error *err);

/* Gives the finished file its name, for good. Local. */
zs_status zs_store_rename(const char *aside, const char *path, zs_error *err);

hid_t zs_store_type(zs_dtype dtype); /* of elements in the file; to be closed */

/* Reads model/config. */
zs_status zs_store_read_config(hid_t file, const char *path, zs_model_config *config, zs_error *err);
/* Appends a text data set. */
zs_status zs_store_read_text(hid_t file, const char *path, const char *name, zs_string *out, zs_error *err);
/* Opens an array and checks that it has `total` elements of a dtype that is told in *dtype, or (NULL) must be
 * float32; reads its CRCs [zs_crc_blocks(total)]. */
zs_status zs_store_open_array(hid_t file, const char *path, const char *name, int64_t total, zs_dtype *dtype,
                              hid_t *set, uint32_t *crcs, zs_error *err);

#endif
