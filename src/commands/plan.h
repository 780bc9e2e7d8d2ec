/* What the plan files share: the layout and the models that are planned. */
#ifndef ZEROSEARCH_COMMANDS_PLAN_H
#define ZEROSEARCH_COMMANDS_PLAN_H

#include "balance.h"

#include "zerosearch/config.h"
#include "zerosearch/model.h"

typedef struct zs_plan {
    const zs_config *config;
    zs_model_config policy, simulator;
    double params, simulator_params;                        /* counts */
    zs_dtype policy_stored, simulator_stored;               /* in the folders */
    zs_dtype rollout_dtype, simulator_kept, reference_kept; /* in memory; the learner's policy is f32 */
    double rollout_bytes, simulator_bytes, reference_bytes; /* of the weights, so kept */
    zs_dtype rollout_cache, simulator_cache;
    bool colocated, reference, simulated, ahead; /* ahead: rollout.staleness */
    int64_t ranks[ROLES];            /* that play each role, over all pods; colocated: all ranks play all */
    int64_t world, pods, node_ranks; /* node_ranks: of a node */
    double prompt, turns, turn_tokens, document_tokens; /* assumed, a mean episode */
    double episodes, episode_tokens;
    double gemm, read; /* measured: flop/s, bytes/s */
} zs_plan;

void zs_plan_precisions(zs_plan *plan); /* in memory, from the settings, the shapes and the folders */
void zs_plan_print_memory(const zs_plan *plan);
void zs_plan_print_training(const zs_plan *plan); /* by parameter and by token */
void zs_plan_print_loading(const zs_plan *plan);

#endif
