/* `sft`: supervised tuning of a model on JSON lines; base pre-training, policy warm start and simulator
 * alike. Every rank is a learner. One step: pick the batch, deal it, forward and backward, reduce, update. */
#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/learn.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/run.h"
#include "zerosearch/setup.h"
#include "zerosearch/sft.h"
#include "zerosearch/trace.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

typedef struct tuner {
    const zs_config *config;
    zs_comm *comm;
    zs_run run;
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_model *model;
    zs_optimizer *optimizer;
    zs_workspace *workspace;
    int64_t micro_tokens;
    zs_sft_data data, probe;
    zs_sft_cursor cursor;
    int64_t step, total;
    int64_t *picked, *first, *offsets; /* work, [data.count (+ 1)] */
    int *part;
    int32_t *ids;       /* [micro_tokens] */
    float *coefficient; /* [micro_tokens] */
    float *log_prob;    /* [micro_tokens] */
    uint8_t *mask;      /* [micro_tokens] 1 where the weight is not 0 */
} tuner;

/* Copies examples into the packed micro-batch; weight becomes d loss / d log_prob = -weight / total. */
static zs_batch pack(tuner *t, const zs_sft_data *data, const int64_t *examples, int64_t n,
                     double total_weight) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t begin = data->offsets[examples[i]], length = data->offsets[examples[i] + 1] - begin;
        t->offsets[i] = tokens;
        memcpy(t->ids + tokens, data->ids + begin, (size_t)length * sizeof(int32_t));
        for (int64_t j = 0; j < length; j++) {
            t->coefficient[tokens + j] = (float)(-data->weight[begin + j] / total_weight);
            t->mask[tokens + j] = t->coefficient[tokens + j] != 0.0f;
        }
        tokens += length;
    }
    t->offsets[n] = tokens;
    return (zs_batch){n, tokens, t->offsets, t->ids};
}

/* One update; fills loss (weighted mean over the batch), gradient norm, rate and the batch's tokens. */
static void tune_step(tuner *t, double *loss, double *norm, double *rate, int64_t *tokens) {
    const zs_sft_data *data = &t->data;
    int64_t n = zs_sft_next_batch(data, &t->cursor, zs_config_int(t->config, "sft.batch_tokens"), t->picked);
    int64_t *lengths = ZS_NEW(int64_t, n);
    double total_weight = 0.0;
    *tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        lengths[i] = data->offsets[t->picked[i] + 1] - data->offsets[t->picked[i]];
        *tokens += lengths[i];
        for (int64_t j = data->offsets[t->picked[i]]; j < data->offsets[t->picked[i] + 1]; j++)
            total_weight += data->weight[j];
    }
    total_weight = fmax(total_weight, 1e-8);
    zs_deal(n, lengths, t->comm->learners.size, t->part);
    int64_t mine = 0;
    for (int64_t i = 0; i < n; i++)
        if (t->part[i] == t->comm->learners.rank) {
            t->picked[mine] = t->picked[i];
            lengths[mine++] = lengths[i];
        }
    int64_t batches = zs_pack(mine, lengths, t->micro_tokens, t->first);
    zs_free(lengths);
    *loss = 0.0;
    zs_phase_begin(ZS_PHASE_UPDATE);
    for (int64_t b = 0; b < batches; b++) {
        zs_batch batch = pack(t, data, t->picked + t->first[b], t->first[b + 1] - t->first[b], total_weight);
        zs_model_forward(t->model, t->workspace, &batch);
        zs_model_head_masked(t->model, t->workspace, &batch, 1.0f, t->mask, t->log_prob, NULL, t->coefficient,
                             NULL, NULL, t->optimizer->grads);
        for (int64_t i = 0; i < batch.num_tokens; i++)
            *loss += t->coefficient[i] * t->log_prob[i];
        zs_model_backward(t->model, t->workspace, &batch, t->optimizer->grads,
                          b + 1 == batches ? zs_optimizer_ready : NULL, t->optimizer);
    }
    *norm = zs_optimizer_update(t->optimizer, rate);
    zs_phase_end(ZS_PHASE_UPDATE);
    zs_comm_sum(t->comm, &t->comm->learners, loss, 1, "the loss of the learners");
    t->step++;
}

/* Shares of a step that took `seconds` in which the ranks were busy, waiting and communicating; their mean.
 */
static void mean_shares(const tuner *t, double seconds, double shares[3]) {
    zs_phase_times times = zs_phase_sums();
    double of_rank = fmax(seconds, 1e-9) * t->comm->world.size;
    shares[1] = times.waiting / of_rank;
    shares[2] = times.communicating / of_rank;
    zs_comm_sum(t->comm, &t->comm->world, shares + 1, 2, "the shares of the ranks");
    shares[0] = 1.0 - shares[1] - shares[2];
}

/* Share of probe examples whose fully weighted tokens are all the most likely ones (teacher-forced greedy
 * exactness). */
static double probe_accuracy(tuner *t) {
    const zs_sft_data *probe = &t->probe;
    int64_t vocab = t->model->config.vocab_size;
    double counts[2] = {0.0, 0.0};
    float *logits = ZS_NEW(float, t->micro_tokens *vocab);
    for (int64_t e = t->comm->learners.rank; e < probe->count; e += t->comm->learners.size) {
        zs_batch batch = pack(t, probe, &e, 1, 1.0);
        zs_model_forward(t->model, t->workspace, &batch);
        zs_model_logits(t->model, t->workspace, &batch, logits);
        bool right = true;
        for (int64_t i = 1; i < batch.num_tokens; i++) {
            const float *row = logits + (i - 1) * vocab;
            int64_t best = 0;
            for (int64_t v = 1; v < vocab; v++)
                if (row[v] > row[best]) best = v;
            if (t->coefficient[i] <= -1.0f && best != batch.ids[i]) right = false;
        }
        counts[0] += right;
        counts[1] += 1.0;
    }
    zs_free(logits);
    zs_comm_sum(t->comm, &t->comm->learners, counts, 2, "the probe of the learners");
    return counts[0] / fmax(1.0, counts[1]);
}

static zs_status save_checkpoint(tuner *t, zs_error *err) {
    json_t *cursor = json_pack("{s:I,s:I}", "epoch", (json_int_t)t->cursor.epoch, "position",
                               (json_int_t)t->cursor.position);
    zs_status status = zs_run_checkpoint(&t->run, t->optimizer, t->model, "sft", t->step, cursor, NULL, err);
    zs_timeline_merge(t->comm);
    return status;
}

static zs_status restore(tuner *t, zs_error *err) {
    json_t *state;
    zs_status status = zs_run_restore(&t->run, t->optimizer, t->model, "sft", &t->step, &state, NULL, err);
    if (status == ZS_OK && state) {
        t->cursor.epoch = json_integer_value(json_object_get(state, "epoch"));
        t->cursor.position = json_integer_value(json_object_get(state, "position"));
        json_decref(state);
    }
    return status;
}

static zs_status load(tuner *t, const zs_arguments *arguments, zs_error *err) {
    const zs_config *config = t->config;
    const char *folder = zs_config_string(config, "model.policy");
    if (!*folder)
        return zs_config_fail(config, "model.policy", err, "a model folder to start from is needed");
    int num_paths = zs_config_count(config, "sft.data");
    if (num_paths == 0)
        return zs_config_fail(config, "sft.data", err, "at least one JSON-lines file is needed");
    zs_status status =
        zs_setup_model(t->comm, &t->comm->world, config, "model.policy", &t->model, &t->tokenizer, err);
    if (status == ZS_OK)
        status = zs_setup_chat(config, "model.policy", t->tokenizer, t->model, &t->chat, err);
    if ((status = zs_comm_agree(t->comm, &t->comm->world, status, err)) != ZS_OK) return status;
    zs_sft_format format = {t->tokenizer, &t->model->config, t->chat,
                            zs_config_int(config, "sft.max_length")};
    const char **paths = ZS_NEW(const char *, num_paths);
    for (int i = 0; i < num_paths; i++)
        paths[i] = zs_config_string_at(config, "sft.data", i);
    status = zs_sft_load(t->comm, paths, num_paths, &format, &t->data, err);
    zs_free(paths);
    const char *probe = zs_arg(arguments, "probe");
    if (status == ZS_OK && probe) status = zs_sft_load(t->comm, &probe, 1, &format, &t->probe, err);
    return status;
}

static void allocate(tuner *t) {
    const zs_config *config = t->config;
    t->cursor = (zs_sft_cursor){.seed = (uint64_t)zs_config_int(config, "seed"),
                                .shuffle = zs_config_bool(config, "sft.shuffle")};
    int64_t batch_tokens = zs_config_int(config, "sft.batch_tokens");
    t->total = zs_config_int(config, "sft.steps");
    if (t->total == 0)
        t->total = zs_sft_count_batches(&t->data, t->cursor.seed, t->cursor.shuffle, batch_tokens,
                                        zs_config_int(config, "sft.epochs"));
    int64_t max_length = zs_config_int(config, "sft.max_length");
    int64_t share = 2 * batch_tokens / t->comm->learners.size;
    t->micro_tokens = zs_config_int(config, "learn.micro_tokens");
    if (share < t->micro_tokens) t->micro_tokens = share;
    if (t->micro_tokens < max_length) t->micro_tokens = max_length;
    t->workspace = zs_workspace_create(&t->model->config, t->micro_tokens, true,
                                       zs_config_bool(config, "learn.recompute"));
    int64_t n = t->data.count > t->probe.count ? t->data.count : t->probe.count;
    t->picked = ZS_NEW(int64_t, n);
    t->first = ZS_NEW(int64_t, n + 1);
    t->offsets = ZS_NEW(int64_t, n + 1);
    t->part = ZS_NEW(int, n);
    t->ids = ZS_NEW(int32_t, t->micro_tokens);
    t->coefficient = ZS_NEW(float, t->micro_tokens);
    t->log_prob = ZS_NEW(float, t->micro_tokens);
    t->mask = ZS_NEW(uint8_t, t->micro_tokens);
    t->optimizer = zs_optimizer_create(t->comm, t->model, config, t->total);
    zs_log(ZS_LOG_INFO,
           "%lld examples, %lld tokens (%lld too long and left out); %lld steps of %lld tokens on %d ranks",
           (long long)t->data.count, (long long)t->data.num_tokens, (long long)t->data.dropped,
           (long long)t->total, (long long)batch_tokens, t->comm->world.size);
}

static zs_status tune(tuner *t, int64_t probe_every, zs_error *err) {
    int64_t seen = 0;
    double begin = zs_seconds(), mean_loss = NAN;
    zs_progress progress = zs_progress_start("sft", t->total, t->step);
    zs_status status = ZS_OK;
    while (status == ZS_OK && t->step < t->total) {
        double loss, norm, rate, started = zs_seconds();
        int64_t tokens;
        zs_log_set_phase("update", t->step);
        zs_phase_reset();
        tune_step(t, &loss, &norm, &rate, &tokens);
        double shares[3];
        mean_shares(t, zs_seconds() - started, shares);
        zs_trace_span("step", NULL, t->step, started, zs_seconds());
        zs_test_kill("sft", t->step);
        seen += tokens;
        mean_loss = isnan(mean_loss) ? loss : 0.95 * mean_loss + 0.05 * loss;
        double now = zs_seconds(), accuracy = NAN;
        bool last = t->step == t->total;
        if (t->probe.count && (t->step % probe_every == 0 || last)) accuracy = probe_accuracy(t);
        json_t *record = NULL;
        if (t->run.is_root) {
            record = json_pack("{s:I,s:f,s:f,s:f,s:I,s:f,s:f}", "step", (json_int_t)t->step, "loss", loss,
                               "grad_norm", isfinite(norm) ? norm : -1.0, "learning_rate", rate, "tokens",
                               (json_int_t)tokens, "seconds", now - started, "tokens_trained_per_s",
                               (double)tokens / (now - started));
            json_object_set_new(record, "time",
                                json_pack("{s:f,s:f,s:f}", "busy", shares[0], "waiting", shares[1],
                                          "communicating", shares[2]));
            if (!isnan(accuracy)) json_object_set_new(record, "probe", json_real(accuracy));
        }
        status = zs_run_record(&t->run, t->run.metrics, record, err);
        if (!isnan(accuracy))
            zs_log(ZS_LOG_INFO, "step %lld: loss %.4f, probe %.3f", (long long)t->step, mean_loss, accuracy);
        zs_progress_update(&progress, t->step, "loss %.3f  %.0f tokens/s", mean_loss,
                           (double)seen / (now - begin));
        status = zs_comm_agree(t->comm, &t->comm->world, status, err);
        bool due = false, stopping = false;
        if (status == ZS_OK) status = zs_run_end_step(&t->run, t->step, last, &due, &stopping, err);
        if (status == ZS_OK && due) status = save_checkpoint(t, err);
        if (status == ZS_OK && stopping) status = zs_run_stopped(t->step, err);
    }
    zs_progress_end(&progress);
    return zs_run_settle(&t->run, status, err);
}

static zs_status run_sft(const zs_arguments *arguments, zs_error *err) {
    tuner t = {.config = arguments->config, .comm = arguments->comm};
    int64_t probe_every;
    zs_status status = zs_arg_int(arguments, "probe-every", 100, &probe_every, err);
    if (status == ZS_OK) status = zs_comm_divide(t.comm, ZS_LAYOUT_COLOCATED, 1, 1, 1, 1, false, err);
    if (status == ZS_OK) status = zs_timeline_start(t.comm, zs_arg(arguments, "trace"), err);
    if (status == ZS_OK)
        status = zs_run_open(&t.run, t.config, t.comm, zs_arg(arguments, "resume") != NULL, err);
    if (status == ZS_OK) status = load(&t, arguments, err);
    if (status == ZS_OK) {
        allocate(&t);
        zs_run_catch_signals();
        status = restore(&t, err);
    }
    if (status == ZS_OK) status = zs_run_open_records(&t.run, t.step + 1, false, err);
    if (status == ZS_OK) status = tune(&t, probe_every > 0 ? probe_every : 100, err);
    if (status == ZS_OK && t.run.is_root) {
        char out[600];
        status = zs_hf_save(zs_path_join(out, sizeof out, t.run.folder, "model"), t.model, NULL, ZS_F32, 0,
                            zs_config_string(t.config, "model.policy"), err);
        if (status == ZS_OK) zs_log(ZS_LOG_INFO, "the tuned model is in %s", out);
    }
    status = zs_comm_agree(t.comm, &t.comm->world, status, err);
    zs_timeline_finish(t.comm);
    zs_run_close(&t.run);
    zs_optimizer_destroy(t.optimizer);
    zs_workspace_destroy(t.workspace);
    zs_model_destroy(t.model);
    zs_tokenizer_destroy(t.tokenizer);
    zs_chat_free(t.chat);
    zs_sft_free(&t.data);
    zs_sft_free(&t.probe);
    zs_free(t.cursor.order);
    zs_free(t.picked);
    zs_free(t.first);
    zs_free(t.offsets);
    zs_free(t.part);
    zs_free(t.ids);
    zs_free(t.coefficient);
    zs_free(t.log_prob);
    zs_free(t.mask);
    return status;
}

static const zs_option options[] = {
    {"resume", NULL, "go on from the newest good checkpoint of run.folder"},
    {"probe", "FILE",
     "examples whose fully weighted tokens must all be the most likely ones; the share is logged"},
    {"probe-every", "N", "steps between probes (100)"},
    {"trace", "FILE.json", "a timeline of every rank, to be opened in ui.perfetto.dev or chrome://tracing"},
    {NULL, NULL, NULL}};

const zs_command zs_command_sft = {
    "sft",
    "supervised tuning: base model, policy warm start, simulator",
    "  zerosearch sft CONFIG.cfg --set sft.data=[\"FILE.jsonl\"] --set run.folder=runs/NAME\n"
    "  Lines: {\"prompt\",\"completion\"} (loss on the completion), {\"text\"}, or "
    "{\"segments\":[{\"text\",\"weight\"}]}.\n"
    "  Starts from the folder model.policy; leaves the tuned model in run.folder/model.\n",
    options,
    run_sft,
    false};
