/* Gradient reduction and parameter gathering over the learners, in buckets.
 *
 * Bucket b is params [b * bucket, min((b + 1) * bucket, total)); it is cut into learners.size blocks as even
 * as can be, block j being learner j's. Backward is done with the buffer from its top down, so buckets are
 * reduced in that order, while backward still runs on those below.
 *
 * A bucket is reduced by MPI_Ialltoallv (each learner sends every other its block) and a sum here, in order
 * of rank. MPI_Ireduce_scatter would say the same in one call, but Open MPI reduces the whole bucket to rank
 * 0 and scatters it, log2(size) times the traffic at that rank; and the order of its sum is each library's
 * own. A single learner posts nothing. */
#include "internal.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <string.h>

/* Buckets in flight at once: enough to keep the wire busy; more only fills MPI's buffers. */
#define WINDOW 4

struct zs_reducer {
    const zs_comm *comm;
    zs_group group, arrivals; /* arrivals: of its own, since its barriers come between any two buckets */
    int64_t num_params, bucket_params, num_buckets;
    zs_span *spans; /* this learner's blocks, ascending, none empty */
    int num_spans;

    float *received;       /* [WINDOW, size, largest_block]: my block from each learner; [own rank] unused */
    int64_t largest_block; /* of a full bucket */
    MPI_Request *requests; /* [num_buckets] */
    int *counts, *starts;  /* [num_buckets, size] of the blocks within their bucket */
    int *send_counts;      /* [num_buckets, size]: counts, but 0 to myself */
    int *receive_counts;   /* [num_buckets, size]: my block, but 0 from myself */
    int *receive_starts;   /* [size]: multiples of largest_block */
    int64_t low, num_posted; /* grads are ready from `low` up; buckets posted, from the top */
    int64_t num_done;        /* buckets completed, from the top */
    float *grads;
};

static zs_span bucket_at(const zs_reducer *reducer, int64_t bucket) {
    int64_t begin = bucket * reducer->bucket_params;
    int64_t left = reducer->num_params - begin;
    return (zs_span){begin, left < reducer->bucket_params ? left : reducer->bucket_params};
}

static zs_span block_of(zs_span bucket, int rank, int size) {
    int64_t base = bucket.count / size, more = bucket.count % size;
    return (zs_span){bucket.begin + rank * base + (rank < more ? rank : more), base + (rank < more)};
}

static void list_spans(zs_reducer *reducer) {
    reducer->spans = ZS_NEW(zs_span, reducer->num_buckets);
    for (int64_t b = 0; b < reducer->num_buckets; b++) {
        zs_span span = block_of(bucket_at(reducer, b), reducer->group.rank, reducer->group.size);
        zs_span *last = reducer->num_spans ? &reducer->spans[reducer->num_spans - 1] : NULL;
        if (span.count == 0) continue;
        if (last && last->begin + last->count == span.begin)
            last->count += span.count;
        else
            reducer->spans[reducer->num_spans++] = span;
    }
}

int64_t zs_reducer_bytes(int64_t num_params, int64_t bucket_params, int64_t learners) {
    if (learners < 2) return 0;
    int64_t bucket = bucket_params < num_params ? bucket_params : num_params;
    return WINDOW * learners * ((bucket + learners - 1) / learners) * (int64_t)sizeof(float);
}

zs_reducer *zs_reducer_create(const zs_comm *comm, int64_t num_params, int64_t bucket_params) {
    ZS_ASSERT(num_params >= 0 && bucket_params > 0, "%lld parameters in buckets of %lld",
              (long long)num_params, (long long)bucket_params);
    zs_reducer *reducer = ZS_NEW(zs_reducer, 1);
    reducer->comm = comm;
    reducer->group = zs_group_duplicate(comm, &comm->learners, "learners, to make the reduction");
    reducer->arrivals = (zs_group){MPI_COMM_NULL, -1, 0};
    reducer->num_params = num_params;
    reducer->bucket_params = zs_mpi_count(bucket_params < num_params ? bucket_params : num_params);
    if (reducer->bucket_params == 0) reducer->bucket_params = 1;
    reducer->num_buckets = (num_params + reducer->bucket_params - 1) / reducer->bucket_params;
    reducer->low = num_params;
    int size = reducer->group.size;
    if (size == 0) return reducer;
    list_spans(reducer);
    if (size == 1) return reducer;

    reducer->arrivals = zs_group_duplicate(comm, &reducer->group, "learners, to make the reduction");
    reducer->largest_block = (reducer->bucket_params + size - 1) / size;
    reducer->received = ZS_NEW(float, WINDOW *size * reducer->largest_block);
    reducer->requests = ZS_NEW(MPI_Request, reducer->num_buckets);
    reducer->counts = ZS_NEW(int, reducer->num_buckets *size);
    reducer->starts = ZS_NEW(int, reducer->num_buckets *size);
    reducer->send_counts = ZS_NEW(int, reducer->num_buckets *size);
    reducer->receive_counts = ZS_NEW(int, reducer->num_buckets *size);
    reducer->receive_starts = ZS_NEW(int, size);
    int me = reducer->group.rank;
    for (int r = 0; r < size; r++)
        reducer->receive_starts[r] = zs_mpi_count(r * reducer->largest_block);
    for (int64_t b = 0; b < reducer->num_buckets; b++) {
        zs_span bucket = bucket_at(reducer, b);
        zs_span mine = block_of(bucket, me, size);
        reducer->requests[b] = MPI_REQUEST_NULL;
        for (int r = 0; r < size; r++) {
            zs_span block = block_of(bucket, r, size);
            reducer->counts[b * size + r] = zs_mpi_count(block.count);
            reducer->starts[b * size + r] = zs_mpi_count(block.begin - bucket.begin);
            reducer->send_counts[b * size + r] = r == me ? 0 : zs_mpi_count(block.count);
            reducer->receive_counts[b * size + r] = r == me ? 0 : zs_mpi_count(mine.count);
        }
    }
    return reducer;
}

void zs_reducer_destroy(zs_reducer *reducer) {
    if (!reducer) return;
    zs_group_free(&reducer->group);
    zs_group_free(&reducer->arrivals);
    zs_free(reducer->spans);
    zs_free(reducer->received);
    zs_free(reducer->requests);
    zs_free(reducer->counts);
    zs_free(reducer->starts);
    zs_free(reducer->send_counts);
    zs_free(reducer->receive_counts);
    zs_free(reducer->receive_starts);
    zs_free(reducer);
}

int zs_reducer_spans(const zs_reducer *reducer, const zs_span **spans) {
    *spans = reducer->spans;
    return reducer->num_spans;
}

/* Gradients. */

static int64_t nth_from_top(const zs_reducer *reducer, int64_t n) {
    return reducer->num_buckets - 1 - n;
}

/* The oldest bucket is here: sums my block over the learners, in order of rank, a piece that fits the first
 * cache at a time. One thread: memory sets the pace, and this runs between the loops of backward. */
static void complete_oldest(zs_reducer *reducer) {
    enum { PIECE = 2048 };
    int64_t n = reducer->num_done++, b = nth_from_top(reducer, n), largest = reducer->largest_block;
    int size = reducer->group.size, me = reducer->group.rank;
    zs_span block = block_of(bucket_at(reducer, b), me, size);
    const float *received = reducer->received + n % WINDOW * size * largest;
    float *grads = reducer->grads + block.begin;
    for (int64_t begin = 0; begin < block.count; begin += PIECE) {
        int64_t count = block.count - begin < PIECE ? block.count - begin : PIECE;
        float sum[PIECE] = {0};
        for (int r = 0; r < size; r++) {
            const float *part = r == me ? grads + begin : received + r * largest + begin;
            for (int64_t i = 0; i < count; i++)
                sum[i] += part[i];
        }
        memcpy(grads + begin, sum, (size_t)count * sizeof(float));
    }
}

/* Tests the buckets in flight, oldest first, and posts those that are ready; waits for none. */
static void advance(zs_reducer *reducer) {
    while (reducer->num_done < reducer->num_posted) {
        int done = 0;
        MPI_Test(&reducer->requests[nth_from_top(reducer, reducer->num_done)], &done, MPI_STATUS_IGNORE);
        if (!done) break;
        complete_oldest(reducer);
    }
    while (reducer->num_posted < reducer->num_buckets && reducer->num_posted - reducer->num_done < WINDOW) {
        int64_t b = nth_from_top(reducer, reducer->num_posted);
        zs_span bucket = bucket_at(reducer, b);
        if (bucket.begin < reducer->low) break;
        int size = reducer->group.size;
        float *received = reducer->received + reducer->num_posted % WINDOW * size * reducer->largest_block;
        MPI_Ialltoallv(reducer->grads + bucket.begin, reducer->send_counts + b * size,
                       reducer->starts + b * size, MPI_FLOAT, received, reducer->receive_counts + b * size,
                       reducer->receive_starts, MPI_FLOAT, reducer->group.comm, &reducer->requests[b]);
        reducer->num_posted++;
    }
}

void zs_reducer_ready(zs_reducer *reducer, float *grads, int64_t begin, int64_t end) {
    if (reducer->group.size < 2) return;
    ZS_ASSERT(end == reducer->low && begin >= 0 && begin <= end,
              "gradients [%lld, %lld) are not next below %lld", (long long)begin, (long long)end,
              (long long)reducer->low);
    ZS_ASSERT(!reducer->grads || reducer->grads == grads, "the gradient buffer changed within a reduction");
    reducer->grads = grads;
    reducer->low = begin;
    advance(reducer);
}

void zs_reducer_poll(zs_reducer *reducer) {
    if (reducer->group.size > 1 && reducer->grads) advance(reducer);
}

void zs_reducer_finish(zs_reducer *reducer, float *grads) {
    static const char what[] = "gradients from the other learners";
    if (reducer->group.size < 2) return;
    zs_phase_begin(ZS_PHASE_REDUCE);
    MPI_Request all_here;
    MPI_Ibarrier(reducer->arrivals.comm, &all_here);
    if (reducer->low > 0) zs_reducer_ready(reducer, grads, 0, reducer->low);
    reducer->grads = grads;
    advance(reducer);
    while (reducer->num_done < reducer->num_buckets) {
        int64_t b = nth_from_top(reducer, reducer->num_done);
        zs_comm_wait_transfer(reducer->comm, &reducer->requests[b], &all_here, what);
        advance(reducer);
    }
    zs_comm_wait(reducer->comm, &all_here, what);
    reducer->grads = NULL;
    reducer->low = reducer->num_params;
    reducer->num_posted = reducer->num_done = 0;
    zs_phase_end(ZS_PHASE_REDUCE);
}

/* Parameters. */

void zs_reducer_gather(zs_reducer *reducer, float *params) {
    static const char what[] = "parameters from the other learners";
    int size = reducer->group.size;
    if (size < 2) return;
    zs_phase_begin(ZS_PHASE_REDUCE);
    MPI_Request all_here;
    MPI_Ibarrier(reducer->arrivals.comm, &all_here);
    for (int64_t b = 0; b < reducer->num_buckets + WINDOW; b++) {
        if (b >= WINDOW)
            zs_comm_wait_transfer(reducer->comm, &reducer->requests[b - WINDOW], &all_here, what);
        if (b >= reducer->num_buckets) continue;
        MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, params + bucket_at(reducer, b).begin,
                        reducer->counts + b * size, reducer->starts + b * size, MPI_FLOAT,
                        reducer->group.comm, &reducer->requests[b]);
    }
    zs_comm_wait(reducer->comm, &all_here, what);
    zs_phase_end(ZS_PHASE_REDUCE);
}
