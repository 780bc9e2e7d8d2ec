/* The envelope of a checkpoint file: the first 4096 bytes, which HDF5 leaves to the user (the user block).
 *
 * It is written last, so it is the mark that the file is complete, and it holds the file's size and a CRC-32
 * of all that is not array data. The reader checks it before HDF5 sees the file: the HDF5 library walks
 * pointers in its metadata and may fall over a damaged one. Other HDF5 programs skip the block. */
#ifndef ZEROSEARCH_CHECKPOINT_ENVELOPE_H
#define ZEROSEARCH_CHECKPOINT_ENVELOPE_H

#include "zerosearch/error.h"

#include <stdint.h>

#define ZS_ENVELOPE_BYTES      4096
#define ZS_ENVELOPE_MAX_ARRAYS 64
#define ZS_FORMAT_VERSION      1

typedef struct zs_extent { /* where an array's data stands in the file */
    int64_t begin, bytes;
} zs_extent;

/* Makes the file's blocks exist, `bytes` in all (0: its present length; creates the file when it is not
 * there), so that a full disk shows here and not in the middle of a parallel write. `metadata`: how many of
 * them are no array data. */
zs_status zs_envelope_reserve(const char *path, int64_t bytes, int64_t metadata, zs_error *err);

/* Writes the envelope and flushes the file. */
zs_status zs_envelope_seal(const char *path, const zs_extent *extents, int count, zs_error *err);

/* ZS_OK: complete, of the right size, and nothing but array data can be damaged (that has CRCs of its own).
 */
zs_status zs_envelope_check(const char *path, zs_error *err);

#endif
