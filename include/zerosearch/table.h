/* Small result tables in HDF5 (`eval --out`, timers.h5): one data set a column, one row a record; for h5py
 * and h5dump. Local: one rank writes. These are diagnostics, not state: nothing reads them back to go on. */
#ifndef ZEROSEARCH_TABLE_H
#define ZEROSEARCH_TABLE_H

#include "zerosearch/error.h"

#include <stdint.h>

/* A column of numbers, or of texts when numbers is NULL. */
typedef struct zs_column {
    const char *name;
    const double *numbers;
    const char *const *texts;
} zs_column;

/* Appends rows to the file, made when missing; each column has `rows` entries. */
zs_status zs_table_append(const char *path, const zs_column *columns, int num_columns, int64_t rows,
                          zs_error *err);

/* Keeps the rows whose number in column `name` is below `limit` (rows are ascending in it). A missing file is
 * fine; a file that cannot be read (its writer was killed) is moved aside to path.damaged. */
zs_status zs_table_cut(const char *path, const char *name, double limit, zs_error *err);

#endif
