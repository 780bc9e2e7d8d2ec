/* `collect`: a simulation-tuning set from a policy's searches with a real engine. Trajectories are played (or
 * somebody's own are taken), their searches become pairs of query and documents, each is judged useful or
 * noisy, and a balanced selection is written as prompts and completions for `sft`. */
#include "zerosearch/collect.h"
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/record.h"

#include "collect_play.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct collector {
    zs_comm *comm;
    const zs_config *config;
    char folder[500], trajectories[600];
    const char *judge;
    /* root only: */
    zs_pairs pairs;
    int64_t merged, emptied, contrasted;
    zs_selected selected;
    zs_search_setup simulator; /* templates, tokenizer and chat format of the simulator to be tuned */
} collector;

/* The folder. */

/* Trajectories of other settings must not be mixed with those to come. */
static zs_status check_settings(const zs_config *then, const zs_config *now, zs_error *err) {
    static const char *const numbers[] = {"seed",
                                          "collect.questions",
                                          "collect.samples",
                                          "collect.chunk",
                                          "search.top_k",
                                          "collect.depth",
                                          "search.observation_tokens",
                                          "rollout.max_turns",
                                          "rollout.context_tokens",
                                          "rollout.response_tokens"};
    static const char *const texts[] = {"model.policy", "collect.engine", "rollout.dtype",
                                        "rollout.prompt_template"};
    const char *changed = NULL;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (zs_config_int(then, numbers[i]) != zs_config_int(now, numbers[i])) changed = numbers[i];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(zs_config_string(then, texts[i]), zs_config_string(now, texts[i])) != 0)
            changed = texts[i];
    if (zs_config_float(then, "collect.temperature") != zs_config_float(now, "collect.temperature"))
        changed = "collect.temperature";
    int files = zs_config_count(now, "data.train");
    if (zs_config_count(then, "data.train") != files) changed = "data.train";
    for (int i = 0; i < files && !changed; i++)
        if (strcmp(zs_config_string_at(then, "data.train", i), zs_config_string_at(now, "data.train", i)) !=
            0)
            changed = "data.train";
    if (!changed) return ZS_OK;
    return zs_config_fail(now, changed, err,
                          "is not what the trajectories in %s were made with (config.cfg there)",
                          zs_config_string(now, "run.folder"));
}

static zs_status open_folder(collector *c, bool resume, bool play, zs_error *err) {
    const char *folder = zs_config_string(c->config, "run.folder");
    char path[600];
    if (!*folder || strlen(folder) >= sizeof c->folder)
        return zs_config_fail(c->config, "run.folder", err, "a folder for what is collected is needed");
    snprintf(c->folder, sizeof c->folder, "%s", folder);
    zs_path_join(c->trajectories, sizeof c->trajectories, folder, "trajectories.jsonl");
    zs_path_join(path, sizeof path, folder, "config.cfg");
    bool there = play && zs_file_exists(c->trajectories);
    if (c->comm->world.rank > 0) return ZS_OK;
    if (there && !resume && !zs_config_bool(c->config, "run.replace"))
        return zs_config_fail(
            c->config, "run.folder", err,
            "%s holds trajectories already; give --resume to go on with them, run.replace = true "
            "to start anew, or another folder",
            folder);
    if (there && resume) {
        zs_config *then;
        zs_status status = zs_config_load(path, NULL, 0, &then, err);
        if (status != ZS_OK) return status;
        status = check_settings(then, c->config, err);
        zs_config_free(then);
        if (status != ZS_OK) return status;
    }
    zs_string text = {0};
    zs_config_dump(c->config, &text);
    zs_status status = zs_make_folder(folder, err);
    if (status == ZS_OK) status = zs_file_write(path, text.data, text.length, err);
    zs_string_free(&text);
    return status;
}

/* Judging and selecting. */

static zs_status read_pairs(collector *c, const char *from, zs_error *err) {
    zs_status status = zs_pairs_read(from ? from : c->trajectories,
                                     zs_config_string(c->config, "collect.right"), true, &c->pairs, err);
    if (status == ZS_OK && c->pairs.count == 0)
        status = zs_fail(err, ZS_FAILED,
                         "%s: of %" PRId64 " rows with %" PRId64 " searches none brought documents",
                         from ? from : c->trajectories, c->pairs.rows, c->pairs.searches);
    if (status == ZS_OK && strcmp(zs_config_string(c->config, "collect.deduplicate"), "none") != 0)
        c->merged = zs_pairs_merge(&c->pairs);
    return status;
}

static zs_status judge_pairs(collector *c, zs_error *err) {
    if (!strcmp(c->judge, "llm"))
        return zs_judge_llm(c->comm, c->config, c->comm->world.rank == 0 ? &c->pairs : NULL, err);
    if (!strcmp(c->judge, "contains"))
        zs_judge_contains(&c->pairs);
    else
        zs_judge_outcome(&c->pairs);
    return ZS_OK;
}

static void select_pairs(collector *c) {
    zs_selection selection = {.deduplicate =
                                  !strcmp(zs_config_string(c->config, "collect.deduplicate"), "all"),
                              .balance = zs_config_bool(c->config, "collect.balance"),
                              .per_question = zs_config_int(c->config, "collect.per_question"),
                              .held_out = zs_config_float(c->config, "collect.held_out"),
                              .seed = (uint64_t)zs_config_int(c->config, "seed")};
    c->selected = zs_pairs_select(&c->pairs, &selection);
}

/* A noisy pair of which every document holds an answer is no noise: it goes before the selection, which would
 * otherwise be out of balance. */
static void drop_emptied(collector *c, int top_k, int64_t words, bool clean) {
    for (int64_t i = 0; i < c->pairs.count; i++) {
        zs_pair *pair = &c->pairs.items[i];
        zs_string completion = {0};
        if (pair->verdict == ZS_NOISY) zs_pair_completion(pair, top_k, words, clean, &completion);
        if (pair->verdict == ZS_NOISY && completion.length == 0) {
            pair->verdict = ZS_UNDECIDED;
            c->emptied++;
        }
        zs_string_free(&completion);
    }
}

/* Writing. */

/* What the prompts are made with: the templates of simulate_sft, and, where a model is named, the tokenizer
 * and chat format that say which prompts must be cut. */
static zs_status open_simulator(collector *c, zs_simulator_options *out, zs_error *err) {
    const zs_config *config = c->config;
    const char *folder = zs_config_string(config, "model.simulator");
    bool named = *folder != '\0';
    if (!named) folder = zs_config_string(config, "model.policy");
    zs_status status = zs_setup_templates(config, "simulate_sft", &c->simulator, err);
    if (status == ZS_OK && *folder) status = zs_tokenizer_load(folder, &c->simulator.tokenizer, err);
    if (status == ZS_OK && named) {
        zs_model_config shape;
        zs_chat_options chat = {.format = zs_config_string(config, "model.simulator_chat"),
                                .system = zs_config_string(config, "model.simulator_system"),
                                .date = zs_config_string(config, "model.chat_date")};
        status = zs_hf_read_config(folder, &shape, err);
        if (status == ZS_OK)
            status = zs_chat_open(folder, &chat, c->simulator.tokenizer, &shape, &c->simulator.chat, err);
    }
    *out = (zs_simulator_options){.name = "collect",
                                  .tokenizer = c->simulator.tokenizer,
                                  .chat = c->simulator.chat,
                                  .useful_template = c->simulator.useful.data,
                                  .noisy_template = c->simulator.noisy.data,
                                  .top_k = (int)zs_config_int(config, "search.top_k"),
                                  .words = (int)zs_config_int(config, "search.words"),
                                  .max_new_tokens = zs_config_int(config, "search.max_new_tokens"),
                                  .max_length = zs_config_int(config, "search.max_length")};
    if (status == ZS_OK && zs_search_simulator_check(out, err) != ZS_OK)
        status = zs_fail_context(err, "search");
    return status;
}

static zs_status write_file(const collector *c, const char *name, zs_string *text, zs_error *err) {
    char path[600];
    zs_status status = zs_file_write(zs_path_join(path, sizeof path, c->folder, name),
                                     text->data ? text->data : "", text->length, err);
    zs_string_free(text);
    return status;
}

static json_t *answer_list(const zs_pair *pair) {
    json_t *answers = json_array();
    for (int a = 0; a < pair->num_answers; a++)
        json_array_append_new(answers, json_string(pair->answers[a]));
    return answers;
}

/* Every pair with its verdict and where it went. */
static zs_status write_pairs(const collector *c, zs_error *err) {
    static const char *const verdicts[] = {"noisy", "useful", "undecided"};
    static const char *const parts[] = {"", "train", "held_out"};
    zs_string lines = {0};
    for (int64_t i = 0; i < c->pairs.count; i++) {
        const zs_pair *pair = &c->pairs.items[i];
        zs_record_line(&lines,
                       json_pack("{s:s,s:s,s:o,s:s,s:I,s:I,s:I,s:I,s:s,s:b,s:s}", "query", pair->query,
                                 "question", pair->question, "golden_answers", answer_list(pair), "documents",
                                 pair->documents, "turn", (json_int_t)pair->turn, "copies",
                                 (json_int_t)pair->copies, "outcomes", (json_int_t)pair->outcomes,
                                 "ended_right", (json_int_t)pair->right, "verdict", verdicts[pair->verdict],
                                 "contrast", pair->contrast_of >= 0, "part", parts[pair->part]));
    }
    return write_file(c, "pairs.jsonl", &lines, err);
}

/* train.jsonl, held_out.jsonl, and the held-out examples' queries for `eval --simulator`, that of a useful
 * one and its contrast once. */
static zs_status write_examples(collector *c, const zs_simulator_options *options, int64_t words, bool clean,
                                zs_error *err) {
    zs_string lines[3] = {{0}, {0}, {0}}, queries = {0}, prompt = {0};
    zs_ids ids = {0};
    zs_status status = ZS_OK;
    for (int64_t i = 0; i < c->pairs.count && status == ZS_OK; i++) {
        const zs_pair *pair = &c->pairs.items[i];
        if (pair->part == ZS_PART_NONE) continue;
        zs_string answer = {0}, completion = {0};
        for (int a = 0; a < pair->num_answers; a++)
            zs_string_printf(&answer, "%s%s", a ? " or " : "", pair->answers[a]);
        zs_query query = {.query = pair->query,
                          .question = pair->question,
                          .answer = answer.data ? answer.data : "",
                          .noisy = pair->verdict == ZS_NOISY};
        status = zs_search_simulator_prompt(options, &query, &prompt, &ids, err);
        zs_pair_completion(pair, options->top_k, words, clean, &completion);
        zs_string_puts(&completion, zs_config_string(c->config, "collect.end"));
        if (status == ZS_OK)
            zs_record_line(&lines[pair->part],
                           json_pack("{s:s,s:s}", "prompt", prompt.data, "completion", completion.data));
        bool told = pair->contrast_of >= 0 && c->pairs.items[pair->contrast_of].part == ZS_PART_HELD_OUT;
        if (pair->part == ZS_PART_HELD_OUT && !told)
            zs_record_line(&queries, json_pack("{s:s,s:s,s:o}", "query", pair->query, "question",
                                               pair->question, "golden_answers", answer_list(pair)));
        zs_string_free(&answer);
        zs_string_free(&completion);
    }
    if (status == ZS_OK) status = write_file(c, "train.jsonl", &lines[ZS_PART_TRAIN], err);
    if (status == ZS_OK) status = write_file(c, "held_out.jsonl", &lines[ZS_PART_HELD_OUT], err);
    if (status == ZS_OK) status = write_file(c, "queries.jsonl", &queries, err);
    zs_string_free(&prompt);
    zs_ids_free(&ids);
    return status;
}

/* How the verdicts stand to how the trajectories ended, where that is known. */
static json_t *compare_with_outcome(const zs_pairs *pairs) {
    int64_t counts[2][2] = {{0}}; /* verdict, right */
    for (int64_t i = 0; i < pairs->count; i++) {
        const zs_pair *pair = &pairs->items[i];
        if (pair->verdict == ZS_UNDECIDED) continue;
        counts[pair->verdict][1] += pair->right;
        counts[pair->verdict][0] += pair->outcomes - pair->right;
    }
    return json_pack("{s:I,s:I,s:I,s:I}", "useful_right", (json_int_t)counts[1][1], "useful_wrong",
                     (json_int_t)counts[1][0], "noisy_right", (json_int_t)counts[0][1], "noisy_wrong",
                     (json_int_t)counts[0][0]);
}

static zs_status write_counts(const collector *c, const int64_t judged[3], zs_error *err) {
    const zs_selected *s = &c->selected;
    json_t *counts =
        json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "judge", c->judge, "engine",
                  zs_config_string(c->config, "collect.engine"), "trajectories", (json_int_t)c->pairs.rows,
                  "searches", (json_int_t)c->pairs.searches, "failed", (json_int_t)c->pairs.failed,
                  "without_documents", (json_int_t)c->pairs.empty, "merged", (json_int_t)c->merged, "pairs",
                  (json_int_t)(c->pairs.count - c->contrasted));
    json_object_update_new(
        counts, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "useful", (json_int_t)judged[ZS_USEFUL],
                          "noisy", (json_int_t)judged[ZS_NOISY], "undecided",
                          (json_int_t)judged[ZS_UNDECIDED], "noisy_with_answer_only", (json_int_t)c->emptied,
                          "contrast", (json_int_t)c->contrasted, "duplicates", (json_int_t)s->duplicates,
                          "over_per_question", (json_int_t)s->over, "unbalanced", (json_int_t)s->unbalanced,
                          "verdict_and_outcome", compare_with_outcome(&c->pairs)));
    static const char *const parts[] = {NULL, "train", "held_out"};
    for (int p = ZS_PART_TRAIN; p <= ZS_PART_HELD_OUT; p++)
        json_object_set_new(counts, parts[p],
                            json_pack("{s:I,s:I,s:I}", "useful", (json_int_t)s->useful[p], "noisy",
                                      (json_int_t)s->noisy[p], "questions", (json_int_t)s->questions[p]));
    char *dump = json_dumps(counts, JSON_INDENT(1));
    zs_string text = {0};
    zs_string_printf(&text, "%s\n", dump);
    free(dump);
    json_decref(counts);
    return write_file(c, "collect.json", &text, err);
}

static void say_counts(const collector *c, const int64_t judged[3]) {
    const zs_selected *s = &c->selected;
    zs_log(ZS_LOG_INFO,
           "%" PRId64 " trajectories, %" PRId64 " searches (%" PRId64 " failed, %" PRId64
           " without documents, %" PRId64 " repeated): %" PRId64 " pairs",
           c->pairs.rows, c->pairs.searches, c->pairs.failed, c->pairs.empty, c->merged,
           c->pairs.count - c->contrasted);
    zs_log(ZS_LOG_INFO,
           "judge %s: %" PRId64 " useful, %" PRId64 " noisy, %" PRId64 " undecided; added %" PRId64
           " noisy ones for contrast; left out %" PRId64 " duplicates, %" PRId64
           " noisy ones that hold the answer throughout, %" PRId64 " over per_question, %" PRId64
           " for balance",
           c->judge, judged[ZS_USEFUL], judged[ZS_NOISY], judged[ZS_UNDECIDED], c->contrasted, s->duplicates,
           c->emptied, s->over, s->unbalanced);
    zs_log(ZS_LOG_INFO,
           "%s: train.jsonl %" PRId64 " examples of %" PRId64 " questions, held_out.jsonl %" PRId64
           " of %" PRId64,
           c->folder, s->useful[1] + s->noisy[1], s->questions[1], s->useful[2] + s->noisy[2],
           s->questions[2]);
}

/* Root, after the judge. */
static zs_status write_all(collector *c, zs_error *err) {
    zs_simulator_options options;
    int64_t words = zs_config_int(c->config, "collect.words"), judged[3] = {0};
    bool clean = zs_config_bool(c->config, "collect.clean");
    zs_status status = open_simulator(c, &options, err);
    if (status != ZS_OK) return status;
    if (words == 0) words = options.words;
    for (int64_t i = 0; i < c->pairs.count; i++)
        judged[c->pairs.items[i].verdict]++;
    drop_emptied(c, options.top_k, words, clean);
    if (zs_config_bool(c->config, "collect.contrast"))
        c->contrasted = zs_pairs_add_contrast(&c->pairs, options.top_k);
    select_pairs(c);
    status = write_pairs(c, err);
    if (status == ZS_OK) status = write_examples(c, &options, words, clean, err);
    if (status == ZS_OK) status = write_counts(c, judged, err);
    if (status == ZS_OK) say_counts(c, judged);
    if (status == ZS_OK && c->selected.useful[1] + c->selected.noisy[1] == 0)
        status = zs_fail(err, ZS_FAILED,
                         "no example is left: the judge %s called %" PRId64 " pairs useful and %" PRId64
                         " noisy (collect.balance = false keeps those of one kind)",
                         c->judge, judged[ZS_USEFUL], judged[ZS_NOISY]);
    return status;
}

static zs_status run_collect(const zs_arguments *arguments, zs_error *err) {
    collector c = {.comm = arguments->comm,
                   .config = arguments->config,
                   .judge = zs_config_string(arguments->config, "collect.judge")};
    const char *from = zs_arg(arguments, "from");
    bool resume = zs_arg(arguments, "resume") != NULL, root = c.comm->world.rank == 0;
    zs_status status = from && resume
                           ? zs_fail(err, ZS_USAGE, "--from and --resume: one of the two is expected")
                           : open_folder(&c, resume, !from, err);
    status = zs_comm_agree(c.comm, &c.comm->world, status, err);
    if (status == ZS_OK && !from) status = zs_collect_play(c.comm, c.config, c.trajectories, resume, err);
    if (status == ZS_OK && root) status = read_pairs(&c, from, err);
    status = zs_comm_agree(c.comm, &c.comm->world, status, err);
    if (status == ZS_OK) status = judge_pairs(&c, err);
    if (status == ZS_OK && root) status = write_all(&c, err);
    status = zs_comm_agree(c.comm, &c.comm->world, status, err);
    zs_pairs_free(&c.pairs);
    zs_setup_search_free(&c.simulator);
    return status;
}

static const zs_option options[] = {
    {"resume", NULL, "go on with the trajectories in run.folder; complete ones are only judged anew"},
    {"from", "FILE.jsonl",
     "trajectories or searches that are there already, in place of playing (see above)"},
    {NULL, NULL, NULL}};

const zs_command zs_command_collect = {
    "collect",
    "simulation-tuning set from a policy's searches with a real engine",
    "  mpirun -n N zerosearch collect CONFIG.cfg --set model.policy=DIR --set data.train=[\"A.jsonl\"]\n"
    "      --set collect.engine=corpus --set data.corpus=FILE.jsonl --set run.folder=DIR2\n"
    "  writes into run.folder: trajectories.jsonl (episodes and what the engine gave), pairs.jsonl (each "
    "search with\n"
    "  its verdict), train.jsonl and held_out.jsonl (prompt and completion, for sft.data), queries.jsonl (of "
    "the\n"
    "  held-out ones, for eval --simulator --queries) and collect.json (counts). Questions are in one part "
    "only.\n"
    "  Prompts are those of the engine simulate_sft under the same settings (search.useful_template, ...).\n"
    "  --from takes trajectories.jsonl or rows {\"query\",\"question\",\"golden_answers\",\"documents\"}, "
    "and perhaps\n"
    "  \"right\" or \"label\", which say how the trajectory ended, and \"further\", documents that were not "
    "shown.\n"
    "  A useful search gives a noisy example for contrast: what else the engine returned, without the "
    "documents that\n"
    "  hold the answer (collect.contrast). Settings: collect.* (--show-config).\n",
    options,
    run_collect,
    false};
