/* The trajectory stream: episodes go from the rollouts of a pod to its learners as they end, while others are
 * still being written, so that learners can begin with them (reference log-probabilities). */
#ifndef ZEROSEARCH_TRAJECTORIES_H
#define ZEROSEARCH_TRAJECTORIES_H

#include "zerosearch/comm.h"
#include "zerosearch/episode.h"

typedef struct zs_trajectories zs_trajectories;

/* Collective on pod. */
zs_trajectories *zs_trajectories_create(const zs_comm *comm);
/* What is still on its way is waited for, or dropped where it arrives; ranks leave together. */
void zs_trajectories_destroy(zs_trajectories *trajectories);

/* On rollouts: an episode (copied) to the learner that has had the fewest tokens from this rollout in this
 * phase, so that the loads of two learners differ by at most the longest episode times the number of
 * rollouts, and by far less where there are many. Does not wait. Local. */
void zs_trajectories_send(zs_trajectories *trajectories, const zs_episode_info *info, const int32_t *ids,
                          const uint8_t *kind, const float *log_prob);
/* This rollout has no more episodes in this phase. Does not wait. Local. */
void zs_trajectories_end(zs_trajectories *trajectories);

/* Moves messages on, and tells waiting learners that this rank lives; call it from compute loops. Local. */
void zs_trajectories_poll(zs_trajectories *trajectories);

/* On learners: appends the next episode; false when all rollouts have ended the phase (the next call begins
 * with the next phase). The order is the same whatever the timing. Waits, up to the deadline from the last
 * sign of life of the rollout whose turn it is. */
bool zs_trajectories_take(zs_trajectories *trajectories, zs_episodes *into);

#endif
