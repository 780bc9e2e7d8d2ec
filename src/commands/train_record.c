/* What `train` leaves of each step: metrics, sample episodes, timers. */
#include "train.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/record.h"
#include "zerosearch/rewards.h"
#include "zerosearch/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Seconds of the slowest rank; the step's own, what evaluation took after it, and how long checkpoints have
 * held up training since the record before. */
static json_t *phase_seconds(const zs_trainer *t, const zs_phase_times *times, double *step_seconds) {
    double seconds[ZS_NUM_PHASES + 1];
    memcpy(seconds, times->seconds, sizeof times->seconds);
    seconds[ZS_PHASE_EVALUATE] = zs_phase_seconds(ZS_PHASE_EVALUATE);
    seconds[ZS_PHASE_CHECKPOINT] = t->run.checkpoint_seconds;
    seconds[ZS_NUM_PHASES] = *step_seconds;
    zs_comm_max(t->comm, &t->comm->world, seconds, ZS_NUM_PHASES + 1, "the timers of the other ranks");
    *step_seconds = seconds[ZS_NUM_PHASES];
    json_t *object = json_object();
    for (int p = 0; p < ZS_NUM_PHASES; p++)
        json_object_set_new(object, zs_phase_names[p], json_real(seconds[p]));
    return object;
}

/* What the ranks did with their time in a step, by what they are: a set of roles, as bits. */
enum { KINDS = 1 << ROLES };
typedef struct time_use {
    double ranks[KINDS], waiting[KINDS], communicating[KINDS]; /* sums of shares */
    double work[ROLES], players[ROLES]; /* seconds of each role's work, and ranks that do it, summed */
} time_use;

static int kind_of(const zs_comm *comm) {
    return (strstr(comm->role, "simulator") ? 1 << SIMULATOR : 0) |
           (strstr(comm->role, "rollout") ? 1 << ROLLOUT : 0) |
           (strstr(comm->role, "learner") ? 1 << LEARNER : 0);
}

static const char *kind_name(int kind) {
    static const char *const names[KINDS] = {
        "none",    "simulator",         "rollout",         "simulator+rollout",
        "learner", "simulator+learner", "rollout+learner", "simulator+rollout+learner"};
    return names[kind];
}

static time_use sum_time_use(const zs_trainer *t, const zs_step_facts *f) {
    const zs_comm *comm = t->comm;
    const zs_phase_times *times = &f->times;
    double seconds = fmax(1e-9, f->seconds);
    double work[ROLES] = {times->work[ZS_PHASE_SIMULATE], times->work[ZS_PHASE_GENERATE],
                          times->work[ZS_PHASE_REFERENCE] + times->work[ZS_PHASE_UPDATE]};
    bool plays[ROLES] = {comm->is_simulator, comm->is_rollout, comm->is_learner};
    time_use use = {0};
    int kind = kind_of(comm);
    use.ranks[kind] = 1;
    use.waiting[kind] = times->waiting / seconds;
    use.communicating[kind] = times->communicating / seconds;
    for (int role = 0; role < ROLES; role++)
        if (plays[role]) {
            use.work[role] = work[role];
            use.players[role] = 1;
        }
    zs_comm_sum(comm, &comm->world, (double *)&use, sizeof use / sizeof(double),
                "the shares of the other ranks");
    return use;
}

/* Shares of the step in which the ranks of each kind were busy, waiting for others, and communicating: they
 * add up to 1. */
static json_t *time_shares(const time_use *use, char *busy_text, size_t size) {
    json_t *object = json_object();
    size_t used = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        double n = use->ranks[kind];
        if (n == 0) continue;
        double waiting = use->waiting[kind] / n, communicating = use->communicating[kind] / n;
        double busy = 1 - waiting - communicating;
        json_object_set_new(object, kind_name(kind),
                            json_pack("{s:I,s:f,s:f,s:f}", "ranks", (json_int_t)n, "busy", busy, "waiting",
                                      waiting, "communicating", communicating));
        if (used < size)
            used += (size_t)snprintf(busy_text + used, size - used, "%s%s %.0f %%", used ? ", " : "",
                                     kind_name(kind), 100 * busy);
    }
    return object;
}

/* Mean share of the step that the ranks which play a role were computing for it. */
static json_t *busy_shares(const time_use *use, double step_seconds) {
    json_t *object = json_object();
    for (int role = 0; role < ROLES; role++)
        json_object_set_new(
            object, zs_balance_roles[role],
            json_real(use->work[role] / fmax(1.0, use->players[role]) / fmax(1e-9, step_seconds)));
    return object;
}

static json_t *role_work(const zs_balance *step) {
    json_t *object = json_object();
    for (int role = 0; role < ROLES; role++)
        json_object_set_new(object, zs_balance_roles[role], json_real(step->work[role]));
    return object;
}

/* Adds a step to what is measured; what each role worked is the same on every rank. */
static zs_balance measure(zs_trainer *t, const time_use *use, double step_seconds) {
    zs_balance *sum = &t->measured, step = {.step_seconds = step_seconds,
                                            .pods = t->comm->num_pods,
                                            .ahead = zs_config_int(t->config, "rollout.staleness") > 0};
    for (int kind = 0; kind < KINDS; kind++)
        for (int role = 0; role < ROLES; role++)
            if (kind == 1 << role) step.ranks[role] = (int64_t)use->ranks[kind] / step.pods;
    memcpy(step.work, use->work, sizeof step.work);
    if (step.ranks[SIMULATOR] == 0) { /* rollouts ask the engine themselves */
        step.work[ROLLOUT] += step.work[SIMULATOR];
        step.work[SIMULATOR] = 0;
    }
    if (t->measured_steps++ < 0) return step;
    memcpy(sum->ranks, step.ranks, sizeof sum->ranks);
    sum->pods = step.pods;
    sum->ahead = step.ahead;
    sum->step_seconds += step_seconds;
    for (int role = 0; role < ROLES; role++)
        sum->work[role] += step.work[role];
    return step;
}

bool zs_train_propose(zs_trainer *t, int64_t best[ROLES], double *fraction) {
    zs_balance mean = t->measured;
    const int64_t *ranks = mean.ranks;
    if (t->measured_steps < 1 || ranks[ROLLOUT] == 0 || ranks[LEARNER] == 0) return false;
    mean.step_seconds /= (double)t->measured_steps;
    for (int role = 0; role < ROLES; role++)
        mean.work[role] /= (double)t->measured_steps;
    return zs_balance_propose(&mean, ranks[SIMULATOR] + ranks[ROLLOUT] + ranks[LEARNER], best, fraction);
}

/* Every groups.propose_every steps: the split that would be better, if one is by far; else NULL. */
static json_t *propose(zs_trainer *t, const char *busy) {
    int64_t every = zs_config_int(t->config, "groups.propose_every"), best[ROLES];
    double fraction;
    if (every == 0 || (t->step % every != 0 && t->step != t->total) || zs_train_settling(t)) return NULL;
    bool found = zs_train_propose(t, best, &fraction) && fraction * 1.2 <= 1;
    const int64_t steps = t->measured_steps, *ranks = t->measured.ranks;
    json_t *proposal = NULL;
    if (found) {
        zs_log(
            ZS_LOG_INFO,
            "busy: %s; by the last %lld steps, groups.layout=split groups.simulators=%lld "
            "groups.rollouts=%lld groups.learners=%lld would take an estimated %.2f of the time (now %lld, "
            "%lld and %lld)",
            busy, (long long)steps, (long long)best[SIMULATOR], (long long)best[ROLLOUT],
            (long long)best[LEARNER], fraction, (long long)ranks[SIMULATOR], (long long)ranks[ROLLOUT],
            (long long)ranks[LEARNER]);
        proposal =
            json_pack("{s:I,s:I,s:I,s:f}", "simulators", (json_int_t)best[SIMULATOR], "rollouts",
                      (json_int_t)best[ROLLOUT], "learners", (json_int_t)best[LEARNER], "time", fraction);
    }
    if (t->measured_steps > 0) {
        t->measured = (zs_balance){0};
        t->measured_steps = 0;
    }
    return proposal;
}

/* The terms of a reward, of one episode or in the mean. */
static json_t *reward_terms(const zs_trainer *t, const zs_reward_facts *facts) {
    zs_reward_weights weights;
    zs_reward_open(t->config, &weights);
    zs_reward_terms terms = zs_reward_weigh(&weights, facts);
    return zs_reward_record(&terms);
}

/* One line of episodes.jsonl: its text cut into spans of one kind. */
static json_t *episode_record(zs_trainer *t, const zs_episodes *e, int64_t i) {
    static const char *const kinds[] = {"prompt", "policy", "document", "observation"};
    const zs_episode_info *info = &e->info[i];
    const zs_question *question = &t->questions.questions[info->question_index];
    json_t *golden = json_array(), *spans = json_array();
    for (int a = 0; a < question->num_answers; a++)
        json_array_append_new(golden, json_string(question->answers[a]));
    for (int64_t at = e->offsets[i]; at < e->offsets[i + 1];) {
        int64_t end = at;
        while (end < e->offsets[i + 1] && e->kind[end] == e->kind[at])
            end++;
        json_t *text = zs_record_text(t->tokenizer, e->ids + at, end - at);
        json_array_append_new(spans, json_pack("{s:s,s:o}", "kind", kinds[e->kind[at]], "text", text));
        at = end;
    }
    zs_reward_facts facts = zs_reward_facts_of(info);
    return json_pack("{s:I,s:s,s:o,s:f,s:o,s:f,s:f,s:f,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:o}", "step",
                     (json_int_t)t->step, "question", question->question, "golden_answers", golden, "reward",
                     info->reward, "rewards", reward_terms(t, &facts), "em", info->em, "cover_em",
                     info->cover_em, "f1", info->f1, "format_valid", info->format_valid, "retrieved",
                     info->retrieved, "turns", info->turns, "searches", info->searches, "noisy_searches",
                     info->noisy_searches, "failed_searches", info->failed_searches, "invalid_actions",
                     info->invalid_actions, "advantage", info->advantage, "spans", spans);
}

/* The first samples of the step's first question, from the learners that have them to the root. */
static zs_status record_episodes(zs_trainer *t, zs_error *err) {
    enum { SHOWN = 2 };
    zs_string lines = {0};
    for (int64_t i = 0; i < t->received.count; i++)
        if (t->received.info[i].question == 0 && t->received.info[i].sample < SHOWN)
            zs_record_line(&lines, episode_record(t, &t->received, i));
    return zs_record_gather(t->comm, &lines, t->run.episodes, t->run.folder, err);
}

/* timers.h5: a row for each step and rank: step, rank, seconds of each phase. Kept here and written with each
 * checkpoint. */
enum { TIMER_COLUMNS = 2 + ZS_NUM_PHASES };

static void record_timers(zs_trainer *t, const zs_phase_times *times) {
    double row[TIMER_COLUMNS] = {(double)t->step, t->comm->world.rank};
    memcpy(row + 2, times->seconds, sizeof times->seconds);
    row[2 + ZS_PHASE_EVALUATE] = zs_phase_seconds(ZS_PHASE_EVALUATE); /* comes after the step's own */
    row[2 + ZS_PHASE_CHECKPOINT] = t->run.checkpoint_seconds;
    char *all;
    int64_t *lengths;
    zs_comm_gather_bytes(t->comm, &t->comm->world, row, sizeof row, 0, &all, &lengths, "the timers");
    if (!t->run.is_root) return;
    zs_string_append(&t->timers, all, t->comm->world.size * (int64_t)sizeof row);
    zs_free(all);
    zs_free(lengths);
}

zs_status zs_train_write_timers(zs_trainer *t, zs_error *err) {
    int64_t rows = t->timers.length / (TIMER_COLUMNS * (int64_t)sizeof(double));
    if (rows == 0) return ZS_OK;
    double *values = ZS_NEW(double, TIMER_COLUMNS *rows), *by_row = ZS_NEW(double, TIMER_COLUMNS *rows);
    memcpy(by_row, t->timers.data, (size_t)t->timers.length);
    zs_column columns[TIMER_COLUMNS];
    for (int c = 0; c < TIMER_COLUMNS; c++) {
        columns[c] = (zs_column){c == 0   ? "step"
                                 : c == 1 ? "rank"
                                          : zs_phase_names[c - 2],
                                 values + c * rows, NULL};
        for (int64_t r = 0; r < rows; r++)
            values[c * rows + r] = by_row[r * TIMER_COLUMNS + c];
    }
    char path[600];
    zs_path_join(path, sizeof path, t->run.folder, "timers.h5");
    zs_status status = zs_table_append(path, columns, TIMER_COLUMNS, rows, err);
    zs_string_clear(&t->timers);
    zs_free(values);
    zs_free(by_row);
    return status;
}

/* Learners know the update; the root, which writes it, may not be one. */
static void share_update(zs_trainer *t, zs_update_report *update) {
    double owner = t->comm->is_learner && t->comm->learners.rank == 0 ? t->comm->world.rank : -1.0;
    zs_comm_max(t->comm, &t->comm->world, &owner, 1, "the learners");
    zs_comm_broadcast_bytes(t->comm, &t->comm->world, update, sizeof *update, (int)owner,
                            "the report of the learners");
}

/* The tokens that all rollouts decoded in this step. */
static double decoded_tokens(zs_trainer *t) {
    zs_engine_stats now = t->rollout ? zs_rollout_stats(t->rollout) : (zs_engine_stats){0};
    double decoded = (double)(now.decode_tokens - t->generated.decode_tokens);
    t->generated = now;
    zs_comm_sum(t->comm, &t->comm->world, &decoded, 1, "the token counts of the rollouts");
    return decoded;
}

/* Numbers that are not finite have no place in JSON: null. */
static void set_number(json_t *object, const char *name, double value) {
    json_object_set_new(object, name, isfinite(value) ? json_real(value) : json_null());
}

static zs_status record_step(zs_trainer *t, zs_step_facts *f, zs_error *err) {
    double decoded = decoded_tokens(t), seconds = f->seconds;
    share_update(t, &f->update);
    f->alarms = zs_train_watch(t, f);
    record_timers(t, &f->times);
    time_use use = sum_time_use(t, f);
    json_t *phases = phase_seconds(t, &f->times, &seconds);
    t->run.checkpoint_seconds = 0;
    zs_balance measured = measure(t, &use, seconds);
    double generating = json_number_value(json_object_get(phases, zs_phase_names[ZS_PHASE_GENERATE]));
    double updating = json_number_value(json_object_get(phases, zs_phase_names[ZS_PHASE_UPDATE])) +
                      json_number_value(json_object_get(phases, zs_phase_names[ZS_PHASE_REDUCE]));
    const zs_rollout_means *m = &f->rollout;
    const zs_update_report *u = &f->update;
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"reward_mean", m->reward},
                   {"reward_std", m->reward_std},
                   {"em", m->em},
                   {"cover_em", m->cover_em},
                   {"f1", m->f1},
                   {"noise_target", f->noise},
                   {"noise", m->noise},
                   {"turns", m->turns},
                   {"searches", m->searches},
                   {"failed_searches", m->failed_searches},
                   {"search_retries", (double)f->searched.retries},
                   {"search_cache_hits", (double)f->searched.cache_hits},
                   {"invalid_actions", m->invalid},
                   {"answered", m->answered},
                   {"truncated", m->truncated},
                   {"format_valid", m->format_valid},
                   {"retrieved", m->retrieved},
                   {"response_tokens", m->policy_tokens},
                   {"loss", u->loss},
                   {"kl", u->kl},
                   {"entropy", u->entropy},
                   {"clip_fraction", u->clip_fraction},
                   {"loss_policy", u->loss_policy},
                   {"loss_kl", u->loss_kl},
                   {"loss_llds", u->loss_llds},
                   {"reward_overlong", u->reward_overlong},
                   {"reward_kl", u->reward_kl},
                   {"information_gain", u->information_gain},
                   {"kl_coef", u->kl_coef},
                   {"good_log_prob", u->good_log_prob},
                   {"log_prob_mismatch", u->mismatch},
                   {"log_prob_mismatch_max", u->mismatch_max},
                   {"log_prob_mismatch_kl", u->mismatch_kl},
                   {"importance_weight", u->importance_weight},
                   {"importance_capped", u->importance_capped},
                   {"grad_norm", u->grad_norm},
                   {"learning_rate", u->learning_rate},
                   {"tokens_generated_per_s", decoded / fmax(1e-9, generating)},
                   {"tokens_trained_per_s", u->tokens / fmax(1e-9, updating)},
                   {"step_seconds", seconds}};
    json_t *record = json_pack("{s:I}", "step", (json_int_t)t->step);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        set_number(record, numbers[i].name, numbers[i].value);
    json_object_set_new(record, "staleness", json_integer(zs_config_int(t->config, "rollout.staleness")));
    zs_reward_facts facts = {m->em, m->cover_em, m->f1, m->format_valid, m->turns, m->retrieved};
    json_object_set_new(record, "rewards", reward_terms(t, &facts));
    const double values[] = {u->value_loss, u->value_clip_fraction, u->value_mean, u->value_explained,
                             u->value_grad_norm};
    static const char *const value_names[] = {"value_loss", "value_clip_fraction", "value_mean",
                                              "value_explained", "value_grad_norm"};
    for (int i = 0; zs_train_has_values(t) && i < 5; i++)
        set_number(record, value_names[i], values[i]);
    json_object_set_new(record, "seconds", phases);
    json_object_set_new(record, "busy", busy_shares(&use, seconds));
    json_object_set_new(record, "time", time_shares(&use, f->busy, sizeof f->busy));
    json_object_set_new(record, "work", role_work(&measured));
    if (f->alarms) json_object_set_new(record, "alarms", zs_train_alarm_names(f->alarms));
    if (t->played.rounds > 0) {
        set_number(record, "rollout_rounds", t->played.rounds);
        set_number(record, "groups_with_spread", t->played.spread);
    }
    json_t *proposal = propose(t, f->busy);
    if (proposal) json_object_set_new(record, "proposed", proposal);
    if (f->eval) json_object_set(record, "eval", f->eval);
    if (t->run.is_root) return zs_run_record(&t->run, t->run.metrics, record, err);
    json_decref(record);
    return ZS_OK;
}

zs_status zs_train_record(zs_trainer *t, zs_step_facts *facts, zs_error *err) {
    zs_status status = record_step(t, facts, err);
    zs_status episodes = record_episodes(t, status == ZS_OK ? err : NULL); /* collective: in any case */
    return zs_comm_agree(t->comm, &t->comm->world, status == ZS_OK ? episodes : status, err);
}
