/* Ranks and threads against the cores of each node. */
#include "binding.h"

#include "zerosearch/memory.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One rank. */

/* Slurm counts hardware threads, and says so on nodes that jobs share without a cpuset too. */
static int allotted_cores(const cpu_set_t *granted, const zs_topology *topology) {
    const char *text = getenv("SLURM_CPUS_ON_NODE");
    int64_t cpus;
    if (!text || !zs_parse_int(text, &cpus) || cpus < 1 || cpus > CPU_SETSIZE) return 0;
    int cores = CPU_COUNT(granted), threads = 0;
    for (int i = 0; i < CPU_SETSIZE; i++)
        threads += CPU_ISSET(topology->core[i], granted) != 0;
    return cores > 0 ? (int)(cpus * cores / threads) : 0;
}

/* Not PMIX_RANK: Open MPI sets it for a plain process too. */
static bool has_launcher(void) {
    return getenv("OMPI_COMM_WORLD_RANK") || getenv("PMI_RANK") || getenv("SLURM_PROCID");
}

zs_rank_cores zs_binding_of_rank(const zs_comm *comm, const zs_topology *topology) {
    zs_rank_cores rank;
    memset(&rank, 0, sizeof rank); /* its bytes travel */
    gethostname(rank.host, sizeof rank.host - 1);
    const char *threads = getenv("OMP_NUM_THREADS");
    rank.node = comm->world.rank;
    zs_comm_broadcast_bytes(comm, &comm->node, &rank.node, sizeof rank.node, 0, "the first rank of a node");
    rank.threads = omp_get_max_threads();
    rank.wished = threads && threads[0];
    rank.pinned = omp_get_num_places() > 0 && omp_get_proc_bind() != omp_proc_bind_false;
    rank.launched = has_launcher();
    rank.numa = topology->num_numa;
    zs_cores_mine(topology, &rank.mine);
    zs_cores_granted(topology, &rank.granted);
    rank.allotted = allotted_cores(&rank.granted, topology);
    return rank;
}

/* One node. */

typedef enum fault { FINE, IDLE, CROWDED, STACKED, FAULTS } fault;

typedef struct node {
    const zs_rank_cores *first;
    int ranks, threads; /* threads: of all its ranks */
    int cores, used;    /* cores: of the job; used: that some rank may run on */
    int most;           /* threads of a rank */
    bool bound;         /* some rank may not use all */
    fault fault;
} node;

/* Does a rank have fewer cores than threads, or share pinned ones with a rank before it? */
static fault fault_of_rank(const zs_rank_cores *ranks, int at) {
    const zs_rank_cores *rank = &ranks[at];
    for (int i = rank->node; i < at && rank->pinned; i++) {
        cpu_set_t both;
        if (ranks[i].node != rank->node || !ranks[i].pinned) continue;
        CPU_AND(&both, &ranks[i].mine, &rank->mine);
        if (CPU_COUNT(&both) > 0) return STACKED;
    }
    return rank->threads > CPU_COUNT(&rank->mine) ? CROWDED : FINE;
}

static node survey_node(const zs_rank_cores *ranks, int count, int first) {
    node n = {.first = &ranks[first], .cores = CPU_COUNT(&ranks[first].granted)};
    cpu_set_t used;
    CPU_ZERO(&used);
    for (int i = first; i < count; i++) {
        if (ranks[i].node != ranks[first].node) continue;
        if (CPU_COUNT(&ranks[i].mine) == 0) return (node){.fault = FINE}; /* the system does not say */
        fault found = fault_of_rank(ranks, i);
        n.fault = found > n.fault ? found : n.fault;
        CPU_OR(&used, &used, &ranks[i].mine);
        n.ranks++;
        n.threads += ranks[i].threads;
        n.most = ranks[i].threads > n.most ? ranks[i].threads : n.most;
        n.bound = n.bound || !CPU_EQUAL(&ranks[i].mine, &ranks[i].granted);
    }
    n.used = CPU_COUNT(&used);
    int allotted = n.first->allotted;
    if (allotted > 0 && allotted < n.cores) n.cores = allotted > n.used ? allotted : n.used;
    if (n.fault == FINE && n.threads > n.used) n.fault = CROWDED;
    bool room = n.cores / n.ranks > n.most;
    bool kept = n.bound && n.first->launched && n.used < n.cores;
    bool few = n.ranks > 1 && 2 * n.threads <= n.cores;
    if (n.fault == FINE && room && (kept || few)) n.fault = IDLE;
    return n;
}

/* Words. */

static const char *plural(int count) {
    return count == 1 ? "" : "s";
}

static void advise_launch(const node *n, zs_string *out) {
    int each = n->cores / n->ranks, domains = n->first->numa;
    bool by_numa = domains > 1 && n->ranks % domains == 0 && n->cores % domains == 0;
    zs_string_printf(out,
                     "give each rank %d core%s: mpirun --map-by ppr:%d:%s:PE=%d --bind-to core, or "
                     "srun --ntasks-per-node=%d --cpus-per-task=%d --cpu-bind=cores",
                     each, plural(each), by_numa ? n->ranks / domains : n->ranks, by_numa ? "numa" : "node",
                     each, n->ranks, each);
    if (n->first->wished && n->most != each) zs_string_printf(out, ", with OMP_NUM_THREADS=%d", each);
}

static void describe(const node *n, int others, zs_string *out) {
    zs_string_printf(out, "%s", n->first->host);
    if (others > 0) zs_string_printf(out, " and %d more node%s", others, plural(others));
    zs_string_printf(out, ": %d rank%s with %d thread%s each%s on ", n->ranks, plural(n->ranks), n->most,
                     plural(n->most), n->threads < n->ranks * n->most ? " at most" : "");
    if (n->used < n->cores) zs_string_printf(out, "%d of ", n->used);
    zs_string_printf(out, "%d core%s", n->cores, plural(n->cores));
    if (n->fault == STACKED)
        zs_string_puts(out,
                       ", and OMP_PROC_BIND pins threads of several ranks to the same ones; unset it, or ");
    else if (n->fault == CROWDED)
        zs_string_puts(out, ", so that threads wait for each other; ");
    else
        zs_string_printf(out, ", %d idle; ", n->cores - n->threads);
    if (n->ranks > n->cores)
        zs_string_printf(out, "start at most %d rank%s a node", n->cores, plural(n->cores));
    else if (n->fault == CROWDED && n->used == n->cores)
        zs_string_printf(out, "set OMP_NUM_THREADS=%d", n->cores / n->ranks);
    else
        advise_launch(n, out);
}

bool zs_binding_judge(const zs_rank_cores *ranks, int count, zs_string *out) {
    node worst = {.fault = FINE};
    int nodes[FAULTS] = {0};
    for (int i = 0; i < count; i++) {
        if (ranks[i].node != i) continue; /* its node is judged at its first rank */
        node n = survey_node(ranks, count, i);
        nodes[n.fault]++;
        if (n.fault > worst.fault) worst = n;
    }
    if (worst.fault != FINE) describe(&worst, nodes[worst.fault] - 1, out);
    return worst.fault != FINE;
}

bool zs_binding_check(const zs_comm *comm, zs_string *out) {
    zs_topology topology;
    zs_topology_read("/sys/devices/system", &topology);
    zs_rank_cores mine = zs_binding_of_rank(comm, &topology);
    char *all;
    int64_t *lengths;
    zs_comm_gather_bytes(comm, &comm->world, &mine, sizeof mine, 0, &all, &lengths, "cores of the ranks");
    bool wrong = all && zs_binding_judge((const zs_rank_cores *)all, comm->world.size, out);
    zs_free(all);
    zs_free(lengths);
    return wrong;
}
