/* What the bench files share. */
#ifndef ZEROSEARCH_COMMANDS_BENCH_H
#define ZEROSEARCH_COMMANDS_BENCH_H

#include "zerosearch/command.h"
#include "zerosearch/model.h"

#include <stdio.h>

#define BENCH_MAX_BATCHES 16
typedef struct zs_bench {
    zs_comm *comm;
    const char *shape, *folder; /* folder: scratch for the checkpoint */
    const char *model;          /* a folder whose shape, and for drift and load weights, are taken, or NULL */
    zs_model_config config;
    int64_t batches[BENCH_MAX_BATCHES];
    int num_batches;
    int64_t seq, prompt, fresh; /* tokens of a training sequence, of a prompt, sampled after it */
    int64_t passages, queries;  /* of the generated corpus, asked of it */
    int64_t scored;             /* passages that a query may score; 0: as the engine has it */
    int64_t tokens;             /* of text that drift scores */
    int threads;
    bool json, keep;    /* keep: leave the generated corpus and its index */
    zs_dtype dtypes[2]; /* of the weights that gemm, prefill and decode run with */
    int num_dtypes;
    zs_dtype cache_dtype;          /* of the keys and values of prefill, decode, drift */
    const char *read;              /* of load: who reads */
    zs_dtype dtype;                /* of load, broadcast, drift: ZS_DTYPE_OTHER is as stored, both, bf16 */
    const char *tokenizer, *text;  /* of tokenize: what is loaded, what is encoded; NULL: made up */
    bool own;                      /* of load: a copy for each rank in f32 */
    double best_gflops, best_read; /* the machine's own limits, this part: GFLOP/s, GB/s; 0: not measured */
    FILE *table;                   /* of --markdown, open on rank 0 meanwhile; or NULL */
    const zs_build *build;
} zs_bench;

/* One row of results; a field with a NAN value is left out. Prints on world rank 0, a line and where
 * --markdown is given a row of its table. The limit itself is told after a fraction of it (of_best_gemm,
 * of_best_read, of_plain_...), and last the most bytes that this rank held since zs_memory_reset_peak, which
 * every row begins with. */
typedef struct zs_bench_field {
    const char *name;
    double value;
} zs_bench_field;
void zs_bench_report(const zs_bench *bench, const char *what, const zs_bench_field *fields, int count);

/* The table: goes on in a file that has one, begins a new file with the machine's description. */
zs_status zs_bench_open_table(zs_bench *bench, const char *path, zs_error *err);
zs_status zs_bench_close_table(zs_bench *bench, const char *path, zs_error *err);

/* Medians, which one disturbed run does not move: of `count` values, which are sorted (NAN of none); of the
 * seconds of runs, wall time and CPU time of all threads. The first run, which meets fresh pages, is not
 * counted; then there are `least`, and more up to `most` until `budget` seconds have passed. */
typedef void zs_bench_work(void *context);
typedef struct zs_bench_seconds {
    double wall, cpu;
} zs_bench_seconds;
double zs_bench_median(double *values, int64_t count);
zs_bench_seconds zs_bench_time(zs_bench_work *work, void *context, int least, int most, double budget);

typedef zs_status zs_bench_run(zs_bench *bench, zs_error *err);
zs_bench_run zs_bench_limits, zs_bench_gemm, zs_bench_train, zs_bench_prefill, zs_bench_decode,
    zs_bench_drift, zs_bench_tokenize; /* Local */
zs_bench_run zs_bench_exchange, zs_bench_allreduce, zs_bench_broadcast, zs_bench_checkpoint, zs_bench_load,
    zs_bench_search; /* Collective */

#endif
