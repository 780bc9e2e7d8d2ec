/* `train`: the RL run. one_step is DESIGN.md's list: rollout (search exchange, reward and trajectory stream
 * inside), update, weights; train_steps records it. */
#include "train.h"

#include "zerosearch/command.h"
#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/presets.h"
#include "zerosearch/trace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEAST_SEARCHES = 8 }; /* of a step, all failed, that end the run: fewer may be bad luck */
enum { MOST_SKIPPED = 3 };   /* updates in a row whose gradient is not finite */

/* The questions of a round of a step: the next num_questions of a shuffled endless sequence of epochs, which
 * is another for each round and after each rollback. A function of these numbers and the seed alone, so that
 * a resumed run goes on in the same order. */
static void pick_questions(zs_trainer *t, int64_t step, int64_t round, int64_t n, int64_t *picked) {
    enum { MOST_ROUNDS = 1001 };
    int64_t draw = 1 + round + MOST_ROUNDS * t->rollbacks;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = step * n + i, epoch = at / t->questions.count;
        if (!t->order || t->order_key[0] != epoch || t->order_key[1] != draw) {
            if (!t->order) t->order = ZS_NEW(int64_t, t->questions.count);
            for (int64_t k = 0; k < t->questions.count; k++)
                t->order[k] = k;
            zs_rng rng =
                zs_rng_make((uint64_t)zs_config_int(t->config, "seed"), ZS_STREAM_SHUFFLE, epoch, draw, 0);
            zs_rng_shuffle(&rng, t->order, t->questions.count);
            t->order_key[0] = epoch;
            t->order_key[1] = draw;
        }
        picked[i] = t->order[at % t->questions.count];
    }
}

/* Evaluation during training: the policy as it is, the eval engine on every rollout rank. */

static zs_status evaluate(zs_trainer *t, json_t **out, zs_error *err) {
    zs_phase_begin(ZS_PHASE_EVALUATE);
    int64_t n = t->eval_questions.count;
    int64_t *all = ZS_NEW(int64_t, n);
    for (int64_t i = 0; i < n; i++)
        all[i] = i;
    zs_episodes episodes = {0};
    zs_rollout_task task = {.qa = &t->eval_questions,
                            .questions = all,
                            .num_questions = n,
                            .samples = 1,
                            .step = t->step,
                            .sampling = {zs_config_float(t->config, "eval.temperature"), 0, 1.0},
                            .max_turns = zs_config_int(t->config, "rollout.max_turns")};
    if (t->eval_rollout) zs_rollout_run(t->eval_rollout, t->eval_search.search, &task, &episodes);
    zs_rollout_means means = zs_rollout_summarize(t->comm, &t->comm->world, &episodes);
    zs_episodes_free(&episodes);
    zs_free(all);
    char what[60];
    const char *engine = zs_setup_engine(t->config, "eval.engine", NULL, 0);
    snprintf(what, sizeof what, "eval.engine = %s", engine);
    zs_search_counts counts;
    zs_status status = zs_search_check(t->comm, t->eval_search.search, what, LEAST_SEARCHES, &counts, err);
    zs_phase_end(ZS_PHASE_EVALUATE);
    if (status != ZS_OK) return status;
    *out = json_pack("{s:s,s:I,s:f,s:f,s:f,s:f,s:f,s:f}", "engine", engine, "questions", (json_int_t)n, "em",
                     means.em, "cover_em", means.cover_em, "f1", means.f1, "turns", means.turns, "searches",
                     means.searches, "failed_searches", means.failed_searches);
    return ZS_OK;
}

/* The loop. */

static zs_status save_checkpoint(zs_trainer *t, zs_error *err) {
    zs_status status = zs_comm_agree(t->comm, &t->comm->world, zs_train_write_timers(t, err), err);
    if (status == ZS_OK) status = zs_train_save(t, err);
    if (status == ZS_OK) t->saved = t->step;
    zs_timeline_merge(t->comm);
    return status;
}

/* Called between decode steps: episodes and weights under way move on. */
static void move_on(void *trainer) {
    zs_trainer *t = trainer;
    zs_trajectories_poll(t->stream);
    zs_actor_poll(t->actor);
}

void zs_train_play(zs_trainer *t, int64_t step, int64_t round) {
    enum { MOST_STEPS = 100000000 }; /* draws after a rollback are those of other steps */
    const zs_config *config = t->config;
    int64_t num_questions = zs_config_int(config, "rollout.questions");
    int64_t *picked = ZS_NEW(int64_t, num_questions);
    pick_questions(t, step, round, num_questions, picked);
    zs_rollout_task task = {.qa = &t->questions,
                            .questions = picked,
                            .num_questions = num_questions,
                            .first_place = round * num_questions,
                            .samples = zs_config_int(config, "rollout.samples"),
                            .step = step + t->rollbacks * MOST_STEPS,
                            .noise = zs_curriculum_noise(&t->curriculum, step, t->total),
                            .sampling = {zs_config_float(config, "rollout.temperature"),
                                         zs_config_int(config, "rollout.top_k"),
                                         zs_config_float(config, "rollout.top_p")},
                            .max_turns = zs_config_int(config, "rollout.max_turns"),
                            .stream = t->stream,
                            .poll = move_on,
                            .poll_context = t};
    if (round == 0) zs_episodes_clear(&t->mine);
    zs_rollout_run(t->rollout, t->search.search, &task, &t->mine);
    if (t->comm->is_rollout) zs_trajectories_end(t->stream);
    zs_free(picked);
}

/* Learners take what is being played, and begin with it; then all know what it came to. Fails when the search
 * service has ceased to answer. */
static zs_status take(zs_trainer *t, int64_t step, zs_episodes *episodes, zs_played *played, zs_error *err) {
    zs_phase_begin(ZS_PHASE_EXCHANGE);
    bool drawn = zs_config_int(t->config, "rollout.redraws") > 0; /* taken already, as rounds ended */
    if (!drawn) zs_episodes_clear(episodes);
    while (t->learner && !drawn && zs_trajectories_take(t->stream, episodes))
        zs_learner_prepare(t->learner, episodes, false);
    zs_phase_end(ZS_PHASE_EXCHANGE);
    if (t->learner) zs_learner_prepare(t->learner, episodes, true);
    played->noise = zs_curriculum_noise(&t->curriculum, step, t->total);
    played->means = zs_rollout_summarize(t->comm, &t->comm->world, &t->mine);
    char what[100];
    snprintf(what, sizeof what, "search.engine = %s, step %lld",
             zs_setup_engine(t->config, "search.engine", NULL, 0), (long long)step + 1);
    return zs_search_check(t->comm, t->search.search, what, LEAST_SEARCHES, &played->searched, err);
}

/* The episodes of this step: played now, or while the step before was learnt from. */
static zs_status get_episodes(zs_trainer *t, zs_error *err) {
    if (t->has_ahead) {
        zs_episodes taken = t->ahead;
        t->ahead = t->received;
        t->received = taken;
        t->played = t->played_ahead;
        t->has_ahead = false;
        return ZS_OK;
    }
    if (t->lost.status != ZS_OK) {
        *err = t->lost;
        return err->status;
    }
    if (zs_config_int(t->config, "rollout.redraws") > 0)
        zs_train_draw(t, &t->received);
    else
        zs_train_play(t, t->step, 0);
    return take(t, t->step, &t->received, &t->played, err);
}

/* One step; with rollout.staleness the next one is played beside the update. Fails, and leaves the policy as
 * it was, when the search service has ceased to answer. */
static zs_status one_step(zs_trainer *t, zs_step_facts *facts, zs_error *err) {
    if (get_episodes(t, err) != ZS_OK) return err->status;
    zs_curriculum_observe(&t->curriculum, t->played.means.reward);
    bool ahead = zs_config_int(t->config, "rollout.staleness") > 0 && t->step + 1 < t->total;
    if (ahead) {
        zs_actor_expect(t->actor);
        zs_train_play(t, t->step + 1, 0);
    }
    if (t->learner)
        facts->update =
            zs_learner_update(t->learner, &t->received, zs_config_int(t->config, "rollout.questions"));
    zs_test_kill("train", ++t->step);
    zs_actor_refresh(t->actor);
    if (ahead) t->has_ahead = take(t, t->step, &t->ahead, &t->played_ahead, &t->lost) == ZS_OK;
    facts->noise = t->played.noise;
    facts->rollout = t->played.means;
    facts->searched = t->played.searched;
    return ZS_OK;
}

/* The search service has ceased to answer: what was learnt until then is kept. */
static zs_status stop_without_search(zs_trainer *t, zs_error *err) {
    if (t->step > t->saved) {
        zs_error why;
        zs_status status = save_checkpoint(t, &why);
        status = zs_run_settle(&t->run, status, &why);
        if (status != ZS_OK) zs_log(ZS_LOG_WARNING, "%s", why.text);
    }
    if (t->saved > 0)
        zs_log(ZS_LOG_INFO, "a checkpoint of step %lld is in %s: run again with --resume",
               (long long)t->saved, t->run.folder);
    return err->status;
}

/* Step 0 of metrics.jsonl: where the policy starts from. */
static zs_status record_start(zs_trainer *t, zs_error *err) {
    json_t *eval;
    if (evaluate(t, &eval, err) != ZS_OK) return err->status;
    zs_log(ZS_LOG_INFO, "before training: %s em %.3f", json_string_value(json_object_get(eval, "engine")),
           json_number_value(json_object_get(eval, "em")));
    json_t *record = t->run.is_root ? json_pack("{s:i,s:O}", "step", 0, "eval", eval) : NULL;
    zs_status status = zs_run_record(&t->run, t->run.metrics, record, err);
    json_decref(eval);
    return zs_comm_agree(t->comm, &t->comm->world, status, err);
}

static void show_progress(zs_trainer *t, zs_progress *progress, const zs_step_facts *facts) {
    char note[40] = "";
    if (facts->eval)
        snprintf(note, sizeof note, "  %s em %.3f", json_string_value(json_object_get(facts->eval, "engine")),
                 json_number_value(json_object_get(facts->eval, "em")));
    zs_progress_update(progress, t->step, "reward %.3f  noise %.2f  searches %.2f%s  busy: %s",
                       facts->rollout.reward, facts->rollout.noise, facts->rollout.searches, note,
                       facts->busy);
}

/* One bad step is skipped by the optimizer; a run of them means that weights or settings are beyond repair.
 */
static zs_status check_finite(zs_trainer *t, const zs_update_report *update, zs_error *err) {
    t->skipped = isfinite(update->grad_norm) ? 0 : t->skipped + 1;
    if (t->skipped < (t->total < MOST_SKIPPED ? t->total : MOST_SKIPPED)) return ZS_OK;
    return zs_fail(err, ZS_FAILED,
                   "step %lld: the gradient was not finite in %lld steps running: the weights of %s may be "
                   "damaged, or learn.learning_rate is too high",
                   (long long)t->step, (long long)t->skipped, zs_config_string(t->config, "model.policy"));
}

static zs_status train_steps(zs_trainer *t, zs_error *err) {
    int64_t eval_every = zs_config_int(t->config, "eval.every");
    zs_progress progress = zs_progress_start("train", t->total, t->step);
    zs_status status = ZS_OK;
    zs_actor_refresh(t->actor);
    if (t->step == 0 && eval_every > 0 && t->total > 0) status = record_start(t, err);
    while (status == ZS_OK && t->step < t->total) {
        double started = zs_seconds();
        zs_step_facts facts = {0};
        zs_phase_reset();
        zs_log_set_phase("rollout", t->step);
        if (one_step(t, &facts, err) != ZS_OK) {
            status = stop_without_search(t, err);
            break;
        }
        double ended = zs_seconds();
        facts.seconds = ended - started;
        facts.times = zs_phase_sums();
        zs_trace_span("step", NULL, t->step, started, ended);
        bool last = t->step == t->total;
        zs_status evaluated = ZS_OK;
        zs_error lost = {0};
        if (eval_every > 0 && (t->step % eval_every == 0 || last))
            evaluated = evaluate(t, &facts.eval, &lost);
        status = zs_train_record(t, &facts, err);
        if (status == ZS_OK) status = check_finite(t, &facts.update, err);
        show_progress(t, &progress, &facts);
        json_decref(facts.eval);
        bool due = false, stopping = false, guarded = false;
        if (status == ZS_OK) status = zs_train_act(t, facts.alarms, &guarded, err);
        last = t->step == t->total; /* no more, where the guard has gone back */
        if (status == ZS_OK) status = zs_run_end_step(&t->run, t->step, last, &due, &stopping, err);
        if (status == ZS_OK && (due || guarded) && t->saved < t->step) status = save_checkpoint(t, err);
        if (status == ZS_OK && evaluated != ZS_OK) {
            *err = lost;
            status = stop_without_search(t, err);
        }
        if (status == ZS_OK && guarded) status = zs_train_guard_stopped(t, err);
        if (status == ZS_OK && stopping) status = zs_run_stopped(t->step, err);
        if (status == ZS_OK && !last && zs_train_settle(t)) {
            t->redivide = true;
            if (t->saved < t->step) status = save_checkpoint(t, err);
            break;
        }
    }
    zs_progress_end(&progress);
    return zs_run_settle(&t->run, status, err);
}

/* Before and after. */

/* The KL reference: a folder of its own, or the policy as it starts. */
static zs_status load_reference(zs_trainer *t, zs_error *err) {
    const char *key = *zs_config_string(t->config, "model.reference") ? "model.reference" : "model.policy";
    zs_status status = zs_setup_frozen(t->comm, &t->comm->learners, t->config, key, "model.reference_dtype",
                                       &t->reference, NULL, err);
    if (status == ZS_OK && t->reference.model->num_params != t->policy->num_params)
        status = zs_config_fail(t->config, key, err, "%s has another shape than model.policy",
                                zs_config_string(t->config, key));
    return status;
}

static zs_status load_questions(zs_trainer *t, zs_error *err) {
    zs_status status = zs_setup_questions(t->config, "data.train", 0, &t->questions, err);
    if (status == ZS_OK && zs_config_int(t->config, "eval.every") > 0)
        status = zs_setup_questions(t->config, "data.eval", zs_config_int(t->config, "eval.questions"),
                                    &t->eval_questions, err);
    return zs_comm_agree(t->comm, &t->comm->world, status, err);
}

bool zs_train_has_values(const zs_trainer *t) {
    return strcmp(zs_config_string(t->config, "learn.advantage"), "gae") == 0;
}

/* Learners read the policy, its reference and the value model; rollouts that do not learn wait for it. */
static zs_status load_policy(zs_trainer *t, zs_error *err) {
    zs_comm *comm = t->comm;
    zs_status status = ZS_OK;
    if (comm->is_learner)
        status =
            zs_setup_model(comm, &comm->learners, t->config, "model.policy", &t->policy, &t->tokenizer, err);
    else if (comm->is_rollout)
        status = zs_setup_empty(t->config, "model.policy", zs_actor_dtype(comm, t->config), &t->policy,
                                &t->tokenizer, err);
    if (status == ZS_OK && comm->is_learner && zs_config_float(t->config, "learn.kl_coef") > 0.0)
        status = load_reference(t, err);
    if (status == ZS_OK && comm->is_learner && zs_train_has_values(t))
        status = zs_setup_values(comm, &comm->learners, t->config, t->policy, &t->values, err);
    if (status == ZS_OK)
        status = zs_setup_chat(t->config, "model.policy", t->tokenizer, t->policy, &t->chat, err);
    return zs_comm_agree(comm, &comm->world, status, err);
}

static zs_status load(zs_trainer *t, zs_error *err) {
    const zs_config *config = t->config;
    zs_comm *comm = t->comm;
    zs_status status = load_questions(t, err);
    if (status == ZS_OK) status = load_policy(t, err);
    if (status != ZS_OK) return status;
    status = zs_setup_search(comm, config, zs_setup_engine(config, "search.engine", NULL, 0),
                             comm->is_simulator, &t->search, err);
    if (status != ZS_OK || zs_config_int(config, "eval.every") == 0) return status;
    const char *engine = zs_setup_engine(config, "eval.engine", NULL, 0);
    if (zs_search_is_simulated(engine))
        return zs_config_fail(config, "eval.engine", err,
                              "evaluation while training needs an engine without simulator ranks");
    return zs_setup_search(comm, config, engine, comm->is_rollout, &t->eval_search, err);
}

/* Self-search, in training and in its evaluations: on every rollout, over the weights that it plays. */
static zs_status setup_self(zs_trainer *t, const zs_model *played, zs_error *err) {
    zs_status status = ZS_OK;
    if (zs_search_is_self(zs_setup_engine(t->config, "search.engine", NULL, 0)))
        status = zs_setup_self(t->config, played, t->tokenizer, t->chat, &t->search, err);
    if (status == ZS_OK && zs_config_int(t->config, "eval.every") > 0 &&
        zs_search_is_self(zs_setup_engine(t->config, "eval.engine", NULL, 0)))
        status = zs_setup_self(t->config, played, t->tokenizer, t->chat, &t->eval_search, err);
    return status;
}

static zs_status prepare(zs_trainer *t, zs_error *err) {
    const zs_config *config = t->config;
    zs_comm *comm = t->comm;
    t->actor = zs_actor_create(comm, config, t->policy);
    const zs_model *played = zs_actor_model(t->actor);
    zs_status status = comm->is_rollout ? setup_self(t, played, err) : ZS_OK;
    status = zs_comm_agree(comm, &comm->world, status, err);
    if (status == ZS_OK)
        status = zs_rollout_create(comm, config, played, t->tokenizer, t->chat, false, &t->rollout, err);
    if (status == ZS_OK && t->eval_search.search)
        status = zs_rollout_create(comm, config, played, t->tokenizer, t->chat, true, &t->eval_rollout, err);
    if ((status = zs_comm_agree(comm, &comm->world, status, err)) != ZS_OK) return status;
    t->stream = zs_trajectories_create(comm);
    t->total = zs_config_int(config, "learn.steps");
    if (comm->is_learner) {
        int64_t updates =
            t->total * zs_config_int(config, "learn.epochs") * zs_config_int(config, "learn.minibatches");
        t->optimizer = zs_optimizer_create(comm, t->policy, config, updates);
        t->learner = zs_learner_create(comm, config, t->policy, t->reference.model, t->optimizer,
                                       zs_config_int(config, "rollout.context_tokens"));
        if (t->values) {
            t->value_optimizer = zs_optimizer_create(comm, t->values, config, updates);
            zs_learner_add_values(t->learner, config, t->values, t->value_optimizer);
        }
    }
    if (t->learner && zs_config_float(config, "reward.information_gain") > 0)
        zs_learner_add_answers(t->learner, config, zs_train_answer_ids, t);
    t->run.values = t->value_optimizer;
    zs_curriculum_open(config, &t->curriculum);
    t->guard = zs_guard_make(config);
    status = zs_train_restore(t, err);
    t->saved = t->step;
    if (status == ZS_OK) status = zs_run_open_records(&t->run, t->step > 0 ? t->step + 1 : 0, true, err);
    return status;
}

static zs_status export_policy(zs_trainer *t, zs_error *err) {
    zs_status status = ZS_OK;
    if (zs_config_bool(t->config, "checkpoint.export") && t->comm->is_learner &&
        t->comm->learners.rank == 0) {
        char out[600];
        status = zs_hf_save(zs_path_join(out, sizeof out, t->run.folder, "model"), t->policy, NULL, ZS_F32, 0,
                            zs_config_string(t->config, "model.policy"), err);
    }
    return zs_comm_agree(t->comm, &t->comm->world, status, err);
}

static void release(zs_trainer *t) {
    zs_run_close(&t->run);
    zs_learner_destroy(t->learner);
    zs_optimizer_destroy(t->optimizer);
    zs_optimizer_destroy(t->value_optimizer);
    zs_model_destroy(t->values);
    zs_rollout_destroy(t->rollout);
    zs_rollout_destroy(t->eval_rollout);
    zs_actor_destroy(t->actor);
    zs_trajectories_destroy(t->stream);
    zs_setup_search_free(&t->search);
    zs_setup_search_free(&t->eval_search);
    zs_model_destroy(t->policy);
    zs_frozen_free(&t->reference);
    zs_tokenizer_destroy(t->tokenizer);
    zs_chat_free(t->chat);
    zs_qa_free(&t->questions);
    zs_qa_free(&t->eval_questions);
    zs_episodes_free(&t->mine);
    zs_episodes_free(&t->received);
    zs_episodes_free(&t->ahead);
    zs_free(t->order);
    zs_string_free(&t->timers);
}

/* Keeps the run and what it has settled on; the rest is set up anew. */
static zs_status begin_anew(zs_trainer *t, zs_error *err) {
    zs_trainer fresh = {.config = t->config, .comm = t->comm, .measured_steps = -1};
    memcpy(fresh.split, t->split, sizeof fresh.split);
    release(t);
    fresh.run = t->run;
    *t = fresh;
    return zs_train_divide(t, err);
}

static zs_status run_train(const zs_arguments *arguments, zs_error *err) {
    zs_trainer t = {.config = arguments->config, .comm = arguments->comm, .measured_steps = -1};
    zs_status status = zs_presets_check(t.config, err);
    if (status == ZS_OK)
        status =
            zs_setup_groups(t.comm, t.config,
                            zs_search_is_simulated(zs_setup_engine(t.config, "search.engine", NULL, 0)), err);
    if (status == ZS_OK) status = zs_timeline_start(t.comm, zs_arg(arguments, "trace"), err);
    if (status == ZS_OK)
        status = zs_run_open(&t.run, t.config, t.comm, zs_arg(arguments, "resume") != NULL, err);
    if (status == ZS_OK && zs_arg(arguments, "resume")) status = zs_train_divide_as_before(&t, err);
    while (status == ZS_OK) {
        status = load(&t, err);
        if (status == ZS_OK) status = prepare(&t, err);
        zs_run_catch_signals();
        if (status == ZS_OK) status = train_steps(&t, err);
        if (status != ZS_OK || !t.redivide) break;
        status = begin_anew(&t, err);
    }
    if (status == ZS_OK) status = export_policy(&t, err);
    if (status == ZS_OK) zs_log(ZS_LOG_INFO, "done: the trained policy is in %s/model", t.run.folder);
    zs_timeline_finish(t.comm);
    release(&t);
    return status;
}

static const zs_option options[] = {
    {"resume", NULL, "go on from the newest good checkpoint of run.folder"},
    {"trace", "FILE.json", "a timeline of every rank, to be opened in ui.perfetto.dev or chrome://tracing"},
    {NULL, NULL, NULL}};

const zs_command zs_command_train = {
    "train",
    "the RL run: the policy learns to search",
    "  mpirun -n N zerosearch train CONFIG.cfg [--resume]\n"
    "  Leaves metrics.jsonl, episodes.jsonl, checkpoints/ and model/ in run.folder.\n"
    "  metrics.jsonl tells for each step what the ranks of a role did with their time (\"time\": busy, "
    "waiting "
    "for\n"
    "  other ranks, communicating) and what the roles worked (\"work\", seconds times ranks). Where another "
    "split of\n"
    "  the ranks would serve better, the log says so every groups.propose_every steps. --trace FILE shows "
    "each rank's\n"
    "  phases and waits; the file is brought up to date with each checkpoint and at the end.\n"
    "  search.engine http, google or openai asks a service (search.* settings; keys come from the "
    "environment);\n"
    "  when all searches of a step fail the run stops with a checkpoint.\n"
    "  rollout.dtype = \"bf16\": rollouts play the policy rounded to bf16 and take half the broadcast;\n"
    "  \"int8\": quantised, activations too in each product, for half of both again;\n"
    "  rollout.cache_dtype = \"bf16\": they keep keys and values so, in half the memory. Either way the "
    "learner\n"
    "  stays in f32 and weighs each token by its probability there over the recorded one, at most\n"
    "  learn.importance_cap. metrics.jsonl tells how far the two are apart (log_prob_mismatch, _max, _kl), "
    "the mean\n"
    "  weight (importance_weight) and the share that the cap cut (importance_capped).\n",
    options,
    run_train,
    false};
