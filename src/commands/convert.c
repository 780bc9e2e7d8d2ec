/* `zerosearch convert`: Hugging Face folders <-> HDF5 checkpoints. */
#include "zerosearch/checkpoint.h"
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"

#include <string.h>

static const zs_option options[] = {
    {"from", "DIR|FILE.h5", "model folder, or checkpoint, to read"},
    {"to", "DIR|FILE.h5", "model folder, or checkpoint, to write"},
    {"dtype", "f32|bf16", "how a folder stores the weights (f32); a checkpoint holds f32"},
    {"shard-mb", "N", "largest size of one weight file of a folder in MB (0: one file)"},
    {"carry", "DIR", "folder whose tokenizer files are copied in (the folder read, if one is)"},
    {NULL, NULL, NULL}};

static bool is_checkpoint(const char *path) {
    size_t length = strlen(path);
    return length > 3 && strcmp(path + length - 3, ".h5") == 0;
}

static zs_status read_checkpoint(const char *path, zs_model **out, zs_error *err) {
    zs_model_config config;
    zs_status status = zs_checkpoint_inspect(path, &config, NULL, err);
    if (status) return status;
    zs_model *model = zs_model_create(&config);
    zs_piece all = {0, model->num_params, model->params};
    zs_checkpoint_array array = {"model/params", model->num_params, 1, &all};
    status = zs_checkpoint_read(MPI_COMM_SELF, path, model, &array, 1, NULL, err);
    if (status)
        zs_model_destroy(model);
    else
        *out = model;
    return status;
}

static zs_status convert(const zs_arguments *arguments, zs_error *err) {
    const char *from, *to, *dtype_name = zs_arg_or(arguments, "dtype", "f32");
    int64_t shard_mb;
    zs_status status = zs_arg_need(arguments, "from", &from, err);
    if (status == ZS_OK) status = zs_arg_need(arguments, "to", &to, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "shard-mb", 0, &shard_mb, err);
    if (status) return status;
    bool bf16 = strcmp(dtype_name, "bf16") == 0;
    if (!bf16 && strcmp(dtype_name, "f32") != 0)
        return zs_fail(err, ZS_USAGE, "--dtype is %s; expected f32 or bf16", dtype_name);
    if (shard_mb < 0 || shard_mb > 1 << 30)
        return zs_fail(err, ZS_USAGE, "--shard-mb: expected a number >= 0");
    if (is_checkpoint(to) && (bf16 || shard_mb > 0))
        return zs_fail(err, ZS_USAGE,
                       "--dtype bf16 and --shard-mb are for folders; a checkpoint holds f32 in one file");
    if (is_checkpoint(from) && strcmp(from, to) == 0)
        return zs_fail(err, ZS_USAGE,
                       "--to is --from: the optimizer's state in the checkpoint would be lost");

    zs_model *model = NULL;
    status = is_checkpoint(from) ? read_checkpoint(from, &model, err) : zs_hf_load(from, &model, err);
    if (status) return status;
    if (is_checkpoint(to)) {
        zs_piece all = {0, model->num_params, model->params};
        zs_checkpoint_array array = {"model/params", model->num_params, 1, &all};
        status = zs_checkpoint_write(MPI_COMM_SELF, to, model, &array, 1, "{}", err);
    } else {
        const char *carry = zs_arg_or(arguments, "carry", is_checkpoint(from) ? NULL : from);
        status = zs_hf_save(to, model, NULL, bf16 ? ZS_BF16 : ZS_F32, shard_mb * 1000000, carry, err);
    }
    if (status == ZS_OK)
        zs_log(ZS_LOG_INFO, "%s -> %s: %d tensors, %.2f million parameters", from, to, model->num_tensors,
               (double)model->num_params / 1e6);
    zs_model_destroy(model);
    return status;
}

/* Under mpirun rank 0 alone works. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? convert(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

const zs_command zs_command_convert = {
    "convert", "turns Hugging Face folders into checkpoints and back",
    "zerosearch convert --from DIR|FILE.h5 --to DIR|FILE.h5 [--dtype f32|bf16] [--shard-mb N] [--carry DIR]\n"
    "F32 folders come back to the bit; BF16 folders do with --dtype bf16.",
    options, run};
