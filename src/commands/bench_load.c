/* bench load: a model folder onto the ranks started, and what that costs in memory and reading.
 *
 * Memory is the growth of what the kernel counts for each process (/proc/self/smaps_rollup) from before the
 * loading until every rank has read all weights once. Pss divides a page by the number of processes that hold
 * it, so the sum of Pss over the ranks of a node is what the node really spends. */
#include "bench.h"

#include "zerosearch/load.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GIB 0x1p30

typedef struct usage { /* bytes of this process */
    double rss, pss, own, shared;
    double from_disk; /* read from storage and not from the cache of files; NAN: not told */
} usage;

/* The number after "name:" in a file of /proc; NAN without one. */
static double number_in(const char *path, const char *name) {
    FILE *file = fopen(path, "r");
    char line[256];
    double value = NAN;
    size_t length = strlen(name);
    while (file && isnan(value) && fgets(line, sizeof line, file))
        if (strncmp(line, name, length) == 0 && line[length] == ':') sscanf(line + length + 1, "%lf", &value);
    if (file) fclose(file);
    return value;
}

static usage usage_now(void) {
    static const char memory[] = "/proc/self/smaps_rollup";
    return (usage){.rss = 1024 * number_in(memory, "Rss"),
                   .pss = 1024 * number_in(memory, "Pss"),
                   .own = 1024 * (number_in(memory, "Private_Dirty") + number_in(memory, "Private_Clean")),
                   .shared = 1024 * (number_in(memory, "Shared_Dirty") + number_in(memory, "Shared_Clean")),
                   .from_disk = number_in("/proc/self/io", "read_bytes")};
}

/* From here on the peak is of what comes. */
static void forget_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}

/* A number that stands for all bytes of the weights; reading them is what inference does. */
static uint64_t digest(const void *data, int64_t bytes) {
    const unsigned char *at = data;
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int64_t i = 0; i < bytes / 2; i++) {
        uint16_t word;
        memcpy(&word, at + 2 * i, sizeof word);
        sum += (uint64_t)word * (uint64_t)(2 * i + 1);
    }
    return sum;
}

typedef struct result {
    int32_t rank, node_ranks, holders, dtype;
    usage growth;
    double peak, seconds, bytes_read, bytes;
    uint64_t digest;
} result;

static zs_status load(const zs_bench *bench, result *r, zs_error *err) {
    const zs_comm *comm = bench->comm;
    zs_read read = zs_read_named(bench->read);
    zs_frozen frozen = {0};
    zs_model *own = NULL;
    int64_t bytes_read = 0;
    forget_peak();
    usage before = usage_now();
    zs_comm_barrier(comm, &comm->world, "all ranks, to load together");
    double start = zs_seconds();
    zs_status status =
        bench->own ? zs_load_model(comm, &comm->world, bench->model, read, &own, &bytes_read, err)
                   : zs_load_frozen(comm, &comm->world, bench->model, bench->dtype, read, &frozen, err);
    r->seconds = zs_seconds() - start;
    if (status != ZS_OK) return status;
    r->peak = 1024 * number_in("/proc/self/status", "VmHWM") - before.rss;
    const zs_model *model = own ? own : frozen.model;
    r->rank = comm->world.rank;
    r->node_ranks = comm->node.size;
    r->holders = own ? 1 : frozen.memory.size;
    r->dtype = (int32_t)zs_model_dtype(model);
    r->bytes = (double)zs_model_bytes(model, zs_model_dtype(model));
    r->bytes_read = (double)(own ? bytes_read : frozen.bytes_read);
    r->digest = digest(zs_model_weights(model), (int64_t)r->bytes);
    /* Pss is right when all hold all, and no one has gone */
    zs_comm_barrier(comm, &comm->world, "all ranks, to have read the weights");
    usage after = usage_now();
    r->growth = (usage){after.rss - before.rss, after.pss - before.pss, after.own - before.own,
                        after.shared - before.shared, after.from_disk - before.from_disk};
    zs_comm_barrier(comm, &comm->world, "all ranks, to have looked at their memory");
    zs_model_destroy(own);
    zs_frozen_free(&frozen);
    return ZS_OK;
}

static void print_number(const zs_bench *bench, const char *name, double value) {
    if (isfinite(value)) printf(bench->json ? ",\"%s\":%.6g" : "  %s %.4g", name, value);
}

static void print_rank(const zs_bench *bench, const result *r) {
    if (bench->json)
        printf(
            "{\"bench\":\"load\",\"model\":\"%s\",\"dtype\":\"%s\",\"read\":\"%s\",\"ranks\":%d,\"rank\":%d",
            bench->model, zs_dtype_name((zs_dtype)r->dtype), bench->read, bench->comm->world.size, r->rank);
    else
        printf("load        rank %d  %s  read %s", r->rank, zs_dtype_name((zs_dtype)r->dtype), bench->read);
    print_number(bench, "ranks_that_share", r->holders);
    print_number(bench, "read_gib", r->bytes_read / GIB);
    print_number(bench, "from_disk_gib", r->growth.from_disk / GIB);
    print_number(bench, "seconds", r->seconds);
    print_number(bench, "rss_gib", r->growth.rss / GIB);
    print_number(bench, "pss_gib", r->growth.pss / GIB);
    print_number(bench, "own_gib", r->growth.own / GIB);
    print_number(bench, "shared_gib", r->growth.shared / GIB);
    print_number(bench, "peak_gib", r->peak / GIB);
    printf(bench->json ? "}\n" : "\n");
}

/* The ranks one by one, then all: as many nodes as the ranks really stand on are summed up. */
static zs_status print_all(const zs_bench *bench, const result *all, int count, zs_error *err) {
    double pss = 0, read = 0, seconds = 0;
    bool same = true;
    for (int i = 0; i < count; i++) {
        print_rank(bench, &all[i]);
        pss += all[i].growth.pss;
        read += all[i].bytes_read;
        seconds = fmax(seconds, all[i].seconds);
        same = same && all[i].digest == all[0].digest;
    }
    printf(bench->json ? "{\"bench\":\"load\",\"ranks\":%d" : "load        %d ranks", count);
    print_number(bench, "model_gib", all[0].bytes / GIB);
    print_number(bench, "mean_pss_gib", pss / count / GIB);
    print_number(bench, "sum_of_pss_gib", pss / GIB);
    print_number(bench, "read_gib", read / GIB);
    print_number(bench, "seconds", seconds);
    print_number(bench, "gb_per_s", 1e-9 * read / seconds);
    printf(bench->json ? "}\n" : "\n");
    fflush(stdout);
    return same ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: ranks hold different weights", bench->model);
}

zs_status zs_bench_load(zs_bench *bench, zs_error *err) {
    const zs_comm *comm = bench->comm;
    if (!bench->model)
        return zs_fail(err, ZS_USAGE, "bench load needs --model DIR, the folder that it loads");
    result mine = {0}, *all = NULL;
    int64_t *lengths = NULL;
    zs_status status = load(bench, &mine, err);
    if (status != ZS_OK) return status;
    char *bytes;
    zs_comm_gather_bytes(comm, &comm->world, &mine, sizeof mine, 0, &bytes, &lengths, "what loading cost");
    all = (result *)bytes;
    if (all) status = print_all(bench, all, comm->world.size, err);
    zs_free(all);
    zs_free(lengths);
    return zs_comm_agree(comm, &comm->world, status, err);
}
