/* `eval`: EM, cover-EM, F1, turns and searches of a policy on question sets, by one method or several, with
 * any engine, sharded over the ranks. */
#include "zerosearch/command.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/method.h"
#include "zerosearch/record.h"
#include "zerosearch/rollout.h"
#include "zerosearch/setup.h"
#include "zerosearch/table.h"
#include "zerosearch/trace.h"

#include "eval_simulator.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct evaluator {
    const zs_config *config;
    zs_comm *comm;
    const char *engine;
    const char **methods; /* [num_methods] */
    int num_methods;
    int num_sets;
    zs_qa *sets;      /* [num_sets], read before any is evaluated */
    zs_string *names; /* [num_sets] */
    zs_frozen policy;
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_search_setup search;
    zs_rollout *rollout;
    int64_t max_turns, limit, samples;
    double temperature, noise;
    const char *predictions; /* file, NULL: none */
    FILE *predictions_file;  /* root only */
} evaluator;

/* The answers of this rank's episodes as JSON lines, gathered and written by the root. */
static zs_status write_predictions(evaluator *v, const zs_qa *qa, const char *method, const char *set,
                                   const zs_episodes *episodes, zs_error *err) {
    zs_string lines = {0};
    for (int64_t i = 0; i < episodes->count; i++) {
        const zs_episode_info *info = &episodes->info[i];
        const zs_question *question = &qa->questions[info->question_index];
        json_t *text = zs_record_text(v->tokenizer, episodes->ids + episodes->offsets[i],
                                      episodes->offsets[i + 1] - episodes->offsets[i]);
        zs_record_line(&lines, json_pack("{s:s,s:s,s:s,s:s,s:o,s:f,s:f,s:f,s:i,s:i,s:i}", "method", method,
                                         "set", set, "id", question->id, "question", question->question,
                                         "episode", text, "em", info->em, "cover_em", info->cover_em, "f1",
                                         info->f1, "turns", info->turns, "searches", info->searches,
                                         "failed_searches", info->failed_searches));
    }
    zs_status status = zs_record_gather(v->comm, &lines, v->predictions_file, v->predictions, err);
    return zs_comm_agree(v->comm, &v->comm->world, status, err);
}

/* What a file's set is called: its name up to the first dot, with `folders` of its folders before it. */
static void name_set(const char *path, int folders, zs_string *out) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    const char *begin = base;
    for (; folders > 0 && begin > path; folders--)
        for (begin--; begin > path && begin[-1] != '/'; begin--) {
        }
    zs_string_free(out);
    zs_string_puts(out, ""); /* a text even for a file .jsonl */
    zs_utf8_clean(begin, (base - begin) + (int64_t)strcspn(base, "."), out); /* a path may be any bytes */
}

/* Reads and names the sets: a bad file shows before hours are spent on those before it. nq/test.jsonl and
 * hotpotqa/test.jsonl are told apart by their folders. */
static zs_status read_sets(evaluator *v, zs_error *err) {
    zs_status status = ZS_OK;
    v->num_sets = zs_config_count(v->config, "data.eval");
    v->sets = ZS_NEW(zs_qa, v->num_sets);
    v->names = ZS_NEW(zs_string, v->num_sets);
    for (int i = 0; status == ZS_OK && i < v->num_sets; i++) {
        const char *path = zs_config_string_at(v->config, "data.eval", i);
        status = zs_qa_load(path, &v->sets[i], err);
        name_set(path, 0, &v->names[i]);
    }
    bool same = false;
    for (int i = 0; status == ZS_OK && i < v->num_sets; i++)
        for (int j = 0; j < i; j++)
            same |= !strcmp(v->names[i].data, v->names[j].data);
    for (int i = 0; same && i < v->num_sets; i++)
        name_set(zs_config_string_at(v->config, "data.eval", i), 1, &v->names[i]);
    return zs_comm_agree(v->comm, &v->comm->world, status, err);
}

/* One row of the table: a set by a method. */
static json_t *row_of(const evaluator *v, const char *method, const char *set, int64_t n,
                      const zs_rollout_means *m, double seconds) {
    const char *engine = zs_method_needs_engine(method) ? v->engine : "none";
    json_t *row =
        json_pack("{s:s,s:s,s:s,s:I}", "name", set, "method", method, "engine", engine, "n", (json_int_t)n);
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"em", m->em},
                   {"cover_em", m->cover_em},
                   {"f1", m->f1},
                   {"turns", m->turns},
                   {"searches", m->searches},
                   {"failed_searches", m->failed_searches},
                   {"answered", m->answered},
                   {"format_valid", m->format_valid},
                   {"retrieved", m->retrieved},
                   {"response_tokens", m->policy_tokens},
                   {"seconds", seconds}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(row, numbers[i].name, json_real(numbers[i].value));
    return row;
}

static zs_status evaluate_set(evaluator *v, const char *method, int index, json_t *sets, zs_error *err) {
    const zs_qa *qa = &v->sets[index];
    const char *name = v->names[index].data;
    int64_t n = v->limit > 0 && v->limit < qa->count ? v->limit : qa->count;
    int64_t *all = ZS_NEW(int64_t, n);
    for (int64_t i = 0; i < n; i++)
        all[i] = i;
    zs_episodes episodes = {0};
    zs_rollout_task task = {.qa = qa,
                            .questions = all,
                            .num_questions = n,
                            .samples = v->samples,
                            .step = 1 << 20, /* draws of its own, apart from training's */
                            .noise = v->noise,
                            .sampling = {v->temperature, 0, 1.0},
                            .max_turns = v->max_turns};
    double started = zs_seconds();
    zs_phase_begin(ZS_PHASE_EVALUATE);
    zs_rollout_run(v->rollout, v->search.search, &task, &episodes);
    zs_phase_end(ZS_PHASE_EVALUATE);
    zs_trace_span("set", name, -1, started, zs_seconds());
    zs_rollout_means m = zs_rollout_summarize(v->comm, &v->comm->world, &episodes);
    char what[300];
    snprintf(what, sizeof what, "eval.engine = %s, %.200s", v->engine, name);
    zs_search_counts counts;
    zs_status status = zs_search_check(v->comm, v->search.search, what, 1, &counts, err);
    if (status == ZS_OK && v->comm->world.rank == 0) {
        printf("%-24s %-7s %6lld %7.3f %9.3f %7.3f %6.2f %9.2f %8.2f\n", name, method, (long long)n, m.em,
               m.cover_em, m.f1, m.turns, m.searches, m.answered);
        fflush(stdout);
        json_array_append_new(sets, row_of(v, method, name, n, &m, zs_seconds() - started));
    }
    if (status == ZS_OK && v->predictions) status = write_predictions(v, qa, method, name, &episodes, err);
    zs_timeline_merge(v->comm);
    zs_episodes_free(&episodes);
    zs_free(all);
    return status;
}

/* The table as JSON, and beside it as HDF5 (FILE.json and FILE.h5). */
static zs_status write_table(evaluator *v, const char *out, json_t *sets, zs_error *err) {
    json_t *methods = json_array();
    for (int i = 0; i < v->num_methods; i++)
        json_array_append_new(methods, json_string(v->methods[i]));
    json_t *report =
        json_pack("{s:s,s:s,s:o,s:f,s:I,s:O}", "model", zs_config_string(v->config, "model.policy"), "engine",
                  v->max_turns == 0 ? "no search" : v->engine, "methods", methods, "temperature",
                  v->temperature, "max_turns", (json_int_t)v->max_turns, "sets", sets);
    char *text = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(6)), path[1000];
    zs_status status = zs_file_write(out, text, (int64_t)strlen(text), err);
    free(text);
    json_decref(report);
    size_t length = strlen(out);
    if (length > 5 && !strcmp(out + length - 5, ".json")) length -= 5;
    snprintf(path, sizeof path, "%.*s.h5", (int)length, out);
    static const char *const words[] = {"name", "method", "engine"};
    static const char *const names[] = {
        "n",        "em",           "cover_em", "f1", "turns", "searches", "failed_searches",
        "answered", "format_valid", "retrieved"};
    enum { WORDS = sizeof words / sizeof *words, NUMBERS = sizeof names / sizeof *names };
    int64_t rows = (int64_t)json_array_size(sets);
    const char **texts = ZS_NEW(const char *, WORDS *rows);
    double *numbers = ZS_NEW(double, NUMBERS *rows);
    zs_column columns[WORDS + NUMBERS];
    for (int c = 0; c < WORDS; c++)
        columns[c] = (zs_column){words[c], NULL, texts + c * rows};
    for (int c = 0; c < NUMBERS; c++)
        columns[WORDS + c] = (zs_column){names[c], numbers + c * rows, NULL};
    for (int64_t r = 0; r < rows; r++) {
        json_t *set = json_array_get(sets, (size_t)r);
        for (int c = 0; c < WORDS; c++)
            texts[c * rows + r] = json_string_value(json_object_get(set, words[c]));
        for (int c = 0; c < NUMBERS; c++)
            numbers[c * rows + r] = json_number_value(json_object_get(set, names[c]));
    }
    if (status == ZS_OK) {
        remove(path);
        status = zs_table_append(path, columns, WORDS + NUMBERS, rows, err);
    }
    zs_free(texts);
    zs_free(numbers);
    return status;
}

static zs_status evaluate_all(evaluator *v, const char *out, zs_error *err) {
    bool root = v->comm->world.rank == 0;
    json_t *sets = json_array();
    zs_status status = ZS_OK;
    if (root && v->predictions && !(v->predictions_file = fopen(v->predictions, "w")))
        status = zs_fail(err, ZS_FAILED, "%s: cannot be written", v->predictions);
    status = zs_comm_agree(v->comm, &v->comm->world, status, err);
    if (status == ZS_OK && root)
        printf("%-24s %-7s %6s %7s %9s %7s %6s %9s %8s\n", "set", "method", "n", "em", "cover_em", "f1",
               "turns", "searches", "answered");
    zs_progress progress = zs_progress_start("eval", v->num_methods * v->num_sets, 0);
    for (int m = 0; status == ZS_OK && m < v->num_methods; m++) {
        status = zs_rollout_set_method(v->rollout, v->methods[m], err);
        status = zs_comm_agree(v->comm, &v->comm->world, status, err);
        for (int i = 0; status == ZS_OK && i < v->num_sets; i++) {
            status = evaluate_set(v, v->methods[m], i, sets, err);
            if (status == ZS_OK) zs_progress_update(&progress, m * v->num_sets + i + 1, "%s", v->methods[m]);
        }
    }
    zs_progress_end(&progress);
    if (status == ZS_OK && root && out) status = write_table(v, out, sets, err);
    json_decref(sets);
    if (v->predictions_file) fclose(v->predictions_file);
    return zs_comm_agree(v->comm, &v->comm->world, status, err);
}

/* eval.methods, or rollout.method alone. */
static zs_status read_methods(evaluator *v, zs_error *err) {
    int n = zs_config_count(v->config, "eval.methods");
    v->num_methods = n > 0 ? n : 1;
    v->methods = ZS_NEW(const char *, v->num_methods);
    v->methods[0] = zs_config_string(v->config, "rollout.method");
    for (int i = 0; i < n; i++)
        v->methods[i] = zs_config_string_at(v->config, "eval.methods", i);
    for (int i = 0; i < n; i++)
        if (!zs_method_exists(v->methods[i]))
            return zs_config_fail(v->config, "eval.methods", err,
                                  "no method \"%.100s\": search, direct, cot and rag are there",
                                  v->methods[i]);
    v->engine = zs_setup_engine(v->config, "eval.engine", v->methods, v->num_methods);
    return ZS_OK;
}

static zs_status read_options(evaluator *v, const zs_arguments *arguments, zs_error *err) {
    v->limit = zs_config_int(v->config, "eval.questions");
    v->predictions = zs_arg(arguments, "predictions");
    zs_status status = read_methods(v, err);
    if (status == ZS_OK)
        status = zs_arg_int(arguments, "max-turns", zs_config_int(v->config, "rollout.max_turns"),
                            &v->max_turns, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "samples", 1, &v->samples, err);
    if (status == ZS_OK) status = zs_arg_float(arguments, "noise", 0.0, &v->noise, err);
    if (status == ZS_OK)
        status = zs_arg_float(arguments, "temperature", zs_config_float(v->config, "eval.temperature"),
                              &v->temperature, err);
    if (status == ZS_OK && (v->max_turns < 0 || v->samples < 1))
        status = zs_fail(err, ZS_USAGE, "--max-turns must be at least 0 and --samples at least 1");
    if (status == ZS_OK && zs_config_count(v->config, "data.eval") == 0)
        status =
            zs_config_fail(v->config, "data.eval", err, "at least one question set (JSON lines) is needed");
    return status;
}

static zs_status run_eval(const zs_arguments *arguments, zs_error *err) {
    if (zs_arg(arguments, "simulator")) return zs_eval_simulator(arguments, err);
    evaluator v = {.config = arguments->config, .comm = arguments->comm};
    zs_status status = read_options(&v, arguments, err);
    if (status == ZS_OK) status = read_sets(&v, err);
    bool simulated = status == ZS_OK && zs_search_is_simulated(v.engine);
    if (status == ZS_OK && simulated)
        status = zs_setup_groups(v.comm, v.config, true, err);
    else if (status == ZS_OK)
        status = zs_comm_divide(v.comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, false, err);
    status = zs_comm_agree(v.comm, &v.comm->world, status, err);
    if (status == ZS_OK) status = zs_timeline_start(v.comm, zs_arg(arguments, "trace"), err);
    if (status == ZS_OK && v.comm->is_rollout) {
        status = zs_setup_frozen(v.comm, &v.comm->rollouts, v.config, "model.policy", "rollout.dtype",
                                 &v.policy, &v.tokenizer, err);
        if (status == ZS_OK) zs_frozen_pack(v.comm, &v.policy);
    }
    if (status == ZS_OK)
        status = zs_setup_chat(v.config, "model.policy", v.tokenizer, v.policy.model, &v.chat, err);
    status = zs_comm_agree(v.comm, &v.comm->world, status, err);
    if (status == ZS_OK)
        status = zs_setup_search(v.comm, v.config, v.engine, simulated ? v.comm->is_simulator : true,
                                 &v.search, err);
    if (status == ZS_OK) {
        if (zs_search_is_self(v.engine))
            status = zs_setup_self(v.config, v.policy.model, v.tokenizer, v.chat, &v.search, err);
        if (status == ZS_OK)
            status = zs_rollout_create(v.comm, v.config, v.policy.model, v.tokenizer, v.chat, !simulated,
                                       &v.rollout, err);
        status = zs_comm_agree(v.comm, &v.comm->world, status, err);
    }
    if (status == ZS_OK) status = evaluate_all(&v, zs_arg(arguments, "out"), err);
    zs_timeline_finish(v.comm);
    zs_rollout_destroy(v.rollout);
    zs_setup_search_free(&v.search);
    zs_frozen_free(&v.policy);
    zs_tokenizer_destroy(v.tokenizer);
    zs_chat_free(v.chat);
    for (int i = 0; i < v.num_sets; i++) {
        zs_qa_free(&v.sets[i]);
        zs_string_free(&v.names[i]);
    }
    zs_free(v.sets);
    zs_free(v.names);
    zs_free(v.methods);
    return status;
}

static const zs_option options[] = {
    {"out", "FILE.json", "write the table as JSON, and as HDF5 beside it"},
    {"predictions", "FILE.jsonl", "write each episode with its scores"},
    {"temperature", "T", "sampling temperature, 0 is greedy (eval.temperature)"},
    {"samples", "N", "episodes for each question (1)"},
    {"max-turns", "N", "searches allowed to the method search, 0: answer at once (rollout.max_turns)"},
    {"trace", "FILE.json", "a timeline of every rank, to be opened in ui.perfetto.dev or chrome://tracing"},
    {"simulator", NULL,
     "measure the simulator (search.engine, model.simulator) itself, eval.engine beside it"},
    {"queries", "FILE.jsonl",
     "with --simulator: rows {query, question, golden_answers} (data.eval: its questions)"},
    {"noise", "P", "share of noisy documents when the engine is a simulator (0)"},
    {NULL, NULL, NULL}};

const zs_command zs_command_eval = {
    "eval",
    "EM, cover-EM, F1, turns and searches for each question set",
    "  mpirun -n N zerosearch eval CONFIG.cfg --set model.policy=DIR "
    "--set data.eval=[\"A.jsonl\",\"B.jsonl\"] --set eval.engine=corpus\n"
    "  Methods: --set 'eval.methods=[\"direct\",\"cot\",\"rag\",\"search\"]' evaluates each in turn; without "
    "it\n"
    "  rollout.method. An untrained model by \"search\" is the prompt-only search agent.\n"
    "  Engines over HTTP: http (search.http_url), google (key in the environment variable\n"
    "  named by search.google_key_env), openai (search.openai_url, search.openai_model).\n",
    options,
    run_eval,
    false};
