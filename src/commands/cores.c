/* Cores, from /sys and the scheduler. */
#include "cores.h"

#include "zerosearch/memory.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

/* /sys. */

/* A list like "0-3,8" in a file; false: there is none. */
static bool read_list(const char *path, cpu_set_t *out) {
    CPU_ZERO(out);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    int first, last;
    while (fscanf(file, "%d", &first) == 1) {
        last = first;
        int after = fgetc(file);
        if (after == '-' && fscanf(file, "%d", &last) == 1) after = fgetc(file);
        for (int i = first; i >= 0 && i <= last && i < CPU_SETSIZE; i++)
            CPU_SET(i, out);
        if (after != ',') break;
    }
    fclose(file);
    return CPU_COUNT(out) > 0;
}

static int first_of(const cpu_set_t *set) {
    int i = 0;
    while (i < CPU_SETSIZE && !CPU_ISSET(i, set))
        i++;
    return i;
}

/* Hardware threads to the cores that they are of. */
static void to_cores(const zs_topology *topology, const cpu_set_t *threads, cpu_set_t *cores) {
    cpu_set_t found;
    CPU_ZERO(&found);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, threads)) CPU_SET(topology->core[i], &found);
    *cores = found;
}

static double numa_gib(const char *sys, int node) {
    char path[300], line[200];
    double kib = 0;
    snprintf(path, sizeof path, "%.200s/node/node%d/meminfo", sys, node);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "Node %*d MemTotal: %lf", &kib) != 1)
        ;
    if (file) fclose(file);
    return kib / 1048576;
}

void zs_topology_read(const char *sys, zs_topology *out) {
    char path[300];
    cpu_set_t online, some;
    memset(out, 0, sizeof *out);
    for (int i = 0; i < CPU_SETSIZE; i++)
        out->core[i] = i;
    snprintf(path, sizeof path, "%.200s/cpu/online", sys);
    if (!read_list(path, &online)) return;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &online)) continue;
        snprintf(path, sizeof path, "%.200s/cpu/cpu%d/topology/thread_siblings_list", sys, i);
        if (read_list(path, &some)) out->core[i] = first_of(&some);
    }
    snprintf(path, sizeof path, "%.200s/node/online", sys);
    cpu_set_t nodes;
    read_list(path, &nodes);
    for (int i = 0; i < CPU_SETSIZE && out->num_numa < ZS_MAX_NUMA; i++) {
        if (!CPU_ISSET(i, &nodes)) continue;
        snprintf(path, sizeof path, "%.200s/node/node%d/cpulist", sys, i);
        if (!read_list(path, &some)) continue; /* memory without cores */
        out->numa[out->num_numa].id = i;
        out->numa[out->num_numa].gib = numa_gib(sys, i);
        to_cores(out, &some, &out->numa[out->num_numa].cores);
        out->num_numa++;
    }
}

/* This rank and this job. */

/* Hardware threads that this process may run on, OpenMP's places together where it pins its threads. */
static bool my_threads(cpu_set_t *out) {
    CPU_ZERO(out);
    int places = omp_get_num_places();
    for (int p = 0; p < places; p++) {
        int count = omp_get_place_num_procs(p), *ids = ZS_NEW(int, count);
        omp_get_place_proc_ids(p, ids);
        for (int i = 0; i < count; i++)
            if (ids[i] >= 0 && ids[i] < CPU_SETSIZE) CPU_SET(ids[i], out);
        zs_free(ids);
    }
    return CPU_COUNT(out) > 0 || sched_getaffinity(0, sizeof *out, out) == 0;
}

void zs_cores_mine(const zs_topology *topology, cpu_set_t *out) {
    cpu_set_t threads;
    if (!my_threads(&threads)) CPU_ZERO(&threads);
    to_cores(topology, &threads, out);
}

/* The system grants of a wish for all what the cpuset allows, and tells; then all is put back. */
void zs_cores_granted(const zs_topology *topology, cpu_set_t *out) {
    cpu_set_t before, all, granted;
    CPU_ZERO(&granted);
    if (sched_getaffinity(0, sizeof before, &before) == 0) {
        granted = before;
        memset(&all, 0xff, sizeof all);
        if (sched_setaffinity(0, sizeof all, &all) == 0) {
            sched_getaffinity(0, sizeof granted, &granted);
            sched_setaffinity(0, sizeof before, &before);
        }
    }
    to_cores(topology, &granted, out);
}

void zs_cores_unpin(void) {
    cpu_set_t threads;
    if (omp_get_num_places() > 0 && my_threads(&threads)) sched_setaffinity(0, sizeof threads, &threads);
}

/* Words. */

void zs_cores_describe(const cpu_set_t *cores, zs_string *out) {
    const char *comma = "";
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, cores)) continue;
        int last = i;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cores))
            last++;
        zs_string_printf(out, last > i ? "%s%d-%d" : "%s%d", comma, i, last);
        comma = ",";
        i = last;
    }
    if (!comma[0]) zs_string_puts(out, "unknown");
}

int zs_cores_numa(const zs_topology *topology, const cpu_set_t *cores, zs_string *out) {
    int count = 0;
    for (int n = 0; n < topology->num_numa; n++) {
        cpu_set_t both;
        CPU_AND(&both, cores, &topology->numa[n].cores);
        if (CPU_COUNT(&both) == 0) continue;
        zs_string_printf(out, "%s%d", count++ ? "," : "", topology->numa[n].id);
    }
    return count;
}
