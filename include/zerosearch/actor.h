/* The actor: the policy as rollouts play it, and how it follows the learners.
 *
 * In f32 a rank that learns and plays has one model for both, and a rank that only plays takes the learners'
 * parameters by broadcast. In bf16 or int8 (rollout.dtype) a rank that learns and plays rounds its f32 into a
 * copy of its own, and one that only plays takes the broadcast already rounded: it never holds f32. bf16 is
 * rounded as it is sent and packed where it is played (zs_model_pack); of int8 the learner that sends it has
 * a copy too, played or not. A rank that only plays, and plays a step ahead of the learners
 * (rollout.staleness), has a second copy for the weights to come. */
#ifndef ZEROSEARCH_ACTOR_H
#define ZEROSEARCH_ACTOR_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/model.h"

/* What this rank needs the policy in: f32 where it learns, else rollout.dtype. Local. */
zs_dtype zs_actor_dtype(const zs_comm *comm, const zs_config *config);

typedef struct zs_actor zs_actor;

/* `policy`, kept by the caller: of zs_actor_dtype (on ranks that only play with weights of any kind until the
 * first refresh), NULL on ranks that are neither learner nor rollout. Collective on pod. */
zs_actor *zs_actor_create(const zs_comm *comm, const zs_config *config, zs_model *policy);
void zs_actor_destroy(zs_actor *actor);

/* What engines read; NULL on ranks that are no rollouts. Belongs to the actor or the caller of create. */
const zs_model *zs_actor_model(const zs_actor *actor);

/* With rollout.staleness: rollouts that do not learn begin to take the learners' next parameters into a spare
 * copy, to play on with these until zs_actor_refresh. Poll moves the broadcast on between decode steps.
 * Nothing happens on other ranks. Local. */
void zs_actor_expect(zs_actor *actor);
void zs_actor_poll(zs_actor *actor);

/* Every rollout gets the learners' parameters as they are now. Collective on pod. */
void zs_actor_refresh(zs_actor *actor);

#endif
