/* Commands: one file each under src/commands/, listed in src/main.c. */
#ifndef ZEROSEARCH_COMMAND_H
#define ZEROSEARCH_COMMAND_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/error.h"
#include "zerosearch/model.h"

/* An option "--name VALUE" (or a bare "--name" when !takes_value) of one command. */
typedef struct zs_option {
    const char *name;  /* without the dashes */
    const char *value; /* how --help shows it, e.g. "DIR"; NULL: a switch */
    const char *help;
} zs_option;

typedef struct zs_build {          /* of this program */
    const char *commit, *compiler; /* "f0c19d4", "gcc 12.2.0, -O3 -march=native -g" */
} zs_build;

/* What a command is given. Every command also takes CONFIG.cfg, --set key=value (repeatable), --help and
 * --log-level LEVEL, parsed before it runs. */
typedef struct zs_arguments {
    zs_config *config;
    const char *config_path;  /* NULL: none given */
    const zs_option *options; /* the command's */
    const char **values;      /* parallel to options: NULL when not given, "" for a switch */
    int num_options;
    zs_comm *comm; /* world started, not divided */
    zs_build build;
} zs_arguments;

const char *zs_arg(const zs_arguments *arguments,
                   const char *name); /* NULL: not given; asserts the name is known */
const char *zs_arg_or(const zs_arguments *arguments, const char *name, const char *fallback);
/* Required option; a ZS_USAGE error that names it otherwise. */
zs_status zs_arg_need(const zs_arguments *arguments, const char *name, const char **out, zs_error *err);
zs_status zs_arg_int(const zs_arguments *arguments, const char *name, int64_t fallback, int64_t *out,
                     zs_error *err);
zs_status zs_arg_float(const zs_arguments *arguments, const char *name, double fallback, double *out,
                       zs_error *err);
/* The language model of option --model, whole, in the precision of option --dtype (f32, bf16 or int8; f32
 * when not given); NULL on error. Local. */
zs_status zs_arg_model(const zs_arguments *arguments, zs_model **out, zs_error *err);
/* Option --cache-dtype: ZS_F32, also when not given, or ZS_BF16. */
zs_status zs_arg_cache_dtype(const zs_arguments *arguments, zs_dtype *out, zs_error *err);

typedef struct zs_command {
    const char *name, *summary, *usage; /* usage: the lines under the summary in --help */
    const zs_option *options;           /* ended by a NULL name */
    zs_status (*run)(const zs_arguments *arguments, zs_error *err);
    bool alone; /* under mpirun rank 0 works, and the others wait for it however long it takes */
} zs_command;

extern const zs_command zs_command_train, zs_command_sft, zs_command_collect, zs_command_eval, zs_command_ask,
    zs_command_generate, zs_command_tokenize, zs_command_logprobs, zs_command_score, zs_command_convert,
    zs_command_init, zs_command_bench, zs_command_plan, zs_command_doctor, zs_command_world, zs_command_index;

#endif
