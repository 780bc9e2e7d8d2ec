/* Groups of ranks and what they exchange: the only MPI calls outside checkpoint/.
 *
 * One struct holds the communicators; they are made here and nowhere else. Every wait on another rank is a
 * test loop with a deadline; on expiry the rank says its role, phase, step and what it waits for, and the job
 * ends. */
#ifndef ZEROSEARCH_COMM_H
#define ZEROSEARCH_COMM_H

#include "zerosearch/dtype.h"
#include "zerosearch/error.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct zs_group { /* a communicator; comm is MPI_COMM_NULL on ranks outside it */
    MPI_Comm comm;
    int rank, size; /* -1, 0 outside */
} zs_group;

typedef struct zs_comm {
    zs_group world;    /* a duplicate of MPI_COMM_WORLD */
    zs_group node;     /* ranks that share memory */
    zs_group pod;      /* ranks among which exchanges run */
    zs_group learners; /* all learners of the world */
    zs_group rollouts; /* all rollouts of the world */
    bool is_simulator, is_rollout, is_learner;
    /* Within the pod: pod ranks that play each role, ascending. */
    int num_pod_simulators, num_pod_rollouts, num_pod_learners;
    int *pod_simulators, *pod_rollouts, *pod_learners;
    int pod_index, num_pods;
    double deadline; /* seconds any wait may take */
    char role[40];   /* "rollout", "simulator+learner", ... for messages */
} zs_comm;

typedef enum zs_layout { ZS_LAYOUT_COLOCATED, ZS_LAYOUT_SPLIT, ZS_LAYOUT_AUTO } zs_layout;

/* Starts MPI (or a single process without it) and duplicates the world; no roles yet. Collective on the
 * world. */
zs_status zs_comm_start(int *argc, char ***argv, zs_comm *comm, zs_error *err);

/* Divides the ranks. COLOCATED: every rank plays every role. SPLIT: the first `simulators` ranks of a pod,
 * then `rollouts`, then `learners`; the world must be pods x (simulators + rollouts + learners). AUTO: 1 rank
 * colocated; 2 ranks: rank 0 simulator and learner, rank 1 rollout; more: the counts are proportions that are
 * fitted to the world, each at least 1. need_simulators false: simulators counts as 0. Collective; a mismatch
 * is one ZS_USAGE error. */
zs_status zs_comm_divide(zs_comm *comm, zs_layout layout, int simulators, int rollouts, int learners,
                         int pods, bool need_simulators, zs_error *err);
void zs_comm_finish(zs_comm *comm);

/* Agreement: every rank passes its status; all return the first failing rank's status and text (rank 0's
 * first, then by rank), so that one fault prints one message. Collective on group. */
zs_status zs_comm_agree(const zs_comm *comm, const zs_group *group, zs_status status, zs_error *err);

/* The ranks of `group` that pass member, ordered by key; {MPI_COMM_NULL, -1, 0} on the others. Collective on
 * group. */
zs_group zs_group_select(const zs_comm *comm, const zs_group *group, bool member, int key, const char *what);
/* The ranks of `group` on this rank's node. With ZS_TEST_NODES=N in the environment the ranks of the world
 * count as spread over N nodes in equal blocks, so that one machine can play several. Collective on group. */
zs_group zs_group_on_node(const zs_comm *comm, const zs_group *group, const char *what);
void zs_group_free(zs_group *group);

/* Prints `err` once for the job if this rank is world rank 0 or `err` is local, then ends every rank. */
void zs_comm_abort(const zs_comm *comm, const zs_error *err) __attribute__((noreturn));

/* Waits for a request by testing, with the deadline; `what` says who is waited for ("weights from learner
 * 0"). */
void zs_comm_wait(const zs_comm *comm, MPI_Request *request, const char *what);
void zs_comm_wait_all(const zs_comm *comm, int count, MPI_Request *requests, const char *what);

/* Small blocking collectives with a deadline. Collective on group. */
void zs_comm_barrier(const zs_comm *comm, const zs_group *group, const char *what);
void zs_comm_sum(const zs_comm *comm, const zs_group *group, double *values, int count, const char *what);
void zs_comm_max(const zs_comm *comm, const zs_group *group, double *values, int count, const char *what);
/* Any length (chunked above INT_MAX). */
void zs_comm_broadcast_bytes(const zs_comm *comm, const zs_group *group, void *data, int64_t bytes, int root,
                             const char *what);
/* Gathers byte strings on root: *out (zs_alloc) holds them one after another by rank, lengths [size] too.
 * NULL elsewhere. */
void zs_comm_gather_bytes(const zs_comm *comm, const zs_group *group, const void *data, int64_t bytes,
                          int root, char **out, int64_t **lengths, const char *what);

/* A process that takes memory which is not there is killed without a word, so ask before: is there room for
 * `copies` times `bytes` on this node? Asked once a node, by its first rank. Local. */
zs_status zs_comm_check_room(const zs_group *node, int64_t copies, int64_t bytes, const char *what,
                             zs_error *err);

/* Memory that the ranks of one node hold together, for what all of them read and none changes: the weights of
 * a frozen model. Each rank fills its parts, publishes, and then addresses all of it. */
typedef struct zs_shared {
    void *data; /* [bytes], zeroed, 64-byte aligned; at another address on each rank */
    int64_t bytes;
    int rank, size; /* among the ranks that hold this memory; 0 of 1 where it is this rank's own */
    zs_group node;  /* ranks of the group on this node, whether they share the memory or not */
    bool mapped;    /* set where it is shared */
} zs_shared;

/* Where a node has one rank of the group, or its ranks cannot share memory (said once, as a warning), each
 * rank gets memory of its own. A node without room for it is an error that names `what` is wanted for ("the
 * weights of DIR"). Collective on group; data of all ranks outside is NULL. */
zs_status zs_comm_share(const zs_comm *comm, const zs_group *group, int64_t bytes, const char *what,
                        zs_shared *out, zs_error *err);
/* The index-th range of bytes that this rank fills; false after the last. Ranges of the ranks interleave, so
 * that the pages of each matrix spread over the memory of the sockets that the ranks run on. Local. */
bool zs_shared_part(const zs_shared *shared, int64_t index, int64_t *begin, int64_t *end);
/* After it every rank of the node reads what the others wrote before it. Collective on node. */
void zs_shared_publish(const zs_comm *comm, const zs_shared *shared, const char *what);
/* The memory is gone when the last of its ranks, living or dead, has let go of it. Nothing
 * happens to one that is zeroed or freed. Collective on node. */
void zs_shared_free(zs_shared *shared);

/* Search exchange: one round among the rollouts and simulators of a pod. Each holds an outbox for every
 * other; a round delivers all of them. Counts and flags go by MPI_Ialltoall, payload by MPI_Ialltoallv. begin
 * posts the counts; poll moves the round on (call it from compute loops); finish completes it. Two rounds
 * never overlap. The flag of each rank is its own count of unfinished work; `pending` is the sum over all, so
 * that all ranks see the same round as the last one. */
typedef struct zs_exchange zs_exchange;
/* NULL on ranks that are neither rollout nor simulator. Collective on pod. */
zs_exchange *zs_exchange_create(const zs_comm *comm);
void zs_exchange_destroy(zs_exchange *exchange);
/* Puts one message into the outbox for pod rank `to` (copied). Messages from one rank to one rank stay in
 * order. */
void zs_exchange_put(zs_exchange *exchange, int to, const void *message, int64_t bytes);
void zs_exchange_begin(zs_exchange *exchange, int64_t unfinished);
void zs_exchange_poll(zs_exchange *exchange);
/* Returns the sum of unfinished. */
int64_t zs_exchange_finish(zs_exchange *exchange);
/* The next received message (by sender's pod rank, then order), or NULL. Valid until the next begin. */
const void *zs_exchange_take(zs_exchange *exchange, int *from, int64_t *bytes);

/* Gradient reduction and parameter gathering over the learners. The flat buffer is cut into buckets; each
 * bucket into learners.size blocks; a learner's shard is its block of every bucket. Gradients: each bucket,
 * as soon as backward is done with it, by MPI_Ialltoallv and a sum in order of rank; parameters:
 * MPI_Iallgatherv. */
typedef struct zs_reducer zs_reducer;
typedef struct zs_span {
    int64_t begin, count;
} zs_span;
zs_reducer *zs_reducer_create(const zs_comm *comm, int64_t num_params, int64_t bucket_params);
/* What arrives from the others is kept in so many bytes, on each of `learners`. Local. */
int64_t zs_reducer_bytes(int64_t num_params, int64_t bucket_params, int64_t learners);
void zs_reducer_destroy(zs_reducer *reducer);
int zs_reducer_spans(const zs_reducer *reducer, const zs_span **spans); /* this learner's shard */
/* A zs_grads_ready callback's work: posts what is complete of [begin, end); spans come from the top of the
 * buffer down, adjacent to each other. */
void zs_reducer_ready(zs_reducer *reducer, float *grads, int64_t begin, int64_t end);
void zs_reducer_poll(zs_reducer *reducer);
/* Posts the rest and waits: afterwards grads holds the sum over learners inside this learner's spans. */
void zs_reducer_finish(zs_reducer *reducer, float *grads);
/* Completes params from the owners' spans. */
void zs_reducer_gather(zs_reducer *reducer, float *params);

/* Weight broadcast: learners -> every other rank that plays rollout, in the precision that rollouts play in.
 * In buckets of MPI_Ibcast within the pod from its first learner. begin posts, poll moves on, finish
 * completes. When learner and rollout are the same rank there is nothing to do there. Ranks that are neither
 * (pure simulators) take no part. */
typedef struct zs_weights zs_weights;
/* dtype: ZS_F32; ZS_BF16: the sender rounds its f32 (to nearest even) bucket by bucket, so that half as much
 * travels and it needs no second copy; ZS_INT8: all hold a block of zs_model_bytes, the counts are of its
 * bytes. Collective on pod; num_params is not read on ranks that take no part. */
zs_weights *zs_weights_create(const zs_comm *comm, int64_t num_params, int64_t bucket_params, zs_dtype dtype);
bool zs_weights_sends(const zs_weights *weights); /* whether others take them from this rank */
void zs_weights_destroy(zs_weights *weights);
/* params [num_params]: on learners float (or the int8 block), which is only read; on the others of `dtype`,
 * overwritten. To be left alone until finish. */
void zs_weights_begin(zs_weights *weights, void *params);
void zs_weights_poll(zs_weights *weights);
void zs_weights_finish(zs_weights *weights);

/* The timeline of all ranks (trace.h) in one file of Chrome's trace-event format, collected by rank 0. A path
 * that cannot be written is an error at the start; a disk that is full later only ends the timeline, with a
 * warning. NULL: none, and the others do nothing. Collective on world. */
zs_status zs_timeline_start(const zs_comm *comm, const char *path, zs_error *err); /* roles are known */
void zs_timeline_merge(const zs_comm *comm);                                       /* the file can be read */
void zs_timeline_finish(const zs_comm *comm);
/* What this rank adds to its `clock` (seconds) to have rank 0's, from the fastest of several messages there
 * and back; *error (or NULL): how far it may be off. Collective on world. */
double zs_comm_clock_offset(const zs_comm *comm, double (*clock)(void), double *error);

#endif
