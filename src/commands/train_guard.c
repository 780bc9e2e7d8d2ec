/* What a run does at an alarm of the guard (guard.action), the answers that turns are credited by, and
 * dynamic sampling: further rounds of questions in place of those whose episodes all earn the same. Both
 * decide for all ranks alike. */
#include "train.h"

#include "zerosearch/checkpoint.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The guard. */

static bool action_is(const zs_trainer *t, const char *name) {
    return strcmp(zs_config_string(t->config, "guard.action"), name) == 0;
}

/* A turn is a search or an invalid action; an episode that does not answer ends on one more. */
static double valid_share(const zs_rollout_means *m) {
    return 1.0 - (m->invalid + 1.0 - m->answered) / (m->turns + 1.0);
}

unsigned zs_train_watch(zs_trainer *t, const zs_step_facts *facts) {
    const zs_update_report *u = &facts->update;
    const zs_rollout_means *m = &facts->rollout;
    if (action_is(t, "off")) return 0;
    bool updated = u->grad_norm != 0.0; /* not while the value model warms up */
    double values[ZS_SIGNALS] = {
        m->reward,      updated ? u->entropy : NAN, updated ? u->kl : NAN, u->grad_norm,
        valid_share(m), m->policy_tokens,           u->good_log_prob};
    double norm_limit = zs_guard_norm_limit(&t->guard);
    unsigned alarms = zs_guard_watch(&t->guard, values);
    for (int i = 0; i < ZS_SIGNALS; i++) {
        if (!(alarms & 1u << i)) continue;
        double mean = i == ZS_SIGNAL_GRAD_NORM ? values[i] : t->guard.state.mean[i],
               limit = i == ZS_SIGNAL_GRAD_NORM ? norm_limit
                       : i == ZS_SIGNAL_KL      ? t->guard.kl_most
                                                : t->guard.state.best[i];
        zs_log(ZS_LOG_WARNING, "guard: step %lld: %s is %.4g, where %.4g is %s (guard.action = %s)",
               (long long)t->step, zs_signal_names[i], mean, limit,
               i == ZS_SIGNAL_GRAD_NORM || i == ZS_SIGNAL_KL     ? "the most expected"
               : i == ZS_SIGNAL_ENTROPY || i == ZS_SIGNAL_LENGTH ? "what it began with"
                                                                 : "the best so far",
               zs_config_string(t->config, "guard.action"));
    }
    if (t->optimizer && action_is(t, "skip")) t->optimizer->norm_limit = zs_guard_norm_limit(&t->guard);
    return alarms;
}

json_t *zs_train_alarm_names(unsigned alarms) {
    json_t *list = json_array();
    for (int i = 0; i < ZS_SIGNALS; i++)
        if (alarms & 1u << i) json_array_append_new(list, json_string(zs_signal_names[i]));
    return list;
}

/* Running means tell late: checkpoints of the last guard.window steps may hold what went wrong already, and
 * go where there is an older one. An outlying gradient is of this step alone. */
static void drop_suspects(const zs_trainer *t, unsigned alarms) {
    enum { MOST = 64 };
    int64_t steps[MOST], window = zs_config_int(t->config, "guard.window");
    if (!t->run.is_root || alarms == 1u << ZS_SIGNAL_GRAD_NORM) return;
    int count = zs_checkpoint_list(t->run.checkpoints, steps, MOST);
    for (int i = 0; i + 1 < count && steps[i] > t->step - window; i++) {
        char path[600];
        zs_checkpoint_path(path, sizeof path, t->run.checkpoints, steps[i]);
        remove(path);
    }
}

/* Back to the last checkpoint before the alarm, and on with other draws and a lower rate. */
static zs_status roll_back(zs_trainer *t, unsigned alarms, zs_error *err) {
    int64_t from = t->step, times = t->rollbacks + 1;
    zs_status status = zs_run_settle(&t->run, ZS_OK, err);
    if (status != ZS_OK) return status;
    zs_run_close(&t->run);
    zs_string_clear(&t->timers);
    drop_suspects(t, alarms);
    status = zs_train_restore(t, err);
    zs_train_set_rollbacks(t, times);
    if (status == ZS_OK) status = zs_run_open_records(&t->run, t->step + 1, true, err);
    if (status != ZS_OK) return status;
    t->saved = t->step;
    zs_log(ZS_LOG_WARNING,
           "guard: from step %lld back to the checkpoint of step %lld (%lld of guard.rollbacks)",
           (long long)from, (long long)t->step, (long long)times);
    json_t *record = NULL;
    if (t->run.is_root)
        record =
            json_pack("{s:I,s:{s:I,s:I,s:o}}", "step", (json_int_t)t->step, "rollback", "from",
                      (json_int_t)from, "times", (json_int_t)times, "alarms", zs_train_alarm_names(alarms));
    status = zs_run_record(&t->run, t->run.metrics, record, err);
    zs_actor_refresh(t->actor);
    return zs_comm_agree(t->comm, &t->comm->world, status, err);
}

zs_status zs_train_act(zs_trainer *t, unsigned alarms, bool *stopping, zs_error *err) {
    *stopping = false;
    if (!alarms || action_is(t, "warn") || action_is(t, "skip")) return ZS_OK;
    if (action_is(t, "rollback") && t->saved > 0 &&
        t->rollbacks < zs_config_int(t->config, "guard.rollbacks"))
        return roll_back(t, alarms, err);
    *stopping = true; /* also when there is nothing left to roll back to */
    return ZS_OK;
}

zs_status zs_train_guard_stopped(const zs_trainer *t, zs_error *err) {
    return zs_fail(err, ZS_STOPPED,
                   "stopped by the guard after step %lld, with a checkpoint; --resume goes on from it, "
                   "guard.action says what an alarm does",
                   (long long)t->step);
}

void zs_train_set_rollbacks(zs_trainer *t, int64_t times) {
    t->rollbacks = times;
    if (t->optimizer)
        t->optimizer->schedule.peak = zs_config_float(t->config, "learn.learning_rate") *
                                      pow(zs_config_float(t->config, "guard.rollback_rate"), (double)times);
}

/* Turn credit. */

int64_t zs_train_answer_ids(void *trainer, int64_t question_index, const int32_t *before,
                            int64_t before_length, int64_t room, int32_t *ids, int64_t *from) {
    const zs_trainer *t = trainer;
    const char *answer = t->questions.questions[question_index].answers[0];
    zs_ids all = {0};
    zs_tokenizer_encode(t->tokenizer, "<answer>", 8, &all);
    bool open = all.length <= before_length && memcmp(before + before_length - all.length, all.data,
                                                      (size_t)all.length * sizeof(int32_t)) == 0;
    if (open) zs_ids_clear(&all);
    *from = all.length;
    zs_string text = {0};
    zs_string_printf(&text, " %s", answer);
    zs_tokenizer_encode(t->tokenizer, text.data, text.length, &all);
    int64_t length = all.length <= room ? all.length : 0;
    memcpy(ids, all.data, (size_t)length * sizeof(int32_t));
    zs_string_free(&text);
    zs_ids_free(&all);
    return length;
}

/* Dynamic sampling. */

/* Whether each of this learner's questions of `places` has episodes that earn differently. */
static void mark_spread(const zs_episodes *e, int64_t places, double *spread) {
    double *low = ZS_NEW(double, places), *high = ZS_NEW(double, places);
    for (int64_t p = 0; p < places; p++)
        low[p] = INFINITY, high[p] = -INFINITY;
    for (int64_t i = 0; i < e->count; i++) {
        int64_t p = e->info[i].question;
        low[p] = fmin(low[p], e->info[i].reward);
        high[p] = fmax(high[p], e->info[i].reward);
    }
    for (int64_t p = 0; p < places; p++)
        spread[p] = high[p] - low[p] > 1e-9;
    zs_free(low);
    zs_free(high);
}

/* A question's episodes are all played by one rollout, which says of its own; then all know of all. */
static int64_t count_spread(zs_trainer *t, int64_t places, double *spread) {
    mark_spread(&t->mine, places, spread);
    zs_comm_sum(t->comm, &t->comm->world, spread, (int)places, "the rewards of the rollouts");
    int64_t count = 0;
    for (int64_t p = 0; p < places; p++)
        count += spread[p] > 0.0;
    return count;
}

/* Of the episodes, those of n questions: the first with a spread, then the first without, renumbered. */
static void keep(zs_episodes *e, int64_t n, int64_t places, const double *spread) {
    int64_t *renumbered = ZS_NEW(int64_t, places), taken = 0;
    for (int64_t p = 0; p < places; p++)
        renumbered[p] = -1;
    for (int wanted = 1; wanted >= 0; wanted--)
        for (int64_t p = 0; p < places && taken < n; p++)
            if ((spread[p] > 0.0) == wanted) renumbered[p] = taken++;
    zs_episodes kept = {0};
    for (int64_t i = 0; i < e->count; i++) {
        zs_episode_info info = e->info[i];
        int64_t at = e->offsets[i];
        if (renumbered[info.question] < 0) continue;
        info.question = renumbered[info.question];
        zs_episodes_append(&kept, &info, e->ids + at, e->kind + at, e->log_prob + at);
    }
    zs_episodes_free(e);
    *e = kept;
    zs_free(renumbered);
}

void zs_train_draw(zs_trainer *t, zs_episodes *episodes) {
    int64_t n = zs_config_int(t->config, "rollout.questions"),
            most = 1 + zs_config_int(t->config, "rollout.redraws"), rounds = 0, enough = 0;
    double *spread = ZS_NEW(double, n *most);
    zs_episodes_clear(episodes);
    zs_episodes_clear(&t->mine);
    while (rounds < most && enough < n) {
        zs_train_play(t, t->step, rounds++);
        zs_phase_begin(ZS_PHASE_EXCHANGE);
        while (t->learner && zs_trajectories_take(t->stream, episodes)) {
        }
        enough = count_spread(t, n * rounds, spread);
        zs_phase_end(ZS_PHASE_EXCHANGE);
    }
    keep(episodes, n, n * rounds, spread);
    t->played.rounds = (double)rounds;
    t->played.spread = (double)enough / (double)(n * rounds);
    zs_free(spread);
}
