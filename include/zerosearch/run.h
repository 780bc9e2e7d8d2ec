/* A run folder: resolved config, metrics, checkpoints, and the signals that end a run early.
 * Everything that leaves a trace on disk during `train` and `sft` goes through here. */
#ifndef ZEROSEARCH_RUN_H
#define ZEROSEARCH_RUN_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/learn.h"

#include <stdio.h>

typedef struct zs_run {
    const zs_config *config;
    zs_comm *comm;
    char folder[500], checkpoints[520];
    bool is_root;             /* world rank 0: writes the text files */
    zs_optimizer *values;     /* of a value model, which stands in checkpoints too; NULL: none */
    FILE *metrics, *episodes; /* root only; episodes NULL until wanted */

    struct zs_checkpoint_writer *writer; /* learners; NULL before the first checkpoint */
    int64_t writing;                     /* step of the checkpoint under way; 0: none */
    double stall;                        /* seconds that it has held up this rank */
    double checkpoint_seconds;           /* that all of them have; whoever records them sets it to 0 */
} zs_run;

/* Makes the folder and writes config.cfg. Refuses a folder that holds checkpoints unless `resume`. Collective
 * on world. */
zs_status zs_run_open(zs_run *run, const zs_config *config, zs_comm *comm, bool resume, zs_error *err);
/* Collective on world. */
void zs_run_close(zs_run *run);

/* Opens metrics.jsonl (and episodes.jsonl): lines of steps >= first_step, left by a run that died after its
 * last checkpoint, are dropped. Root does the work; collective on world. */
zs_status zs_run_open_records(zs_run *run, int64_t first_step, bool with_episodes, zs_error *err);
struct json_t;
/* Writes one object (reference taken over) as a line and flushes. Root only; others pass NULL. */
zs_status zs_run_record(zs_run *run, FILE *file, struct json_t *object, zs_error *err);

/* Whole 8-byte words that a run keeps in a checkpoint beside model and optimizer, in one part a learner: a
 * batch of episodes under way. {0} is none. */
typedef struct zs_run_words {
    int64_t *words, count;
    int64_t num_parts, *parts; /* set by zs_run_restore: words of each learner's part, in order */
} zs_run_words;

/* Begins to write checkpoints/step-N.h5, of what everything is now; an earlier one under way is completed
 * first. It is complete, and old ones are removed (checkpoint.keep), at the end of the first step that finds
 * it written, or when the run settles; with checkpoint.background = false on return. `kind`: the command,
 * which alone can go on from it. `more`: what else the next step reads (an object, the reference is taken
 * over), or NULL. `words`: this learner's part of a batch under way, or NULL on all. Learners write;
 * collective on world. */
zs_status zs_run_checkpoint(zs_run *run, zs_optimizer *optimizer, const zs_model *model, const char *kind,
                            int64_t step, struct json_t *more, const zs_run_words *words, zs_error *err);
/* Reads the newest good checkpoint into model and optimizer on learners; damaged ones are named in a warning
 * and passed over. *step: its step, *state: its kind, step, updates and `more` (a new reference), the same on
 * every rank; 0 and NULL when there is no checkpoint. *words (NULL: not wanted): on learners all parts, since
 * there may be another number of learners now; words and parts are the caller's to free. One of another kind
 * is an error. Collective on world. */
zs_status zs_run_restore(zs_run *run, zs_optimizer *optimizer, const zs_model *model, const char *kind,
                         int64_t *step, struct json_t **state, zs_run_words *words, zs_error *err);
/* The state that zs_run_restore would find, before there are roles; *state NULL: none. Collective on world.
 */
void zs_run_peek(zs_run *run, struct json_t **state);

/* SIGTERM and SIGINT (and SIGUSR1, which batch systems send before the end) set a flag. */
void zs_run_catch_signals(void);

/* At the end of a step, the last one or not: completes a checkpoint that is written. *due: one should begin
 * (checkpoint.every, the end, a signal on any rank). *stopping: a signal ends the run after it, with
 * zs_run_stopped. The same on every rank; collective on world. */
zs_status zs_run_end_step(zs_run *run, int64_t step, bool last, bool *due, bool *stopping, zs_error *err);
/* At the end of the steps, however they ended: completes the checkpoint under way. Returns `status`, but
 * the failure of the writing in place of ZS_OK and ZS_STOPPED. Collective on world. */
zs_status zs_run_settle(zs_run *run, zs_status status, zs_error *err);
zs_status zs_run_stopped(int64_t step, zs_error *err);

#endif
