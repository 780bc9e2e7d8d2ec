/* A thread that takes the CRCs of spans of memory and writes them to their places in a file.
 *
 * It calls neither MPI nor HDF5 (MPI is FUNNELED, HDF5 may not be thread-safe), allocates nothing and says
 * nothing: what goes wrong is told to the one who joins it. It blocks all signals, so that handlers run
 * elsewhere and a file size limit is EFBIG, and stands behind compute threads (nice + 10): its work is a CRC
 * and a copy to the page cache, about half a second of one core for a gigabyte. */
#ifndef ZEROSEARCH_SPAN_WRITER_H
#define ZEROSEARCH_SPAN_WRITER_H

#include "zerosearch/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct zs_file_span {
    int64_t at, bytes; /* of the file; 0 bytes: nothing to do */
    const void *data;  /* to be left alone until the span is done */
    uint32_t *crcs;    /* out: one for each ZS_CRC_BLOCK elements of 4 bytes */
} zs_file_span;

typedef struct zs_span_writer zs_span_writer;

/* Opens the file, which exists, and starts the thread; it ends when `count` spans have been put and done and
 * the file is flushed to disk. Local, as all of these. */
zs_status zs_span_writer_start(const char *path, int64_t count, zs_span_writer **out, zs_error *err);
void zs_span_writer_put(zs_span_writer *writer, zs_file_span span);
/* Waits until so many spans are done: their memory is free again. After a failure they pass unwritten. */
void zs_span_writer_await(zs_span_writer *writer, int64_t spans);
/* Waits for the end, at most so long (0: only looks); *bytes (or NULL): what is on its way to disk by now. */
bool zs_span_writer_ended(zs_span_writer *writer, double seconds, int64_t *bytes);
/* Waits for the end and releases all. A writer that got fewer spans than its count leaves the file as it is.
 * *ended: when the last byte was on disk (zs_seconds). */
zs_status zs_span_writer_join(zs_span_writer *writer, double *ended, zs_error *err);

#endif
