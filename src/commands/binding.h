/* Binding: do the ranks and threads of a job fit the cores of its nodes?
 *
 * Launchers get it wrong without a word: Open MPI binds two ranks to one core each whatever OMP_NUM_THREADS
 * says, and a site that sets OMP_PROC_BIND stacks the threads of unbound ranks on the same cores. */
#ifndef ZEROSEARCH_COMMANDS_BINDING_H
#define ZEROSEARCH_COMMANDS_BINDING_H

#include "cores.h"

#include "zerosearch/comm.h"

/* What one rank tells. */
typedef struct zs_rank_cores {
    char host[64];
    int node;                /* world rank of the first rank of its node */
    int threads;             /* that it will run */
    int allotted;            /* cores of the node that the batch system says are this job's; 0: it does not */
    int numa;                /* NUMA nodes of the node, 0: not known */
    bool pinned;             /* each thread to a place of its own (OMP_PROC_BIND) */
    bool wished;             /* threads by OMP_NUM_THREADS */
    bool launched;           /* by mpirun or srun: a plain process has the cores that its user gave it */
    cpu_set_t mine, granted; /* cores of this rank, cores of the job on this node: see cores.h */
} zs_rank_cores;

/* This rank's, after zs_machine_set_threads. Collective on the node. */
zs_rank_cores zs_binding_of_rank(const zs_comm *comm, const zs_topology *topology);

/* One sentence about the worst fault of `count` ranks (in world order) and what mends it, in this order:
 * pinned on each other's cores; more threads than cores; cores that no thread is for. False: all is well.
 * Cores count as idle where every rank of the node could have one more, and where they are kept from the
 * ranks by a launcher's binding or, with several ranks, are at least half of the node. Pure. */
bool zs_binding_judge(const zs_rank_cores *ranks, int count, zs_string *out);

/* Gathers the ranks' cores and judges: true on world rank 0 where something is wrong. Collective on the
 * world. */
bool zs_binding_check(const zs_comm *comm, zs_string *out);

#endif
