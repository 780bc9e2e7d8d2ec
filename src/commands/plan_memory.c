/* plan: the memory of ranks and nodes, and what loading reads. */
#include "plan.h"

#include "zerosearch/engine.h"
#include "zerosearch/load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GIB 0x1p30

static const char *const role_names[ROLES] = {"simulator", "rollout", "learner"};

static zs_dtype kept_as(const zs_plan *p, const char *key, zs_dtype stored) {
    zs_dtype dtype;
    zs_keep_named(zs_config_string(p->config, key), &dtype);
    return dtype != ZS_DTYPE_OTHER ? dtype : stored == ZS_BF16 ? ZS_BF16 : ZS_F32;
}

static double kept_bytes(const zs_model_config *config, zs_dtype dtype) {
    zs_model *layout = zs_model_layout(config);
    double bytes = (double)zs_model_bytes(layout, dtype);
    zs_model_destroy(layout);
    return bytes;
}

void zs_plan_precisions(zs_plan *p) {
    p->rollout_dtype = kept_as(p, "rollout.dtype", ZS_F32);
    p->simulator_kept = kept_as(p, "model.simulator_dtype", p->simulator_stored);
    p->rollout_cache = kept_as(p, "rollout.cache_dtype", ZS_F32);
    p->simulator_cache = kept_as(p, "search.cache_dtype", ZS_F32);
    p->reference_kept = kept_as(p, "model.reference_dtype", p->policy_stored);
    p->rollout_bytes = kept_bytes(&p->policy, p->rollout_dtype);
    p->simulator_bytes = kept_bytes(&p->simulator, p->simulator_kept);
    p->reference_bytes = kept_bytes(&p->policy, p->reference_kept);
}

typedef struct memory { /* bytes of one rank */
    double weights, gradients, optimizer, reference, activations, cache, buffers, snapshot;
} memory;

static double memory_sum(const memory *m) {
    return m->weights + m->gradients + m->optimizer + m->reference + m->activations + m->cache + m->buffers +
           m->snapshot;
}

static double engine_bytes(const zs_plan *p, const zs_model_config *model, const char *group,
                           zs_dtype cache_dtype) {
    char batch[60], cache[60], length[60];
    snprintf(batch, sizeof batch, "%s.max_batch", group);
    snprintf(cache, sizeof cache, "%s.cache_tokens", group);
    snprintf(length, sizeof length, "%s.%s", group,
             strcmp(group, "rollout") == 0 ? "context_tokens" : "max_length");
    zs_engine_options engine = {.max_batch = zs_config_int(p->config, batch),
                                .cache_tokens = zs_config_int(p->config, cache),
                                .prefill_chunk = zs_config_int(p->config, "rollout.prefill_chunk"),
                                .max_length = zs_config_int(p->config, length),
                                .cache_dtype = cache_dtype};
    if (engine.cache_tokens == 0) engine.cache_tokens = engine.max_batch * engine.max_length;
    return (double)zs_engine_bytes(model, &engine);
}

/* Tokens of a micro-batch: a longest episode has to fit (zs_learner_create). */
static int64_t micro_tokens(const zs_plan *p) {
    int64_t wish = zs_config_int(p->config, "learn.micro_tokens"),
            longest = zs_config_int(p->config, "rollout.context_tokens");
    return wish < longest ? longest : wish;
}

/* The int8 block of a pod's first learner, from which rollouts take it. */
static double sent_block(const zs_plan *p) {
    return !p->colocated && p->rollout_dtype == ZS_INT8 ? p->rollout_bytes : 0;
}

/* Gradients that arrive from other learners. */
static double buffer_bytes(const zs_plan *p) {
    return (double)zs_reducer_bytes((int64_t)p->params, zs_config_int(p->config, "learn.bucket_params"),
                                    p->ranks[LEARNER]);
}

/* Of a rank whose role `sharers` ranks of its node play: a frozen model counts with this rank's part of it.
 */
static memory memory_of(const zs_plan *p, int role, int64_t sharers) {
    memory m = {0};
    if (role == SIMULATOR && p->simulated) {
        m.weights = p->simulator_bytes / (double)sharers;
        m.cache = engine_bytes(p, &p->simulator, "search", p->simulator_cache);
    } else if (role == ROLLOUT) {
        m.weights = p->rollout_bytes;
        if (p->ahead && !p->colocated) m.weights *= 2; /* the next ones arrive while these are played */
        m.cache = engine_bytes(p, &p->policy, "rollout", p->rollout_cache);
    } else if (role == LEARNER) {
        m.weights = m.gradients = 4 * p->params;
        m.optimizer = 8 * p->params / (double)p->ranks[LEARNER]; /* m and v of this learner's shard */
        if (p->reference) m.reference = p->reference_bytes / (double)sharers;
        m.activations = (double)zs_workspace_bytes(&p->policy, micro_tokens(p), true,
                                                   zs_config_bool(p->config, "learn.recompute"));
        m.buffers = buffer_bytes(p);
        if (zs_config_bool(p->config, "checkpoint.background")) /* the copy of what this learner writes */
            m.snapshot = 12 * p->params / (double)p->ranks[LEARNER];
        if (strcmp(zs_config_string(p->config, "learn.advantage"), "gae") == 0) { /* PPO's value model */
            m.weights *= 2;
            m.gradients *= 2;
            m.optimizer *= 2;
            m.activations *= 2;
            m.snapshot *= 2;
            m.buffers *= 2;
        }
    }
    return m;
}

/* A rank that plays all roles: rollout and learner use the same weights where both are f32. */
static memory memory_of_all(const zs_plan *p, int64_t sharers) {
    memory all = {0};
    for (int role = 0; role < ROLES; role++) {
        memory m = memory_of(p, role, sharers);
        all.weights += role == ROLLOUT && p->rollout_dtype == ZS_F32 ? 0 : m.weights;
        all.gradients += m.gradients;
        all.optimizer += m.optimizer;
        all.reference += m.reference;
        all.activations += m.activations;
        all.cache += m.cache;
        all.buffers += m.buffers;
        all.snapshot += m.snapshot;
    }
    return all;
}

/* How many ranks of each role stand on node `node`, and how many are the first learner of a pod: ranks fill
 * nodes in order. */
static void roles_on_node(const zs_plan *p, int64_t node, int64_t counts[ROLES], int64_t *senders) {
    int64_t first = node * p->node_ranks,
            last = first + p->node_ranks < p->world ? first + p->node_ranks : p->world;
    int64_t simulators = p->ranks[SIMULATOR] / p->pods, players = simulators + p->ranks[ROLLOUT] / p->pods;
    int64_t pod = p->world / p->pods;
    memset(counts, 0, ROLES * sizeof *counts);
    *senders = 0;
    for (int64_t rank = first; rank < last; rank++) {
        int64_t place = rank % pod;
        *senders += place == players;
        counts[place < simulators ? SIMULATOR : place < players ? ROLLOUT : LEARNER]++;
    }
}

typedef struct nodes {    /* what the nodes of a layout come to */
    double sum, fullest;  /* bytes */
    int64_t least[ROLES]; /* ranks of a role on the node that has fewest, but some */
    int64_t most[ROLES];
} nodes;

static nodes survey(const zs_plan *p) {
    nodes all = {0};
    int64_t count = (p->world + p->node_ranks - 1) / p->node_ranks;
    for (int64_t n = 0; n < count; n++) {
        int64_t on[ROLES], ranks = n + 1 < count ? p->node_ranks : p->world - n * p->node_ranks;
        double bytes = 0;
        if (p->colocated) {
            for (int role = 0; role < ROLES; role++)
                on[role] = p->ranks[role] ? ranks : 0;
            memory m = memory_of_all(p, ranks);
            bytes = (double)ranks * memory_sum(&m);
        } else {
            int64_t senders;
            roles_on_node(p, n, on, &senders);
            bytes += (double)senders * sent_block(p);
        }
        for (int role = 0; role < ROLES; role++) {
            if (on[role] == 0) continue;
            if (all.least[role] == 0 || on[role] < all.least[role]) all.least[role] = on[role];
            if (on[role] > all.most[role]) all.most[role] = on[role];
            memory m = memory_of(p, role, on[role]);
            if (!p->colocated) bytes += (double)on[role] * memory_sum(&m);
        }
        all.sum += bytes;
        all.fullest = fmax(all.fullest, bytes);
    }
    return all;
}

static void print_memory_line(const char *name, int64_t ranks, const memory *m) {
    printf("%-10s %6lld %9.2f %9.2f %9.2f %9.2f %11.2f %9.2f %9.2f %10.2f %9.2f\n", name, (long long)ranks,
           m->weights / GIB, m->gradients / GIB, m->optimizer / GIB, m->reference / GIB, m->activations / GIB,
           m->cache / GIB, m->buffers / GIB, m->snapshot / GIB, memory_sum(m) / GIB);
}

void zs_plan_print_memory(const zs_plan *p) {
    nodes all = survey(p);
    printf("memory of one rank, GiB (the program's other buffers are small beside these); simulator and\n"
           "reference stand once a node, and a rank's part of them is counted; ranks of a node: %lld\n",
           (long long)p->node_ranks);
    printf("%-10s %6s %9s %9s %9s %9s %11s %9s %9s %10s %9s\n", "role", "ranks", "weights", "gradients",
           "optimizer", "reference", "activations", "KV cache", "buffers", "checkpoint", "sum");
    for (int role = 0; role < ROLES; role++) {
        if (p->ranks[role] == 0) continue;
        memory m = memory_of(p, role, all.least[role]);
        if (role == LEARNER) m.buffers += sent_block(p);
        print_memory_line(role_names[role], p->ranks[role], &m);
    }
    if (p->colocated) {
        memory m = memory_of_all(p, all.least[LEARNER]);
        print_memory_line("colocated", p->world, &m);
    }
    double here = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (sent_block(p) > 0)
        printf("buffers of a learner: with the int8 weights that a pod's first one sends, %.2f GiB\n",
               sent_block(p) / GIB);
    printf("the fullest node: %.2f GiB; all %lld ranks together: %.2f GiB; this machine has %.2f GiB\n\n",
           all.fullest / GIB, (long long)p->world, all.sum / GIB, here / GIB);
}

/* What each further token of a micro-batch takes. */
static double token_bytes(const zs_plan *p, bool recompute) {
    const int64_t from = 4096,
                  to = 8192; /* past the sizes that a chunk of logits or a block of rows is held to */
    return (double)(zs_workspace_bytes(&p->policy, to, true, recompute) -
                    zs_workspace_bytes(&p->policy, from, true, recompute)) /
           (double)(to - from);
}

void zs_plan_print_training(const zs_plan *p) {
    double learners = (double)p->ranks[LEARNER], moments = 8 / learners;
    bool recompute = zs_config_bool(p->config, "learn.recompute");
    double buffers = buffer_bytes(p) / p->params;
    double now = (double)zs_workspace_bytes(&p->policy, micro_tokens(p), true, recompute);
    printf("memory of training, bytes of a learner\n");
    printf("a parameter   weights 4, gradients 4, moments %.3g (8 over %lld learners), buffers %.3g: %.2f\n",
           moments, (long long)p->ranks[LEARNER], buffers, 8 + moments + buffers);
    printf("a token       %.0f, with learn.recompute %.0f; a micro-batch has %lld (learn.recompute = %s)\n",
           token_bytes(p, false), token_bytes(p, true), (long long)micro_tokens(p),
           recompute ? "true" : "false");
    printf("beside these  %.0f, most of it a chunk of logits\n\n",
           fmax(0, now - token_bytes(p, recompute) * (double)micro_tokens(p)));
}

static void print_loading_line(const zs_plan *p, const char *name, const zs_model_config *config,
                               zs_dtype stored, zs_dtype kept, bool frozen, int64_t ranks) {
    zs_read read = zs_read_named(zs_config_string(p->config, "model.read"));
    zs_load_need need = zs_load_plan(config, stored, kept, frozen, read, ranks);
    printf("%-10s %6lld %-4s %-9s %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, (long long)ranks,
           zs_dtype_name(kept), frozen ? "a node" : "each rank", need.rank / GIB, need.node / GIB,
           need.read_rank / GIB, need.read_node / GIB, need.peak / GIB);
}

void zs_plan_print_loading(const zs_plan *p) {
    nodes all = survey(p);
    printf(
        "loading, GiB (model.read = %s), on the node where most ranks take part; `bench load` measures it\n",
        zs_config_string(p->config, "model.read"));
    printf("%-10s %6s %-14s %9s %9s %9s %9s %9s\n", "model", "ranks", "one copy for", "of a rank",
           "of a node", "rank read", "node read", "node peak");
    if (p->simulated)
        print_loading_line(p, "simulator", &p->simulator, p->simulator_stored, p->simulator_kept, true,
                           all.most[SIMULATOR]);
    /* rollouts that do not learn take the weights from those who do */
    print_loading_line(p, "policy", &p->policy, p->policy_stored, ZS_F32, false, all.most[LEARNER]);
    if (p->reference)
        print_loading_line(p, "reference", &p->policy, p->policy_stored, p->reference_kept, true,
                           all.most[LEARNER]);
    printf("\n");
}
