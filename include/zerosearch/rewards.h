/* What an episode earns: the score of its answer, and optional terms, each with a weight that is 0 unless
 * set.
 *
 *   reward = metric + format * valid - turn_cost * turns + retrieval * retrieved
 *
 * With all weights 0 it is the paper's (ZeroSearch section 3.4: F1 alone, no format term). The terms are
 * those of its relatives: a format term as in DeepSeek-R1 (arXiv 2501.12948) and Search-R1's later study
 * (2505.15117), a retrieval term that pays documents which hold the answer (2505.15117), a price for each
 * turn. Local, all of it. */
#ifndef ZEROSEARCH_REWARDS_H
#define ZEROSEARCH_REWARDS_H

#include "zerosearch/config.h"
#include "zerosearch/episode.h"

typedef struct zs_reward_weights {
    const char *metric; /* "f1", "em" or "cover_em" */
    double format, turn_cost, retrieval;
} zs_reward_weights;

/* From reward.*; `metric` lives as long as config. */
void zs_reward_open(const zs_config *config, zs_reward_weights *out);

/* Of one episode, or means over many: the terms are linear in them. */
typedef struct zs_reward_facts {
    double em, cover_em, f1;
    double format_valid; /* 1: every turn was well formed, none invalid, the last one answered */
    double turns;        /* searches and invalid actions before the answer */
    double retrieved;    /* 1: documents of some turn held a golden answer */
} zs_reward_facts;
zs_reward_facts zs_reward_facts_of(const zs_episode_info *info);

/* Weighted, so that the reward is their sum. */
typedef struct zs_reward_terms {
    double answer, format, turn_cost, retrieval;
} zs_reward_terms;
zs_reward_terms zs_reward_weigh(const zs_reward_weights *weights, const zs_reward_facts *facts);
double zs_reward_sum(const zs_reward_terms *terms);

/* Whether a turn's text is well formed: any number of closed <think> spans, then one closed <search> or
 * <answer> that is not empty; nothing but white space between them, and no tag of think, search, answer or
 * information inside a span. What follows the action is not looked at: the token that closes a tag may hold
 * more. */
bool zs_reward_well_formed(const char *text);

/* Whether documents hold a golden answer, as cover-EM compares (score.h). */
bool zs_reward_holds_answer(const char *documents, int64_t length, const char *const *golden, int num_golden);

struct json_t;
struct json_t *zs_reward_record(const zs_reward_terms *terms); /* an object of the terms; a new reference */

#endif
