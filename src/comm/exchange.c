/* The search exchange: rounds in which every rollout and simulator of a pod gives every other its messages.
 * Ranks that only learn take no part: a round would have to wait for them in the midst of their update.
 *
 * begin: three numbers go to each rank: bytes to come, my unfinished work, my bytes in all. They let every
 * rank see the pod's totals, so that a round without any message ends there, without the second collective.
 * Then the payload goes by MPI_Ialltoallv. What a round delivers depends on what was put before it began and
 * on nothing else.
 *
 * A message travels as [int64 bytes][payload, padded to 8], so that payloads stay aligned. */
#include "internal.h"

#include "zerosearch/memory.h"

#include <stdio.h>
#include <string.h>

typedef enum { IDLE, COUNTS, PAYLOAD } state_t;

typedef struct bytes_t { /* a buffer that grows and is reused, so that the steady state allocates nothing */
    char *data;
    int64_t length, capacity;
} bytes_t;

typedef struct header_t {
    int64_t bytes, unfinished, total;
} header_t;

struct zs_exchange {
    const zs_comm *comm;
    zs_group group;         /* in order of their pod ranks */
    int *to_group, *to_pod; /* [pod.size], [group.size]: a rank's number in the other; -1: not in the group */
    state_t state;
    MPI_Request request;
    char what[400];

    bytes_t *outbox;                /* [size], being filled for the next round */
    bytes_t send, receive;          /* the round's payload, by rank */
    header_t *sent, *got;           /* [size] */
    int *send_counts, *send_starts; /* [size] */
    int *receive_counts, *receive_starts;
    int64_t unfinished;

    int take_from; /* next message: sender, and position in `receive` */
    int64_t take_at;
};

static void reserve(bytes_t *bytes, int64_t capacity) {
    if (capacity <= bytes->capacity) return;
    int64_t wanted = 2 * bytes->capacity > capacity ? 2 * bytes->capacity : capacity;
    bytes->data = zs_grow(bytes->data, bytes->capacity, wanted, 1);
    bytes->capacity = wanted;
}

static int64_t padded(int64_t bytes) {
    return (bytes + 7) / 8 * 8;
}

/* Who this rank waits for: the other roles of its pod. */
static void describe(zs_exchange *exchange) {
    const zs_comm *comm = exchange->comm;
    if (comm->is_rollout)
        zs_pod_describe(comm, "documents from simulators", comm->pod_simulators, comm->num_pod_simulators,
                        exchange->what, sizeof exchange->what);
    else
        zs_pod_describe(comm, "queries from rollouts", comm->pod_rollouts, comm->num_pod_rollouts,
                        exchange->what, sizeof exchange->what);
}

static void number_ranks(zs_exchange *exchange) {
    const zs_comm *comm = exchange->comm;
    exchange->to_group = ZS_NEW(int, comm->pod.size);
    exchange->to_pod = ZS_NEW(int, exchange->group.size);
    for (int i = 0; i < comm->num_pod_rollouts; i++)
        exchange->to_group[comm->pod_rollouts[i]] = 1;
    for (int i = 0; i < comm->num_pod_simulators; i++)
        exchange->to_group[comm->pod_simulators[i]] = 1;
    int members = 0;
    for (int r = 0; r < comm->pod.size; r++) {
        bool member = exchange->to_group[r] == 1;
        if (member) exchange->to_pod[members] = r;
        exchange->to_group[r] = member ? members++ : -1;
    }
    ZS_ASSERT(members == exchange->group.size, "%d ranks of %d search or answer", exchange->group.size,
              members);
}

zs_exchange *zs_exchange_create(const zs_comm *comm) {
    bool member = comm->is_rollout || comm->is_simulator;
    zs_group group =
        zs_group_select(comm, &comm->pod, member, comm->pod.rank, "the pod, to make the search exchange");
    if (!member) return NULL;
    zs_exchange *exchange = ZS_NEW(zs_exchange, 1);
    exchange->comm = comm;
    exchange->group = group;
    exchange->request = MPI_REQUEST_NULL;
    number_ranks(exchange);
    int size = exchange->group.size;
    exchange->outbox = ZS_NEW(bytes_t, size);
    exchange->sent = ZS_NEW(header_t, size);
    exchange->got = ZS_NEW(header_t, size);
    exchange->send_counts = ZS_NEW(int, size);
    exchange->send_starts = ZS_NEW(int, size);
    exchange->receive_counts = ZS_NEW(int, size);
    exchange->receive_starts = ZS_NEW(int, size);
    exchange->take_from = size;
    describe(exchange);
    return exchange;
}

void zs_exchange_destroy(zs_exchange *exchange) {
    if (!exchange) return;
    if (exchange->state != IDLE) zs_exchange_finish(exchange);
    for (int r = 0; r < exchange->group.size; r++)
        zs_free(exchange->outbox[r].data);
    zs_free(exchange->outbox);
    zs_free(exchange->to_group);
    zs_free(exchange->to_pod);
    zs_free(exchange->send.data);
    zs_free(exchange->receive.data);
    zs_free(exchange->sent);
    zs_free(exchange->got);
    zs_free(exchange->send_counts);
    zs_free(exchange->send_starts);
    zs_free(exchange->receive_counts);
    zs_free(exchange->receive_starts);
    zs_group_free(&exchange->group);
    zs_free(exchange);
}

void zs_exchange_put(zs_exchange *exchange, int to, const void *message, int64_t bytes) {
    ZS_ASSERT(to >= 0 && to < exchange->comm->pod.size && exchange->to_group[to] >= 0,
              "pod rank %d is not in the search exchange", to);
    ZS_ASSERT(bytes >= 0, "a message of %lld bytes", (long long)bytes);
    bytes_t *box = &exchange->outbox[exchange->to_group[to]];
    int64_t wanted = box->length + (int64_t)sizeof bytes + padded(bytes);
    reserve(box, wanted);
    memcpy(box->data + box->length, &bytes, sizeof bytes);
    char *payload = box->data + box->length + sizeof bytes;
    if (bytes > 0) memcpy(payload, message, (size_t)bytes);
    memset(payload + bytes, 0, (size_t)(padded(bytes) - bytes));
    box->length = wanted;
}

void zs_exchange_begin(zs_exchange *exchange, int64_t unfinished) {
    ZS_ASSERT(exchange->state == IDLE, "a round of the search exchange began inside another");
    int size = exchange->group.size;
    int64_t total = 0;
    for (int r = 0; r < size; r++)
        total += exchange->outbox[r].length;
    ZS_ASSERT(total <= INT_MAX,
              "a round of the search exchange sends %lld bytes; MPI counts to %d: use more "
              "pods or shorter observations",
              (long long)total, INT_MAX);
    reserve(&exchange->send, total);
    exchange->send.length = 0;
    for (int r = 0; r < size; r++) {
        bytes_t *box = &exchange->outbox[r];
        exchange->sent[r] = (header_t){box->length, unfinished, total};
        exchange->send_counts[r] = zs_mpi_count(box->length);
        exchange->send_starts[r] = zs_mpi_count(exchange->send.length);
        if (box->length) memcpy(exchange->send.data + exchange->send.length, box->data, (size_t)box->length);
        exchange->send.length += box->length;
        box->length = 0;
    }
    exchange->take_from = size;
    MPI_Ialltoall(exchange->sent, 3, MPI_INT64_T, exchange->got, 3, MPI_INT64_T, exchange->group.comm,
                  &exchange->request);
    exchange->state = COUNTS;
}

/* All counts are here: posts the payload, or ends the round if the pod sends none. */
static void post_payload(zs_exchange *exchange) {
    int64_t in_pod = 0, incoming = 0;
    exchange->unfinished = 0;
    for (int r = 0; r < exchange->group.size; r++) {
        const header_t *got = &exchange->got[r];
        exchange->unfinished += got->unfinished;
        in_pod += got->total;
        ZS_ASSERT(incoming + got->bytes <= INT_MAX,
                  "a round of the search exchange brings more than %d bytes: use more pods or shorter "
                  "observations",
                  INT_MAX);
        exchange->receive_counts[r] = zs_mpi_count(got->bytes);
        exchange->receive_starts[r] = zs_mpi_count(incoming);
        incoming += got->bytes;
    }
    reserve(&exchange->receive, incoming);
    exchange->receive.length = incoming;
    exchange->state = IDLE;
    exchange->take_from = 0;
    exchange->take_at = 0;
    if (in_pod == 0) return;
    MPI_Ialltoallv(exchange->send.data, exchange->send_counts, exchange->send_starts, MPI_BYTE,
                   exchange->receive.data, exchange->receive_counts, exchange->receive_starts, MPI_BYTE,
                   exchange->group.comm, &exchange->request);
    exchange->state = PAYLOAD;
}

void zs_exchange_poll(zs_exchange *exchange) {
    if (exchange->state == IDLE) return;
    int done = 0;
    MPI_Test(&exchange->request, &done, MPI_STATUS_IGNORE);
    if (!done) return;
    if (exchange->state == COUNTS)
        post_payload(exchange);
    else
        exchange->state = IDLE;
}

int64_t zs_exchange_finish(zs_exchange *exchange) {
    if (exchange->state == COUNTS) {
        zs_comm_wait(exchange->comm, &exchange->request, exchange->what);
        post_payload(exchange);
    }
    if (exchange->state == PAYLOAD) {
        zs_comm_wait(exchange->comm, &exchange->request, exchange->what);
        exchange->state = IDLE;
    }
    return exchange->unfinished;
}

const void *zs_exchange_take(zs_exchange *exchange, int *from, int64_t *bytes) {
    ZS_ASSERT(exchange->state == IDLE, "a message was taken from an unfinished round");
    int size = exchange->group.size;
    while (exchange->take_from < size &&
           exchange->take_at == (int64_t)exchange->receive_starts[exchange->take_from] +
                                    exchange->receive_counts[exchange->take_from])
        exchange->take_from++;
    if (exchange->take_from >= size) return NULL;
    const char *at = exchange->receive.data + exchange->take_at;
    memcpy(bytes, at, sizeof *bytes);
    *from = exchange->to_pod[exchange->take_from];
    exchange->take_at += (int64_t)sizeof *bytes + padded(*bytes);
    return at + sizeof *bytes;
}
