/* The split of ranks over roles that evens out their time: what `plan` estimates and `train` measures. */
#ifndef ZEROSEARCH_COMMANDS_BALANCE_H
#define ZEROSEARCH_COMMANDS_BALANCE_H

#include "zerosearch/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIMULATOR, ROLLOUT, LEARNER, ROLES };
extern const char *const zs_balance_roles[ROLES]; /* "simulators", "rollouts", "learners" */

/* Seconds of a role's work in one step when `ranks` ranks share it evenly. */
typedef double (*zs_role_seconds)(const void *context, int role, int64_t ranks);

/* Of one step from those of the roles: simulators and rollouts work at the same time, learners after them, or
 * (`ahead`: rollouts play the next step meanwhile, rollout.staleness) beside them. */
double zs_balance_step(const double seconds[ROLES], bool ahead);

/* The split of `world` ranks whose step is shortest; simulators get none unless `simulated`. False: there are
 * too few ranks for one each. */
bool zs_balance_split(zs_role_seconds seconds, const void *context, int64_t world, bool simulated, bool ahead,
                      int64_t best[ROLES]);

/* What was measured, and what follows from it: work that is shared evenly by other numbers of ranks, and the
 * rest of the step (exchanges, waits within a role) as it was. */
typedef struct zs_balance {
    double work[ROLES];   /* of one step: seconds of work, summed over the ranks of the role */
    double step_seconds;  /* of one step */
    int64_t ranks[ROLES]; /* per pod, as they were; 0 simulators: searches are not simulated */
    int64_t pods;
    bool ahead;
} zs_balance;

/* The best split of the same pods into `world` ranks each, and the time of its step over that measured.
 * False: too few ranks. */
bool zs_balance_propose(const zs_balance *measured, int64_t world, int64_t best[ROLES], double *fraction);

/* Reads the mean of the last steps of RUN/metrics.jsonl. *steps: how many they were. The first step that is
 * there is left out when there are more: it warms up. An error when nothing can be split: no such steps, or
 * ranks that play several roles. */
zs_status zs_balance_read(const char *folder, zs_balance *out, int64_t *steps, zs_error *err);

#endif
