/* Growing token buffers. */
#include "zerosearch/episode.h"

#include "zerosearch/error.h"
#include "zerosearch/memory.h"

#include <string.h>

static int64_t larger(int64_t capacity, int64_t wanted) {
    return 2 * capacity > wanted ? 2 * capacity : wanted;
}

static void reserve(zs_episodes *episodes, int64_t count, int64_t num_tokens) {
    if (count > episodes->episode_capacity || !episodes->offsets) {
        int64_t old = episodes->episode_capacity, wanted = larger(old, count);
        episodes->info = zs_grow(episodes->info, old, wanted, sizeof *episodes->info);
        episodes->offsets = zs_grow(episodes->offsets, episodes->offsets ? old + 1 : 0, wanted + 1,
                                    sizeof *episodes->offsets);
        episodes->episode_capacity = wanted;
    }
    if (num_tokens > episodes->token_capacity) {
        int64_t old = episodes->token_capacity, wanted = larger(old, num_tokens);
        episodes->ids = zs_grow(episodes->ids, old, wanted, sizeof *episodes->ids);
        episodes->kind = zs_grow(episodes->kind, old, wanted, sizeof *episodes->kind);
        episodes->log_prob = zs_grow(episodes->log_prob, old, wanted, sizeof *episodes->log_prob);
        episodes->token_capacity = wanted;
    }
}

void zs_episodes_append(zs_episodes *episodes, const zs_episode_info *info, const int32_t *ids,
                        const uint8_t *kind, const float *log_prob) {
    int64_t length = info->length, at = episodes->num_tokens;
    ZS_ASSERT(length >= 0, "an episode of %lld tokens", (long long)length);
    reserve(episodes, episodes->count + 1, at + length);
    if (length > 0) {
        memcpy(episodes->ids + at, ids, (size_t)length * sizeof *ids);
        memcpy(episodes->kind + at, kind, (size_t)length * sizeof *kind);
        memcpy(episodes->log_prob + at, log_prob, (size_t)length * sizeof *log_prob);
    }
    episodes->info[episodes->count++] = *info;
    episodes->num_tokens += length;
    episodes->offsets[episodes->count] = episodes->num_tokens;
}

_Static_assert(sizeof(zs_episode_info) % 8 == 0, "packed tokens follow the info aligned");

int64_t zs_episode_words(int64_t length) {
    return ((int64_t)sizeof(zs_episode_info) + length * (int64_t)(4 + 4 + 1) + 7) / 8;
}

void zs_episode_pack(const zs_episode_info *info, const int32_t *ids, const uint8_t *kind,
                     const float *log_prob, int64_t *words) {
    char *at = (char *)words;
    int64_t length = info->length;
    words[zs_episode_words(length) - 1] = 0; /* the padding */
    memcpy(at, info, sizeof *info);
    if (length == 0) return;
    at += sizeof *info;
    memcpy(at, ids, (size_t)length * 4);
    memcpy(at + 4 * length, log_prob, (size_t)length * 4);
    memcpy(at + 8 * length, kind, (size_t)length);
}

int64_t zs_episode_unpack(const int64_t *words, zs_episodes *episodes) {
    const char *at = (const char *)words;
    zs_episode_info info;
    memcpy(&info, at, sizeof info);
    at += sizeof info;
    zs_episodes_append(episodes, &info, (const int32_t *)(const void *)at,
                       (const uint8_t *)at + 8 * info.length,
                       (const float *)(const void *)(at + 4 * info.length));
    return zs_episode_words(info.length);
}

void zs_episodes_clear(zs_episodes *episodes) {
    episodes->count = episodes->num_tokens = 0; /* offsets[0] is 0 for ever */
}

void zs_episodes_free(zs_episodes *episodes) {
    zs_free(episodes->info);
    zs_free(episodes->offsets);
    zs_free(episodes->ids);
    zs_free(episodes->kind);
    zs_free(episodes->log_prob);
    *episodes = (zs_episodes){0};
}
