/* The terms of a reward. */
#include "zerosearch/rewards.h"

#include "zerosearch/score.h"

#include <jansson.h>
#include <string.h>

void zs_reward_open(const zs_config *config, zs_reward_weights *out) {
    *out = (zs_reward_weights){.metric = zs_config_string(config, "reward.metric"),
                               .format = zs_config_float(config, "reward.format"),
                               .turn_cost = zs_config_float(config, "reward.turn_cost"),
                               .retrieval = zs_config_float(config, "reward.retrieval")};
}

zs_reward_facts zs_reward_facts_of(const zs_episode_info *info) {
    return (zs_reward_facts){.em = info->em,
                             .cover_em = info->cover_em,
                             .f1 = info->f1,
                             .format_valid = info->format_valid,
                             .turns = info->turns,
                             .retrieved = info->retrieved};
}

zs_reward_terms zs_reward_weigh(const zs_reward_weights *w, const zs_reward_facts *facts) {
    return (zs_reward_terms){.answer = !strcmp(w->metric, "em")         ? facts->em
                                       : !strcmp(w->metric, "cover_em") ? facts->cover_em
                                                                        : facts->f1,
                             .format = w->format * facts->format_valid,
                             .turn_cost = 0 - w->turn_cost * facts->turns,
                             .retrieval = w->retrieval * facts->retrieved};
}

double zs_reward_sum(const zs_reward_terms *terms) {
    return terms->answer + terms->format + terms->turn_cost + terms->retrieval;
}

json_t *zs_reward_record(const zs_reward_terms *terms) {
    return json_pack("{s:f,s:f,s:f,s:f}", "answer", terms->answer, "format", terms->format, "turn_cost",
                     terms->turn_cost, "retrieval", terms->retrieval);
}

/* The length of a tag of one of the four spans at text, 0 if there is none. */
static size_t any_tag(const char *text) {
    static const char *const tags[] = {"<think>",  "</think>",  "<search>",      "</search>",
                                       "<answer>", "</answer>", "<information>", "</information>"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (!strncmp(text, tags[i], strlen(tags[i]))) return strlen(tags[i]);
    return 0;
}

/* Moves *at over open...close without tags inside; false, and it stays, if that is not there. *empty:
 * only white space inside. */
static bool take_span(const char **at, const char *open, const char *close, bool *empty) {
    if (strncmp(*at, open, strlen(open))) return false;
    const char *text = *at + strlen(open);
    *empty = true;
    for (; *text && !any_tag(text); text++)
        *empty &= strchr(" \t\r\n", *text) != NULL;
    if (strncmp(text, close, strlen(close))) return false;
    *at = text + strlen(close);
    return true;
}

bool zs_reward_well_formed(const char *text) {
    bool empty;
    do
        text += strspn(text, " \t\r\n");
    while (take_span(&text, "<think>", "</think>", &empty));
    return (take_span(&text, "<search>", "</search>", &empty) ||
            take_span(&text, "<answer>", "</answer>", &empty)) &&
           !empty;
}

bool zs_reward_holds_answer(const char *documents, int64_t length, const char *const *golden,
                            int num_golden) {
    return zs_score_answer(documents, length, golden, num_golden).cover_em > 0;
}
