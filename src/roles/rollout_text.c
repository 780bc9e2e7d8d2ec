/* What a turn asks for, and what episodes come to: the parts of a rollout that need no engine. */
#include "zerosearch/rollout.h"

#include <math.h>
#include <string.h>

/* The trimmed text between the last `tag` before `close` and `close`. */
static bool find_content(const char *text, const char *tag, const char *close, int64_t *begin,
                         int64_t *length) {
    const char *open = NULL;
    for (const char *at = close ? strstr(text, tag) : NULL; at && at < close; at = strstr(at + 1, tag))
        open = at;
    if (!open) return false;
    open += strlen(tag);
    static const char blank[] = " \t\r\n";
    while (open < close && strchr(blank, *open))
        open++;
    while (close > open && strchr(blank, close[-1]))
        close--;
    *begin = open - text;
    *length = close - open;
    return true;
}

zs_action zs_rollout_parse(const char *text, int64_t *begin, int64_t *length) {
    const char *search = strstr(text, "</search>"), *answer = strstr(text, "</answer>");
    if (!search || (answer && answer < search)) return zs_rollout_parse_answer(text, begin, length);
    return find_content(text, "<search>", search, begin, length) ? ZS_ACTION_SEARCH : ZS_ACTION_NONE;
}

zs_action zs_rollout_parse_answer(const char *text, int64_t *begin, int64_t *length) {
    const char *close = strstr(text, "</answer>");
    return find_content(text, "<answer>", close, begin, length) ? ZS_ACTION_ANSWER : ZS_ACTION_NONE;
}

zs_rollout_means zs_rollout_summarize(const zs_comm *comm, const zs_group *group,
                                      const zs_episodes *episodes) {
    enum { N = 17 };
    double s[N] = {0};
    for (int64_t i = 0; i < episodes->count; i++) {
        const zs_episode_info *e = &episodes->info[i];
        double values[N] = {1.0,
                            e->reward,
                            e->reward * e->reward,
                            e->em,
                            e->cover_em,
                            e->f1,
                            e->turns,
                            e->searches,
                            e->noisy_searches,
                            e->invalid_actions,
                            e->answered,
                            e->truncated,
                            e->policy_tokens,
                            (double)e->length,
                            e->failed_searches,
                            e->format_valid,
                            e->retrieved};
        for (int k = 0; k < N; k++)
            s[k] += values[k];
    }
    zs_comm_sum(comm, group, s, N, "the scores of the other ranks");
    double n = fmax(1.0, s[0]), mean = s[1] / n;
    return (zs_rollout_means){.episodes = s[0],
                              .reward = mean,
                              .reward_std = sqrt(fmax(0.0, s[2] / n - mean * mean)),
                              .em = s[3] / n,
                              .cover_em = s[4] / n,
                              .f1 = s[5] / n,
                              .turns = s[6] / n,
                              .searches = s[7] / n,
                              .noise = s[7] > 0.0 ? s[8] / s[7] : 0.0,
                              .invalid = s[9] / n,
                              .answered = s[10] / n,
                              .truncated = s[11] / n,
                              .policy_tokens = s[12] / n,
                              .tokens = s[13],
                              .failed_searches = s[14],
                              .format_valid = s[15] / n,
                              .retrieved = s[16] / n};
}
