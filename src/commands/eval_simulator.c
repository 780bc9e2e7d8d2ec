/* Every rank asks for its share of the queries; the root has all documents and takes the figures. */
#include "eval_simulator.h"

#include "zerosearch/collect.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/record.h"
#include "zerosearch/rollout.h"
#include "zerosearch/table.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND = (1 << 21) + (1 << 20), SAMPLES = 64 /* the most */ };

typedef struct tester {
    const zs_config *config;
    zs_comm *comm;
    zs_pairs queries; /* on every rank; one for each reply that is wanted: query x samples */
    int64_t samples;
    int top_k;
    zs_search_setup simulator, real;
    const zs_tokenizer *tokenizer; /* counts tokens */
    FILE *replies;                 /* root only, NULL: not wanted */
    const char *replies_path;
    /* of the source being asked, [queries.count], on the rank that asked: */
    char **documents;
    double *valid, *cut;
    double tokens; /* written by the model */
} tester;

/* Queries. */

static zs_status read_questions(tester *t, zs_error *err) {
    zs_qa qa;
    zs_status status = zs_setup_questions(t->config, "data.eval", 0, &qa, err);
    if (status != ZS_OK) return status;
    for (int64_t i = 0; i < qa.count; i++) {
        const zs_question *q = &qa.questions[i];
        zs_pairs_add(&t->queries, q->question, q->question, q->answers, q->num_answers);
    }
    zs_qa_free(&qa);
    return ZS_OK;
}

/* Each query `samples` times; of them at most eval.questions. */
static zs_status read_queries(tester *t, const char *path, zs_error *err) {
    zs_status status = path ? zs_pairs_read(path, "em", false, &t->queries, err) : read_questions(t, err);
    if (status != ZS_OK) return status;
    int64_t limit = zs_config_int(t->config, "eval.questions"), count = t->queries.count;
    if (count == 0) return zs_fail(err, ZS_FAILED, "%s: holds no query", path);
    if (limit > 0 && limit < count) count = limit;
    zs_pairs all = {0};
    for (int64_t i = 0; i < count; i++)
        for (int64_t s = 0; s < t->samples; s++) {
            const zs_pair *q = &t->queries.items[i];
            zs_pairs_add(&all, q->query, q->question, q->answers, q->num_answers);
        }
    zs_pairs_free(&t->queries);
    t->queries = all;
    return ZS_OK;
}

/* Asking. */

static void watch_reply(void *context, int64_t episode, const char *raw, int64_t length, int64_t tokens,
                        bool cut) {
    tester *t = context;
    t->valid[episode] = !cut && zs_documents_valid(raw, length, t->top_k);
    t->cut[episode] = cut;
    t->tokens += (double)tokens;
}

static void submit(const tester *t, zs_search *engine, int64_t i, bool noisy) {
    const zs_pair *pair = &t->queries.items[i];
    zs_string answer = {0};
    for (int a = 0; a < pair->num_answers; a++)
        zs_string_printf(&answer, "%s%s", a ? " or " : "", pair->answers[a]);
    zs_query query = {.episode = i,
                      .step = ROUND,
                      .question_index = i / t->samples,
                      .sample = i % t->samples,
                      .noisy = noisy,
                      .query = pair->query,
                      .question = pair->question,
                      .answer = answer.data ? answer.data : ""};
    engine->submit(engine, &query);
    zs_string_free(&answer);
}

static void ask_share(tester *t, zs_search *engine, bool noisy, bool watched) {
    for (int64_t i = t->comm->world.rank; i < t->queries.count; i += t->comm->world.size)
        submit(t, engine, i, noisy);
    for (bool pending = true; pending;) {
        pending = engine->advance(engine, 64);
        zs_reply reply;
        while (engine->take(engine, &reply)) {
            zs_free(t->documents[reply.episode]);
            t->documents[reply.episode] = reply.documents;
            if (strncmp(reply.documents, "Doc 1: ", 7) != 0) reply.documents[0] = '\0'; /* none were found */
            if (!watched)
                t->valid[reply.episode] =
                    zs_documents_valid(reply.documents, (int64_t)strlen(reply.documents), t->top_k);
        }
        if (pending && engine->wait) engine->wait(engine, 0.05);
    }
}

/* All ranks' documents on the root, in order. Collective on world. */
static void gather_documents(tester *t) {
    const zs_group *world = &t->comm->world;
    zs_string mine = {0};
    for (int64_t i = world->rank; i < t->queries.count; i += world->size)
        zs_string_append(&mine, t->documents[i], (int64_t)strlen(t->documents[i]) + 1);
    char *all;
    int64_t *lengths;
    zs_comm_gather_bytes(t->comm, world, mine.data ? mine.data : "", mine.length, 0, &all, &lengths,
                         "the documents of the other ranks");
    const char *at = all;
    for (int r = 0; all && r < world->size; r++)
        for (int64_t i = r; i < t->queries.count; i += world->size, at += strlen(at) + 1) {
            if (r == 0) continue;
            zs_free(t->documents[i]);
            t->documents[i] = zs_strdup(at);
        }
    zs_string_free(&mine);
    zs_free(all);
    zs_free(lengths);
}

static zs_status write_replies(const tester *t, const char *name, zs_error *err) {
    zs_string lines = {0};
    for (int64_t i = 0; i < t->queries.count; i++) {
        const zs_pair *pair = &t->queries.items[i];
        bool holds = zs_documents_hold(t->documents[i], pair->answers, pair->num_answers);
        zs_record_line(&lines, json_pack("{s:s,s:s,s:s,s:s,s:b,s:b}", "source", name, "query", pair->query,
                                         "question", pair->question, "documents", t->documents[i], "holds",
                                         holds, "valid", t->valid[i] > 0));
    }
    zs_status status = zs_record_write(lines.data, lines.length, t->replies, t->replies_path, err);
    zs_string_free(&lines);
    return status;
}

/* One source asked by all ranks; its figures on the root. Collective on world. */
static zs_status measure(tester *t, zs_search *engine, const char *name, bool noisy, zs_source *out,
                         zs_error *err) {
    const zs_group *world = &t->comm->world;
    int64_t n = t->queries.count;
    bool watched = !strncmp(engine->name, "simulate_", 9);
    t->documents = ZS_NEW(char *, n);
    t->valid = ZS_NEW(double, 2 * n);
    t->cut = t->valid + n;
    t->tokens = 0;
    if (watched) zs_search_simulator_watch(engine, watch_reply, t);
    double started = zs_seconds(), seconds, sums[3] = {0};
    ask_share(t, engine, noisy, watched);
    seconds = zs_seconds() - started;
    zs_comm_max(t->comm, world, &seconds, 1, "the other ranks' documents");
    zs_search_counts counts;
    zs_status status = zs_search_check(t->comm, engine, name, 1, &counts, err);
    if (status == ZS_OK) {
        gather_documents(t);
        for (int64_t i = 0; i < n; i++) /* of this rank's share alone */
            sums[0] += t->valid[i], sums[1] += t->cut[i];
        sums[2] = t->tokens;
        zs_comm_sum(t->comm, world, sums, 3, "the other ranks' figures");
        zs_comm_sum(t->comm, world, t->valid, (int)n, "the other ranks' figures");
    }
    if (status == ZS_OK && world->rank == 0) {
        zs_source_measure(out, &t->queries, t->documents, t->tokenizer);
        out->valid = sums[0] / (double)n;
        out->cut = sums[1] / (double)n;
        out->seconds = seconds;
        double tokens = watched ? sums[2] : out->tokens * out->documents * (double)n;
        out->tokens_per_second = tokens / fmax(1e-9, seconds);
        if (t->replies) status = write_replies(t, name, err);
    }
    for (int64_t i = 0; i < n; i++)
        zs_free(t->documents[i]);
    zs_free(t->documents);
    zs_free(t->valid);
    return zs_comm_agree(t->comm, world, status, err);
}

/* The table. */

static const char *const columns[] = {
    "n",          "holds",      "valid",      "cut",      "documents",  "words",   "tokens",
    "distinct_1", "distinct_2", "distinct_3", "repeated", "duplicates", "seconds", "tokens_per_second"};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void list_figures(const zs_source *s, double out[COLUMNS]) {
    const double values[COLUMNS] = {(double)s->replies, s->holds,
                                    s->valid,           s->cut,
                                    s->documents,       s->words,
                                    s->tokens,          s->distinct[0],
                                    s->distinct[1],     s->distinct[2],
                                    s->repeated,        s->duplicates,
                                    s->seconds,         s->tokens_per_second};
    memcpy(out, values, sizeof values);
}

static void print_head(void) {
    printf("%-28s %6s %6s %6s %6s %5s %6s %7s %6s %6s %6s %8s %10s %9s\n", "source", "n", "holds", "valid",
           "cut", "docs", "words", "tokens", "dist-1", "dist-2", "dist-3", "repeated", "duplicates",
           "tokens/s");
}

static void print_row(const char *name, const zs_source *s) {
    printf("%-28s %6lld %6.3f %6.3f %6.3f %5.2f %6.1f %7.1f %6.3f %6.3f %6.3f %8.3f %10.3f %9.0f\n", name,
           (long long)s->replies, s->holds, s->valid, s->cut, s->documents, s->words, s->tokens,
           s->distinct[0], s->distinct[1], s->distinct[2], s->repeated, s->duplicates, s->tokens_per_second);
    fflush(stdout);
}

/* FILE.json, and FILE.h5 beside it. */
static zs_status write_table(const tester *t, const char *out, const char *const *names,
                             const zs_source *rows, int count, zs_error *err) {
    double figures[4][COLUMNS], numbers[COLUMNS][4];
    json_t *sources = json_array();
    for (int r = 0; r < count; r++) {
        json_t *row = json_pack("{s:s}", "name", names[r]);
        list_figures(&rows[r], figures[r]);
        for (int c = 0; c < COLUMNS; c++) {
            numbers[c][r] = figures[r][c];
            json_object_set_new(row, columns[c],
                                c ? json_real(figures[r][c]) : json_integer((json_int_t)figures[r][c]));
        }
        json_array_append_new(sources, row);
    }
    json_t *report =
        json_pack("{s:s,s:I,s:f,s:o}", "simulator", zs_config_string(t->config, "model.simulator"), "top_k",
                  (json_int_t)t->top_k, "temperature", zs_config_float(t->config, "search.temperature"),
                  "sources", sources);
    char *text = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(6)), path[1000];
    zs_status status = zs_file_write(out, text, (int64_t)strlen(text), err);
    free(text);
    json_decref(report);
    size_t length = strlen(out);
    if (length > 5 && !strcmp(out + length - 5, ".json")) length -= 5;
    snprintf(path, sizeof path, "%.*s.h5", (int)length, out);
    zs_column table[1 + COLUMNS] = {{"name", NULL, names}};
    for (int c = 0; c < COLUMNS; c++)
        table[1 + c] = (zs_column){columns[c], numbers[c], NULL};
    if (status == ZS_OK) {
        remove(path);
        status = zs_table_append(path, table, 1 + COLUMNS, count, err);
    }
    return status;
}

static zs_status measure_all(tester *t, const char *out, zs_error *err) {
    static const char *const ways[] = {"useful", "noisy"};
    char names[3][64];
    const char *rows[3] = {names[0], names[1], names[2]};
    zs_source sources[3] = {{0}};
    bool root = t->comm->world.rank == 0;
    int count = 0;
    zs_status status = ZS_OK;
    if (root) print_head();
    for (int noisy = 0; status == ZS_OK && noisy < 2; noisy++, count++) {
        snprintf(names[count], sizeof names[count], "%s, %s", t->simulator.search->name, ways[noisy]);
        status = measure(t, t->simulator.search, names[count], noisy, &sources[count], err);
        if (root && status == ZS_OK) print_row(names[count], &sources[count]);
    }
    if (status == ZS_OK && t->real.search) {
        snprintf(names[count], sizeof names[count], "%s", t->real.search->name);
        status = measure(t, t->real.search, names[count], false, &sources[count], err);
        if (root && status == ZS_OK) print_row(names[count], &sources[count]);
        count++;
    }
    if (root && status == ZS_OK && out) status = write_table(t, out, rows, sources, count, err);
    return zs_comm_agree(t->comm, &t->comm->world, status, err);
}

/* The engine beside it: none where eval.engine is "none", or stands at its default without a corpus. */
static zs_status setup_real(tester *t, zs_error *err) {
    const zs_config *config = t->config;
    const char *engine = zs_config_string(config, "eval.engine");
    bool corpus = *zs_config_string(config, "data.corpus") || *zs_config_string(config, "data.corpus_index");
    if (!strcmp(engine, "none") || (!corpus && !zs_config_is_set(config, "eval.engine"))) return ZS_OK;
    return zs_setup_search(t->comm, config, engine, true, &t->real, err);
}

static zs_status setup(tester *t, const zs_arguments *arguments, zs_error *err) {
    const char *engine = zs_config_string(t->config, "search.engine"), *path = zs_arg(arguments, "queries");
    zs_status status = zs_arg_int(arguments, "samples", 1, &t->samples, err);
    if (status == ZS_OK && (t->samples < 1 || t->samples > SAMPLES))
        status = zs_fail(err, ZS_USAGE, "--samples must be from 1 to %d", SAMPLES);
    if (status == ZS_OK && !zs_search_is_simulated(engine) && strcmp(engine, "openai") != 0)
        status =
            zs_config_fail(t->config, "search.engine", err,
                           "is %s; --simulator measures simulate_sft, simulate_prompt or openai", engine);
    if (status == ZS_OK) status = read_queries(t, path, err);
    status = zs_comm_agree(t->comm, &t->comm->world, status, err);
    if (status == ZS_OK) status = zs_comm_divide(t->comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, true, err);
    if (status == ZS_OK) status = zs_setup_search(t->comm, t->config, engine, true, &t->simulator, err);
    if (status == ZS_OK) status = setup_real(t, err);
    return status;
}

zs_status zs_eval_simulator(const zs_arguments *arguments, zs_error *err) {
    tester t = {.config = arguments->config,
                .comm = arguments->comm,
                .top_k = (int)zs_config_int(arguments->config, "search.top_k"),
                .replies_path = zs_arg(arguments, "predictions")};
    zs_tokenizer *other = NULL;
    zs_status status = setup(&t, arguments, err);
    t.tokenizer = t.simulator.tokenizer;
    if (status == ZS_OK && !t.tokenizer) { /* a simulator behind a server: the policy's tokenizer counts */
        status = zs_tokenizer_load(zs_config_string(t.config, "model.policy"), &other, err);
        if (status != ZS_OK) zs_fail_context(err, "model.policy");
        t.tokenizer = other;
    }
    if (status == ZS_OK && t.comm->world.rank == 0 && t.replies_path &&
        !(t.replies = fopen(t.replies_path, "w")))
        status = zs_fail(err, ZS_FAILED, "%s: cannot be written", t.replies_path);
    status = zs_comm_agree(t.comm, &t.comm->world, status, err);
    if (status == ZS_OK) status = measure_all(&t, zs_arg(arguments, "out"), err);
    if (t.replies) fclose(t.replies);
    zs_tokenizer_destroy(other);
    zs_setup_search_free(&t.simulator);
    zs_setup_search_free(&t.real);
    zs_pairs_free(&t.queries);
    return status;
}
