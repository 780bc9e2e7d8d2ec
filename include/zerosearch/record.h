/* Records: JSON objects as lines, on every rank, into one file that the root holds open. */
#ifndef ZEROSEARCH_RECORD_H
#define ZEROSEARCH_RECORD_H

#include "zerosearch/comm.h"
#include "zerosearch/strings.h"
#include "zerosearch/tokenizer.h"

#include <stdio.h>

struct json_t;

/* The text of `count` ids as a JSON string; bytes that are no UTF-8 become U+FFFD. A new reference. */
struct json_t *zs_record_text(const zs_tokenizer *tokenizer, const int32_t *ids, int64_t count);

/* Appends the object as one line; the reference is taken over. */
void zs_record_line(zs_string *lines, struct json_t *object);

/* Writes the lines of all ranks, in order of rank, to the file that world rank 0 has open (others pass NULL)
 * and frees them. `path` is for the message. Only rank 0 can fail: agree afterwards. Collective on world. */
zs_status zs_record_gather(const zs_comm *comm, zs_string *lines, FILE *file, const char *path,
                           zs_error *err);

/* Writes lines and flushes. Local. */
zs_status zs_record_write(const char *bytes, int64_t length, FILE *file, const char *path, zs_error *err);

#endif
