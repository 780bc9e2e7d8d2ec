/* Waiting for other ranks: a test loop that gives the core away and ends at a deadline.
 *
 * Blocking MPI calls spin, and never end when a rank is lost. Here a short wait costs a few tests; a longer
 * one sleeps between tests for a sixteenth of the time already waited, up to 200 us, so that ranks which wait
 * leave the cores to ranks which work. */
#include "internal.h"

#include "zerosearch/log.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_SECONDS  100e-6
#define LONGEST_SLEEP 200e-6
/* All ranks that wait should have the time to say so before the first of them ends the job; and they end it
 * one after another, the lowest first, or mpirun complains of reports that cross. */
static double grace_seconds(int rank) {
    return 1.0 + 0.1 * (rank < 20 ? rank : 20);
}

static void sleep_seconds(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

void zs_comm_expire(const zs_comm *comm, const char *what) {
    const char *phase = zs_log_phase();
    bool has_phase = phase && phase[0];
    char line[1000];
    snprintf(line, sizeof line, "rank %d (%s) waited %g s%s%s, step %lld, for %s", comm->world.rank,
             comm->role[0] ? comm->role : "no role", comm->deadline, has_phase ? " in phase " : "",
             has_phase ? phase : "", (long long)zs_log_step(), what);
    if (comm->world.rank == 0)
        zs_log(ZS_LOG_ERROR, "%s", line); /* also ends an open progress line */
    else
        fprintf(stderr, "error: %s\n", line);
    fflush(stderr);
    sleep_seconds(grace_seconds(comm->world.rank));
    MPI_Abort(comm->world.comm, ZS_FAILED);
    _Exit(ZS_FAILED);
}

void zs_comm_nap(double waited) {
    if (waited < SPIN_SECONDS) {
        sched_yield();
    } else {
        double nap = waited / 16;
        sleep_seconds(nap < LONGEST_SLEEP ? nap : LONGEST_SLEEP);
    }
}

/* Waits for the requests. The time is waiting until all ranks are known to be here (`here` is done, or is
 * NULL and `kind` says so), and transfer from then on. */
static void wait_for(const zs_comm *comm, int count, MPI_Request *requests, zs_idle kind, MPI_Request *here,
                     const char *what) {
    int done = 0;
    MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
    if (done) return;
    double begin = zs_seconds(), since = begin;
    for (;;) {
        double now = zs_seconds();
        if (kind == ZS_IDLE_WAITING && here) {
            int arrived = 0;
            MPI_Test(here, &arrived, MPI_STATUS_IGNORE);
            if (arrived) {
                zs_phase_idle(kind, since, now, what);
                kind = ZS_IDLE_TRANSFER;
                since = now;
            }
        }
        MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        double waited = now - begin;
        if (done) break;
        if (waited > comm->deadline) zs_comm_expire(comm, what);
        zs_comm_nap(waited);
    }
    zs_phase_idle(kind, since, zs_seconds(), what);
}

void zs_comm_wait_all(const zs_comm *comm, int count, MPI_Request *requests, const char *what) {
    wait_for(comm, count, requests, ZS_IDLE_WAITING, NULL, what);
}

void zs_comm_wait(const zs_comm *comm, MPI_Request *request, const char *what) {
    wait_for(comm, 1, request, ZS_IDLE_WAITING, NULL, what);
}

void zs_comm_wait_transfer(const zs_comm *comm, MPI_Request *request, MPI_Request *here, const char *what) {
    bool all_here = !here || *here == MPI_REQUEST_NULL;
    wait_for(comm, 1, request, all_here ? ZS_IDLE_TRANSFER : ZS_IDLE_WAITING, here, what);
}
