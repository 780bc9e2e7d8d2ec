#include "zerosearch/command.h"

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
