/* The policy on rollout ranks: shared with the learner, broadcast, or rounded to bf16; with a spare copy
 * where the next weights arrive while these are played. */
#include "zerosearch/actor.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <string.h>

struct zs_actor {
    zs_model *policy;  /* NULL on ranks that neither learn nor play */
    zs_model *rounded; /* bf16 copy of it, on ranks that learn in f32 and play in bf16; else NULL */
    zs_model
        *spare; /* where rollouts that do not learn take the next weights, if they play ahead; else NULL */
    zs_weights *weights;
    bool plays, begun;
};

static zs_dtype played_dtype(const zs_config *config) {
    return !strcmp(zs_config_string(config, "rollout.dtype"), "bf16") ? ZS_BF16 : ZS_F32;
}

bool zs_actor_needs_f32(const zs_comm *comm, const zs_config *config) {
    return comm->is_learner || (comm->is_rollout && played_dtype(config) == ZS_F32);
}

zs_actor *zs_actor_create(const zs_comm *comm, const zs_config *config, zs_model *policy) {
    zs_actor *actor = ZS_NEW(zs_actor, 1);
    zs_dtype dtype = played_dtype(config);
    actor->policy = policy;
    actor->plays = comm->is_rollout;
    if (actor->plays && policy->params && dtype == ZS_BF16)
        actor->rounded = zs_model_create_bf16(&policy->config);
    if (actor->plays && !comm->is_learner && zs_config_int(config, "rollout.staleness") > 0)
        actor->spare =
            dtype == ZS_BF16 ? zs_model_create_bf16(&policy->config) : zs_model_create(&policy->config);
    actor->weights = zs_weights_create(comm, policy ? policy->num_params : 0,
                                       zs_config_int(config, "learn.bucket_params"), dtype);
    return actor;
}

void zs_actor_destroy(zs_actor *actor) {
    if (!actor) return;
    zs_weights_destroy(actor->weights);
    zs_model_destroy(actor->rounded);
    zs_model_destroy(actor->spare);
    zs_free(actor);
}

const zs_model *zs_actor_model(const zs_actor *actor) {
    if (!actor->plays) return NULL;
    return actor->rounded ? actor->rounded : actor->policy;
}

static void *weights_of(zs_model *model) {
    return model->params ? (void *)model->params : model->params_bf16;
}

static void begin(zs_actor *actor) {
    if (!actor->begun)
        zs_weights_begin(actor->weights, weights_of(actor->spare ? actor->spare : actor->policy));
    actor->begun = true;
}

/* Engines hold the policy's address: its weights change places with the spare's. */
static void swap_weights(zs_model *policy, zs_model *spare) {
    float *params = policy->params;
    uint16_t *params_bf16 = policy->params_bf16;
    policy->params = spare->params;
    policy->params_bf16 = spare->params_bf16;
    spare->params = params;
    spare->params_bf16 = params_bf16;
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
    begin(actor);
    if (actor->rounded) {
        zs_model_round_to_bf16(policy, actor->rounded);
        zs_model_pack(actor->rounded, 0, 1);
    }
    zs_weights_finish(actor->weights);
    if (actor->spare) swap_weights(policy, actor->spare);
    actor->begun = false;
    policy->packed = false;         /* bf16 comes in as learners have it; */
    zs_model_widen_vectors(policy); /* nothing to do for f32 */
    zs_model_pack(policy, 0, 1);
    zs_phase_end(ZS_PHASE_BROADCAST);
}
