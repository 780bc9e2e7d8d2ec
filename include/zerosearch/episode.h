/* Token buffers: packed episodes, the one thing that travels from rollouts to learners. */
#ifndef ZEROSEARCH_EPISODE_H
#define ZEROSEARCH_EPISODE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum zs_token_kind {
    ZS_TOKEN_PROMPT,
    ZS_TOKEN_POLICY,     /* sampled by the policy: the loss is over these */
    ZS_TOKEN_DOCUMENT,   /* the observation of a search */
    ZS_TOKEN_OBSERVATION /* other text put in by the environment: corrections, the last-turn prefix */
} zs_token_kind;

/* Fixed-size facts of one episode. */
typedef struct zs_episode_info {
    int64_t question;       /* its place in the step's batch: the GRPO group */
    int64_t sample;         /* 0 .. samples - 1 */
    int64_t question_index; /* its place in the question set */
    int64_t length;         /* tokens */
    double reward, em, cover_em, f1;
    double advantage;
    int32_t turns, searches, noisy_searches, failed_searches, invalid_actions;
    int32_t policy_tokens;
    int32_t answered;                /* closed an <answer> */
    int32_t truncated;               /* ended by a length limit */
    int32_t format_valid, retrieved; /* see rewards.h */
} zs_episode_info;

/* Arrays grow as episodes are appended; {0} is empty. Episode e holds tokens offsets[e] .. offsets[e+1]-1. */
typedef struct zs_episodes {
    int64_t count, num_tokens;
    int64_t episode_capacity, token_capacity;
    zs_episode_info *info; /* [count] */
    int64_t *offsets;      /* [count + 1] */
    int32_t *ids;          /* [num_tokens] */
    uint8_t *kind;         /* [num_tokens], zs_token_kind */
    float *log_prob;       /* [num_tokens], recorded when sampled; 0 elsewhere */
} zs_episodes;

void zs_episodes_append(zs_episodes *episodes, const zs_episode_info *info, const int32_t *ids,
                        const uint8_t *kind, const float *log_prob);
void zs_episodes_clear(zs_episodes *episodes);
void zs_episodes_free(zs_episodes *episodes);

/* A packed episode, as it travels and as checkpoints keep it: info, ids [length] int32, log_prob [length]
 * float, kind [length] uint8, padded to whole words of 8 bytes, so that MPI's int reaches 16 GiB. */
int64_t zs_episode_words(int64_t length);
void zs_episode_pack(const zs_episode_info *info, const int32_t *ids, const uint8_t *kind,
                     const float *log_prob, int64_t *words);
/* Appends it; returns its words. */
int64_t zs_episode_unpack(const int64_t *words, zs_episodes *episodes);

#endif
