/* ranks: 1 2 3 4 */
/* Waits that end. Without arguments: a late rank is waited for, and nothing happens. With one, the ways in
 * which a job ends early; tests/cli_deadline.sh reads what they print:
 *   expire   rank 0 never comes to the search exchange, whose deadline is half a second
 *   pod      on 4 ranks: rank 2 never comes to the exchange of its pod, the second
 *   stream   rollouts take longer than the deadline for their episodes, then fall silent
 *   weights  the learner never comes to the weight broadcast
 *   memory   rank 0 never comes to share memory with the others
 *   filling  rank 0 never publishes its part of shared memory
 *   shared   all ranks agree on rank 1's fault, and all abort
 *   local    rank 1 aborts alone while the others wait for it
 *   killed   rank 1 is killed while the others wait for it */
#include "zerosearch/comm.h"
#include "zerosearch/log.h"
#include "zerosearch/trajectories.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static zs_comm comm;

static void be_late(void) {
    zs_exchange *exchange = zs_exchange_create(&comm);
    if (comm.world.rank == 0) usleep(300000);
    if (!exchange) return; /* a learner */
    zs_exchange_begin(exchange, 1);
    int searching = comm.pod.size > 2 ? comm.pod.size - comm.num_pod_learners : comm.pod.size;
    if (zs_exchange_finish(exchange) != searching) MPI_Abort(comm.world.comm, 1);
    zs_exchange_destroy(exchange);
}

static void expire_exchange(void) {
    zs_exchange *exchange = zs_exchange_create(&comm);
    zs_log_set_phase("generate", 12);
    comm.deadline = 0.5;
    if (comm.world.rank == 0 || !exchange) sleep(100);
    zs_exchange_begin(exchange, 0);
    zs_exchange_finish(exchange);
}

static void expire_in_pod(void) {
    zs_error err = {0};
    if (zs_comm_divide(&comm, ZS_LAYOUT_AUTO, 1, 1, 1, 2, true, &err) != ZS_OK) return;
    zs_exchange *exchange = zs_exchange_create(&comm);
    zs_log_set_phase("generate", 1);
    comm.deadline = comm.pod_index == 0 ? 900 : 0.5; /* the other pod's, however slow the machine is */
    if (comm.world.rank == 2 || !exchange) sleep(100);
    zs_exchange_begin(exchange, 0);
    zs_exchange_finish(exchange);
    if (comm.pod_index == 0) sleep(100); /* that pod was served; it ends with the job */
}

/* A rollout that lives is waited for, however long it takes; one that is silent is not. */
static void expire_stream(void) {
    comm.deadline = 0.5;
    zs_trajectories *stream = zs_trajectories_create(&comm);
    zs_episodes episodes = {0};
    zs_log_set_phase("exchange", 4);
    for (int i = 0; i < 100 && comm.is_rollout; i++, usleep(15000))
        zs_trajectories_poll(stream);
    if (comm.is_rollout) zs_trajectories_end(stream);
    while (comm.is_learner && zs_trajectories_take(stream, &episodes))
        ;
    if (!comm.is_learner) sleep(100);
    if (comm.is_learner) zs_log_rank(ZS_LOG_ERROR, "the live phase has ended");
    zs_trajectories_take(stream, &episodes);
}

static void expire_weights(void) {
    static float params[100000];
    zs_weights *weights = zs_weights_create(&comm, 100000, 50000, ZS_F32);
    zs_log_set_phase("broadcast", 3);
    comm.deadline = 0.5;
    if (comm.is_learner) sleep(100);
    zs_weights_begin(weights, params);
    zs_weights_finish(weights);
    zs_comm_barrier(&comm, &comm.world, "all ranks");
}

static void expire_memory(void) {
    zs_shared shared;
    zs_error err = {0};
    zs_log_set_phase("load", 0);
    comm.deadline = 0.5;
    if (comm.world.rank == 0) sleep(100);
    zs_comm_share(&comm, &comm.world, 1000, "the weights of DIR", &shared, &err);
}

static void expire_filling(void) {
    zs_shared shared;
    zs_error err = {0};
    zs_log_set_phase("load", 0);
    if (zs_comm_share(&comm, &comm.world, 1000, "the weights of DIR", &shared, &err) != ZS_OK) return;
    comm.deadline = 0.5;
    if (comm.world.rank == 0) sleep(100);
    zs_shared_publish(&comm, &shared, "all parts of the weights of DIR");
}

static void abort_shared(void) {
    zs_error err = {0};
    zs_status status = ZS_OK;
    if (comm.world.rank == 1) status = zs_fail(&err, ZS_USAGE, "the file is torn");
    zs_comm_agree(&comm, &comm.world, status, &err);
    zs_comm_abort(&comm, &err);
}

static void abort_local(void) {
    zs_error err = {0};
    if (comm.world.rank == 1) {
        zs_fail(&err, ZS_USAGE, "the file is torn");
        zs_comm_abort(&comm, &err);
    }
    zs_comm_barrier(&comm, &comm.world, "rank 1");
}

static void be_killed(void) {
    if (comm.world.rank == 1) raise(SIGKILL);
    zs_comm_barrier(&comm, &comm.world, "rank 1");
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) return 1;
    if (zs_comm_divide(&comm, ZS_LAYOUT_AUTO, 1, 2, 1, 1, true, &err) != ZS_OK) return 1;
    static const struct {
        const char *name;
        void (*run)(void);
    } ends[] = {{"expire", expire_exchange}, {"pod", expire_in_pod},    {"weights", expire_weights},
                {"stream", expire_stream},   {"memory", expire_memory}, {"filling", expire_filling},
                {"shared", abort_shared},    {"local", abort_local},    {"killed", be_killed}};
    comm.deadline = 900;
    if (argc < 2) be_late();
    for (size_t i = 0; argc > 1 && i < sizeof ends / sizeof ends[0]; i++)
        if (strcmp(argv[1], ends[i].name) == 0) ends[i].run();
    zs_comm_finish(&comm);
    return 0;
}
