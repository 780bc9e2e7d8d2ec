/* Weight broadcast: the pod's first learner -> its rollouts that are not learners, in buckets of MPI_Ibcast.
 *
 * A window of buckets is in flight; as one ends the next is posted, always in order, since every rank must
 * post a communicator's collectives in the same order. In bf16 the sender rounds each bucket into its slot of
 * the window as it posts it, while those before it travel. An int8 block is sent as it stands: its bytes are
 * in another order than the parameters that they come from. */
#include "internal.h"

#include "zerosearch/memory.h"

#define WINDOW 8

struct zs_weights {
    const zs_comm *comm;
    zs_group group; /* rank 0: the learner; one rank or none: nothing to send */
    int64_t num_params, bucket_params, num_buckets; /* of int8: bytes */
    zs_dtype dtype;
    uint16_t *rounded;            /* [WINDOW][bucket_params] on the sender of bf16, else NULL */
    MPI_Request requests[WINDOW]; /* of bucket b: requests[b % WINDOW] */
    MPI_Request all_here;         /* done when every rank has begun */
    int64_t num_posted, num_done;
    void *params; /* NULL between broadcasts */
    char what[400];
};

static int64_t slot_params(const zs_weights *weights) {
    return weights->num_params < weights->bucket_params ? weights->num_params : weights->bucket_params;
}

zs_weights *zs_weights_create(const zs_comm *comm, int64_t num_params, int64_t bucket_params,
                              zs_dtype dtype) {
    ZS_ASSERT(num_params >= 0 && bucket_params > 0, "%lld parameters in buckets of %lld",
              (long long)num_params, (long long)bucket_params);
    ZS_ASSERT(dtype == ZS_F32 || dtype == ZS_BF16 || dtype == ZS_INT8, "weights as %s", zs_dtype_name(dtype));
    zs_weights *weights = ZS_NEW(zs_weights, 1);
    weights->comm = comm;
    weights->num_params = num_params;
    weights->dtype = dtype;
    weights->bucket_params = zs_mpi_count(bucket_params);
    weights->num_buckets = (num_params + bucket_params - 1) / bucket_params;
    for (int i = 0; i < WINDOW; i++)
        weights->requests[i] = MPI_REQUEST_NULL;

    bool is_root = comm->num_pod_learners > 0 && comm->pod.rank == comm->pod_learners[0];
    bool receives = comm->is_rollout && !comm->is_learner && comm->num_pod_learners > 0;
    weights->group = zs_group_select(comm, &comm->pod, is_root || receives, is_root ? 0 : 1 + comm->pod.rank,
                                     "the pod, to make the weight broadcast");
    if (zs_weights_sends(weights) && dtype == ZS_BF16)
        weights->rounded = ZS_NEW(uint16_t, slot_params(weights) * WINDOW);
    if (is_root)
        zs_pod_describe(comm, "rollouts to take weights:", comm->pod_rollouts, comm->num_pod_rollouts,
                        weights->what, sizeof weights->what);
    else
        zs_pod_describe(comm, "weights from learner", comm->pod_learners, comm->num_pod_learners > 0,
                        weights->what, sizeof weights->what);
    return weights;
}

bool zs_weights_sends(const zs_weights *weights) {
    return weights->group.rank == 0 && weights->group.size > 1;
}

void zs_weights_destroy(zs_weights *weights) {
    if (!weights) return;
    if (weights->params) zs_weights_finish(weights);
    zs_group_free(&weights->group);
    zs_free(weights->rounded);
    zs_free(weights);
}

static void post_next(zs_weights *weights) {
    int64_t bucket = weights->num_posted++, begin = bucket * weights->bucket_params;
    int64_t left = weights->num_params - begin;
    int64_t count = left < weights->bucket_params ? left : weights->bucket_params;
    void *data = (char *)weights->params + begin * zs_dtype_size(weights->dtype);
    if (weights->rounded) {
        const float *from = weights->params;
        data = weights->rounded + bucket % WINDOW * slot_params(weights);
        zs_from_f32(ZS_BF16, from + begin, count, data);
    }
    MPI_Datatype type = weights->dtype == ZS_F32    ? MPI_FLOAT
                        : weights->dtype == ZS_BF16 ? MPI_UINT16_T
                                                    : MPI_BYTE;
    MPI_Ibcast(data, zs_mpi_count(count), type, 0, weights->group.comm, &weights->requests[bucket % WINDOW]);
}

static void post(zs_weights *weights) {
    while (weights->num_posted < weights->num_buckets && weights->num_posted - weights->num_done < WINDOW)
        post_next(weights);
}

void zs_weights_begin(zs_weights *weights, void *params) {
    ZS_ASSERT(!weights->params, "a weight broadcast began inside another");
    if (weights->group.size < 2) return;
    weights->params = params;
    weights->num_posted = weights->num_done = 0;
    MPI_Ibarrier(weights->group.comm, &weights->all_here);
    post(weights);
}

void zs_weights_poll(zs_weights *weights) {
    if (!weights->params) return;
    while (weights->num_done < weights->num_posted) {
        int done = 0;
        MPI_Test(&weights->requests[weights->num_done % WINDOW], &done, MPI_STATUS_IGNORE);
        if (!done) return;
        weights->num_done++;
        post(weights);
    }
}

void zs_weights_finish(zs_weights *weights) {
    if (!weights->params) return;
    while (weights->num_done < weights->num_buckets) {
        zs_comm_wait_transfer(weights->comm, &weights->requests[weights->num_done % WINDOW],
                              &weights->all_here, weights->what);
        weights->num_done++;
        post(weights);
    }
    zs_comm_wait(weights->comm, &weights->all_here, weights->what);
    weights->params = NULL;
}
