/* zerosearch: finds the command, reads its arguments and settings, starts MPI, calls it, and says its error
 * once for all ranks. */
#include "zerosearch/command.h"
#include "zerosearch/kernels.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/presets.h"
#include "commands/binding.h"
#include "commands/machine.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "0.1.0"

/* The Makefile says them for this file alone. */
#ifndef ZS_COMMIT
#define ZS_COMMIT   "unknown"
#define ZS_COMPILER "compiler"
#define ZS_FLAGS    "flags unknown"
#endif

static const zs_command *const commands[] = {
    &zs_command_train,    &zs_command_sft,      &zs_command_collect, &zs_command_eval,
    &zs_command_ask,      &zs_command_generate, &zs_command_init,    &zs_command_convert,
    &zs_command_tokenize, &zs_command_logprobs, &zs_command_score,   &zs_command_world,
    &zs_command_index,    &zs_command_bench,    &zs_command_plan,    &zs_command_doctor,
};
enum { NUM_COMMANDS = sizeof commands / sizeof *commands };

static const zs_option common_options[] = {
    {"set", "KEY=VALUE", "a setting in place of the file's; may be given again"},
    {"log-level", "LEVEL", "error, warning, info or debug (the setting log_level)"},
    {"show-config", NULL, "print every setting with its value and meaning, and stop"},
    {"help", NULL, "this text"},
    {NULL, NULL, NULL},
};

typedef struct command_line {
    const zs_command *command;
    const char *config_path, *log_level;
    const char **overrides, **values;
    int num_overrides, num_options;
    bool show_config;
} command_line;

/* Help. */

static void print_options(const zs_option *options, bool positional) {
    for (const zs_option *o = options; o && o->name; o++) {
        if ((isupper((unsigned char)o->name[0]) != 0) != positional) continue;
        char left[80];
        snprintf(left, sizeof left, "%s%s%s%s", positional ? "" : "--", o->name,
                 o->value && !positional ? " " : "", o->value && !positional ? o->value : "");
        printf("  %-26s %s\n", left, o->help);
    }
}

static int print_help(const zs_command *command) {
    if (command) {
        printf("zerosearch %s: %s\n\nusage: zerosearch %s [CONFIG.cfg] [--set KEY=VALUE ...] [options]\n",
               command->name, command->summary, command->name);
        if (command->usage && command->usage[0])
            printf("\n%s%s", command->usage, command->usage[strlen(command->usage) - 1] == '\n' ? "" : "\n");
        printf("\noptions:\n");
        print_options(command->options, true);
        print_options(command->options, false);
        print_options(common_options, false);
    } else {
        printf(
            "zerosearch %s: trains a language model to search, without a search engine (arXiv 2505.04588)\n\n"
            "usage: [mpirun -n N] zerosearch COMMAND [CONFIG.cfg] [--set KEY=VALUE ...] "
            "[options]\n\ncommands:\n",
            VERSION);
        for (int i = 0; i < NUM_COMMANDS; i++)
            printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
        printf("\nzerosearch COMMAND --help tells of its options, zerosearch train --show-config of all "
               "settings.\n"
               "Data goes to stdout, words to stderr. Exit: 0 done, 1 failed, 2 wrong usage or settings,\n"
               "75 stopped early with a checkpoint: run it again.\n");
    }
    return fflush(stdout) == 0 ? ZS_OK : ZS_FAILED;
}

/* Help comes before MPI starts, so the launcher's word is taken for the rank. */
static bool is_first_process(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rank = getenv(names[i]);
        if (rank) return strcmp(rank, "0") == 0;
    }
    return true;
}

/* The command line. */

static const zs_command *find_command(const char *name) {
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int find_option(const zs_option *options, const char *name, size_t length) {
    for (int i = 0; options && options[i].name; i++)
        if (strlen(options[i].name) == length && memcmp(options[i].name, name, length) == 0) return i;
    return -1;
}

/* A word without dashes: the command's own (an option whose name is in capitals) or the settings file. */
static zs_status take_word(command_line *line, const char *word, zs_error *err) {
    size_t length = strlen(word);
    bool is_config = length > 4 && strcmp(word + length - 4, ".cfg") == 0;
    for (int i = 0; i < line->num_options && !is_config; i++) {
        if (isupper((unsigned char)line->command->options[i].name[0]) && !line->values[i]) {
            line->values[i] = word;
            return ZS_OK;
        }
    }
    if (line->config_path)
        return zs_fail(err, ZS_USAGE, "%s: one settings file is expected, not \"%.200s\" and \"%.200s\"",
                       line->command->name, line->config_path, word);
    line->config_path = word;
    return ZS_OK;
}

/* Takes argv[*at], and the word after it where that is its value. */
static zs_status take_option(command_line *line, int argc, char **argv, int *at, zs_error *err) {
    const char *word = argv[*at], *name = word + 2, *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    int own = -1, common = -1;
    if (word[1] == '-' && length > 0) {
        own = find_option(line->command->options, name, length);
        common = own < 0 ? find_option(common_options, name, length) : -1;
    }
    if (own < 0 && common < 0)
        return zs_fail(err, ZS_USAGE, "unknown option %.200s: see zerosearch %s --help", word,
                       line->command->name);
    const zs_option *option = own >= 0 ? &line->command->options[own] : &common_options[common];
    const char *value = "";
    if (!option->value && equals) return zs_fail(err, ZS_USAGE, "--%s takes no value", option->name);
    if (option->value && equals)
        value = equals + 1;
    else if (option->value && *at + 1 < argc)
        value = argv[++*at];
    else if (option->value)
        return zs_fail(err, ZS_USAGE, "--%s needs a value: --%s %s", option->name, option->name,
                       option->value);
    if (own >= 0)
        line->values[own] = value;
    else if (strcmp(option->name, "set") == 0)
        line->overrides[line->num_overrides++] = value;
    else if (strcmp(option->name, "log-level") == 0)
        line->log_level = value;
    else if (strcmp(option->name, "show-config") == 0)
        line->show_config = true;
    return ZS_OK;
}

static zs_status parse(command_line *line, int argc, char **argv, zs_error *err) {
    if (argc < 2) return zs_fail(err, ZS_USAGE, "a command is expected: see zerosearch --help");
    line->command = find_command(argv[1]);
    if (!line->command)
        return zs_fail(err, ZS_USAGE, "unknown command '%.200s': see zerosearch --help", argv[1]);
    while (line->command->options && line->command->options[line->num_options].name)
        line->num_options++;
    line->values = ZS_NEW(const char *, line->num_options);
    line->overrides = ZS_NEW(const char *, argc);
    zs_status status = ZS_OK;
    for (int i = 2; i < argc && status == ZS_OK; i++)
        status = argv[i][0] == '-' && argv[i][1] ? take_option(line, argc, argv, &i, err)
                                                 : take_word(line, argv[i], err);
    return status;
}

/* The run. */

static zs_status set_log_level(const command_line *line, const zs_config *config, zs_error *err) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    const char *wish = line->log_level ? line->log_level : zs_config_string(config, "log_level");
    for (int i = 0; i < 4; i++) {
        if (strcmp(wish, names[i]) == 0) {
            zs_log_set_level((zs_log_level)i);
            return ZS_OK;
        }
    }
    return zs_fail(err, ZS_USAGE, "--log-level %.100s: one of error, warning, info, debug is expected", wish);
}

/* The binding is judged where all ranks are to compute; doctor shows it beside the cores. */
static void say_start(const zs_command *command, const zs_comm *comm) {
    zs_string text = {0};
    zs_machine_set_threads(comm, &text);
    const char *before = getenv("ZS_CORETYPE_BEFORE");
    if (before && strcmp(before, zs_machine_kernel()) != 0)
        zs_string_printf(&text, " instead of %s (ZS_KEEP_CORETYPE=1 leaves it)", before);
    zs_log(ZS_LOG_INFO, "%s", text.data);
    const char *wish = getenv("ZS_BINDING");
    bool quiet = wish && strcmp(wish, "quiet") == 0, check = !command->alone && command != &zs_command_doctor;
    zs_string_clear(&text);
    if (check && zs_binding_check(comm, &text) && !quiet)
        zs_log(ZS_LOG_WARNING, "%s (ZS_BINDING=quiet: not checked)", text.data);
    zs_string_free(&text);
}

/* ZS_KERNELS forces a lower instruction set, for tests and comparison, or the one that rounds. */
static zs_status choose_kernels(zs_error *err) {
    const char *wish = getenv("ZS_KERNELS");
    if (!wish || !*wish || zs_kernels_use(wish)) return ZS_OK;
    return zs_fail(err, ZS_USAGE,
                   "ZS_KERNELS is %.40s; expected avx512bf16, avx512vnni, avx512, avxvnni, avx2 or plain, as "
                   "far as this processor has them "
                   "(here %s is the best)",
                   wish, zs_kernels_name());
}

static zs_status run_command(const command_line *line, zs_comm *comm, zs_error *err) {
    zs_config *config = NULL;
    zs_status status = zs_config_load(line->config_path, line->overrides, line->num_overrides, &config, err);
    if (status == ZS_OK) zs_presets_apply(config);
    if (status == ZS_OK) status = set_log_level(line, config, err);
    status = zs_comm_agree(comm, &comm->world, status, err);
    if (status == ZS_OK && line->show_config) {
        zs_string text = {0};
        zs_config_dump(config, &text);
        if (comm->world.rank == 0) fputs(text.data, stdout);
        zs_string_free(&text);
    } else if (status == ZS_OK) {
        say_start(line->command, comm);
        comm->deadline = line->command->alone ? 1e18 : zs_config_float(config, "groups.deadline");
        zs_arguments arguments = {.config = config,
                                  .config_path = line->config_path,
                                  .options = line->command->options,
                                  .values = line->values,
                                  .num_options = line->num_options,
                                  .comm = comm,
                                  .build = {ZS_COMMIT, ZS_COMPILER " " __VERSION__ ", " ZS_FLAGS}};
        status = line->command->run(&arguments, err);
    }
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == ZS_OK)
        status = zs_fail(err, ZS_FAILED, "stdout cannot be written: %s", strerror(errno));
    status = zs_comm_agree(comm, &comm->world, status, err);
    zs_config_free(config);
    return status;
}

static bool asks_for_help(int argc, char **argv, const zs_command **command) {
    *command = argc > 1 ? find_command(argv[1]) : NULL;
    if (argc > 1 &&
        (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)) {
        *command = argc > 2 ? find_command(argv[2]) : NULL;
        return true;
    }
    for (int i = 2; *command && i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    const zs_command *helped;
    if (argc == 2 && strcmp(argv[1], "--measure-sgemm") == 0)
        return zs_machine_measure_main(); /* a child of doctor: see machine.h */
    if (argc == 2 && strcmp(argv[1], "--blas-kernel") == 0)
        return is_first_process() && zs_machine_kernel_main();
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return is_first_process() && printf("zerosearch %s\n", VERSION) < 0;
    if (asks_for_help(argc, argv, &helped)) return is_first_process() ? print_help(helped) : 0;

    zs_machine_choose_kernel(argv);
    zs_error err = {0};
    zs_comm comm;
    zs_status status = zs_comm_start(&argc, &argv, &comm, &err);
    if (status != ZS_OK) {
        fprintf(stderr, "zerosearch: %s\n", err.text);
        return status;
    }
    command_line line = {0};
    status = parse(&line, argc, argv, &err);
    if (status == ZS_OK) status = choose_kernels(&err);
    status = zs_comm_agree(&comm, &comm.world, status, &err);
    if (status == ZS_OK) status = run_command(&line, &comm, &err);
    if (status != ZS_OK && comm.world.rank == 0 && err.text[0]) zs_log(ZS_LOG_ERROR, "%s", err.text);
    zs_free(line.values);
    zs_free(line.overrides);
    zs_comm_finish(&comm);
    return status;
}
