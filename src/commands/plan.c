/* `zerosearch plan`: what a layout needs, before a node-hour is spent.
 *
 * Memory is counted by the functions that the program allocates with; volumes follow from the sizes. Times
 * are an estimate and say so: matrix products at this machine's measured sgemm rate, each decode step at the
 * rate at which it reads the weights (or at the sgemm rate, whichever takes longer), no network, no waiting.
 * What an episode will look like is not known before the run: the options state what is assumed. */
#include "machine.h"
#include "plan.h"
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/model.h"
#include "zerosearch/setup.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const zs_option options[] = {
    {"shape", "NAME", "policy's shape (instead of model.policy)"},
    {"simulator-shape", "NAME", "simulator's shape (instead of model.simulator; else the policy's)"},
    {"dtype", "NAME", "precision in the folders that shapes stand for: bf16 or f32 (bf16)"},
    {"ranks-per-node", "N", "ranks of a node, which keep one copy of each frozen model (all)"},
    {"ranks", "N", "ranks to divide over the roles in the proposal (those of the config's groups)"},
    {"measured", "RUN", "run folder: propose a split from what its last steps measured, too"},
    {"prompt-tokens", "N", "assumed: tokens of a prompt (200)"},
    {"turns", "X", "assumed: mean turns of an episode, the answer's included (2.5)"},
    {"turn-tokens", "N", "assumed: mean tokens that the policy writes in a turn (100)"},
    {NULL, NULL, NULL}};

/* Communication. */

static void print_volumes(const zs_plan *p) {
    const double mb = 1e6, learners = (double)p->ranks[LEARNER], searches = p->episodes * (p->turns - 1);
    double updates =
        (double)(zs_config_int(p->config, "learn.epochs") * zs_config_int(p->config, "learn.minibatches"));
    double shard = 4 * p->params * (learners - 1) / learners;
    bool separate = !p->colocated;
    printf("communication of one step, MB (no times: the network is not known here)\n");
    printf("%-44s %12s\n", "what", "MB");
    printf("%-44s %12.1f\n", "weights, into each rollout", separate ? p->rollout_bytes / mb : 0.0);
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
static double decode_seconds(const zs_plan *p, const zs_model_config *c, double params, double bytes,
                             zs_dtype cache_dtype, double sequences, double batch, double each,
                             double length) {
    double together = fmin(sequences, batch), steps = each * fmax(1, sequences / batch);
    double cache = (double)(2 * zs_dtype_size(cache_dtype)) * together * length / 2 *
                   (double)(c->num_hidden_layers * c->num_key_value_heads * c->head_dim);
    double compute = forward_flops(c, params, together, length / 2) / p->gemm;
    return steps * fmax((bytes + cache) / p->read, compute);
}

/* A zs_role_seconds. */
static double role_seconds(const void *context, int role, int64_t ranks) {
    const zs_plan *p = context;
    double n = (double)ranks, searches = p->episodes * (p->turns - 1) / n;
    if (role == SIMULATOR) {
        if (!p->simulated || searches <= 0) return 0;
        double prompt = 300, length = prompt + p->document_tokens;
        return forward_flops(&p->simulator, p->simulator_params, searches * prompt, prompt) / p->gemm +
               decode_seconds(p, &p->simulator, p->simulator_params, p->simulator_bytes, p->simulator_cache,
                              searches, (double)zs_config_int(p->config, "search.max_batch"),
                              p->document_tokens, length);
    }
    if (role == ROLLOUT) {
        double samples = (double)zs_config_int(p->config, "rollout.samples"), sequences = p->episodes / n;
        double prefill = sequences * (p->prompt / samples + (p->turns - 1) * p->document_tokens);
        return forward_flops(&p->policy, p->params, prefill, p->episode_tokens) / p->gemm +
               decode_seconds(p, &p->policy, p->params, p->rollout_bytes, p->rollout_cache, sequences,
                              (double)zs_config_int(p->config, "rollout.max_batch"),
                              p->turns * p->turn_tokens, p->episode_tokens);
    }
    double passes = 3 + (zs_config_bool(p->config, "learn.recompute") ? 1 : 0); /* backward counts as two */
    double forward =
        forward_flops(&p->policy, p->params, p->episodes * p->episode_tokens / n, p->episode_tokens);
    return forward * (1 + p->reference + passes * (double)zs_config_int(p->config, "learn.epochs")) / p->gemm;
}

static void print_split(const zs_plan *p, const char *name, const int64_t ranks[ROLES]) {
    double seconds[ROLES];
    for (int role = 0; role < ROLES; role++)
        seconds[role] = ranks[role] ? role_seconds(p, role, ranks[role]) : 0;
    printf("%-22s %6lld %6lld %6lld %11.2f %11.2f %11.2f %11.2f\n", name, (long long)ranks[SIMULATOR],
           (long long)ranks[ROLLOUT], (long long)ranks[LEARNER], seconds[SIMULATOR], seconds[ROLLOUT],
           seconds[LEARNER], zs_balance_step(seconds, p->ahead));
}

static void print_times(const zs_plan *p, int64_t world) {
    printf("ESTIMATED seconds of one step: %.0f Gflop/s and %.1f GB/s a rank (measured here, machine as busy "
           "as it\n"
           "is now); assumed: %.0f episodes of %.0f tokens, %.1f turns of %.0f tokens, observations of %.0f "
           "tokens.\n"
           "Simulators and rollouts overlap, learners come %s; network and waiting are left out.\n",
           p->gemm / 1e9, p->read / 1e9, p->episodes, p->episode_tokens, p->turns, p->turn_tokens,
           p->document_tokens, p->ahead ? "beside them (rollout.staleness)" : "after");
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
    int64_t best[ROLES];
    if (!zs_balance_split(role_seconds, p, world, p->simulated, p->ahead, best)) {
        printf("a split needs at least %d ranks; --ranks N proposes one\n", p->simulated ? 3 : 2);
        return;
    }
    print_split(p, "proposed", best);
    printf("groups.layout = \"split\"; groups.simulators = %lld; groups.rollouts = %lld; groups.learners = "
           "%lld;\n",
           (long long)best[SIMULATOR], (long long)best[ROLLOUT], (long long)best[LEARNER]);
}

/* From what a run of a split layout measured, pods taken together. */
static zs_status print_measured(const char *folder, int64_t world, bool asked, zs_error *err) {
    zs_balance measured;
    int64_t steps, best[ROLES];
    double fraction;
    zs_status status = zs_balance_read(folder, &measured, &steps, err);
    if (status != ZS_OK) return zs_fail_context(err, "--measured");
    const int64_t *ranks = measured.ranks;
    if (!asked) world = ranks[SIMULATOR] + ranks[ROLLOUT] + ranks[LEARNER];
    printf("\nMEASURED in the last %lld steps of %s: %.2f s a step; work of all its ranks, s: ",
           (long long)steps, folder, measured.step_seconds);
    printf("simulators %.2f, rollouts %.2f, learners %.2f\n", measured.work[SIMULATOR],
           measured.work[ROLLOUT], measured.work[LEARNER]);
    if (!zs_balance_propose(&measured, world, best, &fraction)) return ZS_OK;
    printf("groups.layout = \"split\"; groups.simulators = %lld; groups.rollouts = %lld; groups.learners = "
           "%lld; would take an estimated %.2f of that (it had %lld, %lld, %lld)\n",
           (long long)best[SIMULATOR], (long long)best[ROLLOUT], (long long)best[LEARNER], fraction,
           (long long)ranks[SIMULATOR], (long long)ranks[ROLLOUT], (long long)ranks[LEARNER]);
    return ZS_OK;
}

/* Reading what is asked. */

/* The shape of a model and the precision of its folder. A folder without weights yet counts as bf16. */
static zs_status read_model(const zs_arguments *arguments, const char *option, const char *key, bool *given,
                            zs_model_config *out, zs_dtype *stored, zs_error *err) {
    const char *shape = zs_arg(arguments, option), *folder = zs_config_string(arguments->config, key);
    *given = shape || folder[0] != '\0';
    if (shape && !zs_model_shape(shape, out))
        return zs_fail(err, ZS_USAGE, "--%s is %s; expected one of %s", option, shape, zs_model_shape_names);
    if (*given) *stored = strcmp(zs_arg_or(arguments, "dtype", "bf16"), "f32") == 0 ? ZS_F32 : ZS_BF16;
    if (shape || !*given) return ZS_OK;
    zs_hf_folder *files;
    if (zs_hf_open(folder, &files, NULL) == ZS_OK) {
        *stored = zs_hf_dtype(files);
        zs_hf_close(files);
    }
    return zs_hf_read_config(folder, out, err);
}

static double count_params(const zs_model_config *config) {
    zs_model *layout = zs_model_layout(config);
    double count = (double)layout->num_params;
    zs_model_destroy(layout);
    return count;
}

static zs_status read_assumptions(const zs_arguments *arguments, zs_plan *p, int64_t *world, zs_error *err) {
    const zs_config *config = arguments->config;
    zs_status status = zs_arg_int(arguments, "ranks", p->world, world, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "ranks-per-node", p->world, &p->node_ranks, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "prompt-tokens", 200, &p->prompt, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "turns", 2.5, &p->turns, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "turn-tokens", 100, &p->turn_tokens, err);
    if (status) return status;
    if (*world < 1 || *world > 1000000)
        return zs_fail(err, ZS_USAGE, "--ranks: expected a number from 1 to 1000000");
    if (p->node_ranks < 1) return zs_fail(err, ZS_USAGE, "--ranks-per-node: expected a number from 1");
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
    zs_plan p = {.config = config};
    bool given;
    const char *dtype = zs_arg_or(arguments, "dtype", "bf16");
    if (strcmp(dtype, "bf16") != 0 && strcmp(dtype, "f32") != 0)
        return zs_fail(err, ZS_USAGE, "--dtype is %s; expected bf16 or f32", dtype);
    zs_status status =
        read_model(arguments, "shape", "model.policy", &given, &p.policy, &p.policy_stored, err);
    if (status) return status;
    if (!given)
        return zs_fail(err, ZS_USAGE, "what model? expected --shape NAME or the setting model.policy");
    p.simulator = p.policy;
    p.simulator_stored = p.policy_stored;
    status = read_model(arguments, "simulator-shape", "model.simulator", &given, &p.simulator,
                        &p.simulator_stored, err);
    if (status) return status;
    p.simulated = zs_search_is_simulated(zs_setup_engine(config, "search.engine", NULL, 0));
    p.ahead = zs_config_int(config, "rollout.staleness") > 0;
    p.reference = zs_config_float(config, "learn.kl_coef") > 0;
    zs_plan_precisions(&p);
    const char *layout = zs_config_string(config, "groups.layout");
    p.colocated = strcmp(layout, "colocated") == 0;
    int64_t pods = p.pods = zs_config_int(config, "groups.pods");
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
        if (!zs_arg(arguments, "ranks-per-node")) p.node_ranks = p.world;
    } else if (p.simulated && p.ranks[SIMULATOR] == 0) {
        return zs_config_fail(config, "groups.simulators", err,
                              "at least 1 expected: the search engine is simulated");
    }
    if (p.world > 10000000) return zs_fail(err, ZS_USAGE, "groups: more than 10 million ranks");
    p.params = count_params(&p.policy);
    p.simulator_params = count_params(&p.simulator);
    p.gemm = zs_machine_sgemm_rate() * 1e9;
    p.read = zs_machine_read_rate() * 1e9;
    printf("policy: %.3f billion parameters; layout %s\n\n", p.params / 1e9, layout);
    zs_plan_print_memory(&p);
    zs_plan_print_training(&p);
    zs_plan_print_loading(&p);
    print_volumes(&p);
    print_times(&p, world);
    const char *folder = zs_arg(arguments, "measured");
    if (folder && (status = print_measured(folder, world, zs_arg(arguments, "ranks") != NULL, err)) != ZS_OK)
        return status;
    return fflush(stdout) == 0 ? ZS_OK : zs_fail(err, ZS_FAILED, "cannot write to stdout");
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? make_plan(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

const zs_command zs_command_plan = {
    "plan",
    "memory, communication and estimated time of a step, and a split of ranks over the roles",
    "zerosearch plan [CONFIG.cfg] [--shape NAME] [--ranks N] [--ranks-per-node N]\n"
    "Reads the groups, rollout, learn and search settings. Memory is what the program will allocate; times "
    "are\n"
    "an estimate from rates measured on this machine and from assumptions about the episodes.",
    options,
    run,
    true};
