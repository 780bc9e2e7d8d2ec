/* `zerosearch bench`: rates of each part beside the machine's own limits, measured in the same run.
 *
 * Seconds alone say little on a shared or throttled machine; a fraction of the best sgemm and of the best
 * read rate of the same minute does. */
#include "bench.h"
#include "machine.h"

#include "zerosearch/load.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const zs_option options[] = {
    {"WHAT", "LIST", "comma list of the parts below, or all (all)"},
    {"shape", "NAME", "model shape, as for init (demo)"},
    {"layers", "N", "this many layers instead of the shape's"},
    {"model", "DIR", "this folder's shape instead, and its weights for drift and load"},
    {"batch", "LIST", "comma list of batch sizes (1,8,64)"},
    {"seq", "N", "tokens of a training sequence (256)"},
    {"prompt", "N", "tokens of a prompt (256)"},
    {"new", "N", "tokens sampled after it (64)"},
    {"tokens", "N", "sampled tokens that drift scores (1024)"},
    {"threads", "N", "threads of each rank (what OpenMP gives)"},
    {"folder", "DIR", "where the checkpoint and the generated corpus are written and removed (.)"},
    {"passages", "N", "passages of the generated corpus (20000)"},
    {"queries", "N", "queries asked of it by all ranks together (200)"},
    {"scored", "N", "passages that a query may score (what the engine has)"},
    {"keep", NULL, "leave the generated corpus and index for the next run"},
    {"dtype", "NAME",
     "weights of gemm, prefill, decode, broadcast, load, drift: f32, bf16, int8, both (f32,\n"
     "                             bf16) or auto (f32; broadcast: both; load: as stored; drift: bf16)"},
    {"cache-dtype", "NAME", "keys and values of prefill, decode, drift: f32 or bf16 (f32)"},
    {"read", "WHO", "who reads in load: all, node or root (all)"},
    {"own", NULL, "load gives each rank its own f32 copy, as of a policy that is trained"},
    {"tokenizer", "DIR_OR_FILE", "the tokenizer that tokenize loads (one is trained)"},
    {"text", "FILE", "what tokenize encodes (words of a made-up language)"},
    {"json", NULL, "one JSON object a line"},
    {"markdown", "FILE", "add the results to a table in FILE, begun with the machine's description"},
    {NULL, NULL, NULL}};

typedef struct part {
    const char *name;
    zs_bench_run *run;
    bool collective; /* else rank 0 alone works */
    bool limited;    /* by what rank 0 can compute and read */
} part;
static const part parts[] = {
    {"gemm", zs_bench_gemm, false, true},           {"train", zs_bench_train, false, true},
    {"prefill", zs_bench_prefill, false, true},     {"decode", zs_bench_decode, false, true},
    {"drift", zs_bench_drift, false, false},        {"tokenize", zs_bench_tokenize, false, false},
    {"exchange", zs_bench_exchange, true, false},   {"allreduce", zs_bench_allreduce, true, false},
    {"broadcast", zs_bench_broadcast, true, false}, {"checkpoint", zs_bench_checkpoint, true, false},
    {"load", zs_bench_load, true, false},           {"search", zs_bench_search, true, false},
};
#define NUM_PARTS ((int)(sizeof parts / sizeof *parts))

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double zs_bench_median(double *values, int64_t count) {
    if (count == 0) return NAN;
    qsort(values, (size_t)count, sizeof *values, by_size);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

zs_bench_seconds zs_bench_time(zs_bench_work *work, void *context, int least, int most, double budget) {
    enum { MOST = 64 };
    double wall[MOST], cpu[MOST], begin = 0;
    int runs = 0;
    for (int run = -1; run < least || (run < most && zs_seconds() - begin < budget); run++) {
        double start = zs_seconds();
        clock_t cpu_start = clock();
        if (run < 0) begin = start;
        work(context);
        if (run < 0 || runs == MOST) continue;
        wall[runs] = zs_seconds() - start;
        cpu[runs++] = (double)(clock() - cpu_start) / CLOCKS_PER_SEC;
    }
    return (zs_bench_seconds){zs_bench_median(wall, runs), zs_bench_median(cpu, runs)};
}

zs_status zs_bench_limits(zs_bench *bench, zs_error *err) {
    (void)err;
    bench->best_gflops = zs_machine_sgemm_rate();
    bench->best_read = zs_machine_read_rate();
    zs_bench_field fields[] = {{"gflops", bench->best_gflops}, {"read_gb_per_s", bench->best_read}};
    zs_bench_report(bench, "machine", fields, 2);
    return ZS_OK;
}

/* Options. */

static zs_status read_batches(zs_bench *bench, const char *list, zs_error *err) {
    const char *at = list;
    while (*at) {
        size_t length = strcspn(at, ",");
        char text[32] = {0};
        if (length >= sizeof text || bench->num_batches == BENCH_MAX_BATCHES)
            return zs_fail(err, ZS_USAGE, "--batch %s: at most %d numbers", list, BENCH_MAX_BATCHES);
        memcpy(text, at, length);
        int64_t *batch = &bench->batches[bench->num_batches++];
        if (!zs_parse_int(text, batch) || *batch < 1 || *batch > 65536)
            return zs_fail(err, ZS_USAGE, "--batch %s: \"%s\" is not a number from 1 to 65536", list, text);
        at += length + (at[length] == ',');
    }
    return bench->num_batches ? ZS_OK : zs_fail(err, ZS_USAGE, "--batch is empty");
}

static zs_status read_count(const zs_arguments *arguments, const char *name, int64_t fallback, int64_t most,
                            int64_t *out, zs_error *err) {
    zs_status status = zs_arg_int(arguments, name, fallback, out, err);
    if (status == ZS_OK && (*out < 1 || *out > most))
        return zs_fail(err, ZS_USAGE, "--%s must be from 1 to %lld", name, (long long)most);
    return status;
}

/* What load keeps, and which weights prefill and decode run with, one after the other. */
static zs_status read_dtypes(zs_bench *bench, const char *name, zs_error *err) {
    bool both = strcmp(name, "both") == 0;
    bench->dtype = ZS_DTYPE_OTHER;
    if (!both && !zs_keep_named(name, &bench->dtype))
        return zs_fail(err, ZS_USAGE, "--dtype %s: auto, f32, bf16, int8 or both is expected", name);
    bench->dtypes[bench->num_dtypes++] = bench->dtype == ZS_DTYPE_OTHER ? ZS_F32 : bench->dtype;
    if (both) bench->dtypes[bench->num_dtypes++] = ZS_BF16;
    return ZS_OK;
}

static zs_status read_load_options(const zs_arguments *arguments, zs_bench *bench, zs_error *err) {
    bench->read = zs_arg_or(arguments, "read", "all");
    bench->own = zs_arg(arguments, "own") != NULL;
    if (strcmp(bench->read, "all") != 0 && strcmp(bench->read, "node") != 0 &&
        strcmp(bench->read, "root") != 0)
        return zs_fail(err, ZS_USAGE, "--read %s: all, node or root is expected", bench->read);
    return read_dtypes(bench, zs_arg_or(arguments, "dtype", "auto"), err);
}

static zs_status read_shape(const zs_arguments *arguments, zs_bench *bench, zs_error *err) {
    bench->shape = zs_arg_or(arguments, "shape", "demo");
    bench->model = zs_arg(arguments, "model");
    if (bench->model && (zs_arg(arguments, "shape") || zs_arg(arguments, "layers")))
        return zs_fail(err, ZS_USAGE, "--model %s says the shape; --shape and --layers do not go with it",
                       bench->model);
    if (bench->model) {
        bench->shape = "model";
        return zs_hf_read_config(bench->model, &bench->config, err);
    }
    if (!zs_model_shape(bench->shape, &bench->config))
        return zs_fail(err, ZS_USAGE, "--shape %s is not known; there are %s", bench->shape,
                       zs_model_shape_names);
    return ZS_OK;
}

static zs_status read_options(const zs_arguments *arguments, zs_bench *bench, zs_error *err) {
    int64_t threads, layers;
    bench->comm = arguments->comm;
    bench->folder = zs_arg_or(arguments, "folder", ".");
    bench->json = zs_arg(arguments, "json") != NULL;
    bench->tokenizer = zs_arg(arguments, "tokenizer");
    bench->text = zs_arg(arguments, "text");
    zs_status status = read_shape(arguments, bench, err);
    if (status == ZS_OK) status = read_batches(bench, zs_arg_or(arguments, "batch", "1,8,64"), err);
    if (status == ZS_OK)
        status = read_count(arguments, "layers", bench->config.num_hidden_layers, 1000, &layers, err);
    if (status == ZS_OK) status = zs_arg_cache_dtype(arguments, &bench->cache_dtype, err);
    if (status == ZS_OK) status = read_count(arguments, "seq", 256, 1 << 20, &bench->seq, err);
    if (status == ZS_OK) status = read_count(arguments, "tokens", 1024, 1 << 24, &bench->tokens, err);
    if (status == ZS_OK) status = read_count(arguments, "prompt", 256, 1 << 20, &bench->prompt, err);
    if (status == ZS_OK) status = read_count(arguments, "new", 64, 1 << 20, &bench->fresh, err);
    if (status == ZS_OK)
        status = read_count(arguments, "passages", 20000, INT64_C(1) << 31, &bench->passages, err);
    if (status == ZS_OK) status = read_count(arguments, "queries", 200, 1 << 20, &bench->queries, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "scored", 0, &bench->scored, err);
    bench->keep = zs_arg(arguments, "keep") != NULL;
    if (status == ZS_OK)
        status = read_count(arguments, "threads", omp_get_max_threads(), 4096, &threads, err);
    if (status != ZS_OK) return status;
    status = read_load_options(arguments, bench, err);
    if (status != ZS_OK) return status;
    bench->config.num_hidden_layers = layers;
    bench->threads = (int)threads;
    zs_machine_use_threads(bench->threads);
    return ZS_OK;
}

/* Marks the parts that are named. */
static zs_status read_parts(const char *list, bool *wanted, zs_error *err) {
    const char *at = list;
    while (*at) {
        size_t length = strcspn(at, ",");
        bool known = length == 3 && strncmp(at, "all", 3) == 0;
        for (int i = 0; i < NUM_PARTS; i++)
            if (known && length == 3 && strncmp(at, "all", 3) == 0)
                wanted[i] = parts[i].run != zs_bench_load; /* it needs a folder */
            else if (strlen(parts[i].name) == length && strncmp(at, parts[i].name, length) == 0)
                known = wanted[i] = true;
        if (!known)
            return zs_fail(err, ZS_USAGE,
                           "%.*s is not known; there are gemm, train, prefill, decode, drift, "
                           "tokenize, exchange, allreduce, broadcast, checkpoint, load, search and all",
                           (int)length, at);
        at += length + (at[length] == ',');
    }
    return ZS_OK;
}

/* The machine's limits are measured anew for each part: on a shared machine they change within minutes. */
static zs_status run_part(zs_bench *bench, const part *p, zs_error *err) {
    bool first = bench->comm->world.rank == 0;
    zs_status status = ZS_OK;
    if (first && p->limited) status = zs_bench_limits(bench, err);
    zs_memory_reset_peak();
    if (status == ZS_OK && (first || p->collective)) status = p->run(bench, err);
    /* no rank begins the next part, which the others may be missing from, after a fault of one */
    return zs_comm_agree(bench->comm, &bench->comm->world, status, err);
}

static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_bench bench = {.build = &arguments->build};
    bool wanted[NUM_PARTS] = {false}, first = arguments->comm->world.rank == 0;
    const char *table = zs_arg(arguments, "markdown");
    zs_status status = read_options(arguments, &bench, err);
    if (status == ZS_OK) status = read_parts(zs_arg_or(arguments, "WHAT", "all"), wanted, err);
    if (status == ZS_OK && table && first) status = zs_bench_open_table(&bench, table, err);
    status = zs_comm_agree(bench.comm, &bench.comm->world, status, err);
    for (int i = 0; i < NUM_PARTS && status == ZS_OK; i++)
        if (wanted[i]) status = run_part(&bench, &parts[i], err);
    zs_error ignored;
    if (bench.table) {
        zs_status closed = zs_bench_close_table(&bench, table, status == ZS_OK ? err : &ignored);
        if (status == ZS_OK) status = closed;
    }
    return status;
}

const zs_command zs_command_bench = {
    "bench",
    "rates of each part beside the machine's own limits",
    "Prints tokens/s, GFLOP/s and GB/s (medians; checkpoint: the best of three), the limit that the machine\n"
    "showed beside it (best sgemm over shapes, best reading from memory, the plain MPI or file call), the\n"
    "fraction of it, and the most memory that rank 0 held for the row (libraries' own is not in it).\n"
    "Parts: gemm, train, prefill, decode, drift, tokenize on rank 0; exchange, allreduce, broadcast,\n"
    "checkpoint on all ranks, beside the plain MPI or file call that moves as much; load (only when\n"
    "named), with --model DIR: a model folder onto all ranks, with the memory and the reading that each\n"
    "of them spends; search on all ranks: a corpus of --passages, generated in --folder (0.6 GB for each\n"
    "million, its index 1.2 GB), is indexed and asked for planted passages. drift: text is sampled from\n"
    "the f32 model and scored with f32 and with bf16 (--dtype int8: int8) weights; with --cache-dtype bf16\n"
    "it is then drawn over such a cache, by f32 and by those weights, and scored by the f32 model: mean and\n"
    "largest difference of a token's log-probability, KL(drawn from || other) in nats a token, and by what\n"
    "part the perplexity grows.",
    options,
    run,
    false};
