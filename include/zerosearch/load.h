/* Model folders onto ranks: who reads, in what precision, and what the ranks of a node keep together. */
#ifndef ZEROSEARCH_LOAD_H
#define ZEROSEARCH_LOAD_H

#include "zerosearch/comm.h"
#include "zerosearch/model.h"

#include <stdbool.h>

/* Who reads the files. ALL: every rank what it keeps, at the same time: for parallel file systems and copies
 * on each node. NODE: one rank of a node for the others there. ROOT: rank 0 of the group, which hands the
 * weights on through the network: for a file system that many readers slow down. */
typedef enum zs_read { ZS_READ_ALL, ZS_READ_NODE, ZS_READ_ROOT } zs_read;
zs_read zs_read_named(const char *name); /* all, node, root; as in model.read */

/* auto, f32, bf16, int8, as in model.simulator_dtype; auto is ZS_DTYPE_OTHER: as the files hold the weights.
 * False: another name. */
bool zs_keep_named(const char *name, zs_dtype *dtype);

/* What a loading needs on a node with `ranks` ranks of the group, in bytes. */
typedef struct zs_load_need {
    double rank, node; /* memory that stays: a rank's (its part of what is shared), and all of them */
    double read_rank, read_node; /* from the files: by the rank that reads most, by all (ROOT: of its node) */
    double peak;                 /* of the node's memory, while loading */
} zs_load_need;
zs_load_need zs_load_plan(const zs_model_config *config, zs_dtype stored, zs_dtype kept, bool frozen,
                          zs_read read, int64_t ranks);

/* A model that is not trained here: simulator, KL reference, the policy of an evaluation. Kept once a node.
 */
typedef struct zs_frozen {
    zs_model *model;    /* its weights stand in memory; NULL outside the group */
    zs_shared memory;   /* zs_model_bytes of the model's precision */
    int64_t bytes_read; /* by this rank, from the weight files */
} zs_frozen;

/* The folder's weights as ZS_F32, ZS_BF16 or ZS_INT8, or as the files hold them: bf16 where all are bf16,
 * else f32 (`dtype` ZS_DTYPE_OTHER). For int8 they are read and quantised piece by piece. Collective on
 * group; one error for all. */
zs_status zs_load_frozen(const zs_comm *comm, const zs_group *group, const char *folder, zs_dtype dtype,
                         zs_read read, zs_frozen *out, zs_error *err);
/* Packs a model that only generates (zs_model_pack), each rank its part of the memory. Collective on
 * memory.node. */
void zs_frozen_pack(const zs_comm *comm, zs_frozen *frozen);
void zs_frozen_free(zs_frozen *frozen); /* Collective on memory.node */

/* The folder's weights in f32, a copy of its own for each rank: a model that is trained or takes broadcasts.
 * NULL outside the group. *bytes_read, where not NULL: by this rank. Collective on group; one error for all.
 */
zs_status zs_load_model(const zs_comm *comm, const zs_group *group, const char *folder, zs_read read,
                        zs_model **out, int64_t *bytes_read, zs_error *err);

#endif
