/* The policy on rollout ranks: shared with the learner, broadcast, or rounded to bf16 or int8; with a spare
 * copy where the next weights arrive while these are played. */
#include "zerosearch/actor.h"
#include "zerosearch/load.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

struct zs_actor {
    zs_dtype dtype;   /* that is played */
    zs_model *policy; /* NULL on ranks that neither learn nor play */
    zs_model *narrow; /* copy in dtype, on ranks that learn in f32 and play that or send int8; else NULL */
    zs_model
        *spare; /* where rollouts that do not learn take the next weights, if they play ahead; else NULL */
    zs_weights *weights;
    bool plays, begun;
};

static zs_dtype played_dtype(const zs_config *config) {
    zs_dtype dtype;
    zs_keep_named(zs_config_string(config, "rollout.dtype"), &dtype);
    return dtype;
}

zs_dtype zs_actor_dtype(const zs_comm *comm, const zs_config *config) {
    return comm->is_learner ? ZS_F32 : played_dtype(config);
}

static zs_model *empty_model(const zs_model_config *config, zs_dtype dtype) {
    return dtype == ZS_F32 ? zs_model_create(config) : zs_model_create_narrow(config, dtype);
}

zs_actor *zs_actor_create(const zs_comm *comm, const zs_config *config, zs_model *policy) {
    zs_actor *actor = ZS_NEW(zs_actor, 1);
    zs_dtype dtype = actor->dtype = played_dtype(config);
    actor->policy = policy;
    actor->plays = comm->is_rollout;
    if (actor->plays && !comm->is_learner && zs_config_int(config, "rollout.staleness") > 0)
        actor->spare = empty_model(&policy->config, dtype);
    int64_t count = !policy ? 0 : dtype == ZS_INT8 ? zs_model_bytes(policy, ZS_INT8) : policy->num_params;
    actor->weights = zs_weights_create(comm, count, zs_config_int(config, "learn.bucket_params"), dtype);
    bool sends_copy = dtype == ZS_INT8 && zs_weights_sends(actor->weights);
    if (comm->is_learner && dtype != ZS_F32 && (actor->plays || sends_copy))
        actor->narrow = zs_model_create_narrow(&policy->config, dtype);
    return actor;
}

void zs_actor_destroy(zs_actor *actor) {
    if (!actor) return;
    zs_weights_destroy(actor->weights);
    zs_model_destroy(actor->narrow);
    zs_model_destroy(actor->spare);
    zs_free(actor);
}

const zs_model *zs_actor_model(const zs_actor *actor) {
    if (!actor->plays) return NULL;
    return actor->narrow ? actor->narrow : actor->policy;
}

static void begin(zs_actor *actor) {
    bool block = actor->narrow && actor->dtype == ZS_INT8; /* bf16 is rounded on its way */
    const zs_model *model = actor->spare ? actor->spare : block ? actor->narrow : actor->policy;
    if (!actor->begun) zs_weights_begin(actor->weights, zs_model_weights(model));
    actor->begun = true;
}

/* Engines hold the policy's address: its weights change places with the spare's. */
static void swap_weights(zs_model *policy, zs_model *spare) {
    zs_model before = *policy;
    policy->params = spare->params;
    policy->params_bf16 = spare->params_bf16;
    policy->int8 = spare->int8;
    policy->vectors = spare->vectors;
    spare->params = before.params;
    spare->params_bf16 = before.params_bf16;
    spare->int8 = before.int8;
    spare->vectors = before.vectors;
}

void zs_actor_expect(zs_actor *actor) {
    if (actor->spare) begin(actor);
}

void zs_actor_poll(zs_actor *actor) {
    if (actor->begun) zs_weights_poll(actor->weights);
}

void zs_actor_refresh(zs_actor *actor) {
    zs_model *policy = actor->policy;
    if (!policy) return;
    zs_phase_begin(ZS_PHASE_BROADCAST);
    bool block = actor->narrow && actor->dtype == ZS_INT8;
    if (block) zs_model_narrow(policy, actor->narrow); /* what is sent */
    begin(actor);
    if (actor->narrow && !block) {
        zs_model_narrow(policy, actor->narrow);
        zs_model_pack(actor->narrow, 0, 1);
    }
    zs_weights_finish(actor->weights);
    if (actor->spare) swap_weights(policy, actor->spare);
    actor->begun = false;
    policy->packed = false;         /* bf16 comes in as learners have it; */
    zs_model_widen_vectors(policy); /* nothing to do for f32 and int8 */
    zs_model_pack(policy, 0, 1);
    zs_phase_end(ZS_PHASE_BROADCAST);
}
