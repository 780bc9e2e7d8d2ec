/* Checkpoints written while training goes on. What is in the file: store.h. What guards it: envelope.h.
 *
 * begin: rank 0 makes the file by HDF5, all arrays contiguous and allocated; each rank takes an even,
 * block-aligned range of every array into a copy of its own, each element travelling once, straight from its
 * owner's memory. A thread (span_writer.h) takes the CRCs and writes the copy to the arrays' places in the
 * file. finish: rank 0 adds the CRCs by HDF5, seals the file and renames it. Without memory for the copy
 * the same steps run through a few stripes, and begin lasts as long as the writing: one path for both.
 *
 * Two other ways of getting the bytes into the file were weighed. Collective writes of HDF5 over MPI-IO are
 * what the library offers, but they need all ranks at once inside MPI, so no thread can do them beside
 * training (MPI is FUNNELED, Debian's HDF5 not thread-safe), and on a full disk Open MPI's wait for ever.
 * A forked child with the memory copied on write costs no copy at first, but fork under MPI with registered
 * memory is undefined and the pages that training touches are copied anyway, at fault cost. Plain pwrite is
 * right on Lustre, GPFS and local disks alike: they are POSIX-coherent, ranges are disjoint, large and
 * contiguous (total / ranks), and begin on 4 KiB pages of the file, so two clients meet in one lock at most
 * at each border; that is also all that MPI-IO makes of it when told not to regroup. After finish's flush
 * and agreement rank 0 opens the file anew, which is what NFS asks for too.
 *
 * Two other ways of dividing the work: each rank could write its own pieces and the CRCs of pieces be
 * joined by crc32_combine, which spares the move but writes hundreds of small, unaligned pieces a rank; or
 * the file could be read back for its CRCs, which costs a second pass over it. */
#include "span_writer.h"
#include "store.h"
#include "zerosearch/comm.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's floats are little-endian");

#define STRIPE (4 * ZS_CRC_BLOCK) /* elements that are handed to the thread at once: 16 MiB */
#define RING   4                  /* stripes, where there is no copy */

struct zs_checkpoint_writer {
    const zs_comm *comm;
    zs_group group, node; /* private duplicate of the writing ranks; those of it on this node */
    bool background, warned;
    float *copy; /* [num_slots, slot], kept from one checkpoint to the next */
    int64_t capacity;

    /* The checkpoint under way. */
    bool in_flight;
    char path[PATH_MAX], aside[PATH_MAX];
    int num_arrays;
    zs_checkpoint_array arrays[ZS_ENVELOPE_MAX_ARRAYS]; /* names (owned) and totals; no pieces */
    zs_extent extents[ZS_ENVELOPE_MAX_ARRAYS];
    uint32_t *crcs; /* of all arrays, one after another; 0 where another rank takes them */
    int64_t num_crcs, bytes;
    int64_t num_rounds, num_slots, slot; /* rounds of all arrays; slot: elements */
    zs_span_writer *thread;
    double begun;
};

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Who writes what: rank r writes elements [r share, (r + 1) share) of an array, a stripe a round. */

static int64_t share_of(int64_t total, int size) {
    return zs_crc_blocks((total + size - 1) / size) * ZS_CRC_BLOCK;
}

static int64_t rounds_of(int64_t total, int size) {
    return (share_of(total, size) + STRIPE - 1) / STRIPE;
}

static zs_span stripe_of(int64_t total, int size, int64_t round, int rank) {
    int64_t share = share_of(total, size), begin = rank * share + round * STRIPE;
    int64_t end = min64(total, min64(begin + STRIPE, (rank + 1) * share));
    return (zs_span){begin, max64(0, end - begin)};
}

/* Who owns what. */

typedef struct owned { /* a piece of some rank */
    int64_t begin, count, rank;
} owned;

typedef struct map { /* of one array: all pieces of all ranks, and this rank's, by begin */
    owned *all;
    int64_t num_all;
    zs_piece *mine;
    int64_t num_mine;
} map;

static int compare_owned(const void *a, const void *b) {
    const owned *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int compare_pieces(const void *a, const void *b) {
    const zs_piece *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* The pieces of all ranks, unsorted. Collective on the group. */
static void gather_pieces(const zs_checkpoint_writer *w, map *map) {
    static const char what[] = "the pieces of a checkpoint";
    int size = w->group.size;
    owned *mine = ZS_NEW(owned, map->num_mine);
    for (int64_t i = 0; i < map->num_mine; i++)
        mine[i] = (owned){map->mine[i].begin, map->mine[i].count, w->group.rank};
    int *counts = ZS_NEW(int, size), *starts = ZS_NEW(int, size);
    ZS_ASSERT(map->num_mine <= INT_MAX / 3, "%lld pieces", (long long)map->num_mine);
    int words = (int)(3 * map->num_mine);
    MPI_Request request;
    MPI_Iallgather(&words, 1, MPI_INT, counts, 1, MPI_INT, w->group.comm, &request);
    zs_comm_wait(w->comm, &request, what);
    int64_t total = 0;
    for (int r = 0; r < size; r++) {
        starts[r] = (int)total;
        total += counts[r];
        ZS_ASSERT(total <= INT_MAX, "%lld pieces", (long long)total / 3);
    }
    map->num_all = total / 3;
    map->all = ZS_NEW(owned, map->num_all);
    MPI_Iallgatherv(mine, words, MPI_INT64_T, map->all, counts, starts, MPI_INT64_T, w->group.comm, &request);
    zs_comm_wait(w->comm, &request, what);
    zs_free(starts);
    zs_free(counts);
    zs_free(mine);
}

/* Collective on the group. Every element must have one owner. */
static zs_status map_create(const zs_checkpoint_writer *w, const zs_checkpoint_array *array, map *map,
                            zs_error *err) {
    map->mine = ZS_NEW(zs_piece, array->num_pieces);
    map->num_mine = 0;
    for (int i = 0; i < array->num_pieces; i++)
        if (array->pieces[i].count > 0) map->mine[map->num_mine++] = array->pieces[i];
    qsort(map->mine, (size_t)map->num_mine, sizeof *map->mine, compare_pieces);
    gather_pieces(w, map);
    qsort(map->all, (size_t)map->num_all, sizeof *map->all, compare_owned);
    int64_t at = 0, sum = 0;
    for (int64_t i = 0; i < map->num_all && map->all[i].begin == at; i++)
        at += map->all[i].count;
    for (int64_t i = 0; i < map->num_all; i++)
        sum += map->all[i].count;
    if (at != array->total || sum != array->total)
        return zs_fail(err, ZS_FAILED,
                       "array %s of %lld elements: the ranks' pieces have a gap or overlap at %lld",
                       array->name, (long long)array->total, (long long)at);
    return ZS_OK;
}

static void map_free(map *map) {
    zs_free(map->all);
    zs_free(map->mine);
}

/* The first piece that ends behind `at`; pieces are sorted and disjoint. */
static int64_t first_owned(const map *map, int64_t at) {
    int64_t low = 0, high = map->num_all;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (map->all[middle].begin + map->all[middle].count <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int64_t first_mine(const map *map, int64_t at) {
    int64_t low = 0, high = map->num_mine;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (map->mine[middle].begin + map->mine[middle].count <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Moving the pieces. */

typedef struct requests {
    MPI_Request *list;
    int count, capacity;
} requests;

static MPI_Request *next_request(requests *requests) {
    if (requests->count == requests->capacity) {
        int capacity = requests->capacity ? 2 * requests->capacity : 64;
        requests->list = zs_grow(requests->list, requests->capacity, capacity, sizeof *requests->list);
        requests->capacity = capacity;
    }
    return &requests->list[requests->count++];
}

static void copy(float *to, const float *from, int64_t count) {
    enum { PART = 1 << 18 };
#pragma omp parallel for schedule(static) if (count > PART)
    for (int64_t at = 0; at < count; at += PART)
        memcpy(to + at, from + at, (size_t)min64(PART, count - at) * sizeof *to);
}

/* One round: every rank gets its stripe of the array. Between two ranks messages go in ascending order of
 * their elements on both sides, so they match without tags. Collective on the group. */
static void collect_stripe(const zs_checkpoint_writer *w, const map *map, int64_t total, int64_t round,
                           float *stripe, requests *requests) {
    int rank = w->group.rank, size = w->group.size;
    zs_span own = stripe_of(total, size, round, rank);
    requests->count = 0;
    for (int64_t i = first_owned(map, own.begin); i < map->num_all; i++) {
        const owned *piece = &map->all[i];
        int64_t from = max64(own.begin, piece->begin);
        int64_t to = min64(own.begin + own.count, piece->begin + piece->count);
        if (from >= to) break;
        if (piece->rank != rank)
            MPI_Irecv(stripe + (from - own.begin), (int)(to - from), MPI_FLOAT, (int)piece->rank, 0,
                      w->group.comm, next_request(requests));
    }
    for (int step = 1; step <= size; step++) { /* beginning behind oneself, so that not all send to rank 0 */
        int other = (rank + step) % size;
        zs_span theirs = stripe_of(total, size, round, other);
        for (int64_t i = first_mine(map, theirs.begin); i < map->num_mine; i++) {
            const zs_piece *piece = &map->mine[i];
            int64_t from = max64(theirs.begin, piece->begin);
            int64_t to = min64(theirs.begin + theirs.count, piece->begin + piece->count);
            if (from >= to) break;
            const float *data = piece->data + (from - piece->begin);
            if (other == rank)
                copy(stripe + (from - own.begin), data, to - from);
            else
                MPI_Isend(data, (int)(to - from), MPI_FLOAT, other, 0, w->group.comm, next_request(requests));
        }
    }
    zs_comm_wait_all(w->comm, requests->count, requests->list, "the other ranks' parts of a checkpoint");
}

/* All rounds of all arrays, each handed to the thread as soon as it is here. Collective on the group. */
static void collect(zs_checkpoint_writer *w, const map *maps) {
    requests requests = {0};
    int64_t round = 0;
    uint32_t *crcs = w->crcs;
    for (int a = 0; a < w->num_arrays; a++) {
        int64_t total = w->arrays[a].total;
        for (int64_t r = 0; r < rounds_of(total, w->group.size); r++, round++) {
            float *stripe = w->copy + round % w->num_slots * w->slot;
            zs_span_writer_await(w->thread, round - w->num_slots + 1);
            collect_stripe(w, &maps[a], total, r, stripe, &requests);
            zs_span own = stripe_of(total, w->group.size, r, w->group.rank);
            zs_file_span span = {w->extents[a].begin + own.begin * 4, own.count * 4, stripe,
                                 crcs + own.begin / ZS_CRC_BLOCK};
            zs_span_writer_put(w->thread, span);
        }
        crcs += zs_crc_blocks(total);
    }
    zs_free(requests.list);
}

/* Memory for the stripes: of all rounds, or where a node has not that much (or none is wanted), a ring.
 * Collective on the group. */
static void make_room(zs_checkpoint_writer *w) {
    int64_t longest = 0;
    w->num_rounds = 0;
    for (int a = 0; a < w->num_arrays; a++) {
        w->num_rounds += rounds_of(w->arrays[a].total, w->group.size);
        longest = max64(longest, min64(STRIPE, share_of(w->arrays[a].total, w->group.size)));
    }
    w->slot = longest;
    bool all = w->background;
    if (all && w->num_rounds * w->slot > w->capacity) {
        zs_error why = {0};
        int64_t more = (w->num_rounds * w->slot - w->capacity) * (int64_t)sizeof(float);
        zs_status status = zs_comm_check_room(&w->node, w->node.size, more, "the copy of a checkpoint", &why);
        all = zs_comm_agree(w->comm, &w->group, status, &why) == ZS_OK;
        if (!all && !w->warned && w->group.rank == 0)
            zs_log_rank(ZS_LOG_WARNING, "%s; training stands still while checkpoints are written", why.text);
        w->warned |= !all;
    }
    w->num_slots = max64(1, all ? w->num_rounds : min64(RING, w->num_rounds));
    if (w->num_slots * w->slot <= w->capacity) return;
    w->capacity = w->num_slots * w->slot;
    zs_free(w->copy);
    w->copy = ZS_NEW(float, w->capacity);
}

/* The steps. */

static void remember(zs_checkpoint_writer *w, const char *path, const zs_checkpoint_array *arrays,
                     int num_arrays) {
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->aside, sizeof w->aside, "%s.tmp", path);
    w->num_arrays = num_arrays;
    w->num_crcs = w->bytes = 0;
    for (int i = 0; i < num_arrays; i++) {
        w->arrays[i] = (zs_checkpoint_array){.name = zs_strdup(arrays[i].name), .total = arrays[i].total};
        w->num_crcs += zs_crc_blocks(arrays[i].total);
        w->bytes += 4 * arrays[i].total;
    }
    w->crcs = ZS_NEW(uint32_t, w->num_crcs);
}

static void forget(zs_checkpoint_writer *w) {
    for (int i = 0; i < w->num_arrays; i++)
        zs_free((char *)(uintptr_t)w->arrays[i].name);
    zs_free(w->crcs);
    w->crcs = NULL;
    w->num_arrays = 0;
    w->in_flight = false;
}

/* HDF5 keeps quiet, and a file size limit is an error to report, not a death. */
typedef struct guard {
    zs_quiet quiet;
    struct sigaction before;
} guard;

static guard guard_begin(void) {
    guard guard = {.quiet = zs_quiet_begin()};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGXFSZ, &ignore, &guard.before);
    return guard;
}

static void guard_end(guard *guard) {
    sigaction(SIGXFSZ, &guard->before, NULL);
    zs_quiet_end(guard->quiet);
}

/* The file without its data, open on every rank with a thread beside it. Collective on the group. */
static zs_status start(zs_checkpoint_writer *w, const zs_model *layout, const char *state_json,
                       zs_error *err) {
    zs_status status = ZS_OK;
    if (w->group.rank == 0)
        status =
            zs_store_create(w->aside, layout, w->arrays, w->num_arrays, ZS_F32, state_json, w->extents, err);
    status = zs_comm_agree(w->comm, &w->group, status, err);
    if (status != ZS_OK) return status;
    zs_comm_broadcast_bytes(w->comm, &w->group, w->extents, sizeof w->extents, 0, "a checkpoint's extents");
    status = zs_span_writer_start(w->aside, w->num_rounds, &w->thread, err);
    status = zs_comm_agree(w->comm, &w->group, status, err);
    double ended;
    if (status != ZS_OK && w->thread) zs_span_writer_join(w->thread, &ended, NULL);
    return status;
}

zs_status zs_checkpoint_begin(zs_checkpoint_writer *w, const char *path, const zs_model *layout,
                              const zs_checkpoint_array *arrays, int num_arrays, const char *state_json,
                              zs_error *err) {
    zs_error local = {0};
    if (!err) err = &local;
    if (strlen(path) + 5 > sizeof w->aside)
        return zs_fail(err, ZS_USAGE, "%.200s...: the path is too long", path);
    ZS_ASSERT(!w->in_flight && num_arrays <= ZS_ENVELOPE_MAX_ARRAYS, "%d arrays", num_arrays);
    w->begun = zs_seconds();
    guard guard = guard_begin();
    remember(w, path, arrays, num_arrays);
    map *maps = ZS_NEW(map, num_arrays);
    zs_status status = ZS_OK;
    for (int i = 0; i < num_arrays; i++) {
        zs_status of_array = map_create(w, &arrays[i], &maps[i], status ? NULL : err);
        if (status == ZS_OK) status = of_array;
    }
    status = zs_comm_agree(w->comm, &w->group, status, err);
    if (status == ZS_OK) {
        make_room(w);
        status = start(w, layout, state_json, err);
        if (status == ZS_OK) {
            w->in_flight = true;
            collect(w, maps);
        } else {
            if (w->group.rank == 0) unlink(w->aside);
            zs_comm_barrier(w->comm, &w->group, "the other ranks to give up a checkpoint");
        }
    }
    for (int i = 0; i < num_arrays; i++)
        map_free(&maps[i]);
    zs_free(maps);
    if (status != ZS_OK) forget(w);
    guard_end(&guard);
    return status;
}

bool zs_checkpoint_poll(const zs_checkpoint_writer *w) {
    return !w->in_flight || zs_span_writer_ended(w->thread, 0, NULL);
}

/* Until the threads of all ranks have ended. A slow disk may take longer than any wait on a rank, so ranks
 * meet every second; a disk that takes nothing at all for the deadline ends the job. */
static void wait_for_threads(const zs_checkpoint_writer *w) {
    int64_t before = -1, bytes;
    double moved = zs_seconds();
    for (;;) {
        double unfinished[2] = {!zs_span_writer_ended(w->thread, 1.0, &bytes), bytes != before};
        before = bytes;
        zs_comm_max(w->comm, &w->group, unfinished, 2, "the other ranks to write a checkpoint");
        if (unfinished[0] == 0) return;
        if (unfinished[1] > 0) moved = zs_seconds();
        if (zs_seconds() - moved > w->comm->deadline) {
            zs_error why;
            zs_fail(&why, ZS_FAILED, "%s: the file system has taken nothing for %g s", w->aside,
                    w->comm->deadline);
            zs_comm_abort(w->comm, &why);
        }
    }
}

zs_status zs_checkpoint_finish(zs_checkpoint_writer *w, zs_checkpoint_written *written, zs_error *err) {
    zs_error local = {0};
    if (!err) err = &local;
    ZS_ASSERT(w->in_flight, "no checkpoint under way");
    guard guard = guard_begin();
    wait_for_threads(w);
    double seconds;
    zs_status status = zs_span_writer_join(w->thread, &seconds, err);
    status = zs_comm_agree(w->comm, &w->group, status, err);
    seconds -= w->begun;
    zs_comm_max(w->comm, &w->group, &seconds, 1, "the other ranks at the end of a checkpoint");
    bool seals = w->group.rank == 0;
    MPI_Request request; /* each CRC is 0 on all ranks but the one that took it */
    MPI_Ireduce(seals ? MPI_IN_PLACE : w->crcs, w->crcs, (int)w->num_crcs, MPI_UINT32_T, MPI_BOR, 0,
                w->group.comm, &request);
    zs_comm_wait(w->comm, &request, "the CRCs of a checkpoint");
    if (seals) {
        static long long writes;
        if (status == ZS_OK) status = zs_store_finish(w->aside, w->arrays, w->num_arrays, w->crcs, err);
        if (status == ZS_OK) status = zs_envelope_seal(w->aside, w->extents, w->num_arrays, err);
        zs_test_kill("checkpoint", ++writes);
        if (status == ZS_OK) status = zs_store_rename(w->aside, w->path, err);
        if (status != ZS_OK) unlink(w->aside);
    }
    status = zs_comm_agree(w->comm, &w->group, status, err);
    if (written) *written = (zs_checkpoint_written){(double)w->bytes, seconds};
    forget(w);
    guard_end(&guard);
    return status;
}

zs_checkpoint_writer *zs_checkpoint_writer_create(const zs_comm *comm, const zs_group *group,
                                                  bool background) {
    static const char what[] = "the ranks that write checkpoints";
    zs_checkpoint_writer *w = ZS_NEW(zs_checkpoint_writer, 1);
    w->comm = comm;
    w->group = zs_group_select(comm, group, true, group->rank, what);
    w->node = zs_group_on_node(comm, group, what);
    w->background = background;
    return w;
}

void zs_checkpoint_writer_destroy(zs_checkpoint_writer *w) {
    if (!w) return;
    ZS_ASSERT(!w->in_flight, "%s is being written", w->path);
    zs_group_free(&w->group);
    zs_group_free(&w->node);
    zs_free(w->copy);
    zs_free(w);
}

zs_status zs_checkpoint_write(const zs_comm *comm, const zs_group *group, const char *path,
                              const zs_model *layout, const zs_checkpoint_array *arrays, int num_arrays,
                              const char *state_json, zs_error *err) {
    zs_checkpoint_writer *w = zs_checkpoint_writer_create(comm, group, false);
    zs_status status = zs_checkpoint_begin(w, path, layout, arrays, num_arrays, state_json, err);
    if (status == ZS_OK) status = zs_checkpoint_finish(w, NULL, err);
    zs_checkpoint_writer_destroy(w);
    return status;
}
