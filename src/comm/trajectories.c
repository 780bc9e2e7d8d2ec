/* The trajectory stream: rollouts -> learners of the pod, each episode as soon as it ends.
 *
 * Point-to-point messages, since an episode ends when it does: a collective would have its receivers, which
 * learn meanwhile, meet its senders. Two other ways were weighed. One MPI_Alltoallv after the phase can deal
 * all episodes at once, longest first, and so a little more evenly; but then learners stand idle until the
 * last episode ends, with the reference pass still before them. Rounds beside those of the search exchange
 * would make rollouts wait for learners that are inside a forward pass.
 *
 * What a learner gets, and in which order it takes it, does not depend on timing: a rollout deals its
 * episodes in the order in which they end, which counts decode steps and not seconds, each to the learner
 * that has had the fewest tokens from it; and a learner takes them in turns, the k-th of every rollout before
 * the next of any. A phase ends in the stream with a message of its own, so that the next may begin at once.
 */
#include "zerosearch/trajectories.h"

#include "internal.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* An idle rollout says that it lives, this often at least, so that the deadline is for silence only. */
#define ALIVE_FRACTION 0.125
#define ALIVE_SECONDS  10.0

enum { TAG_EPISODE = 1, TAG_END, TAG_ALIVE };

typedef struct message {
    MPI_Request request;
    int64_t *words; /* NULL: the end of a phase */
    struct message *next;
} message;

typedef struct queue { /* from one rollout, in order */
    message *first, *last;
    bool ended;   /* its end of this phase has been taken */
    double heard; /* when it last said anything */
} queue;

struct zs_trajectories {
    const zs_comm *comm;
    zs_group group;
    message *sends;     /* on their way */
    int64_t *dealt;     /* [num_pod_learners] tokens of this phase */
    double *spoken;     /* [num_pod_learners] when a message last went there */
    double alive_every; /* seconds */
    queue *from;        /* [num_pod_rollouts] on learners */
    int *place;         /* [pod.size]: place in pod_rollouts, -1: none */
    int turn;           /* the rollout whose episode is taken next */
    int my_place;       /* of this rank in pod_rollouts, or -1 */
};

zs_trajectories *zs_trajectories_create(const zs_comm *comm) {
    zs_trajectories *t = ZS_NEW(zs_trajectories, 1);
    t->comm = comm;
    t->group = zs_group_duplicate(comm, &comm->pod, "the pod, to make the trajectory stream");
    t->alive_every = fmin(ALIVE_SECONDS, ALIVE_FRACTION * comm->deadline);
    t->dealt = ZS_NEW(int64_t, comm->num_pod_learners);
    t->spoken = ZS_NEW(double, comm->num_pod_learners);
    t->from = ZS_NEW(queue, comm->num_pod_rollouts);
    t->place = ZS_NEW(int, comm->pod.size);
    for (int r = 0; r < comm->pod.size; r++)
        t->place[r] = -1;
    for (int i = 0; i < comm->num_pod_rollouts; i++)
        t->place[comm->pod_rollouts[i]] = i;
    t->my_place = t->place[comm->pod.rank];
    return t;
}

/* Sending. */

static void forget_sent(zs_trajectories *t) {
    for (message **at = &t->sends; *at;) {
        message *m = *at;
        int done = 0;
        MPI_Test(&m->request, &done, MPI_STATUS_IGNORE);
        if (!done) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        zs_free(m->words);
        zs_free(m);
    }
}

static message *new_message(int64_t *words) {
    message *m = ZS_NEW(message, 1);
    m->words = words;
    m->request = MPI_REQUEST_NULL;
    return m;
}

static void enqueue(queue *q, message *m) {
    if (q->last)
        q->last->next = m;
    else
        q->first = m;
    q->last = m;
}

/* Takes over `words`. What is for this rank itself does not go by MPI. */
static void send(zs_trajectories *t, int learner, int tag, int64_t *words, int64_t count) {
    int to = t->comm->pod_learners[learner];
    message *m = new_message(words);
    t->spoken[learner] = zs_seconds();
    if (to == t->comm->pod.rank) {
        enqueue(&t->from[t->my_place], m);
        return;
    }
    MPI_Isend(words, zs_mpi_count(count), MPI_INT64_T, to, tag, t->group.comm, &m->request);
    m->next = t->sends;
    t->sends = m;
}

void zs_trajectories_send(zs_trajectories *t, const zs_episode_info *info, const int32_t *ids,
                          const uint8_t *kind, const float *log_prob) {
    int learners = t->comm->num_pod_learners, best = t->my_place % learners;
    for (int i = 1; i < learners; i++) { /* among equals each rollout begins with another */
        int at = (t->my_place + i) % learners;
        if (t->dealt[at] < t->dealt[best]) best = at;
    }
    t->dealt[best] += info->length;
    int64_t count = zs_episode_words(info->length), *words = ZS_NEW(int64_t, count);
    zs_episode_pack(info, ids, kind, log_prob, words);
    send(t, best, TAG_EPISODE, words, count);
}

void zs_trajectories_end(zs_trajectories *t) {
    for (int l = 0; l < t->comm->num_pod_learners; l++) {
        send(t, l, TAG_END, NULL, 0);
        t->dealt[l] = 0;
    }
}

static void say_alive(zs_trajectories *t) {
    double now = zs_seconds();
    for (int l = 0; l < t->comm->num_pod_learners; l++)
        if (now - t->spoken[l] > t->alive_every && t->comm->pod_learners[l] != t->comm->pod.rank)
            send(t, l, TAG_ALIVE, NULL, 0);
}

/* Receiving. */

static void receive(zs_trajectories *t) {
    for (;;) {
        int found = 0;
        MPI_Status status;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, t->group.comm, &found, &status);
        if (!found) return;
        int count;
        MPI_Get_count(&status, MPI_INT64_T, &count);
        message *m = new_message(count ? ZS_NEW(int64_t, count) : NULL);
        MPI_Irecv(m->words, count, MPI_INT64_T, status.MPI_SOURCE, status.MPI_TAG, t->group.comm,
                  &m->request);
        queue *q = &t->from[t->place[status.MPI_SOURCE]];
        q->heard = zs_seconds();
        if (status.MPI_TAG != TAG_ALIVE) {
            enqueue(q, m);
            continue;
        }
        MPI_Wait(&m->request, MPI_STATUS_IGNORE); /* of no bytes, and here already */
        zs_free(m);
    }
}

void zs_trajectories_poll(zs_trajectories *t) {
    if (t->my_place >= 0) {
        forget_sent(t);
        say_alive(t);
    }
    if (t->comm->is_learner) receive(t);
}

/* The message of the rollout whose turn it is, or NULL while it is not whole. */
static message *next_message(zs_trajectories *t) {
    zs_trajectories_poll(t);
    message *m = t->from[t->turn].first;
    int done = m != NULL;
    if (m) MPI_Test(&m->request, &done, MPI_STATUS_IGNORE);
    return done ? m : NULL;
}

static message *await_message(zs_trajectories *t) {
    message *m = next_message(t);
    if (m) return m;
    char what[60];
    queue *q = &t->from[t->turn];
    snprintf(what, sizeof what, "episodes from rollout {%d}",
             t->comm->pod_index * t->comm->pod.size + t->comm->pod_rollouts[t->turn]);
    double begin = zs_seconds();
    while (!(m = next_message(t))) {
        double now = zs_seconds(), silent = now - fmax(begin, q->heard);
        /* a rollout that waits itself, for its documents, is to be the first to say so */
        if (silent > (1 + 2 * ALIVE_FRACTION) * t->comm->deadline) zs_comm_expire(t->comm, what);
        zs_comm_nap(now - begin);
    }
    zs_phase_idle(ZS_IDLE_WAITING, begin, zs_seconds(), what);
    return m;
}

bool zs_trajectories_take(zs_trajectories *t, zs_episodes *into) {
    int rollouts = t->comm->num_pod_rollouts;
    for (int ended = 0; ended < rollouts;) {
        queue *q = &t->from[t->turn];
        if (q->ended) {
            ended++;
            t->turn = (t->turn + 1) % rollouts;
            continue;
        }
        message *m = await_message(t);
        q->first = m->next;
        if (!q->first) q->last = NULL;
        bool is_episode = m->words;
        if (is_episode) zs_episode_unpack(m->words, into);
        zs_free(m->words);
        zs_free(m);
        q->ended = !is_episode;
        ended = 0;
        t->turn = (t->turn + 1) % rollouts;
        if (is_episode) return true;
    }
    for (int i = 0; i < rollouts; i++)
        t->from[i].ended = false;
    t->turn = 0;
    return false;
}

void zs_trajectories_destroy(zs_trajectories *t) {
    if (!t) return;
    while (t->sends) { /* whoever is to take them is in no hurry, but must be there */
        zs_comm_wait(t->comm, &t->sends->request, "learners to take episodes");
        forget_sent(t);
    }
    for (int i = 0; i < t->comm->num_pod_rollouts; i++)
        while (t->from[i].first) { /* of a phase that no learner asked for: the run ends early */
            message *m = t->from[i].first;
            zs_comm_wait(t->comm, &m->request, "episodes from rollouts");
            t->from[i].first = m->next;
            zs_free(m->words);
            zs_free(m);
        }
    zs_group_free(&t->group);
    zs_free(t->dealt);
    zs_free(t->spoken);
    zs_free(t->from);
    zs_free(t->place);
    zs_free(t);
}
