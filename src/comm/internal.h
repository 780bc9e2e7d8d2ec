/* Shared by the files of src/comm/ only. */
#ifndef ZEROSEARCH_COMM_INTERNAL_H
#define ZEROSEARCH_COMM_INTERNAL_H

#include "zerosearch/comm.h"
#include "zerosearch/error.h"

#include <limits.h>

/* The one way from our int64_t counts to MPI's int. */
static inline int zs_mpi_count(int64_t count) {
    ZS_ASSERT(count >= 0 && count <= INT_MAX, "%lld elements do not fit in one MPI call", (long long)count);
    return (int)count;
}

/* A private duplicate of a group, so that its traffic meets no other; {MPI_COMM_NULL, -1, 0} outside.
 * Collective on group. */
zs_group zs_group_duplicate(const zs_comm *comm, const zs_group *group, const char *what);

/* Waits for a request that moves bytes, as zs_comm_wait does. *here, a barrier that each rank posted when it
 * was ready for the transfer, tells late ranks (waiting) from bytes under way (transfer); NULL, or done: all
 * are known to be ready. */
void zs_comm_wait_transfer(const zs_comm *comm, MPI_Request *request, MPI_Request *here, const char *what);

/* For loops that wait on more than requests: gives the core away, the longer the more has been waited; and the
 * end of a wait past its deadline, which is the end of the job. */
void zs_comm_nap(double waited);
void zs_comm_expire(const zs_comm *comm, const char *what) __attribute__((noreturn));

/* "simulators {0, 1}": the world's numbers of pod ranks, without this rank; at most `size` bytes. */
void zs_pod_describe(const zs_comm *comm, const char *name, const int *pod_ranks, int count, char *out,
                     size_t size);

#endif
