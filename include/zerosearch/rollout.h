/* Episodes: the policy thinks, searches, reads and answers; the search engine's ranks answer it.
 *
 * zs_rollout_run is the whole rollout phase of a step (DESIGN: rollout, search exchange, reward), called by
 * every rollout and simulator of the pod: rollouts play their share of the questions, ranks with a search
 * engine answer queries; on others it returns at once. Rounds come every `rollout.round_steps` decode steps,
 * not by the clock. */
#ifndef ZEROSEARCH_ROLLOUT_H
#define ZEROSEARCH_ROLLOUT_H

#include "zerosearch/chat.h"
#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/engine.h"
#include "zerosearch/episode.h"
#include "zerosearch/qa.h"
#include "zerosearch/search.h"
#include "zerosearch/trajectories.h"

typedef struct zs_rollout zs_rollout;

/* Called with each piece of text of an episode as it grows (`ask`). */
typedef void zs_rollout_watch(void *context, const char *bytes, int64_t length, zs_token_kind kind);

/* Reads rollout.*, search.observation_tokens and the templates of rollout.method. `policy` is NULL on ranks
 * that are not rollouts. `config` and `chat` must outlive it; chat NULL: plain prompts. `own_search`: queries
 * are answered by this rank's own engine, without exchange (evaluation with the corpus). Collective on pod
 * unless own_search. */
zs_status zs_rollout_create(const zs_comm *comm, const zs_config *config, const zs_model *policy,
                            const zs_tokenizer *tokenizer, const zs_chat *chat, bool own_search,
                            zs_rollout **out, zs_error *err);
/* Another method (method.h) from the next run on; the same on all ranks. Local; after an error it can only be
 * destroyed. */
zs_status zs_rollout_set_method(zs_rollout *rollout, const char *name, zs_error *err);
void zs_rollout_destroy(zs_rollout *rollout);

typedef struct zs_rollout_task {
    const zs_qa *qa;
    const int64_t
        *questions; /* [num_questions], places in the set; question q is played by rollout q mod size */
    int64_t num_questions, samples;
    int64_t first_place; /* of the first question among all of the step: their draws depend on it */
    int64_t step;        /* key of the random draws */
    double noise;        /* probability that a query's documents are noisy */
    zs_sampling sampling;
    int64_t max_turns;       /* of the method `search`: searches and invalid actions before the last turn; 0:
                                answer at once */
    zs_rollout_watch *watch; /* one episode only; NULL: not watched */
    void *watch_context;
    zs_trajectories *stream;     /* each episode is sent as it ends; NULL: none is */
    void (*poll)(void *context); /* called between decode steps, to move on what is under way; NULL: not */
    void *poll_context;
} zs_rollout_task;

/* Appends this rank's episodes, ordered by (question, sample), scored (reward: rewards.h), advantage 0.
 * `search`: the engine of a rank that has one, else NULL. */
void zs_rollout_run(zs_rollout *rollout, zs_search *search, const zs_rollout_task *task, zs_episodes *out);

/* After a phase of searches: *total is what the services of all ranks did since the last call. The first
 * failures are told in one warning. ZS_FAILED, with `what` ("search.engine = http"), the number and the last
 * error, when at least `least` queries were asked and all of them failed, or when a rank has given its
 * service up (search.max_failures). `search`: this rank's engine or NULL. Collective on world. */
zs_status zs_search_check(const zs_comm *comm, zs_search *search, const char *what, int64_t least,
                          zs_search_counts *total, zs_error *err);

zs_engine_stats zs_rollout_stats(const zs_rollout *rollout); /* zeros on ranks without a policy */

/* Means over episodes of all rollouts, for metrics and evaluation. Collective on the group given (ranks
 * without episodes pass an empty buffer). */
typedef struct zs_rollout_means {
    double episodes, reward, reward_std, em, cover_em, f1, turns, searches, noise, invalid, answered,
        truncated, policy_tokens, tokens, format_valid, retrieved;
    double failed_searches; /* their number, no mean */
} zs_rollout_means;
zs_rollout_means zs_rollout_summarize(const zs_comm *comm, const zs_group *group,
                                      const zs_episodes *episodes);

/* What a turn's text asks for. Exposed for tests: finds the first closed <search> or <answer>; *begin,
 * *length bound its trimmed content. */
typedef enum zs_action { ZS_ACTION_NONE, ZS_ACTION_SEARCH, ZS_ACTION_ANSWER } zs_action;
zs_action zs_rollout_parse(const char *text, int64_t *begin, int64_t *length);
/* The same for a method without searches, to which <search> is text like any other. */
zs_action zs_rollout_parse_answer(const char *text, int64_t *begin, int64_t *length);

#endif
