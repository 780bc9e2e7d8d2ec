/* zerosearch doctor: what this machine has, and what would serve better. */
#include "binding.h"
#include "cores.h"
#include "machine.h"

#include "zerosearch/command.h"
#include "zerosearch/kernels.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <hdf5.h>
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


static void describe_environment(json_t *report) {
    static const char *const names[] = {"OMP_NUM_THREADS",   "OMP_PROC_BIND",        "OMP_PLACES",
                                        "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "ZS_KEEP_CORETYPE",
                                        "ZS_KERNELS"};
    json_t *environment = json_object();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        json_object_set_new(environment, names[i], value ? json_string(value) : json_null());
    }
    json_object_set_new(report, "environment", environment);
}

static void describe_kernels(json_t *report) {
    json_t *kernels = json_object();
    const char *best_name = NULL;
    static const char *const wishes[] = {NULL, "Haswell", "Zen",
                                         "SkylakeX"}; /* NULL: OpenBLAS's own choice */
    double first_rate = 0, best_rate = 0;
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        char kernel[64];
        double rate;
        if (!zs_machine_try_kernel(wishes[i], kernel, &rate) ||
            (wishes[i] && strcasecmp(kernel, wishes[i]) != 0))
            continue;
        json_object_set_new(kernels, kernel, json_real(rate));
        if (!wishes[i]) first_rate = rate;
        if (rate > best_rate) {
            best_rate = rate;
            best_name = wishes[i] ? wishes[i] : "";
        }
    }
    json_object_set_new(report, "sgemm_gflops_one_core", kernels);
    const char *before = getenv("ZS_CORETYPE_BEFORE"); /* the kernel that the program left: see machine.h */
    double before_rate = before ? json_number_value(json_object_get(kernels, before)) : 0;
    double now_rate = json_number_value(json_object_get(kernels, zs_machine_kernel()));
    if (now_rate == 0) now_rate = first_rate;
    /* A tenth is more than the measurement wavers by. */
    bool better = best_name && best_name[0] && best_rate > 1.1 * now_rate;
    json_t *advice;
    if (better)
        advice = json_sprintf(
            "set OPENBLAS_CORETYPE=%s and ZS_KEEP_CORETYPE=1: %.2f times the rate of the kernel in use",
            best_name, best_rate / now_rate);
    else if (before_rate > 0)
        advice = json_sprintf(
            "nothing to do: the program uses %s, %.2f times as fast as the %s that it was started with",
            zs_machine_kernel(), now_rate / before_rate, before);
    else
        advice = json_string("the kernel in use is as fast as any tried");
    json_object_set_new(report, "advice", advice);
}

/* NUMA nodes with their cores and memory. */
static void describe_numa(json_t *report, const zs_topology *topology) {
    json_t *nodes = json_object();
    for (int n = 0; n < topology->num_numa; n++) {
        char name[20];
        zs_string text = {0};
        snprintf(name, sizeof name, "%d", topology->numa[n].id);
        zs_string_puts(&text, "cores ");
        zs_cores_describe(&topology->numa[n].cores, &text);
        zs_string_printf(&text, ", %.1f GiB", topology->numa[n].gib);
        json_object_set_new(nodes, name, json_string(text.data));
        zs_string_free(&text);
    }
    json_object_set_new(report, "numa_nodes", nodes);
}

/* "cores 0-3 in NUMA node 0"; true where they lie in several. */
static bool describe_cores(const zs_topology *topology, zs_string *line) {
    zs_string names = {0};
    cpu_set_t cores;
    zs_cores_mine(topology, &cores);
    zs_string_puts(line, "cores ");
    zs_cores_describe(&cores, line);
    int nodes = zs_cores_numa(topology, &cores, &names);
    if (nodes > 0) zs_string_printf(line, " in NUMA node%s %s", nodes == 1 ? "" : "s", names.data);
    zs_string_free(&names);
    return nodes > 1;
}

/* One line for each rank: where it runs and on what; and whether that is well. */
static void describe_ranks(const zs_comm *comm, const zs_topology *topology, json_t *report) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    zs_string line = {0}, fault = {0};
    zs_string_printf(&line, "rank %d on %s: ", comm->world.rank, host);
    double spanning = describe_cores(topology, &line);
    zs_string_printf(&line, ", %d threads", omp_get_max_threads());
    char *all;
    int64_t *lengths;
    zs_comm_gather_bytes(comm, &comm->world, line.data, line.length, 0, &all, &lengths, "ranks' cores");
    zs_string_free(&line);
    zs_comm_sum(comm, &comm->world, &spanning, 1, "ranks' cores");
    bool wrong = zs_binding_check(comm, &fault);
    if (!all) return;
    json_t *ranks = json_array();
    for (int64_t i = 0, at = 0; i < comm->world.size; at += lengths[i], i++)
        json_array_append_new(ranks, json_stringn(all + at, (size_t)lengths[i]));
    json_object_set_new(report, "ranks", ranks);
    json_object_set_new(report, "binding",
                        json_string(wrong ? fault.data : "ranks and threads fit the cores"));
    if (spanning > 0)
        json_object_set_new(
            report, "numa_advice",
            json_sprintf("cores of %d rank%s span several NUMA nodes, where half of the memory or "
                         "more is far: a rank for each NUMA node is faster (jobs/README.md)",
                         (int)spanning, spanning > 1 ? "s" : ""));
    zs_string_free(&fault);
    zs_free(all);
    zs_free(lengths);
}

/* Memory that ranks share is in small pages unless the system says otherwise, and private memory is not. */
static void describe_sharing(json_t *report) {
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "r");
    char line[200] = "", *chosen = NULL;
    if (file && fgets(line, sizeof line, file) && (chosen = strchr(line, '[')))
        chosen[strcspn(chosen, "]")] = '\0';
    if (file) fclose(file);
    json_object_set_new(report, "shared_huge_pages", json_string(chosen ? chosen + 1 : "unknown"));
    if (chosen && (strcmp(chosen + 1, "never") == 0 || strcmp(chosen + 1, "deny") == 0))
        json_object_set_new(
            report, "sharing_advice",
            json_string("frozen models that the ranks of a node share are read about a tenth faster "
                        "with \"advise\" in /sys/kernel/mm/transparent_hugepage/shmem_enabled"));
}

static json_t *examine(const zs_comm *comm) {
    char processor[128], mpi[MPI_MAX_LIBRARY_VERSION_STRING], hdf5[40];
    unsigned major = 0, minor = 0, release = 0;
    int length = 0;
    json_t *report = json_object();
    zs_machine_processor(processor);
    json_object_set_new(report, "processor", json_string(processor));
    json_object_set_new(report, "cores_online", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(report, "cores_of_rank_0", json_integer(zs_machine_cores()));
    json_object_set_new(report, "memory_gib",
                        json_real((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 0x1p30));
    json_object_set_new(report, "threads_of_rank_0", json_integer(omp_get_max_threads()));
    json_object_set_new(report, "blas_kernel", json_string(zs_machine_kernel()));
    json_object_set_new(report, "own_kernels", json_string(zs_kernels_name()));
    describe_kernels(report);
    json_object_set_new(report, "read_gb_per_second", json_real(zs_machine_read_rate()));
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    json_object_set_new(report, "mpi", json_string(mpi));
    H5get_libversion(&major, &minor, &release);
    snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, release);
    json_object_set_new(report, "hdf5", json_string(hdf5));
    json_object_set_new(report, "ranks_in_all", json_integer(comm->world.size));
    json_object_set_new(report, "ranks_on_this_node", json_integer(comm->node.size));
    describe_sharing(report);
    describe_environment(report);
    return report;
}

/* "key: value", nested ones indented. */
static void print_words(const json_t *report, int indent) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)report, key, value) {
        printf("%*s%-*s ", indent, "", 22 - indent, key);
        if (json_is_object(value)) {
            printf("\n");
            print_words(value, indent + 2);
        } else if (json_is_array(value)) {
            printf("\n");
            for (size_t i = 0; i < json_array_size(value); i++)
                printf("%*s%s\n", indent + 2, "", json_string_value(json_array_get(value, i)));
        } else if (json_is_string(value)) {
            printf("%s\n", json_string_value(value));
        } else if (json_is_integer(value)) {
            printf("%lld\n", (long long)json_integer_value(value));
        } else if (json_is_real(value)) {
            printf("%.1f\n", json_real_value(value));
        } else {
            printf("not set\n");
        }
    }
}

static zs_status run(const zs_arguments *arguments, zs_error *err) {
    (void)err;
    const zs_comm *comm = arguments->comm;
    zs_topology topology;
    zs_topology_read("/sys/devices/system", &topology);
    json_t *report = comm->world.rank == 0 ? examine(comm) : NULL;
    if (report) describe_numa(report, &topology);
    describe_ranks(comm, &topology, report);
    if (!report) return ZS_OK;
    if (zs_arg(arguments, "json")) {
        json_dumpf(report, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n");
    } else {
        print_words(report, 0);
    }
    json_decref(report);
    return ZS_OK;
}

static const zs_option options[] = {{"json", NULL, "one JSON object instead of words"}, {NULL, NULL, NULL}};

const zs_command zs_command_doctor = {
    "doctor", "what this machine has: cores, binding, BLAS kernel and its rate, bandwidth, MPI, HDF5",
    "Rates are measured on rank 0 in some seconds: sgemm in GFlop/s of one core with OpenBLAS's own "
    "choice of\n"
    "kernel and with others (OPENBLAS_CORETYPE), reading from memory in GB/s.\n",
    options, run, false};
