/* What a run keeps in its checkpoints beside the weights, and the division of the ranks that it settles on.
 */
#include "train.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/trace.h"

#include <string.h>

/* The batch that was played ahead. */

static json_t *numbers(const double *values, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(values[i]));
    return list;
}

static void read_numbers(const json_t *list, double *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        values[i] = json_number_value(json_array_get(list, i));
}

enum { GUARDED = sizeof(zs_guard_state) / sizeof(double) };

/* zs_played as numbers, all of them doubles or integers that a double holds. */
enum { MEANS = sizeof(zs_rollout_means) / sizeof(double), SEARCHED = 5 };

static json_t *pack_played(const zs_played *played) {
    const zs_search_counts *s = &played->searched;
    double searched[SEARCHED] = {(double)s->queries, (double)s->failed, (double)s->requests,
                                 (double)s->retries, (double)s->cache_hits};
    return json_pack("{s:f,s:o,s:o}", "noise", played->noise, "means",
                     numbers((const double *)&played->means, MEANS), "searched", numbers(searched, SEARCHED));
}

static zs_played unpack_played(const json_t *object) {
    zs_played played = {.noise = json_number_value(json_object_get(object, "noise"))};
    double s[SEARCHED];
    read_numbers(json_object_get(object, "means"), (double *)&played.means, MEANS);
    read_numbers(json_object_get(object, "searched"), s, SEARCHED);
    played.searched =
        (zs_search_counts){(int64_t)s[0], (int64_t)s[1], (int64_t)s[2], (int64_t)s[3], (int64_t)s[4]};
    return played;
}

static zs_run_words pack_episodes(const zs_episodes *e) {
    zs_run_words out = {0};
    for (int64_t i = 0; i < e->count; i++)
        out.count += zs_episode_words(e->info[i].length);
    out.words = ZS_NEW(int64_t, out.count);
    int64_t *at = out.words;
    for (int64_t i = 0; i < e->count; at += zs_episode_words(e->info[i++].length)) {
        int64_t token = e->offsets[i];
        zs_episode_pack(&e->info[i], e->ids + token, e->kind + token, e->log_prob + token, at);
    }
    return out;
}

/* Each learner takes its own part; other numbers of learners than before deal all parts in turns. */
static void unpack_episodes(const zs_run_words *from, const zs_group *learners, zs_episodes *out) {
    bool same = from->num_parts == learners->size;
    int64_t begin = 0, end = from->count;
    for (int i = 0; same && i < learners->rank; i++)
        begin += from->parts[i];
    if (same) end = begin + from->parts[learners->rank];
    zs_episodes passed = {0};
    zs_episodes_clear(out);
    for (int64_t at = begin, i = 0; at < end; i++) {
        zs_episodes_clear(&passed);
        at +=
            zs_episode_unpack(from->words + at, same || i % learners->size == learners->rank ? out : &passed);
    }
    zs_episodes_free(&passed);
}

/* Checkpoints. */

zs_status zs_train_save(zs_trainer *t, zs_error *err) {
    json_t *more = json_pack("{s:o}", "curriculum", zs_curriculum_save(&t->curriculum));
    if (t->split[ROLLOUT] > 0)
        json_object_set_new(more, "split",
                            json_pack("{s:i,s:[I,I,I]}", "world", t->comm->world.size, "ranks",
                                      (json_int_t)t->split[SIMULATOR], (json_int_t)t->split[ROLLOUT],
                                      (json_int_t)t->split[LEARNER]));
    if (t->learner) json_object_set_new(more, "kl_coef", json_real(zs_learner_kl_coef(t->learner)));
    json_object_set_new(more, "guard", numbers((const double *)&t->guard.state, GUARDED));
    json_object_set_new(more, "rollbacks", json_integer(t->rollbacks));
    if (t->has_ahead) json_object_set_new(more, "ahead", pack_played(&t->played_ahead));
    zs_run_words words = pack_episodes(&t->ahead);
    zs_status status = zs_run_checkpoint(&t->run, t->optimizer, t->policy, "train", t->step, more,
                                         t->has_ahead ? &words : NULL, err);
    zs_free(words.words);
    return status;
}

zs_status zs_train_restore(zs_trainer *t, zs_error *err) {
    json_t *state;
    zs_run_words words;
    zs_status status =
        zs_run_restore(&t->run, t->optimizer, t->policy, "train", &t->step, &state, &words, err);
    if (status == ZS_OK && state) {
        json_t *ahead = json_object_get(state, "ahead"), *kl_coef = json_object_get(state, "kl_coef");
        if (t->learner && kl_coef && zs_config_float(t->config, "learn.kl_target") > 0)
            zs_learner_set_kl_coef(t->learner, json_number_value(kl_coef));
        t->has_ahead = ahead != NULL;
        if (ahead) t->played_ahead = unpack_played(ahead);
        read_numbers(json_object_get(state, "guard"), (double *)&t->guard.state, GUARDED);
        zs_train_set_rollbacks(t, json_integer_value(json_object_get(state, "rollbacks")));
        zs_curriculum_restore(&t->curriculum, json_object_get(state, "curriculum"));
        if (ahead && t->learner) {
            unpack_episodes(&words, &t->comm->learners, &t->ahead);
            zs_learner_prepare(t->learner, &t->ahead, true);
        }
        json_decref(state);
    }
    zs_free(words.words);
    zs_free(words.parts);
    return status;
}

/* The division of the ranks. */

static bool is_auto(const zs_trainer *t) {
    return strcmp(zs_config_string(t->config, "groups.layout"), "auto") == 0;
}

zs_status zs_train_divide(zs_trainer *t, zs_error *err) {
    zs_status status =
        zs_comm_divide(t->comm, ZS_LAYOUT_SPLIT, (int)t->split[SIMULATOR], (int)t->split[ROLLOUT],
                       (int)t->split[LEARNER], t->comm->num_pods, t->split[SIMULATOR] > 0, err);
    if (status == ZS_OK) zs_trace_title(t->comm->role);
    return status;
}

zs_status zs_train_divide_as_before(zs_trainer *t, zs_error *err) {
    if (!is_auto(t)) return ZS_OK;
    json_t *state;
    zs_run_peek(&t->run, &state);
    json_t *split = json_object_get(state, "split"), *ranks = json_object_get(split, "ranks");
    bool known = json_integer_value(json_object_get(split, "world")) == t->comm->world.size;
    for (int role = 0; known && role < ROLES; role++)
        t->split[role] = json_integer_value(json_array_get(ranks, (size_t)role));
    json_decref(state);
    return known ? zs_train_divide(t, err) : ZS_OK;
}

bool zs_train_settling(const zs_trainer *t) {
    int64_t steps = zs_config_int(t->config, "groups.settle_steps");
    return is_auto(t) && steps > 0 && t->split[ROLLOUT] == 0 && t->measured.ranks[ROLLOUT] > 0 &&
           t->measured.ranks[LEARNER] > 0;
}

bool zs_train_settle(zs_trainer *t) {
    int64_t best[ROLES], now[ROLES];
    double fraction;
    if (!zs_train_settling(t) || t->measured_steps < zs_config_int(t->config, "groups.settle_steps") ||
        !zs_train_propose(t, best, &fraction))
        return false;
    memcpy(now, t->measured.ranks, sizeof now);
    bool better = fraction < 0.95 && memcmp(best, now, sizeof now) != 0;
    memcpy(t->split, better ? best : now, sizeof t->split);
    zs_log(ZS_LOG_INFO,
           "groups.layout = auto: by %lld steps, %lld simulators, %lld rollouts and %lld learners a pod%s",
           (long long)t->measured_steps, (long long)t->split[SIMULATOR], (long long)t->split[ROLLOUT],
           (long long)t->split[LEARNER], better ? "" : ", as they are");
    if (better)
        zs_log(ZS_LOG_INFO,
               "that is an estimated %.2f of the time with %lld, %lld and %lld: the ranks are "
               "divided anew from a checkpoint",
               fraction, (long long)now[SIMULATOR], (long long)now[ROLLOUT], (long long)now[LEARNER]);
    return better;
}
