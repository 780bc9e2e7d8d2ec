/* Memory that the ranks of one node hold together.
 *
 * Why at all: a frozen model (simulator, KL reference, the policy of an evaluation) is the same on all ranks,
 * and on a node of 64 ranks 64 copies of 7 billion weights do not fit. Kept once a node, a rank holds 1/k of
 * it and reads 1/k of the files, yet all inference code works on one flat pointer. Two other ways were
 * weighed. Tensor-parallel shards would need collectives inside every layer of every decode step, although
 * the ranks of a node draw on the same memory bandwidth anyway. Mapping the files on every rank gives the
 * sharing for nothing, but q, k and v do not stand side by side in them, data may begin at odd addresses, no
 * conversion is possible, and pages lie wherever the first reader happened to run.
 *
 * Why not MPI_Win_allocate_shared: where the window's backing file does not fit, Open MPI 4.1 returns an
 * error on one rank and leaves the others waiting inside the call for ever, where no deadline reaches; its
 * memory is 8-byte aligned; and its size is bounded by /dev/shm, which is 64 MB in many containers. An
 * anonymous file (memfd) that the first rank of the node makes and the others open through /proc has no name
 * to leave behind, no file system that could be full, and every step can fail on any rank and be agreed on.
 * It needs Linux and one process namespace a node; elsewhere each rank keeps a copy and one warning says so.
 *
 * Visibility: ranks write disjoint parts, then meet in a barrier between fences; afterwards all only read. */
#include "internal.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE  ((int64_t)2 << 20)  /* a huge page: mappings are whole ones */
#define BLOCK ((int64_t)16 << 20) /* one rank's turn in the interleaving */

/* How the first rank of a node offers its file. Another process may have that number in another namespace,
 * so the file begins with the same nonce. */
typedef struct offer {
    int64_t pid, fd, bytes;
    struct timespec nonce;
} offer;

static int64_t mapped_bytes(int64_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* ZS_TEST_SHARE=fail:RANK: that rank of the world cannot share memory. */
static bool test_failure(const zs_comm *comm) {
    const char *wish = getenv("ZS_TEST_SHARE");
    char here[40];
    snprintf(here, sizeof here, "fail:%d", comm->world.rank);
    return wish && strcmp(wish, here) == 0;
}

static zs_status map(zs_shared *shared, int fd, zs_error *err) {
    size_t bytes = (size_t)mapped_bytes(shared->bytes);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return zs_fail(err, ZS_FAILED, "shared memory cannot be mapped: %s", strerror(errno));
    madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: shmem_enabled decides */
    shared->data = memory;
    shared->mapped = true;
    return ZS_OK;
}

static void unmap(zs_shared *shared) {
    if (shared->mapped) munmap(shared->data, (size_t)mapped_bytes(shared->bytes));
    shared->mapped = false;
    shared->data = NULL;
}

static zs_status make_file(const zs_comm *comm, zs_shared *shared, offer *out, int *fd, zs_error *err) {
    if (test_failure(comm)) return zs_fail(err, ZS_FAILED, "shared memory cannot be made: test");
    *fd = memfd_create("zerosearch", MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, (off_t)mapped_bytes(shared->bytes)) != 0)
        return zs_fail(err, ZS_FAILED, "shared memory cannot be made: %s", strerror(errno));
    zs_status status = map(shared, *fd, err);
    if (status) return status;
    *out = (offer){getpid(), *fd, shared->bytes, {0, 0}};
    clock_gettime(CLOCK_REALTIME, &out->nonce);
    memcpy(shared->data, &out->nonce, sizeof out->nonce);
    return ZS_OK;
}

static zs_status open_file(const zs_comm *comm, zs_shared *shared, const offer *from, int *fd,
                           zs_error *err) {
    if (test_failure(comm)) return zs_fail(err, ZS_FAILED, "shared memory cannot be opened: test");
    char path[80];
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)from->pid, (long long)from->fd);
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd < 0) return zs_fail(err, ZS_FAILED, "%s cannot be opened: %s", path, strerror(errno));
    struct stat info;
    if (fstat(*fd, &info) != 0 || info.st_size != mapped_bytes(from->bytes))
        return zs_fail(err, ZS_FAILED, "%s is not the memory offered by another rank", path);
    zs_status status = map(shared, *fd, err);
    if (status == ZS_OK && memcmp(shared->data, &from->nonce, sizeof from->nonce) != 0)
        status = zs_fail(err, ZS_FAILED, "%s is not the memory offered by another rank", path);
    return status;
}

/* Shared memory for the ranks of shared->node; the same status on all of them. */
static zs_status share_on_node(const zs_comm *comm, zs_shared *shared, const char *what, zs_error *err) {
    offer offered = {0};
    int fd = -1;
    bool first = shared->node.rank == 0;
    zs_status status = first ? make_file(comm, shared, &offered, &fd, err) : ZS_OK;
    zs_comm_broadcast_bytes(comm, &shared->node, &offered, sizeof offered, 0, what);
    if (!first && offered.pid) status = open_file(comm, shared, &offered, &fd, err);
    status = zs_comm_agree(comm, &shared->node, status, err);
    if (fd >= 0) close(fd);
    if (status != ZS_OK)
        unmap(shared);
    else if (first)
        memset(shared->data, 0, sizeof offered.nonce);
    return status;
}

/* Bytes that the kernel could give without taking any process's memory; INT64_MAX: it does not say. */
static int64_t available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    long long kilobytes = 0, sum = -1, value;
    char line[200];
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld", &value) == 1 || sscanf(line, "SwapFree: %lld", &value) == 1)
            sum = kilobytes += value;
    if (file) fclose(file);
    return sum < 0 ? INT64_MAX : sum * 1024;
}

zs_status zs_comm_check_room(const zs_group *node, int64_t copies, int64_t bytes, const char *what,
                             zs_error *err) {
    if (node->rank != 0) return ZS_OK;
    int64_t available = available_bytes();
    if (bytes <= available / copies) return ZS_OK;
    return zs_fail(
        err, ZS_FAILED,
        "%s: %lld x %.2f GiB are needed on a node that has %.2f GiB left; use more nodes, a smaller "
        "model, bf16 or int8",
        what, (long long)copies, (double)bytes / (1 << 30), (double)available / (1 << 30));
}

zs_status zs_comm_share(const zs_comm *comm, const zs_group *group, int64_t bytes, const char *what,
                        zs_shared *out, zs_error *err) {
    ZS_ASSERT(bytes >= 0 && bytes < INT64_MAX - PAGE, "%lld bytes", (long long)bytes);
    char waited[300];
    snprintf(waited, sizeof waited, "all ranks, to share memory for %.200s", what);
    *out = (zs_shared){.bytes = bytes > 0 ? bytes : 1, .size = 1};
    out->node = zs_group_on_node(comm, group, waited);
    if (group->comm == MPI_COMM_NULL) return ZS_OK;

    zs_status status =
        zs_comm_agree(comm, group, zs_comm_check_room(&out->node, 1, out->bytes, what, err), err);
    zs_error why = {0};
    zs_status shares = status == ZS_OK && out->node.size > 1 ? share_on_node(comm, out, waited, &why) : ZS_OK;
    if (out->mapped) {
        out->rank = out->node.rank;
        out->size = out->node.size;
    } else if (shares != ZS_OK) {
        status = zs_comm_check_room(&out->node, out->node.size, out->bytes, what, err);
    }
    if (zs_comm_agree(comm, group, shares, &why) != ZS_OK && group->rank == 0)
        zs_log_rank(ZS_LOG_WARNING, "%s: each rank of a node keeps a copy of its own (%s)", what, why.text);
    status = zs_comm_agree(comm, group, status, err);
    if (status != ZS_OK) {
        zs_shared_free(out);
        return status;
    }
    if (!out->mapped) out->data = zs_alloc(out->bytes, 1);
    return ZS_OK;
}

bool zs_shared_part(const zs_shared *shared, int64_t index, int64_t *begin, int64_t *end) {
    *begin = (index * shared->size + shared->rank) * BLOCK;
    *end = *begin + BLOCK < shared->bytes ? *begin + BLOCK : shared->bytes;
    return *begin < shared->bytes;
}

void zs_shared_publish(const zs_comm *comm, const zs_shared *shared, const char *what) {
    atomic_thread_fence(memory_order_seq_cst);
    zs_comm_barrier(comm, &shared->node, what);
    atomic_thread_fence(memory_order_seq_cst);
}

void zs_shared_free(zs_shared *shared) {
    if (shared->mapped)
        unmap(shared);
    else
        zs_free(shared->data);
    if (shared->node.size > 0) zs_group_free(&shared->node);
    *shared = (zs_shared){.node = {MPI_COMM_NULL, -1, 0}};
}
