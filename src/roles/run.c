/* The run folder: what `train` and `sft` leave on disk, and how they end early and go on. */
#include "zerosearch/run.h"
#include "zerosearch/checkpoint.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/record.h"
#include "zerosearch/table.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stop_wanted;

static void on_signal(int number) {
    (void)number;
    stop_wanted = 1;
}

void zs_run_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

zs_status zs_run_stopped(int64_t step, zs_error *err) {
    return zs_fail(err, ZS_STOPPED, "stopped by a signal after step %lld; run again with --resume",
                   (long long)step);
}

zs_status zs_run_open(zs_run *run, const zs_config *config, zs_comm *comm, bool resume, zs_error *err) {
    *run = (zs_run){.config = config, .comm = comm, .is_root = comm->world.rank == 0};
    const char *folder = zs_config_string(config, "run.folder");
    zs_status status = ZS_OK;
    if (!*folder)
        status = zs_config_fail(config, "run.folder", err, "a folder for this run is needed");
    else if (strlen(folder) >= sizeof run->folder)
        status = zs_config_fail(config, "run.folder", err, "the path is longer than %zu bytes",
                                sizeof run->folder - 1);
    if (status == ZS_OK) {
        snprintf(run->folder, sizeof run->folder, "%s", folder);
        snprintf(run->checkpoints, sizeof run->checkpoints, "%s/checkpoints", folder);
    }
    if (status == ZS_OK && run->is_root) {
        int64_t step;
        if (!resume && zs_config_bool(config, "run.replace")) zs_checkpoint_prune(run->checkpoints, 0);
        if (!resume && zs_checkpoint_list(run->checkpoints, &step, 1) > 0)
            status = zs_config_fail(config, "run.folder", err,
                                    "%s holds a run at step %lld already; give --resume to go on with it, "
                                    "run.replace = true to start anew, or another folder",
                                    folder, (long long)step);
        if (status == ZS_OK) status = zs_make_folder(run->checkpoints, err);
        if (status == ZS_OK) {
            zs_string text = {0};
            char path[600];
            zs_config_dump(config, &text);
            status = zs_file_write(zs_path_join(path, sizeof path, folder, "config.cfg"), text.data,
                                   text.length, err);
            zs_string_free(&text);
        }
    }
    return zs_comm_agree(comm, &comm->world, status, err);
}

void zs_run_close(zs_run *run) {
    zs_checkpoint_writer_destroy(run->writer);
    run->writer = NULL;
    if (run->metrics) fclose(run->metrics);
    if (run->episodes) fclose(run->episodes);
    run->metrics = run->episodes = NULL;
}

/* Keeps the lines whose "step" is below first_step, then opens the file for appending. */
static zs_status open_record(const char *folder, const char *name, int64_t first_step, FILE **out,
                             zs_error *err) {
    char path[600];
    zs_path_join(path, sizeof path, folder, name);
    if (zs_file_exists(path)) {
        zs_string text = {0}, kept = {0};
        zs_status status = zs_file_read(path, &text, err);
        if (status != ZS_OK) return status;
        for (char *line = text.data; line && *line;) {
            char *end = strchr(line, '\n');
            if (!end) /* a torn last line */
                break;
            json_t *object = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
            if (object && json_integer_value(json_object_get(object, "step")) < first_step)
                zs_string_append(&kept, line, end - line + 1);
            json_decref(object);
            line = end + 1;
        }
        status = zs_file_write(path, kept.data ? kept.data : "", kept.length, err);
        zs_string_free(&text);
        zs_string_free(&kept);
        if (status != ZS_OK) return status;
    }
    *out = fopen(path, "a");
    return *out ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: cannot be written", path);
}

zs_status zs_run_open_records(zs_run *run, int64_t first_step, bool with_episodes, zs_error *err) {
    zs_status status = ZS_OK;
    if (run->is_root) {
        status = open_record(run->folder, "metrics.jsonl", first_step, &run->metrics, err);
        if (status == ZS_OK && with_episodes)
            status = open_record(run->folder, "episodes.jsonl", first_step, &run->episodes, err);
        char timers[600];
        if (status == ZS_OK)
            status = zs_table_cut(zs_path_join(timers, sizeof timers, run->folder, "timers.h5"), "step",
                                  (double)first_step, err);
    }
    return zs_comm_agree(run->comm, &run->comm->world, status, err);
}

zs_status zs_run_record(zs_run *run, FILE *file, json_t *object, zs_error *err) {
    if (!object) return ZS_OK;
    zs_string line = {0};
    zs_record_line(&line, object);
    zs_status status = zs_record_write(line.data, line.length, file, run->folder, err);
    zs_string_free(&line);
    return status;
}

/* A checkpoint's arrays on a learner: the optimizer's three, the value model's, the words of a batch under
 * way. */
enum { MOST_ARRAYS = 7 };
static const char words_name[] = "rollout/words";

/* Words as the floats that checkpoints hold; they are stored and read as they are, bit for bit. */
static void add_words(zs_checkpoint_array *arrays, int *count, zs_piece *piece, int64_t begin, int64_t total,
                      int64_t *words, int64_t num_words) {
    if (total == 0) return;
    *piece = (zs_piece){2 * begin, 2 * num_words, (float *)words};
    arrays[(*count)++] = (zs_checkpoint_array){words_name, 2 * total, num_words > 0, piece};
}

/* The value model's params and moments; *pieces (NULL: no value model) is the caller's to free. */
static void add_values(const zs_run *run, zs_checkpoint_array *arrays, int *count, zs_piece **pieces) {
    static const char *const names[] = {"value/params", "value/m", "value/v"};
    *pieces = NULL;
    if (!run->values) return;
    zs_optimizer_arrays(run->values, arrays + *count, pieces);
    for (int i = 0; i < 3; i++)
        arrays[(*count)++].name = names[i];
}

/* The words of each learner's part, as JSON and summed; *begin: where this learner's starts. */
static json_t *count_words(const zs_comm *comm, int64_t mine, int64_t *begin, int64_t *total) {
    int size = comm->learners.size;
    double *parts = ZS_NEW(double, size);
    parts[comm->learners.rank] = (double)mine;
    zs_comm_sum(comm, &comm->learners, parts, size, "the episodes of the learners");
    json_t *list = json_array();
    *begin = *total = 0;
    for (int i = 0; i < size; i++) {
        json_array_append_new(list, json_integer((json_int_t)parts[i]));
        if (i == comm->learners.rank) *begin = *total;
        *total += (int64_t)parts[i];
    }
    zs_free(parts);
    return list;
}

/* What the next step reads beside arrays, as JSON text to be freed. */
static char *state_text(const zs_run *run, const zs_optimizer *optimizer, const char *kind, int64_t step,
                        json_t *more, json_t *parts) {
    json_t *state = json_pack("{s:s,s:I,s:I}", "kind", kind, "step", (json_int_t)step, "updates",
                              (json_int_t)optimizer->step);
    if (run->values) json_object_set_new(state, "value_updates", json_integer(run->values->step));
    json_object_update(state, more);
    if (parts) json_object_set_new(state, "words", parts);
    zs_string settings = {0};
    zs_config_dump(run->config, &settings);
    json_object_set_new(state, "config", json_string(settings.data));
    zs_string_free(&settings);
    char *text = json_dumps(state, JSON_COMPACT);
    json_decref(state);
    return text;
}

/* Completes the checkpoint under way, if there is one. Collective on world. */
static zs_status end_write(zs_run *run, zs_error *err) {
    if (run->writing == 0) return ZS_OK;
    double started = zs_seconds();
    zs_phase_begin(ZS_PHASE_CHECKPOINT);
    zs_checkpoint_written written = {0};
    zs_status status = ZS_OK;
    if (run->writer) status = zs_checkpoint_finish(run->writer, &written, err);
    status = zs_comm_agree(run->comm, &run->comm->world, status, err);
    zs_phase_end(ZS_PHASE_CHECKPOINT);
    double seconds = zs_seconds() - started;
    run->stall += seconds;
    run->checkpoint_seconds += seconds;
    if (status == ZS_OK && run->is_root) /* while learners wait below: the next one's file is not there yet */
        zs_checkpoint_prune(run->checkpoints, (int)zs_config_int(run->config, "checkpoint.keep"));
    double numbers[3] = {written.bytes, written.seconds, run->stall};
    zs_comm_max(run->comm, &run->comm->world, numbers, 3, "the learners' times");
    if (status == ZS_OK && run->is_root)
        zs_log(ZS_LOG_INFO,
               "checkpoint of step %lld: %.1f MB in %.2f s, %.2f GB/s; training stood still for %.2f s",
               (long long)run->writing, 1e-6 * numbers[0], numbers[1],
               1e-9 * numbers[0] / fmax(1e-9, numbers[1]), numbers[2]);
    run->writing = 0;
    return status;
}

zs_status zs_run_checkpoint(zs_run *run, zs_optimizer *optimizer, const zs_model *model, const char *kind,
                            int64_t step, json_t *more, const zs_run_words *words, zs_error *err) {
    bool background = zs_config_bool(run->config, "checkpoint.background");
    zs_status status = end_write(run, err);
    double started = zs_seconds();
    zs_phase_begin(ZS_PHASE_CHECKPOINT);
    if (run->comm->is_learner && status == ZS_OK) {
        if (!run->writer)
            run->writer = zs_checkpoint_writer_create(run->comm, &run->comm->learners, background);
        zs_checkpoint_array arrays[MOST_ARRAYS];
        zs_piece *pieces, *values, piece;
        int count = 3;
        int64_t begin, total;
        zs_optimizer_arrays(optimizer, arrays, &pieces);
        add_values(run, arrays, &count, &values);
        json_t *parts = words ? count_words(run->comm, words->count, &begin, &total) : NULL;
        if (words) add_words(arrays, &count, &piece, begin, total, words->words, words->count);
        char path[600], *text = state_text(run, optimizer, kind, step, more, parts);
        zs_checkpoint_path(path, sizeof path, run->checkpoints, step);
        status = zs_checkpoint_begin(run->writer, path, model, arrays, count, text, err);
        zs_free(pieces);
        zs_free(values);
        free(text);
    }
    json_decref(more);
    status = zs_comm_agree(run->comm, &run->comm->world, status, err);
    zs_phase_end(ZS_PHASE_CHECKPOINT);
    run->writing = status == ZS_OK ? step : 0;
    run->stall = zs_seconds() - started;
    run->checkpoint_seconds += run->stall;
    return background ? status : status == ZS_OK ? end_write(run, err) : status;
}

zs_status zs_run_end_step(zs_run *run, int64_t step, bool last, bool *due, bool *stopping, zs_error *err) {
    int64_t every = zs_config_int(run->config, "checkpoint.every");
    double flags[2] = {stop_wanted, run->writer && !zs_checkpoint_poll(run->writer)};
    zs_comm_max(run->comm, &run->comm->world, flags, 2, "the other ranks at the end of a step");
    bool signalled = flags[0] > 0.0;
    *stopping = signalled && !last;
    *due = last || signalled || (every > 0 && step % every == 0);
    return flags[1] > 0.0 ? ZS_OK : end_write(run, err);
}

zs_status zs_run_settle(zs_run *run, zs_status status, zs_error *err) {
    zs_error why = {0};
    zs_status written = end_write(run, &why);
    if (written == ZS_OK) return status;
    if (status != ZS_OK && status != ZS_STOPPED) {
        zs_log(ZS_LOG_WARNING, "%s", why.text);
        return status;
    }
    if (err) *err = why;
    return written;
}

/* Room for the words that a file's state tells of. */
static zs_status make_words(const char *path, zs_run_words *words, zs_error *err) {
    zs_string text = {0};
    zs_model_config config;
    zs_free(words->words);
    zs_free(words->parts);
    *words = (zs_run_words){0};
    zs_status status = zs_checkpoint_inspect(path, &config, &text, err);
    json_t *state = status == ZS_OK ? json_loadb(text.data, (size_t)text.length, 0, NULL) : NULL;
    json_t *parts = json_object_get(state, "words");
    words->num_parts = (int64_t)json_array_size(parts);
    words->parts = ZS_NEW(int64_t, words->num_parts);
    for (int64_t i = 0; i < words->num_parts; i++)
        words->count += words->parts[i] = json_integer_value(json_array_get(parts, (size_t)i));
    words->words = ZS_NEW(int64_t, words->count);
    json_decref(state);
    zs_string_free(&text);
    return status;
}

/* One checkpoint into model, optimizer and words; its state text on learners. */
static zs_status read_checkpoint(zs_run *run, const char *path, zs_optimizer *optimizer,
                                 const zs_model *model, zs_run_words *words, zs_string *state,
                                 zs_error *err) {
    zs_status status = ZS_OK;
    zs_string_clear(state);
    if (run->comm->is_learner) {
        if (words) status = make_words(path, words, err);
        status = zs_comm_agree(run->comm, &run->comm->learners, status, err);
    }
    if (run->comm->is_learner && status == ZS_OK) {
        zs_checkpoint_array arrays[MOST_ARRAYS];
        zs_piece *pieces, *values, piece, whole_values;
        int count = 3;
        zs_optimizer_arrays(optimizer, arrays, &pieces);
        /* every learner needs all parameters, not only the stripe that it writes */
        zs_piece whole = {0, model->num_params, model->params};
        arrays[0].num_pieces = 1;
        arrays[0].pieces = &whole;
        add_values(run, arrays, &count, &values);
        if (values) {
            whole_values = (zs_piece){0, run->values->model->num_params, run->values->model->params};
            arrays[3].num_pieces = 1;
            arrays[3].pieces = &whole_values;
        }
        if (words) add_words(arrays, &count, &piece, 0, words->count, words->words, words->count);
        status = zs_checkpoint_read(run->comm->learners.comm, path, model, arrays, count, state, err);
        zs_free(pieces);
        zs_free(values);
    }
    return zs_comm_agree(run->comm, &run->comm->world, status, err);
}

static const char state_of_run[] = "the state of the run";

static void share_text(zs_run *run, zs_string *text, int owner) {
    const zs_comm *comm = run->comm;
    int64_t length = text->length;
    zs_comm_broadcast_bytes(comm, &comm->world, &length, sizeof length, owner, state_of_run);
    if (comm->world.rank != owner) {
        char *room = ZS_NEW(char, length + 1);
        zs_string_clear(text);
        zs_string_append(text, room, length);
        zs_free(room);
    }
    if (length) zs_comm_broadcast_bytes(comm, &comm->world, text->data, length, owner, state_of_run);
}

/* The state text from the learners to the ranks that are none. */
static void share_state(zs_run *run, zs_string *state) {
    const zs_comm *comm = run->comm;
    double owner = comm->is_learner && comm->learners.rank == 0 ? comm->world.rank : -1.0;
    zs_comm_max(comm, &comm->world, &owner, 1, state_of_run);
    share_text(run, state, (int)owner);
}

typedef struct setting { /* a line of the resolved settings */
    char group[64];
    const char *name, *value;
    int name_length, value_length;
} setting;

/* The next "name = value;" at or after *at, which moves on; comments and braces are passed over. */
static bool next_setting(const char **at, setting *out) {
    while (**at) {
        const char *line = *at, *end = line + strcspn(line, "\n"), *equals = strstr(line, " = ");
        *at = *end ? end + 1 : end;
        line += strspn(line, " ");
        if (line[0] == '#' || line == end) continue;
        if (end[-1] == ':') snprintf(out->group, sizeof out->group, "%.*s.", (int)(end - 1 - line), line);
        if (line[0] == '}') out->group[0] = '\0';
        if (!equals || equals > end) continue;
        out->name = line, out->name_length = (int)(equals - line);
        out->value = equals + 3, out->value_length = (int)(end - 1 - out->value);
        return true;
    }
    return false;
}

static bool same_text(const char *a, int a_length, const char *b, int b_length) {
    return a_length == b_length && memcmp(a, b, (size_t)a_length) == 0;
}

/* Warns of each setting that is not what the checkpoint was written with: some continue another run than they
 * seem to. Settings are found by name, since a checkpoint of another version of the program has others. */
static void tell_changes(zs_run *run, const char *before) {
    zs_string now = {0};
    zs_config_dump(run->config, &now);
    setting is = {0};
    for (const char *at = now.data; before && next_setting(&at, &is);) {
        setting was = {0};
        bool found = false;
        for (const char *then = before; !found && next_setting(&then, &was);)
            found = strcmp(was.group, is.group) == 0 &&
                    same_text(was.name, was.name_length, is.name, is.name_length);
        if (found && !same_text(was.value, was.value_length, is.value, is.value_length))
            zs_log(ZS_LOG_WARNING, "changed since the checkpoint: %s%.*s = %.*s -> %.*s", is.group,
                   is.name_length, is.name, was.value_length, was.value, is.value_length, is.value);
    }
    zs_string_free(&now);
}

zs_status zs_run_restore(zs_run *run, zs_optimizer *optimizer, const zs_model *model, const char *kind,
                         int64_t *step, json_t **state, zs_run_words *words, zs_error *err) {
    enum { MOST = 64 };
    int64_t found[MOST + 1] = {0}; /* the root's list, so that all ranks try the same files */
    if (run->is_root) found[0] = zs_checkpoint_list(run->checkpoints, found + 1, MOST);
    zs_comm_broadcast_bytes(run->comm, &run->comm->world, found, sizeof found, 0, "the list of checkpoints");
    if (words) *words = (zs_run_words){0};
    *step = 0;
    *state = NULL;
    if (found[0] == 0) return ZS_OK;
    zs_string text = {0};
    char path[600];
    zs_status status = ZS_FAILED;
    for (int64_t i = 0; status != ZS_OK && i < found[0]; i++) {
        *step = found[1 + i];
        zs_checkpoint_path(path, sizeof path, run->checkpoints, *step);
        status = read_checkpoint(run, path, optimizer, model, words, &text, err);
        if (status != ZS_OK && i + 1 < found[0])
            zs_log(ZS_LOG_WARNING, "%s; trying the one before", err ? err->text : path);
    }
    if (status != ZS_OK) {
        zs_string_free(&text);
        return zs_fail_context(err, "no good checkpoint in %s", run->checkpoints);
    }
    share_state(run, &text);
    *state = json_loadb(text.data ? text.data : "", (size_t)text.length, 0, NULL);
    zs_string_free(&text);
    const char *found_kind = json_string_value(json_object_get(*state, "kind"));
    if (!found_kind || strcmp(found_kind, kind)) {
        json_decref(*state);
        *state = NULL;
        return zs_fail(err, ZS_FAILED, "%s: not a checkpoint of %s", path, kind);
    }
    if (optimizer) optimizer->step = json_integer_value(json_object_get(*state, "updates"));
    if (run->values) run->values->step = json_integer_value(json_object_get(*state, "value_updates"));
    tell_changes(run, json_string_value(json_object_get(*state, "config")));
    zs_log(ZS_LOG_INFO, "resumed from step %lld", (long long)*step);
    return ZS_OK;
}

void zs_run_peek(zs_run *run, json_t **state) {
    enum { MOST = 64 };
    zs_string text = {0};
    if (run->is_root) {
        int64_t steps[MOST];
        int found = zs_checkpoint_list(run->checkpoints, steps, MOST);
        zs_status status = ZS_FAILED;
        for (int i = 0; i < found && status != ZS_OK; i++) {
            char path[600];
            zs_model_config config;
            zs_error err = {0};
            zs_checkpoint_path(path, sizeof path, run->checkpoints, steps[i]);
            zs_string_clear(&text);
            status = zs_checkpoint_inspect(path, &config, &text, &err); /* zs_run_restore will say why not */
        }
        if (status != ZS_OK) zs_string_clear(&text);
    }
    share_text(run, &text, 0);
    *state = text.length ? json_loadb(text.data, (size_t)text.length, 0, NULL) : NULL;
    zs_string_free(&text);
}
