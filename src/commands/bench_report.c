/* bench: how results are told: a line each in words or JSON as they come, and a Markdown table that begins
 * with the machine's description and that several runs can add to. */
#include "bench.h"
#include "machine.h"

#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A fraction of a limit, the rate that it is of, and what the limit is. */
typedef struct limit {
    const char *fraction, *rate, *unit, *words;
} limit;
static const limit limits[] = {
    {"of_best_gemm", "gflops", "GFLOP/s", "sgemm"},
    {"of_best_read", "gb_per_s", "GB/s", "read"},
    {"of_plain_alltoallv", "gb_per_s", "GB/s", "plain alltoallv"},
    {"of_plain_allreduce", "gb_per_s", "GB/s", "plain allreduce"},
    {"of_plain_bcast", "gb_per_s", "GB/s", "plain bcast"},
    {"of_plain_write", "write_gb_per_s", "GB/s", "write"},
};
#define NUM_LIMITS ((int)(sizeof limits / sizeof *limits))

/* What tells one row of a part from another, and how it is said. */
static const struct {
    const char *name, *format;
} cases[] = {
    {"rows", "%.10g rows"},   {"out", "%.10g out"},           {"in", "%.10g in"},
    {"batch", "batch %.10g"}, {"seq", "%.10g tokens each"},   {"prompt", "prompt %.10g"},
    {"new", "%.10g new"},     {"passages", "%.10g passages"}, {"message_bytes", "messages of %.10g bytes"},
    {"megabytes", "%.4g MB"}};
#define NUM_CASES ((int)(sizeof cases / sizeof *cases))

static double field(const zs_bench_field *fields, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0) return fields[i].value;
    return NAN;
}

static const limit *limit_of(const char *fraction) {
    for (int i = 0; i < NUM_LIMITS; i++)
        if (strcmp(limits[i].fraction, fraction) == 0) return &limits[i];
    return NULL;
}

/* Words and JSON. */

static void put(const zs_bench *bench, zs_string *line, const char *name, double value) {
    if (isfinite(value)) zs_string_printf(line, bench->json ? ",\"%s\":%.6g" : "  %s %.4g", name, value);
}

/* Fractions are followed by the limit itself: "of_plain_bcast 0.9  plain_bcast_gb_per_s 4.1". */
static void put_limit(const zs_bench *bench, zs_string *line, const limit *l, double fraction, double rate) {
    char name[80];
    bool compute = strcmp(l->unit, "GFLOP/s") == 0;
    snprintf(name, sizeof name, "%s_%s", l->fraction + strlen("of_"), compute ? "gflops" : "gb_per_s");
    put(bench, line, name, rate / fraction);
}

static void print_line(const zs_bench *bench, const char *what, const zs_bench_field *fields, int count,
                       double peak) {
    zs_string line = {0};
    zs_string_printf(&line, bench->json ? "{\"bench\":\"%s\"" : "%-11s", what);
    if (bench->json)
        zs_string_printf(&line, ",\"shape\":\"%s\",\"layers\":%lld,\"threads\":%d,\"ranks\":%d", bench->shape,
                         (long long)bench->config.num_hidden_layers, bench->threads, bench->comm->world.size);
    for (int i = 0; i < count; i++) {
        put(bench, &line, fields[i].name, fields[i].value);
        const limit *l = limit_of(fields[i].name);
        if (l) put_limit(bench, &line, l, fields[i].value, field(fields, count, l->rate));
    }
    put(bench, &line, "peak_mib", peak / 0x1p20);
    printf("%s%s", line.data, bench->json ? "}\n" : "\n");
    fflush(stdout);
    zs_string_free(&line);
}

/* The table. */

static void put_processor(FILE *table) {
    char name[128];
    zs_machine_processor(name);
    fprintf(table, "- processor: %s, %d cores for this program", name, zs_machine_cores());
    for (int level = 1; level <= 3; level++)
        if (zs_machine_cache(level))
            fprintf(table, "%s %lld KiB%s",
                    level == 1   ? "; caches: L1d"
                    : level == 2 ? ", L2"
                                 : ", L3",
                    (long long)zs_machine_cache(level) >> 10, level == 3 ? " (shared)" : " a core");
    fprintf(table, "; memory %.1f GiB\n",
            (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 0x1p30);
}

static void put_description(const zs_bench *bench) {
    FILE *table = bench->table;
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING], date[40];
    int length;
    time_t now = time(NULL);
    struct tm utc;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    fprintf(table, "# zerosearch bench\n\n");
    put_processor(table);
    fprintf(table, "- BLAS kernel: %s; MPI: %s\n", zs_machine_kernel(), mpi);
    fprintf(table, "- compiler: %s\n- commit: %s; date: %s\n\n", bench->build->compiler, bench->build->commit,
            date);
    fputs("Rates are medians over a part's repeats (checkpoint: the best of three). Limits are the best that "
          "the\n"
          "machine gave, measured beside the part in the same run; of several, the one that a row comes "
          "nearest\n"
          "to is shown. Peak: most bytes that the program held for the row, on rank 0; libraries' own memory "
          "is\n"
          "not in it.\n\n"
          "| part | shape | case | weights | ranks x threads | tokens/s | GFLOP/s | GB/s | the machine's "
          "limit | "
          "of it | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
          table);
}

zs_status zs_bench_open_table(zs_bench *bench, const char *path, zs_error *err) {
    bench->table = fopen(path, "a");
    if (!bench->table) return zs_fail(err, ZS_FAILED, "%s: the table cannot be written there", path);
    fseek(bench->table, 0, SEEK_END);
    if (ftell(bench->table) == 0) put_description(bench);
    return ZS_OK;
}

zs_status zs_bench_close_table(zs_bench *bench, const char *path, zs_error *err) {
    bool good = !ferror(bench->table);
    if (fclose(bench->table) != 0) good = false;
    bench->table = NULL;
    return good ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: the table could not be written whole", path);
}

static void put_cell(FILE *table, double value) {
    if (isfinite(value))
        fprintf(table, value >= 1000 ? " %.0f |" : " %.3g |", value);
    else
        fprintf(table, " |");
}

static void put_case(FILE *table, const zs_bench_field *fields, int count) {
    const char *comma = "";
    for (int i = 0; i < NUM_CASES; i++) {
        double value = field(fields, count, cases[i].name);
        if (!isfinite(value)) continue;
        fprintf(table, "%s ", comma);
        fprintf(table, cases[i].format, value);
        comma = ",";
    }
    double weights = field(fields, count, "weight_bytes");
    fprintf(table, " | %s |", weights == 1 ? "int8" : weights == 2 ? "bf16" : weights == 4 ? "f32" : "");
}

static void put_row(const zs_bench *bench, const char *what, const zs_bench_field *fields, int count,
                    double peak) {
    FILE *table = bench->table;
    const limit *nearest = NULL;
    for (int i = 0; i < count; i++) {
        const limit *l = limit_of(fields[i].name);
        if (l && isfinite(fields[i].value) &&
            (!nearest || fields[i].value > field(fields, count, nearest->fraction)))
            nearest = l;
    }
    fprintf(table, "| %s | %s, %lld layers |", what, bench->shape,
            (long long)bench->config.num_hidden_layers);
    put_case(table, fields, count);
    fprintf(table, " %d x %d |", bench->comm->world.size, bench->threads);
    put_cell(table, field(fields, count, "tokens_per_s"));
    put_cell(table, field(fields, count, "gflops"));
    double written = field(fields, count, "write_gb_per_s");
    put_cell(table, isfinite(written) ? written : field(fields, count, "gb_per_s"));
    if (nearest) {
        double fraction = field(fields, count, nearest->fraction), rate = field(fields, count, nearest->rate);
        fprintf(table, " %s %.3g %s | %.0f %% |", nearest->words, rate / fraction, nearest->unit,
                100 * fraction);
    } else {
        fprintf(table, " | |");
    }
    fprintf(table, " %.1f |\n", peak / 0x1p20);
}

void zs_bench_report(const zs_bench *bench, const char *what, const zs_bench_field *fields, int count) {
    if (bench->comm->world.rank > 0) return;
    bool is_limit = strcmp(what, "machine") == 0;
    double peak = is_limit ? NAN : (double)zs_memory_peak();
    print_line(bench, what, fields, count, peak);
    if (bench->table && !is_limit) put_row(bench, what, fields, count, peak);
}
