/* `ask`: one question, the trace printed as it grows; by one model, or by two for comparison. */
#include "trace_view.h"

#include "zerosearch/checkpoint.h"
#include "zerosearch/command.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/rollout.h"
#include "zerosearch/setup.h"

#include <stdio.h>
#include <string.h>

enum { MODELS = 2 };

typedef struct asking {
    zs_config *config;
    zs_comm *comm;
    zs_question question;
    char *golden; /* the answers' text, cut at each | */
    double temperature;
    zs_trace_view view;
    int num_models;
    char *models[MODELS]; /* folders or checkpoints */
    zs_episode_info results[MODELS];
} asking;

/* A model with all that it plays with. */
typedef struct player {
    zs_frozen frozen;
    zs_model *loaded; /* from a checkpoint; NULL: frozen.model */
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_search_setup search;
    zs_rollout *rollout;
} player;

static bool is_checkpoint(const char *path) {
    size_t length = strlen(path);
    return length > 3 && strcmp(path + length - 3, ".h5") == 0;
}

/* The weights of a checkpoint, in f32; its tokenizer is that of model.policy. */
static zs_status load_checkpoint(const asking *a, const char *path, player *p, zs_error *err) {
    const char *folder = zs_config_string(a->config, "model.policy");
    zs_checkpoint_model *file;
    zs_status status = zs_checkpoint_open_model(path, &file, err);
    if (status != ZS_OK) return status;
    const zs_model *layout = zs_checkpoint_layout(file);
    p->loaded = zs_model_create(&layout->config);
    status = zs_checkpoint_source(file, 0, layout->num_params, ZS_F32, p->loaded->params, err);
    zs_checkpoint_close_model(file);
    if (status == ZS_OK && !*folder)
        status = zs_config_fail(a->config, "model.policy", err,
                                "the folder with the tokenizer of %s is needed", path);
    if (status == ZS_OK) status = zs_model_check_logits(&p->loaded->config, path, err);
    if (status == ZS_OK) status = zs_tokenizer_load(folder, &p->tokenizer, err);
    if (status == ZS_OK && zs_tokenizer_vocab_size(p->tokenizer) > p->loaded->config.vocab_size)
        status = zs_fail(err, ZS_FAILED,
                         "%s: its vocabulary is smaller than that of the tokenizer of model.policy, %s", path,
                         folder);
    return status;
}

static zs_status load(const asking *a, const char *model, player *p, zs_error *err) {
    char setting[4200];
    snprintf(setting, sizeof setting, "model.policy=%s", model);
    zs_status status = ZS_OK;
    if (is_checkpoint(model)) {
        status = load_checkpoint(a, model, p, err);
    } else {
        status = zs_config_set(a->config, setting, err);
        if (status == ZS_OK)
            status = zs_setup_frozen(a->comm, &a->comm->world, a->config, "model.policy", "rollout.dtype",
                                     &p->frozen, &p->tokenizer, err);
        if (status == ZS_OK) zs_frozen_pack(a->comm, &p->frozen);
    }
    zs_model *policy = p->loaded ? p->loaded : p->frozen.model;
    if (status == ZS_OK)
        status = zs_setup_chat(a->config, "model.policy", p->tokenizer, policy, &p->chat, err);
    const char *engine = zs_setup_engine(a->config, "eval.engine", NULL, 0);
    if (status == ZS_OK && zs_search_is_self(engine))
        status = zs_setup_self(a->config, policy, p->tokenizer, p->chat, &p->search, err);
    else if (status == ZS_OK)
        status = zs_setup_search(a->comm, a->config, engine, true, &p->search, err);
    if (status == ZS_OK)
        status = zs_rollout_create(a->comm, a->config, policy, p->tokenizer, p->chat, true, &p->rollout, err);
    return status;
}

static void release(player *p) {
    zs_rollout_destroy(p->rollout);
    zs_setup_search_free(&p->search);
    zs_frozen_free(&p->frozen);
    zs_model_destroy(p->loaded);
    zs_tokenizer_destroy(p->tokenizer);
    zs_chat_free(p->chat);
}

/* One model's episode, printed as it grows. */
static zs_status play(asking *a, int index, zs_error *err) {
    player p = {0};
    zs_status status = load(a, a->models[index], &p, err);
    if (status == ZS_OK) {
        if (a->num_models > 1) printf("%s--- %s\n", index ? "\n" : "", a->models[index]);
        zs_qa qa = {&a->question, 1};
        int64_t first = 0;
        zs_rollout_task task = {.qa = &qa,
                                .questions = &first,
                                .num_questions = 1,
                                .samples = 1,
                                .step = zs_config_int(a->config, "seed"),
                                .sampling = {a->temperature, 0, 1.0},
                                .max_turns = zs_config_int(a->config, "rollout.max_turns"),
                                .watch = zs_trace_view_put,
                                .watch_context = &a->view};
        zs_episodes episodes = {0};
        zs_rollout_run(p.rollout, p.search.search, &task, &episodes);
        zs_trace_view_end(&a->view);
        printf("\n");
        a->results[index] = episodes.info[0];
        zs_episodes_free(&episodes);
        char what[60];
        snprintf(what, sizeof what, "eval.engine = %s", zs_setup_engine(a->config, "eval.engine", NULL, 0));
        zs_search_counts counts;
        status = zs_search_check(a->comm, p.search.search, what, 1, &counts, err);
    }
    release(&p);
    return status;
}

/* One model: a line in the log, if there is something to score. Two: a table. */
static void tell_scores(const asking *a) {
    const zs_episode_info *r = a->results;
    if (a->num_models == 1) {
        if (a->question.num_answers > 0)
            zs_log(ZS_LOG_INFO, "f1 %.3f, em %.0f, cover-em %.0f, %d searches", r->f1, r->em, r->cover_em,
                   r->searches);
        return;
    }
    bool scored = a->question.num_answers > 0;
    printf("\n%-40s %5s %9s %8s%s\n", "model", "turns", "searches", "answered",
           scored ? "   em cover_em     f1" : "");
    for (int i = 0; i < a->num_models; i++, r++) {
        printf("%-40s %5d %9d %8s", a->models[i], r->turns, r->searches, r->answered ? "yes" : "no");
        if (scored) printf(" %4.0f %8.0f %6.3f", r->em, r->cover_em, r->f1);
        printf("\n");
    }
}

/* "Rush|The Band Rush": the answers that count as right. */
static void split_golden(asking *a, const char *text) {
    a->golden = zs_strdup(text);
    a->question.answers = ZS_NEW(char *, (int64_t)strlen(text) + 1);
    for (char *part = a->golden, *rest; part && *part; part = rest) {
        rest = strchr(part, '|');
        if (rest) *rest++ = '\0';
        if (*part) a->question.answers[a->question.num_answers++] = part;
    }
}

static zs_status read_options(asking *a, const zs_arguments *arguments, zs_error *err) {
    const char *text, *colour = zs_arg_or(arguments, "color", "auto"),
                      *compare = zs_arg(arguments, "compare");
    zs_status status = zs_arg_need(arguments, "question", &text, err);
    if (status == ZS_OK) a->question.question = (char *)text;
    if (status == ZS_OK)
        status = zs_arg_float(arguments, "temperature", zs_config_float(a->config, "eval.temperature"),
                              &a->temperature, err);
    if (status == ZS_OK && strcmp(colour, "auto") && strcmp(colour, "always") && strcmp(colour, "never"))
        status = zs_fail(err, ZS_USAGE, "--color %.100s: auto, always or never is expected", colour);
    if (status == ZS_OK && a->comm->world.size > 1)
        status = zs_fail(err, ZS_USAGE, "ask runs on one rank, but mpirun started %d", a->comm->world.size);
    a->view = (zs_trace_view){.out = stdout,
                              .colours = zs_trace_view_colours(colour, stdout),
                              .prompt = zs_arg(arguments, "prompt") != NULL};
    const char *first = zs_arg_or(arguments, "checkpoint", zs_config_string(a->config, "model.policy"));
    a->models[a->num_models++] = zs_strdup(first); /* settings change when the second is loaded */
    if (compare) a->models[a->num_models++] = zs_strdup(compare);
    split_golden(a, zs_arg_or(arguments, "golden", ""));
    return status;
}

static zs_status run_ask(const zs_arguments *arguments, zs_error *err) {
    asking a = {.config = arguments->config, .comm = arguments->comm, .question.id = ""};
    zs_status status = read_options(&a, arguments, err);
    if (status == ZS_OK) status = zs_comm_divide(a.comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, true, err);
    for (int i = 0; status == ZS_OK && i < a.num_models; i++)
        status = play(&a, i, err);
    if (status == ZS_OK) tell_scores(&a);
    zs_free(a.question.answers);
    zs_free(a.golden);
    for (int i = 0; i < a.num_models; i++)
        zs_free(a.models[i]);
    return status;
}

static const zs_option options[] = {
    {"question", "TEXT", "what to ask"},
    {"golden", "TEXT|TEXT", "the true answers, a | between them: given to a simulator, and scored against"},
    {"checkpoint", "FILE.h5", "play its weights, with the tokenizer of model.policy"},
    {"compare", "DIR|FILE.h5", "ask this model or checkpoint too, and show both"},
    {"temperature", "T", "sampling temperature, 0 is greedy (eval.temperature)"},
    {"color", "WHEN", "auto (on a terminal, unless NO_COLOR is set), always or never"},
    {"prompt", NULL, "show the prompt too"},
    {NULL, NULL, NULL}};

const zs_command zs_command_ask = {
    "ask",
    "one question, the trace printed as it grows",
    "  zerosearch ask CONFIG.cfg --question \"Who ...?\" --set model.policy=DIR "
    "--set eval.engine=corpus --set data.corpus=FILE.jsonl\n"
    "  or with a service: --set eval.engine=http --set search.http_url=http://HOST:PORT/retrieve\n"
    "  Two models on one question: --compare DIR or --compare RUN/checkpoints/step-20.h5, with scores by "
    "--golden.\n"
    "  On a terminal thoughts are grey, searches yellow, documents cyan, the answer green, what the program "
    "puts\n"
    "  in is magenta.\n"
    "  The prompt is that of rollout.method in the model's chat format (model.chat, model.system); "
    "eval.engine\n"
    "  answers the searches, which rollout.max_turns and rollout.context_tokens bound. Runs on one rank.\n",
    options,
    run_ask,
    false};
