/* Options of the commands, read and checked. */
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/load.h"

#include <string.h>

const char *zs_arg(const zs_arguments *arguments, const char *name) {
    for (int i = 0; i < arguments->num_options; i++)
        if (strcmp(arguments->options[i].name, name) == 0) return arguments->values[i];
    ZS_ASSERT(false, "the command has no option '%s'", name);
    return NULL;
}

const char *zs_arg_or(const zs_arguments *arguments, const char *name, const char *fallback) {
    const char *value = zs_arg(arguments, name);
    return value ? value : fallback;
}

zs_status zs_arg_need(const zs_arguments *arguments, const char *name, const char **out, zs_error *err) {
    *out = zs_arg(arguments, name);
    return *out ? ZS_OK : zs_fail(err, ZS_USAGE, "option --%s is missing", name);
}

zs_status zs_arg_int(const zs_arguments *arguments, const char *name, int64_t fallback, int64_t *out,
                     zs_error *err) {
    const char *value = zs_arg(arguments, name);
    *out = fallback;
    if (value && !zs_parse_int(value, out))
        return zs_fail(err, ZS_USAGE, "--%s %.100s: an integer is expected", name, value);
    return ZS_OK;
}

zs_status zs_arg_float(const zs_arguments *arguments, const char *name, double fallback, double *out,
                       zs_error *err) {
    const char *value = zs_arg(arguments, name);
    *out = fallback;
    if (value && !zs_parse_double(value, out))
        return zs_fail(err, ZS_USAGE, "--%s %.100s: a number is expected", name, value);
    return ZS_OK;
}

zs_status zs_arg_cache_dtype(const zs_arguments *arguments, zs_dtype *out, zs_error *err) {
    const char *name = zs_arg_or(arguments, "cache-dtype", "f32");
    *out = strcmp(name, "bf16") == 0 ? ZS_BF16 : ZS_F32;
    if (*out == ZS_F32 && strcmp(name, "f32") != 0)
        return zs_fail(err, ZS_USAGE, "--cache-dtype %.100s: f32 or bf16 is expected", name);
    return ZS_OK;
}

zs_status zs_arg_model(const zs_arguments *arguments, zs_model **out, zs_error *err) {
    const char *folder, *name = zs_arg_or(arguments, "dtype", "f32");
    zs_dtype dtype = ZS_DTYPE_OTHER;
    *out = NULL;
    zs_status status = zs_arg_need(arguments, "model", &folder, err);
    if (status == ZS_OK && (!zs_keep_named(name, &dtype) || dtype == ZS_DTYPE_OTHER))
        status = zs_fail(err, ZS_USAGE, "--dtype %.100s: f32, bf16 or int8 is expected", name);
    if (status == ZS_OK) status = zs_hf_load_as(folder, dtype, out, err);
    if (status == ZS_OK) status = zs_model_check_logits(&(*out)->config, folder, err);
    if (status != ZS_OK) {
        zs_model_destroy(*out);
        *out = NULL;
    }
    return status;
}
