/* `zerosearch plan`: what a layout needs, before a node-hour is spent.
 *
 * Memory is counted by the functions that the program allocates with; volumes follow from the sizes. Times
 * are an estimate and say so: matrix products at this machine's measured sgemm rate, each decode step at the
 * rate at which it reads the weights (or at the sgemm rate, whichever takes longer), no network, no waiting.
 * What an episode will look like is not known before the run: the options state what is assumed. */
#include "machine.h"
#include "zerosearch/command.h"
#include "zerosearch/engine.h"
#include "zerosearch/hf.h"
#include "zerosearch/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const zs_option options[] = {
    {"shape", "NAME", "policy's shape (instead of model.policy)"},
    {"simulator-shape", "NAME", "simulator's shape (instead of model.simulator; else the policy's)"},
    {"ranks", "N", "ranks to divide over the roles in the proposal (those of the config's groups)"},
    {"prompt-tokens", "N", "assumed: tokens of a prompt (200)"},
    {"turns", "X", "assumed: mean turns of an episode, the answer's included (2.5)"},
    {"turn-tokens", "N", "assumed: mean tokens that the policy writes in a turn (100)"},
    {NULL, NULL, NULL}};

enum { SIMULATOR, ROLLOUT, LEARNER, ROLES };
static const char *const role_names[ROLES] = {"simulator", "rollout", "learner"};

typedef struct plan {
    const zs_config *config;
    zs_model_config policy, simulator;
    double params, simulator_params; /* counts */
    bool colocated, reference, simulated;
    int64_t ranks[ROLES]; /* that play each role, over all pods; colocated: all ranks play all */
    int64_t world;
    double prompt, turns, turn_tokens, document_tokens; /* assumed, a mean episode */
    double episodes, episode_tokens;
    double gemm, read; /* measured: flop/s, bytes/s */
} plan;

/* Memory. */

typedef struct memory { /* bytes of one rank */
    double weights, gradients, optimizer, reference, activations, cache;
} memory;

static double memory_sum(const memory *m) {
    return m->weights + m->gradients + m->optimizer + m->reference + m->activations + m->cache;
}

static double engine_bytes(const plan *p, const zs_model_config *model, const char *group) {
    char batch[60], cache[60], length[60];
    snprintf(batch, sizeof batch, "%s.max_batch", group);
    snprintf(cache, sizeof cache, "%s.cache_tokens", group);
    snprintf(length, sizeof length, "%s.%s", group,
             strcmp(group, "rollout") == 0 ? "context_tokens" : "max_length");
    zs_engine_options engine = {.max_batch = zs_config_int(p->config, batch),
                                .cache_tokens = zs_config_int(p->config, cache),
                                .prefill_chunk = zs_config_int(p->config, "rollout.prefill_chunk"),
                                .max_length = zs_config_int(p->config, length)};
    if (engine.cache_tokens == 0) engine.cache_tokens = engine.max_batch * engine.max_length;
    return (double)zs_engine_bytes(model, &engine);
}

static memory memory_of(const plan *p, int role) {
    memory m = {0};
    if (role == SIMULATOR && p->simulated) {
        m.weights = 4 * p->simulator_params;
        m.cache = engine_bytes(p, &p->simulator, "search");
    } else if (role == ROLLOUT) {
        m.weights = 4 * p->params;
        m.cache = engine_bytes(p, &p->policy, "rollout");
    } else if (role == LEARNER) {
        m.weights = m.gradients = 4 * p->params;
        m.optimizer = 8 * p->params / (double)p->ranks[LEARNER]; /* m and v of this learner's shard */
        m.reference = p->reference ? 4 * p->params : 0;
        m.activations = (double)zs_workspace_bytes(&p->policy, zs_config_int(p->config, "learn.micro_tokens"),
                                                   true, zs_config_bool(p->config, "learn.recompute"));
    }
    return m;
}

static void print_memory_line(const char *name, int64_t ranks, const memory *m) {
    const double gib = 1 << 30;
    printf("%-10s %6lld %9.2f %9.2f %9.2f %9.2f %11.2f %9.2f %9.2f\n", name, (long long)ranks,
           m->weights / gib, m->gradients / gib, m->optimizer / gib, m->reference / gib, m->activations / gib,
           m->cache / gib, memory_sum(m) / gib);
}

static void print_memory(const plan *p) {
    printf("memory of one rank, GiB (the program's other buffers are small beside these)\n");
    printf("%-10s %6s %9s %9s %9s %9s %11s %9s %9s\n", "role", "ranks", "weights", "gradients", "optimizer",
           "reference", "activations", "KV cache", "sum");
    memory all = {0};
    double total = 0;
    for (int role = 0; role < ROLES; role++) {
        memory m = memory_of(p, role);
        if (p->ranks[role] == 0) continue;
        print_memory_line(role_names[role], p->ranks[role], &m);
        total += (double)p->ranks[role] * memory_sum(&m);
        all.weights +=
            role == ROLLOUT ? 0 : m.weights; /* rollout and learner on one rank share the weights */
        all.gradients += m.gradients;
        all.optimizer += m.optimizer;
        all.reference += m.reference;
        all.activations += m.activations;
        all.cache += m.cache;
    }
    if (p->colocated) {
        print_memory_line("colocated", p->world, &all);
        total = (double)p->world * memory_sum(&all);
    }
    double here = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    printf("all %lld ranks together: %.2f GiB; this machine has %.2f GiB\n\n", (long long)p->world,
           total / (1 << 30), here / (1 << 30));
}

/* Communication. */

static void print_volumes(const plan *p) {
    const double mb = 1e6, learners = (double)p->ranks[LEARNER], searches = p->episodes * (p->turns - 1);
    double updates =
        (double)(zs_config_int(p->config, "learn.epochs") * zs_config_int(p->config, "learn.minibatches"));
    double shard = 4 * p->params * (learners - 1) / learners;
    bool separate = !p->colocated;
    printf("communication of one step, MB (no times: the network is not known here)\n");
    printf("%-44s %12s\n", "what", "MB");
    printf("%-44s %12.1f\n", "weights, into each rollout", separate ? 4 * p->params / mb : 0.0);
    printf("%-44s %12.1f\n", "gradients, out of each learner", updates * shard / mb);
    printf("%-44s %12.1f\n", "updated weights, into each learner", updates * shard / mb);
    /* ids, kinds, log-probabilities: 9 bytes a token; text: about 4 bytes a token */
    printf("%-44s %12.3f\n", "episodes, rollouts to learners, all",
           separate ? 9 * p->episodes * p->episode_tokens / mb : 0.0);
    printf("%-44s %12.3f\n\n", "queries and documents, all",
           separate && p->simulated ? searches * (4 * p->document_tokens + 500) / mb : 0.0);
}

/* Time. */

/* Flops of a forward pass over `tokens` tokens in sequences of `length`: two for each weight in a product
 * (the embedding is looked up, the head is a product), and causal attention, whose mean row sees length / 2.
 */
static double forward_flops(const zs_model_config *c, double params, double tokens, double length) {
    double embedding = c->tie_word_embeddings ? 0 : (double)(c->vocab_size * c->hidden_size);
    double attention = 2.0 * length * (double)(c->num_hidden_layers * c->num_attention_heads * c->head_dim);
    return tokens * (2 * (params - embedding) + attention);
}

/* Seconds to write `each` tokens in each of `sequences`, at most `batch` at once: a step reads all weights
 * and the cache of its sequences once, and computes. */
static double decode_seconds(const plan *p, const zs_model_config *c, double params, double sequences,
                             double batch, double each, double length) {
    double together = fmin(sequences, batch), steps = each * fmax(1, sequences / batch);
    double cache =
        8 * together * length / 2 * (double)(c->num_hidden_layers * c->num_key_value_heads * c->head_dim);
    double compute = forward_flops(c, params, together, length / 2) / p->gemm;
    return steps * fmax((4 * params + cache) / p->read, compute);
}

/* Seconds of a role's work in one step when `ranks` ranks share it evenly. */
static double role_seconds(const plan *p, int role, int64_t ranks) {
    double n = (double)ranks, searches = p->episodes * (p->turns - 1) / n;
    if (role == SIMULATOR) {
        if (!p->simulated || searches <= 0) return 0;
        double prompt = 300, length = prompt + p->document_tokens;
        return forward_flops(&p->simulator, p->simulator_params, searches * prompt, prompt) / p->gemm +
               decode_seconds(p, &p->simulator, p->simulator_params, searches,
                              (double)zs_config_int(p->config, "search.max_batch"), p->document_tokens,
                              length);
    }
    if (role == ROLLOUT) {
        double samples = (double)zs_config_int(p->config, "rollout.samples"), sequences = p->episodes / n;
        double prefill = sequences * (p->prompt / samples + (p->turns - 1) * p->document_tokens);
        return forward_flops(&p->policy, p->params, prefill, p->episode_tokens) / p->gemm +
               decode_seconds(p, &p->policy, p->params, sequences,
                              (double)zs_config_int(p->config, "rollout.max_batch"),
                              p->turns * p->turn_tokens, p->episode_tokens);
    }
    double passes = 3 + (zs_config_bool(p->config, "learn.recompute") ? 1 : 0); /* backward counts as two */
    double forward =
        forward_flops(&p->policy, p->params, p->episodes * p->episode_tokens / n, p->episode_tokens);
    return forward * (1 + p->reference + passes * (double)zs_config_int(p->config, "learn.epochs")) / p->gemm;
}

/* Simulators and rollouts work at the same time, learners after them. */
static double step_seconds(const double seconds[ROLES]) {
    return fmax(seconds[SIMULATOR], seconds[ROLLOUT]) + seconds[LEARNER];
}

static void print_split(const plan *p, const char *name, const int64_t ranks[ROLES]) {
    double seconds[ROLES];
    for (int role = 0; role < ROLES; role++)
        seconds[role] = ranks[role] ? role_seconds(p, role, ranks[role]) : 0;
    printf("%-22s %6lld %6lld %6lld %11.2f %11.2f %11.2f %11.2f\n", name, (long long)ranks[SIMULATOR],
           (long long)ranks[ROLLOUT], (long long)ranks[LEARNER], seconds[SIMULATOR], seconds[ROLLOUT],
           seconds[LEARNER], step_seconds(seconds));
}

static void print_times(const plan *p, int64_t world) {
    printf("ESTIMATED seconds of one step: %.0f Gflop/s and %.1f GB/s a rank (measured here, machine as busy "
           "as it\n"
           "is now); assumed: %.0f episodes of %.0f tokens, %.1f turns of %.0f tokens, observations of %.0f "
           "tokens.\n"
           "Simulators and rollouts overlap, learners come after; network and waiting are left out.\n",
           p->gemm / 1e9, p->read / 1e9, p->episodes, p->episode_tokens, p->turns, p->turn_tokens,
           p->document_tokens);
    printf("%-22s %6s %6s %6s %11s %11s %11s %11s\n", "layout", "sim", "roll", "learn", "simulator s",
           "rollout s", "learner s", "step s");
    if (p->colocated) { /* in turn: all ranks simulate, roll out and learn */
        double seconds[ROLES], sum = 0;
        for (int role = 0; role < ROLES; role++)
            sum += seconds[role] = role_seconds(p, role, p->world);
        printf("%-22s %6lld %6lld %6lld %11.2f %11.2f %11.2f %11.2f\n", "config (colocated)",
               (long long)p->world, (long long)p->world, (long long)p->world, seconds[SIMULATOR],
               seconds[ROLLOUT], seconds[LEARNER], sum);
    } else {
        print_split(p, "config", p->ranks);
    }
    int64_t least = p->simulated ? 1 : 0;
    if (world < least + 2) {
        printf("a split needs at least %lld ranks; --ranks N proposes one\n", (long long)least + 2);
        return;
    }
    /* For each number of learners the rest is divided where simulators and rollouts take equally long. */
    int64_t best[ROLES] = {0};
    double best_seconds = INFINITY;
    for (int64_t learners = 1; learners + least + 1 <= world; learners++) {
        int64_t rest = world - learners, low = least, high = least ? rest - 1 : 0;
        while (low < high) { /* the fewest simulators that are not the slower side */
            int64_t middle = (low + high) / 2;
            if (role_seconds(p, SIMULATOR, middle) <= role_seconds(p, ROLLOUT, rest - middle))
                high = middle;
            else
                low = middle + 1;
        }
        for (int64_t s = low > least ? low - 1 : low; s <= low; s++) {
            double seconds[ROLES] = {s ? role_seconds(p, SIMULATOR, s) : 0,
                                     role_seconds(p, ROLLOUT, rest - s), role_seconds(p, LEARNER, learners)};
            if (step_seconds(seconds) >= best_seconds) continue;
            best_seconds = step_seconds(seconds);
            best[SIMULATOR] = s;
            best[ROLLOUT] = rest - s;
            best[LEARNER] = learners;
        }
    }
    print_split(p, "proposed", best);
    printf("groups.layout = \"split\"; groups.simulators = %lld; groups.rollouts = %lld; groups.learners = "
           "%lld;\n",
           (long long)best[SIMULATOR], (long long)best[ROLLOUT], (long long)best[LEARNER]);
}

/* Reading what is asked. */

static zs_status read_model(const zs_arguments *arguments, const char *option, const char *key, bool *given,
                            zs_model_config *out, zs_error *err) {
    const char *shape = zs_arg(arguments, option), *folder = zs_config_string(arguments->config, key);
    *given = shape || folder[0] != '\0';
    if (shape && !zs_model_shape(shape, out))
        return zs_fail(err, ZS_USAGE, "--%s is %s; expected one of %s", option, shape, zs_model_shape_names);
    return shape || !*given ? ZS_OK : zs_hf_read_config(folder, out, err);
}

static double count_params(const zs_model_config *config) {
    zs_model *layout = zs_model_layout(config);
    double count = (double)layout->num_params;
    zs_model_destroy(layout);
    return count;
}

static zs_status read_assumptions(const zs_arguments *arguments, plan *p, int64_t *world, zs_error *err) {
    const zs_config *config = arguments->config;
    zs_status status = zs_arg_int(arguments, "ranks", p->world, world, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "prompt-tokens", 200, &p->prompt, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "turns", 2.5, &p->turns, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "turn-tokens", 100, &p->turn_tokens, err);
    if (status) return status;
    if (*world < 1 || *world > 1000000)
        return zs_fail(err, ZS_USAGE, "--ranks: expected a number from 1 to 1000000");
    if (!(p->prompt >= 1) || !(p->turns >= 1) || !(p->turn_tokens >= 1))
        return zs_fail(err, ZS_USAGE, "--prompt-tokens, --turns and --turn-tokens: expected numbers >= 1");
    double words = (double)(zs_config_int(config, "search.top_k") * zs_config_int(config, "search.words"));
    p->document_tokens = fmin(1.4 * words, (double)zs_config_int(config, "search.observation_tokens"));
    p->episodes =
        (double)(zs_config_int(config, "rollout.questions") * zs_config_int(config, "rollout.samples"));
    p->episode_tokens = fmin(p->prompt + p->turns * p->turn_tokens + (p->turns - 1) * p->document_tokens,
                             (double)zs_config_int(config, "rollout.context_tokens"));
    return ZS_OK;
}

static zs_status make_plan(const zs_arguments *arguments, zs_error *err) {
    const zs_config *config = arguments->config;
    plan p = {.config = config};
    bool given;
    zs_status status = read_model(arguments, "shape", "model.policy", &given, &p.policy, err);
    if (status) return status;
    if (!given)
        return zs_fail(err, ZS_USAGE, "what model? expected --shape NAME or the setting model.policy");
    p.simulator = p.policy;
    status = read_model(arguments, "simulator-shape", "model.simulator", &given, &p.simulator, err);
    if (status) return status;
    p.simulated = strncmp(zs_config_string(config, "search.engine"), "simulate", 8) == 0;
    p.reference = zs_config_float(config, "learn.kl_coef") > 0;
    const char *layout = zs_config_string(config, "groups.layout");
    p.colocated = strcmp(layout, "colocated") == 0;
    int64_t pods = zs_config_int(config, "groups.pods");
    p.ranks[SIMULATOR] = p.simulated ? pods * zs_config_int(config, "groups.simulators") : 0;
    p.ranks[ROLLOUT] = pods * zs_config_int(config, "groups.rollouts");
    p.ranks[LEARNER] = pods * zs_config_int(config, "groups.learners");
    p.world = p.ranks[SIMULATOR] + p.ranks[ROLLOUT] + p.ranks[LEARNER];
    int64_t world;
    status = read_assumptions(arguments, &p, &world, err);
    if (status) return status;
    if (p.colocated) { /* the groups' counts do not matter: every rank plays every role */
        p.world = zs_arg(arguments, "ranks") ? world : arguments->comm->world.size;
        world = zs_arg(arguments, "ranks") ? world : p.world;
        p.ranks[ROLLOUT] = p.ranks[LEARNER] = p.world;
        p.ranks[SIMULATOR] = p.simulated ? p.world : 0;
    } else if (p.simulated && p.ranks[SIMULATOR] == 0) {
        return zs_config_fail(config, "groups.simulators", err,
                              "at least 1 expected: the search engine is simulated");
    }
    p.params = count_params(&p.policy);
    p.simulator_params = count_params(&p.simulator);
    p.gemm = zs_machine_sgemm_rate() * 1e9;
    p.read = zs_machine_read_rate() * 1e9;
    printf("policy: %.3f billion parameters; layout %s\n\n", p.params / 1e9, layout);
    print_memory(&p);
    print_volumes(&p);
    print_times(&p, world);
    return fflush(stdout) == 0 ? ZS_OK : zs_fail(err, ZS_FAILED, "cannot write to stdout");
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? make_plan(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

const zs_command zs_command_plan = {
    "plan", "memory, communication and estimated time of a step, and a split of ranks over the roles",
    "zerosearch plan [CONFIG.cfg] [--shape NAME] [--ranks N]\n"
    "Reads the groups, rollout, learn and search settings. Memory is what the program will allocate; times "
    "are\n"
    "an estimate from rates measured on this machine and from assumptions about the episodes.",
    options, run};
