/* The state of an RL run, shared by train.c, which makes its steps, and train_record.c, which writes them
 * down. */
#ifndef ZEROSEARCH_COMMANDS_TRAIN_H
#define ZEROSEARCH_COMMANDS_TRAIN_H

#include "balance.h"

#include "zerosearch/actor.h"
#include "zerosearch/guard.h"
#include "zerosearch/curriculum.h"
#include "zerosearch/learner.h"
#include "zerosearch/log.h"
#include "zerosearch/rollout.h"
#include "zerosearch/run.h"
#include "zerosearch/setup.h"

#include <jansson.h>

/* A step's episodes once they are played, as all ranks know it. */
typedef struct zs_played {
    double noise;
    zs_rollout_means means;
    zs_search_counts searched;
    double rounds,
        spread; /* rollout.redraws: rounds played, share of their questions with a spread of rewards */
} zs_played;

typedef struct zs_trainer {
    const zs_config *config;
    zs_comm *comm;
    zs_run run;
    zs_qa questions, eval_questions;
    zs_tokenizer *tokenizer; /* rollouts and learners; the rest below where its role is played */
    zs_chat *chat;
    zs_model *policy; /* in f32; on rollouts that do not learn, in what they play */
    zs_frozen reference;
    zs_model *values; /* PPO's, on learners, with its optimizer; NULL: none */
    zs_optimizer *value_optimizer;
    zs_search_setup search, eval_search;
    zs_rollout *rollout, *eval_rollout;
    zs_learner *learner;
    zs_optimizer *optimizer;
    zs_actor *actor;
    zs_curriculum curriculum;   /* of the step to be played next */
    int64_t step, total, saved; /* saved: step of the newest checkpoint */
    int64_t skipped;            /* updates in a row that were not made, their gradient not being finite */
    int64_t *order;             /* the question order of an epoch, for the draw that order_key names */
    int64_t order_key[2];
    zs_guard guard;
    int64_t rollbacks; /* that the guard has made: other draws, a lower rate */
    zs_trajectories *stream;
    zs_episodes mine; /* rollouts: what was played last */
    /* The step's episodes on the learners, and (rollout.staleness) those of the next one, played meanwhile.
     */
    zs_episodes received, ahead;
    zs_played played, played_ahead;
    bool has_ahead;
    zs_error lost;    /* why the step ahead could not be played; tried anew on resume */
    zs_string timers; /* root: rows of timers.h5 since the last checkpoint, TIMER_COLUMNS doubles each */
    zs_engine_stats generated; /* at the end of the step before */
    zs_balance measured;       /* sums over measured_steps; ranks are set when the ranks are divided */
    int64_t split[ROLES];   /* ranks of a pod that groups.layout = auto has settled on; 0 rollouts: not yet */
    bool redivide;          /* it is another than now: begin anew from the checkpoint */
    int64_t measured_steps; /* since the last proposal; -1: the first step, which warms up, is not counted */
} zs_trainer;

/* What is recorded of a step. */
typedef struct zs_step_facts {
    double seconds, noise;
    zs_phase_times times; /* of this rank, until the step's seconds were taken */
    zs_update_report update;
    zs_rollout_means rollout;
    zs_search_counts searched;
    unsigned alarms; /* of the guard, filled by zs_train_record */
    json_t *eval;    /* NULL: not evaluated */
    char busy[90];   /* filled by zs_train_record: "rollout 61 %, learner 30 %" */
} zs_step_facts;

/* A line of metrics.jsonl, samples for episodes.jsonl and this step's timers, which are kept until
 * zs_train_write_timers puts them into timers.h5. Collective on world, one error for all. */
zs_status zs_train_record(zs_trainer *t, zs_step_facts *facts, zs_error *err);
/* The best split of the ranks by what was measured since the last proposal, per pod, and its time over that
 * of now. False: nothing measured, or ranks play several roles. The same on every rank. */
bool zs_train_propose(zs_trainer *t, int64_t best[ROLES], double *fraction);
bool zs_train_has_values(const zs_trainer *t); /* PPO's value model, on whatever rank */
/* Local: the root has them all. */
zs_status zs_train_write_timers(zs_trainer *t, zs_error *err);

/* The guard (train_guard.c). Watch: the step's numbers, which all ranks know; the new alarms. Act: what
 * guard.action says of them; *stopping: the run is to end with a checkpoint and zs_train_guard_stopped. The
 * same on every rank; act is collective on world. */
unsigned zs_train_watch(zs_trainer *t, const zs_step_facts *facts);
json_t *zs_train_alarm_names(unsigned alarms);
zs_status zs_train_act(zs_trainer *t, unsigned alarms, bool *stopping, zs_error *err);
zs_status zs_train_guard_stopped(const zs_trainer *t, zs_error *err);
void zs_train_set_rollbacks(zs_trainer *t, int64_t times); /* Local */

/* A zs_answer_ids (learner.h), of the first golden answer; its opening tag is left out where the text before
 * ends with it (the last turn's). Context: the trainer. */
int64_t zs_train_answer_ids(void *trainer, int64_t question_index, const int32_t *before,
                            int64_t before_length, int64_t room, int32_t *ids, int64_t *from);

/* Plays a round of a step's questions: round 0 its own, further ones (rollout.redraws) others. Rollouts and
 * simulators; episodes are added to t->mine and sent. */
void zs_train_play(zs_trainer *t, int64_t step, int64_t round);
/* With rollout.redraws: rounds until enough questions have a spread of rewards; on learners their episodes.
 * Collective on world. */
void zs_train_draw(zs_trainer *t, zs_episodes *episodes);

/* The checkpoint of this step, and the newest good one back into a trainer whose roles are set up
 * (train_state.c). Collective on world. */
zs_status zs_train_save(zs_trainer *t, zs_error *err);
zs_status zs_train_restore(zs_trainer *t, zs_error *err);

/* groups.layout = auto. Divides the ranks by t->split; by the split that the run's checkpoint tells of, if it
 * had as many ranks. Collective on world. */
zs_status zs_train_divide(zs_trainer *t, zs_error *err);
zs_status zs_train_divide_as_before(zs_trainer *t, zs_error *err);
bool zs_train_settling(const zs_trainer *t); /* measured until the split is settled */
/* After a step: settles on a split once groups.settle_steps are measured. True: on another one than now, so
 * that the trainer has to be set up anew. The same on every rank. */
bool zs_train_settle(zs_trainer *t);

#endif
