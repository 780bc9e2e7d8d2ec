/* Small collectives with a deadline: the non-blocking call, then the wait. */
#include "internal.h"

#include "zerosearch/memory.h"

#include <string.h>

#define CHUNK ((int64_t)1 << 30) /* bytes in one call */

void zs_comm_barrier(const zs_comm *comm, const zs_group *group, const char *what) {
    if (group->comm == MPI_COMM_NULL) return;
    MPI_Request request;
    MPI_Ibarrier(group->comm, &request);
    zs_comm_wait(comm, &request, what);
}

static void reduce_doubles(const zs_comm *comm, const zs_group *group, double *values, int count, MPI_Op op,
                           const char *what) {
    if (group->comm == MPI_COMM_NULL || group->size == 1) return;
    MPI_Request request;
    MPI_Iallreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, op, group->comm, &request);
    zs_comm_wait(comm, &request, what);
}

void zs_comm_sum(const zs_comm *comm, const zs_group *group, double *values, int count, const char *what) {
    reduce_doubles(comm, group, values, count, MPI_SUM, what);
}

void zs_comm_max(const zs_comm *comm, const zs_group *group, double *values, int count, const char *what) {
    reduce_doubles(comm, group, values, count, MPI_MAX, what);
}

void zs_comm_broadcast_bytes(const zs_comm *comm, const zs_group *group, void *data, int64_t bytes, int root,
                             const char *what) {
    if (group->comm == MPI_COMM_NULL || group->size == 1) return;
    for (int64_t done = 0; done < bytes; done += CHUNK) {
        int64_t part = bytes - done < CHUNK ? bytes - done : CHUNK;
        MPI_Request request;
        MPI_Ibcast((char *)data + done, zs_mpi_count(part), MPI_BYTE, root, group->comm, &request);
        zs_comm_wait(comm, &request, what);
    }
}

/* Chunks of one byte string as point-to-point messages: they keep their order, and the whole may be larger
 * than what MPI_Igatherv can count. Returns the number of requests posted. */
static int64_t post_chunks(const zs_group *group, char *data, int64_t bytes, int peer, bool send,
                           MPI_Request *requests) {
    int64_t posted = 0;
    for (int64_t done = 0; done < bytes; done += CHUNK) {
        int part = zs_mpi_count(bytes - done < CHUNK ? bytes - done : CHUNK);
        if (send)
            MPI_Isend(data + done, part, MPI_BYTE, peer, 0, group->comm, &requests[posted++]);
        else
            MPI_Irecv(data + done, part, MPI_BYTE, peer, 0, group->comm, &requests[posted++]);
    }
    return posted;
}

static int64_t num_chunks(int64_t bytes) {
    return (bytes + CHUNK - 1) / CHUNK;
}

void zs_comm_gather_bytes(const zs_comm *comm, const zs_group *group, const void *data, int64_t bytes,
                          int root, char **out, int64_t **lengths, const char *what) {
    if (out) *out = NULL;
    if (lengths) *lengths = NULL;
    if (group->comm == MPI_COMM_NULL) return;
    bool is_root = group->rank == root;
    int64_t *sizes = ZS_NEW(int64_t, is_root ? group->size : 1);
    MPI_Request request;
    MPI_Igather(&bytes, 1, MPI_INT64_T, sizes, 1, MPI_INT64_T, root, group->comm, &request);
    zs_comm_wait(comm, &request, what);

    int64_t total = 0, num_requests = num_chunks(bytes);
    if (is_root)
        for (int r = 0; r < group->size; r++)
            total += sizes[r], num_requests += num_chunks(sizes[r]);
    MPI_Request *requests = ZS_NEW(MPI_Request, num_requests);
    int64_t posted = 0, offset = 0;
    char *all = is_root ? ZS_NEW(char, total + 1) : NULL;
    for (int r = 0; is_root && r < group->size; r++) {
        if (r == root)
            memcpy(all + offset, bytes ? data : "", (size_t)bytes);
        else
            posted += post_chunks(group, all + offset, sizes[r], r, false, requests + posted);
        offset += sizes[r];
    }
    if (!is_root) posted = post_chunks(group, (char *)(uintptr_t)data, bytes, root, true, requests);
    zs_comm_wait_all(comm, zs_mpi_count(posted), requests, what);
    zs_free(requests);
    if (is_root && out)
        *out = all;
    else
        zs_free(all);
    if (is_root && lengths)
        *lengths = sizes;
    else
        zs_free(sizes);
}
