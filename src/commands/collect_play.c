/* Chunk by chunk: episodes on the rollouts, what the engine gave from a recorder on the ranks that answer,
 * both put together by the root. */
#include "collect_play.h"

#include "zerosearch/collect.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/record.h"
#include "zerosearch/rollout.h"
#include "zerosearch/run.h"
#include "zerosearch/setup.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUND = 1 << 21 }; /* keys of the draws, apart from those of training and evaluation */

typedef struct player {
    zs_comm *comm;
    const zs_config *config;
    const char *engine, *path;
    FILE *file; /* root only */
    zs_qa qa;
    zs_frozen policy;
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_search_setup setup;
    zs_search *recorder; /* NULL on ranks that do not answer queries */
    zs_string searches;  /* JSON lines of what this rank's engine gave in this chunk */
    zs_rollout *rollout;
    int64_t samples, chunk;
    int top_k, depth; /* documents that the policy sees, that the engine is asked for */
} player;

static json_t *clean_text(const char *text) {
    zs_string clean = {0};
    zs_utf8_clean(text, (int64_t)strlen(text), &clean);
    json_t *string = json_stringn(clean.data ? clean.data : "", (size_t)clean.length);
    zs_string_free(&clean);
    return string;
}

/* Keeps what the engine gave, and leaves its first top_k documents to the policy: the others, which begin
 * where the text is cut, as a list. */
static json_t *split_off_further(const player *p, char *documents) {
    char **texts;
    int count = zs_documents_split(documents, &texts);
    int64_t shown = 0; /* bytes */
    json_t *further = json_array();
    for (int i = 0; i < count; i++) {
        if (i >= p->top_k)
            json_array_append_new(further, clean_text(texts[i]));
        else
            shown += snprintf(NULL, 0, "%sDoc %d: ", i ? "\n" : "", i + 1) + (int64_t)strlen(texts[i]);
    }
    if (count > p->top_k) documents[shown] = '\0';
    zs_documents_free(texts, count);
    return further;
}

static void keep_search(void *context, const zs_query *query, const zs_reply *reply) {
    player *p = context;
    json_t *further = split_off_further(p, reply->documents);
    zs_record_line(&p->searches,
                   json_pack("{s:I,s:I,s:I,s:o,s:o,s:o,s:b}", "place", (json_int_t)query->question_index,
                             "sample", (json_int_t)query->sample, "turn", (json_int_t)query->turn, "query",
                             clean_text(query->query), "documents", clean_text(reply->documents), "further",
                             further, "failed", reply->failed));
}

/* Runs of tokens of one kind as {"kind","text"}, without the prompt. */
static json_t *make_spans(const player *p, const zs_episodes *episodes, int64_t e) {
    static const char *const names[] = {[ZS_TOKEN_PROMPT] = "prompt",
                                        [ZS_TOKEN_POLICY] = "policy",
                                        [ZS_TOKEN_DOCUMENT] = "documents",
                                        [ZS_TOKEN_OBSERVATION] = "observation"};
    json_t *spans = json_array();
    int64_t end = episodes->offsets[e + 1];
    for (int64_t begin = episodes->offsets[e], next; begin < end; begin = next) {
        uint8_t kind = episodes->kind[begin];
        for (next = begin + 1; next < end && episodes->kind[next] == kind;)
            next++;
        if (kind == ZS_TOKEN_PROMPT) continue;
        json_array_append_new(spans,
                              json_pack("{s:s,s:o}", "kind", names[kind], "text",
                                        zs_record_text(p->tokenizer, episodes->ids + begin, next - begin)));
    }
    return spans;
}

static void write_episodes(const player *p, const zs_episodes *episodes, zs_string *lines) {
    for (int64_t i = 0; i < episodes->count; i++) {
        const zs_episode_info *info = &episodes->info[i];
        const zs_question *question = &p->qa.questions[info->question_index];
        json_t *answers = json_array();
        for (int a = 0; a < question->num_answers; a++)
            json_array_append_new(answers, json_string(question->answers[a]));
        zs_record_line(lines, json_pack("{s:I,s:s,s:s,s:o,s:I,s:f,s:f,s:f,s:b,s:o,s:[]}", "place",
                                        (json_int_t)info->question, "id", question->id, "question",
                                        question->question, "golden_answers", answers, "sample",
                                        (json_int_t)info->sample, "em", info->em, "cover_em", info->cover_em,
                                        "f1", info->f1, "answered", info->answered, "spans",
                                        make_spans(p, episodes, i), "searches"));
    }
}

/* On root: the lines of all ranks as an array of objects; NULL elsewhere. Frees the lines. */
static json_t *gather(const player *p, zs_string *lines, const char *what) {
    char *all, *at;
    int64_t *lengths, total = 0;
    zs_comm_gather_bytes(p->comm, &p->comm->world, lines->data ? lines->data : "", lines->length, 0, &all,
                         &lengths, what);
    zs_string_free(lines);
    if (!all) return NULL;
    for (int r = 0; r < p->comm->world.size; r++)
        total += lengths[r];
    json_t *array = json_array();
    for (at = all; at < all + total;) {
        char *end = memchr(at, '\n', (size_t)(all + total - at));
        json_t *object = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, NULL);
        ZS_ASSERT(object, "%s: a line that is no JSON", what);
        json_array_append_new(array, object);
        at = end + 1;
    }
    zs_free(all);
    zs_free(lengths);
    return array;
}

static int64_t take_int(json_t *object, const char *key) {
    int64_t value = json_integer_value(json_object_get(object, key));
    json_object_del(object, key);
    return value;
}

static int by_turn(const void *a, const void *b) {
    int64_t i = json_integer_value(json_object_get(*(json_t *const *)a, "turn"));
    int64_t j = json_integer_value(json_object_get(*(json_t *const *)b, "turn"));
    return i < j ? -1 : i > j;
}

/* The searches of one episode in order of their turns. */
static void sort_searches(json_t *trajectory) {
    json_t *searches = json_object_get(trajectory, "searches"), *sorted = json_array();
    size_t n = json_array_size(searches);
    json_t **items = ZS_NEW(json_t *, (int64_t)n);
    for (size_t i = 0; i < n; i++)
        items[i] = json_array_get(searches, i);
    qsort(items, n, sizeof(json_t *), by_turn);
    for (size_t i = 0; i < n; i++)
        json_array_append(sorted, items[i]);
    json_object_set_new(trajectory, "searches", sorted);
    zs_free(items);
}

/* Root: the chunk's trajectories with their searches, in order of (question, sample). */
static zs_status write_chunk(const player *p, int64_t questions, json_t *episodes, json_t *searches,
                             zs_error *err) {
    int64_t count = questions * p->samples;
    json_t **trajectories = ZS_NEW(json_t *, count), *object;
    size_t i;
    json_array_foreach(episodes, i, object) {
        int64_t place = take_int(object, "place");
        int64_t sample = json_integer_value(json_object_get(object, "sample"));
        trajectories[place * p->samples + sample] = object;
    }
    json_array_foreach(searches, i, object) {
        int64_t place = take_int(object, "place"), sample = take_int(object, "sample");
        json_array_append(json_object_get(trajectories[place * p->samples + sample], "searches"), object);
    }
    zs_string lines = {0};
    for (int64_t t = 0; t < count; t++) {
        sort_searches(trajectories[t]);
        zs_record_line(&lines, json_incref(trajectories[t]));
    }
    zs_status status = zs_record_write(lines.data, lines.length, p->file, p->path, err);
    zs_string_free(&lines);
    zs_free(trajectories);
    return status;
}

/* One chunk of questions; counts into totals: episodes, right ones, searches. Collective on world. */
static zs_status play_chunk(player *p, int64_t begin, double totals[3], zs_error *err) {
    int64_t n = p->qa.count - begin < p->chunk ? p->qa.count - begin : p->chunk;
    int64_t *places = ZS_NEW(int64_t, n);
    for (int64_t i = 0; i < n; i++)
        places[i] = begin + i;
    zs_episodes episodes = {0};
    zs_rollout_task task = {.qa = &p->qa,
                            .questions = places,
                            .num_questions = n,
                            .samples = p->samples,
                            .step = ROUND + begin / p->chunk,
                            .sampling = {zs_config_float(p->config, "collect.temperature"), 0, 1.0},
                            .max_turns = zs_config_int(p->config, "rollout.max_turns")};
    zs_rollout_run(p->rollout, p->recorder, &task, &episodes);
    zs_rollout_means means = zs_rollout_summarize(p->comm, &p->comm->world, &episodes);
    totals[0] += means.episodes;
    totals[1] += means.episodes * means.em;
    totals[2] += means.episodes * means.searches;
    zs_string lines = {0};
    write_episodes(p, &episodes, &lines);
    json_t *trajectories = gather(p, &lines, "the trajectories of the other ranks");
    json_t *searches = gather(p, &p->searches, "what the engines of the other ranks gave");
    char what[60];
    snprintf(what, sizeof what, "collect.engine = %s", p->engine);
    zs_search_counts counts;
    zs_status status = zs_search_check(p->comm, p->setup.search, what, 1, &counts, err);
    if (status == ZS_OK && trajectories) status = write_chunk(p, n, trajectories, searches, err);
    json_decref(trajectories);
    json_decref(searches);
    zs_episodes_free(&episodes);
    zs_free(places);
    return zs_comm_agree(p->comm, &p->comm->world, status, err);
}

/* Root: opens the file; *done questions stand in it in whole chunks, and what follows them is cut off. */
static zs_status open_file(player *p, bool resume, int64_t *done, zs_error *err) {
    int64_t lines = 0, length = 0;
    zs_string text = {0};
    if (resume && zs_file_exists(p->path) && zs_file_read(p->path, &text, err) != ZS_OK) return err->status;
    for (const char *at = text.data, *end; at && (end = strchr(at, '\n')); at = end + 1) {
        lines++;
        bool whole = lines == p->qa.count * p->samples || lines % (p->chunk * p->samples) == 0;
        if (!whole) continue;
        *done = lines / p->samples;
        length = end + 1 - text.data;
    }
    zs_string_free(&text);
    if (lines > p->qa.count * p->samples)
        return zs_fail(err, ZS_USAGE,
                       "%s: holds %" PRId64 " trajectories, more than the %" PRId64 " that are wanted",
                       p->path, lines, p->qa.count * p->samples);
    p->file = fopen(p->path, length ? "r+" : "w");
    if (!p->file || ftruncate(fileno(p->file), length) != 0 || fseek(p->file, 0, SEEK_END) != 0)
        return zs_fail(err, ZS_FAILED, "%s: cannot be written", p->path);
    return ZS_OK;
}

static zs_status play_all(player *p, int64_t done, zs_error *err) {
    zs_run run = {.config = p->config, .comm = p->comm};
    double totals[3] = {0, 0, 0}, started = zs_seconds();
    zs_progress progress = zs_progress_start("collect", p->qa.count, done);
    zs_status status = ZS_OK;
    while (status == ZS_OK && done < p->qa.count) {
        status = play_chunk(p, done, totals, err);
        if (status != ZS_OK) break;
        done = done + p->chunk < p->qa.count ? done + p->chunk : p->qa.count;
        zs_progress_update(&progress, done, "right %.2f, searches %.0f", totals[1] / totals[0], totals[2]);
        bool due, stopping;
        status = zs_run_end_step(&run, 0, done == p->qa.count, &due, &stopping, err);
        zs_test_kill("collect", done);
        if (stopping)
            status =
                zs_fail(err, ZS_STOPPED,
                        "stopped by a signal after %" PRId64 " questions; run again with --resume", done);
    }
    zs_progress_end(&progress);
    if (status == ZS_OK && totals[0] > 0)
        zs_log(ZS_LOG_INFO, "%.0f episodes with %.0f searches of %s in %.1f s, %.3f of them right (em)",
               totals[0], totals[2], p->engine, zs_seconds() - started, totals[1] / totals[0]);
    return status;
}

/* Policy, engine and rollouts, as in `eval`. */
static zs_status load(player *p, zs_error *err) {
    zs_comm *comm = p->comm;
    bool simulated = zs_search_is_simulated(p->engine);
    zs_status status = simulated ? zs_setup_groups(comm, p->config, true, err)
                                 : zs_comm_divide(comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, false, err);
    status = zs_comm_agree(comm, &comm->world, status, err);
    if (status == ZS_OK && comm->is_rollout)
        status = zs_setup_frozen(comm, &comm->rollouts, p->config, "model.policy", "rollout.dtype",
                                 &p->policy, &p->tokenizer, err);
    if (status == ZS_OK)
        status = zs_setup_chat(p->config, "model.policy", p->tokenizer, p->policy.model, &p->chat, err);
    status = zs_comm_agree(comm, &comm->world, status, err);
    if (status == ZS_OK)
        status = zs_setup_deep_search(comm, p->config, p->engine, p->depth,
                                      simulated ? comm->is_simulator : true, &p->setup, err);
    if (status != ZS_OK) return status;
    if (p->setup.search) p->recorder = zs_search_recorder(p->setup.search, keep_search, p);
    status = zs_rollout_create(comm, p->config, p->policy.model, p->tokenizer, p->chat, !simulated,
                               &p->rollout, err);
    return zs_comm_agree(comm, &comm->world, status, err);
}

static void unload(player *p) {
    zs_rollout_destroy(p->rollout);
    if (p->recorder) p->recorder->destroy(p->recorder);
    zs_setup_search_free(&p->setup);
    zs_frozen_free(&p->policy);
    zs_tokenizer_destroy(p->tokenizer);
    zs_chat_free(p->chat);
    zs_qa_free(&p->qa);
    zs_string_free(&p->searches);
    if (p->file) fclose(p->file);
}

zs_status zs_collect_play(zs_comm *comm, const zs_config *config, const char *path, bool resume,
                          zs_error *err) {
    player p = {.comm = comm,
                .config = config,
                .engine = zs_config_string(config, "collect.engine"),
                .path = path,
                .samples = zs_config_int(config, "collect.samples"),
                .chunk = zs_config_int(config, "collect.chunk"),
                .top_k = (int)zs_config_int(config, "search.top_k"),
                .depth = (int)zs_config_int(config, "collect.depth")};
    if (p.depth == 0) p.depth = 3 * p.top_k;
    if (p.depth < p.top_k) p.depth = p.top_k;
    int64_t done = 0;
    zs_run_catch_signals();
    zs_status status =
        zs_setup_questions(config, "data.train", zs_config_int(config, "collect.questions"), &p.qa, err);
    if (status == ZS_OK && comm->world.rank == 0) status = open_file(&p, resume, &done, err);
    status = zs_comm_agree(comm, &comm->world, status, err);
    if (status == ZS_OK) {
        zs_comm_broadcast_bytes(comm, &comm->world, &done, sizeof done, 0, "how far the trajectories are");
        if (done > 0) zs_log(ZS_LOG_INFO, "%s: goes on after %" PRId64 " questions", path, done);
    }
    if (status == ZS_OK && done < p.qa.count) status = load(&p, err);
    if (status == ZS_OK && done < p.qa.count) status = play_all(&p, done, err);
    unload(&p);
    return status;
}
