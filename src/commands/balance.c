#include "balance.h"

#include "zerosearch/strings.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

const char *const zs_balance_roles[ROLES] = {"simulators", "rollouts", "learners"};

double zs_balance_step(const double seconds[ROLES], bool ahead) {
    double playing = fmax(seconds[SIMULATOR], seconds[ROLLOUT]);
    return ahead ? fmax(playing, seconds[LEARNER]) : playing + seconds[LEARNER];
}

bool zs_balance_split(zs_role_seconds seconds, const void *context, int64_t world, bool simulated, bool ahead,
                      int64_t best[ROLES]) {
    int64_t least = simulated ? 1 : 0;
    double best_seconds = INFINITY;
    memset(best, 0, ROLES * sizeof *best);
    if (world < least + 2) return false;
    /* For each number of learners the rest is divided where simulators and rollouts take equally long. */
    for (int64_t learners = 1; learners + least + 1 <= world; learners++) {
        int64_t rest = world - learners, low = least, high = least ? rest - 1 : 0;
        while (low < high) { /* the fewest simulators that are not the slower side */
            int64_t middle = (low + high) / 2;
            if (seconds(context, SIMULATOR, middle) <= seconds(context, ROLLOUT, rest - middle))
                high = middle;
            else
                low = middle + 1;
        }
        for (int64_t s = low > least ? low - 1 : low; s <= low; s++) {
            double split[ROLES] = {s ? seconds(context, SIMULATOR, s) : 0,
                                   seconds(context, ROLLOUT, rest - s), seconds(context, LEARNER, learners)};
            if (zs_balance_step(split, ahead) >= best_seconds) continue;
            best_seconds = zs_balance_step(split, ahead);
            best[SIMULATOR] = s;
            best[ROLLOUT] = rest - s;
            best[LEARNER] = learners;
        }
    }
    return true;
}

/* What was measured. */

static double measured_seconds(const void *context, int role, int64_t ranks) {
    const zs_balance *measured = context;
    return measured->work[role] / (double)(ranks * measured->pods);
}

static double step_of(const zs_balance *measured, const int64_t ranks[ROLES]) {
    double seconds[ROLES];
    for (int role = 0; role < ROLES; role++)
        seconds[role] = ranks[role] ? measured_seconds(measured, role, ranks[role]) : 0;
    return zs_balance_step(seconds, measured->ahead);
}

bool zs_balance_propose(const zs_balance *measured, int64_t world, int64_t best[ROLES], double *fraction) {
    if (!zs_balance_split(measured_seconds, measured, world, measured->ranks[SIMULATOR] > 0, measured->ahead,
                          best))
        return false;
    double now = step_of(measured, measured->ranks), rest = fmax(0, measured->step_seconds - now);
    *fraction = (step_of(measured, best) + rest) / fmax(1e-9, now + rest);
    return true;
}

/* Adds a step's line of metrics.jsonl; false when it tells nothing of roles. */
static bool add_step(json_t *record, zs_balance *sum) {
    static const char *const singular[ROLES] = {"simulator", "rollout", "learner"};
    json_t *time = json_object_get(record, "time"), *work = json_object_get(record, "work");
    if (!json_is_object(time) || !json_is_object(work)) return false;
    for (int role = 0; role < ROLES; role++) {
        json_t *ranks = json_object_get(json_object_get(time, singular[role]), "ranks");
        sum->ranks[role] = json_is_number(ranks) ? (int64_t)json_number_value(ranks) : 0;
        sum->work[role] += json_number_value(json_object_get(work, zs_balance_roles[role]));
    }
    sum->ahead = json_number_value(json_object_get(record, "staleness")) > 0;
    sum->step_seconds += json_number_value(json_object_get(record, "step_seconds"));
    return sum->ranks[ROLLOUT] > 0 && sum->ranks[LEARNER] > 0;
}

zs_status zs_balance_read(const char *folder, zs_balance *out, int64_t *steps, zs_error *err) {
    enum { WINDOW = 10 };
    char path[1000];
    zs_path_join(path, sizeof path, folder, "metrics.jsonl");
    zs_json_lines *lines;
    zs_status status = zs_json_lines_open(path, &lines, err);
    if (status != ZS_OK) return status;
    json_t *kept[WINDOW] = {NULL}, *record = NULL;
    int64_t seen = 0;
    while ((status = zs_json_lines_next(lines, &record, err)) == ZS_OK && record) {
        if (!json_is_object(json_object_get(record, "work"))) {
            json_decref(record);
            continue;
        }
        json_decref(kept[seen % WINDOW]);
        kept[seen++ % WINDOW] = record;
    }
    zs_json_lines_close(lines);
    *out = (zs_balance){.pods = 1};
    *steps = 0;
    bool split = seen > 0;
    for (int64_t i = seen > WINDOW ? seen - WINDOW : seen > 1; i < seen; i++, ++*steps)
        split = add_step(kept[i % WINDOW], out) && split;
    for (int i = 0; i < WINDOW; i++)
        json_decref(kept[i]);
    if (status != ZS_OK) return status;
    if (!split)
        return zs_fail(err, ZS_FAILED,
                       "%s: expected steps in which each rank played one role (groups.layout split, or auto "
                       "on 3 ranks and more)",
                       path);
    for (int role = 0; role < ROLES; role++)
        out->work[role] /= (double)*steps;
    out->step_seconds /= (double)*steps;
    return ZS_OK;
}
