/* Cores: which there are, which NUMA node each lies in, which this rank and this job may use.
 *
 * Sets hold whole cores, each under the number of its first hardware thread: arithmetic gains nothing from a
 * second thread of a core, so one is counted and one is used. */
#ifndef ZEROSEARCH_COMMANDS_CORES_H
#define ZEROSEARCH_COMMANDS_CORES_H

#include "zerosearch/strings.h"

#include <sched.h>

enum { ZS_MAX_NUMA = 64 };

typedef struct zs_topology {
    int core[CPU_SETSIZE]; /* of a hardware thread: the first one of its core */
    int num_numa;
    struct {
        int id;
        cpu_set_t cores;
        double gib; /* memory; 0: not known */
    } numa[ZS_MAX_NUMA];
} zs_topology;

/* From `sys` ("/sys/devices/system"); what it does not tell is taken for one thread a core, no NUMA. */
void zs_topology_read(const char *sys, zs_topology *out);

/* Cores that this rank may use: those that the launcher bound it to. OpenMP has pinned this thread to one of
 * them where OMP_PROC_BIND is set; the others of its places count. Empty: the system does not say. */
void zs_cores_mine(const zs_topology *topology, cpu_set_t *out);
/* Cores that the job was given on this node (its cpuset), whichever of them the launcher bound this rank to.
 */
void zs_cores_granted(const zs_topology *topology, cpu_set_t *out);
/* Undoes OpenMP's pinning of this thread: a program started from it would take one core for all it has. */
void zs_cores_unpin(void);

/* "0-3,8" */
void zs_cores_describe(const cpu_set_t *cores, zs_string *out);
/* Puts the NUMA nodes that `cores` lie in ("0,1") into `out`; how many they are, 0: not known. */
int zs_cores_numa(const zs_topology *topology, const cpu_set_t *cores, zs_string *out);

#endif
