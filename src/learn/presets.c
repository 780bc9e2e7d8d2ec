/* The algorithms as points of one grid. All multiply a token's log-probability ratio by an advantage; they
 * differ in where the advantage comes from, at what level the ratio stands and is clipped, how token losses
 * are added up, and where the KL to the reference is. Settings that a preset does not name are the schema's
 * defaults, which are those of GRPO in ZeroSearch's experiments.
 *
 * What several of them do with more than one update a step (learn.epochs, learn.minibatches: 4 in GSPO, 16 in
 * DAPO) is left to the user: with one on-policy update every ratio is 1 and no clip is ever met. */
#include "zerosearch/presets.h"
#include "zerosearch/log.h"

#include <stdio.h>
#include <string.h>

typedef struct preset {
    const char *algorithm;
    struct {
        const char *key, *value;
    } settings[10];
} preset;

static const preset presets[] = {
    /* Williams 1992; as ZeroSearch's code has it (Sun et al. 2025, arXiv 2505.04588): the score is the
       advantage, the KL is taken off the reward. */
    {"reinforce", {{"learn.advantage", "score"}, {"learn.kl_in", "reward"}}},
    /* Hu 2025, arXiv 2501.03262: returns with the KL of each token in them, whitened over the batch. */
    {"reinforce++", {{"learn.advantage", "whiten"}, {"learn.kl_in", "reward"}}},
    /* Ahmadian et al. 2024, arXiv 2402.14740: leave-one-out baseline, the episode as one action. */
    {"rloo", {{"learn.advantage", "rloo"}, {"learn.kl_in", "reward"}}},
    /* Shao et al. 2024, arXiv 2402.03300, with the mean over all tokens that ZeroSearch's code takes; the
       paper's own is aggregation = sequence_mean. */
    {"grpo", {{"learn.advantage", "grpo"}, {"learn.kl_in", "loss"}, {"learn.kl_type", "k3"}}},
    /* Liu et al. 2025, arXiv 2503.20783: no division by spread or length, no KL. */
    {"dr_grpo", {{"learn.advantage", "dr_grpo"}, {"learn.aggregation", "constant"}, {"learn.kl_coef", "0"}}},
    /* Yu et al. 2025, arXiv 2503.14476: clip-higher, dynamic sampling, token mean, overlong shaping (4096 of
       20480 tokens), no KL. */
    {"dapo",
     {{"learn.advantage", "grpo"},
      {"learn.aggregation", "token_mean"},
      {"learn.clip_low", "0.2"},
      {"learn.clip_high", "0.28"},
      {"learn.kl_coef", "0"},
      {"rollout.redraws", "3"},
      {"reward.overlong", "0.2"}}},
    /* Zheng et al. 2025, arXiv 2507.18071, sec. 5.1. */
    {"gspo",
     {{"learn.advantage", "grpo"},
      {"learn.ratio", "sequence"},
      {"learn.aggregation", "sequence_mean"},
      {"learn.clip_low", "3e-4"},
      {"learn.clip_high", "4e-4"}}},
    /* Schulman et al. 2017, arXiv 1707.06347, on language models as Ouyang et al. 2022, arXiv 2203.02155,
       with the discount and lambda of Search-R1 and ZeroSearch. */
    {"ppo",
     {{"learn.advantage", "gae"},
      {"learn.gamma", "1"},
      {"learn.lambda", "1"},
      {"learn.value_clip", "0.5"},
      {"learn.kl_in", "reward"}}},
};

static const preset *find(const zs_config *config) {
    const char *name = zs_config_string(config, "learn.algorithm");
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].algorithm, name) == 0) return &presets[i];
    return NULL;
}

void zs_presets_apply(zs_config *config) {
    const preset *p = find(config);
    for (int i = 0; p && p->settings[i].key; i++)
        zs_config_set_default(config, p->settings[i].key, p->settings[i].value);
}

static bool is(const zs_config *config, const char *key, const char *value) {
    return strcmp(zs_config_string(config, key), value) == 0;
}

/* An advantage that compares the episodes of a question. */
static bool compares_groups(const zs_config *config) {
    return is(config, "learn.advantage", "rloo") || is(config, "learn.advantage", "grpo") ||
           is(config, "learn.advantage", "dr_grpo");
}

/* A resolved config.cfg sets every key, so that another learn.algorithm beside it would change nothing. */
static void tell_departures(const zs_config *config) {
    const preset *p = find(config);
    const char *advantage = p->settings[0].value;
    if (!is(config, "learn.advantage", advantage))
        zs_log(ZS_LOG_WARNING,
               "learn.algorithm = %s means learn.advantage = %s, but %s is set: settings in the "
               "file or by --set come before the algorithm's",
               p->algorithm, advantage, zs_config_string(config, "learn.advantage"));
}

zs_status zs_presets_check(const zs_config *config, zs_error *err) {
    int64_t minibatches = zs_config_int(config, "learn.minibatches"),
            updates = minibatches * zs_config_int(config, "learn.epochs"),
            questions = zs_config_int(config, "rollout.questions"),
            redraws = zs_config_int(config, "rollout.redraws");
    bool groups = compares_groups(config);
    const char *advantage = zs_config_string(config, "learn.advantage");
    if (groups && zs_config_int(config, "rollout.samples") < 2)
        return zs_config_fail(
            config, "rollout.samples", err,
            "learn.advantage = %s compares the episodes of a question: 2 or more are needed", advantage);
    if (minibatches > questions)
        return zs_config_fail(config, "learn.minibatches", err,
                              "%lld minibatches of whole questions need as many rollout.questions, not %lld",
                              (long long)minibatches, (long long)questions);
    if (zs_config_float(config, "learn.kl_target") > 0 && zs_config_float(config, "learn.kl_coef") == 0)
        return zs_config_fail(config, "learn.kl_target", err,
                              "an adaptive coefficient needs a learn.kl_coef above 0 to start from");
    if (zs_config_float(config, "learn.llds") > 0 && updates == 1)
        return zs_config_fail(
            config, "learn.llds", err,
            "with one update a step (learn.epochs, learn.minibatches) no likelihood has fallen "
            "when the loss is made");
    if (*zs_config_string(config, "model.value") && !is(config, "learn.advantage", "gae"))
        return zs_config_fail(config, "model.value", err, "learn.advantage = %s has no value model",
                              advantage);
    if (redraws > 0 && !groups)
        return zs_config_fail(config, "rollout.redraws", err,
                              "learn.advantage = %s does not compare the episodes of a question", advantage);
    if (redraws > 0 && zs_config_int(config, "rollout.staleness") > 0)
        return zs_config_fail(config, "rollout.redraws", err,
                              "all ranks decide together on another round: not beside rollout.staleness = 1");
    if (is(config, "guard.action", "rollback") && zs_config_int(config, "rollout.staleness") > 0)
        return zs_config_fail(
            config, "guard.action", err,
            "a batch played ahead is not played again: no rollback beside rollout.staleness = 1");
    if (zs_config_float(config, "reward.information_gain") > 0 && !is(config, "learn.advantage", "grpo") &&
        !is(config, "learn.advantage", "dr_grpo"))
        return zs_config_fail(config, "reward.information_gain", err,
                              "turns are credited beside learn.advantage = grpo or dr_grpo, not %s",
                              advantage);
    tell_departures(config);
    return ZS_OK;
}
