/* Question sets: JSON lines {"id","question","golden_answers"}; `answer`, `answers` and `target` are read
 * too. */
#ifndef ZEROSEARCH_QA_H
#define ZEROSEARCH_QA_H

#include "zerosearch/error.h"

#include <stdint.h>

typedef struct zs_question {
    char *id, *question;
    char **answers;
    int num_answers;
    char **gold; /* ids of passages that answer it, where known */
    int num_gold;
    int hops; /* 0: not said */
} zs_question;

typedef struct zs_qa {
    zs_question *questions;
    int64_t count;
} zs_qa;

/* The error names file, line and key. `out` is owned by the caller. */
zs_status zs_qa_load(const char *path, zs_qa *out, zs_error *err);
void zs_qa_free(zs_qa *qa);

#endif
