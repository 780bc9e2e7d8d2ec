/* Loading of models, engines and question sets, with errors that name the key at fault. */
#include "zerosearch/setup.h"
#include "zerosearch/hf.h"
#include "zerosearch/load.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/method.h"
#include "zerosearch/template.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

zs_status zs_setup_groups(zs_comm *comm, const zs_config *config, bool need_simulators, zs_error *err) {
    const char *layout = zs_config_string(config, "groups.layout");
    return zs_comm_divide(comm,
                          !strcmp(layout, "split")  ? ZS_LAYOUT_SPLIT
                          : !strcmp(layout, "auto") ? ZS_LAYOUT_AUTO
                                                    : ZS_LAYOUT_COLOCATED,
                          (int)zs_config_int(config, "groups.simulators"),
                          (int)zs_config_int(config, "groups.rollouts"),
                          (int)zs_config_int(config, "groups.learners"),
                          (int)zs_config_int(config, "groups.pods"), need_simulators, err);
}

bool zs_search_is_simulated(const char *engine) {
    return !strncmp(engine, "simulate_", 9);
}

bool zs_search_is_self(const char *engine) {
    return !strcmp(engine, "self");
}

const char *zs_setup_engine(const zs_config *config, const char *key, const char *const *methods,
                            int num_methods) {
    bool needed = num_methods == 0 && zs_method_needs_engine(zs_config_string(config, "rollout.method"));
    for (int i = 0; i < num_methods; i++)
        needed |= zs_method_needs_engine(methods[i]);
    return needed ? zs_config_string(config, key) : "none";
}

/* The tokenizer of a model that this rank has loaded. Local. */
static zs_status setup_tokenizer(const zs_config *config, const char *key, const zs_model *model,
                                 zs_tokenizer **tokenizer, zs_error *err) {
    const char *folder = zs_config_string(config, key);
    if (zs_tokenizer_load(folder, tokenizer, err) != ZS_OK) return zs_fail_context(err, "%s", key);
    if (zs_tokenizer_vocab_size(*tokenizer) > model->config.vocab_size)
        return zs_fail(
            err, ZS_FAILED, "%s: %s: the tokenizer has %lld entries, but the model's vocabulary only %lld",
            key, folder, (long long)zs_tokenizer_vocab_size(*tokenizer), (long long)model->config.vocab_size);
    return ZS_OK;
}

zs_status zs_setup_model(const zs_comm *comm, const zs_group *group, const zs_config *config, const char *key,
                         zs_model **model, zs_tokenizer **tokenizer, zs_error *err) {
    const char *folder = zs_config_string(config, key);
    if (!*folder) return zs_config_fail(config, key, err, "a model folder is needed");
    zs_status status = zs_load_model(comm, group, folder,
                                     zs_read_named(zs_config_string(config, "model.read")), model, NULL, err);
    if (status != ZS_OK) return zs_fail_context(err, "%s", key);
    if (*model) status = zs_model_check_logits(&(*model)->config, folder, err);
    if (*model && status == ZS_OK) status = setup_tokenizer(config, key, *model, tokenizer, err);
    return zs_comm_agree(comm, group, status, err);
}

zs_status zs_setup_empty(const zs_config *config, const char *key, zs_dtype dtype, zs_model **model,
                         zs_tokenizer **tokenizer, zs_error *err) {
    const char *folder = zs_config_string(config, key);
    if (!*folder) return zs_config_fail(config, key, err, "a model folder is needed");
    zs_model_config shape;
    if (zs_hf_read_config(folder, &shape, err) != ZS_OK) return zs_fail_context(err, "%s", key);
    if (zs_model_check_logits(&shape, folder, err) != ZS_OK) return err->status;
    *model = dtype == ZS_F32 ? zs_model_create(&shape) : zs_model_create_narrow(&shape, dtype);
    return setup_tokenizer(config, key, *model, tokenizer, err);
}

zs_status zs_setup_frozen(const zs_comm *comm, const zs_group *group, const zs_config *config,
                          const char *key, const char *dtype_key, zs_frozen *frozen, zs_tokenizer **tokenizer,
                          zs_error *err) {
    const char *folder = zs_config_string(config, key);
    if (!*folder) return zs_config_fail(config, key, err, "a model folder is needed");
    zs_dtype dtype;
    zs_keep_named(zs_config_string(config, dtype_key), &dtype);
    zs_status status = zs_load_frozen(comm, group, folder, dtype,
                                      zs_read_named(zs_config_string(config, "model.read")), frozen, err);
    if (status != ZS_OK) return zs_fail_context(err, "%s", key);
    if (frozen->model) status = zs_model_check_logits(&frozen->model->config, folder, err);
    if (frozen->model && tokenizer && status == ZS_OK)
        status = setup_tokenizer(config, key, frozen->model, tokenizer, err);
    return zs_comm_agree(comm, group, status, err);
}

/* The layouts of a policy and of its value model are the same up to the head. */
static zs_model *values_of_policy(const zs_model *policy) {
    zs_model_config config = policy->config;
    config.value_head = true;
    zs_model *values = zs_model_create(&config);
    memcpy(values->params, policy->params, (size_t)values->head * sizeof(float));
    return values;
}

zs_status zs_setup_values(const zs_comm *comm, const zs_group *group, const zs_config *config,
                          const zs_model *policy, zs_model **values, zs_error *err) {
    const char *folder = zs_config_string(config, "model.value");
    *values = NULL;
    if (group->comm == MPI_COMM_NULL) return ZS_OK;
    if (!*folder) {
        *values = values_of_policy(policy);
        return ZS_OK;
    }
    zs_status status = zs_load_model(
        comm, group, folder, zs_read_named(zs_config_string(config, "model.read")), values, NULL, err);
    if (status != ZS_OK) return zs_fail_context(err, "model.value");
    if (!(*values)->config.value_head)
        status =
            zs_config_fail(config, "model.value", err,
                           "%s is a language model; `zerosearch init --from %s --value-head` makes a value "
                           "model of it",
                           folder, folder);
    else if ((*values)->config.vocab_size != policy->config.vocab_size)
        status = zs_config_fail(
            config, "model.value", err, "%s has %lld tokens in its vocabulary, the policy %lld", folder,
            (long long)(*values)->config.vocab_size, (long long)policy->config.vocab_size);
    return zs_comm_agree(comm, group, status, err);
}

zs_status zs_setup_chat(const zs_config *config, const char *key, const zs_tokenizer *tokenizer,
                        zs_model *model, zs_chat **out, zs_error *err) {
    bool policy = !strcmp(key, "model.policy"), judge = !strcmp(key, "model.judge");
    const char *folder = zs_config_string(config, key);
    zs_chat_options options = {
        .format = zs_config_string(config, policy  ? "model.chat"
                                           : judge ? "model.judge_chat"
                                                   : "model.simulator_chat"),
        .system = judge ? "" : zs_config_string(config, policy ? "model.system" : "model.simulator_system"),
        .date = zs_config_string(config, "model.chat_date")};
    *out = NULL;
    if (!tokenizer) return ZS_OK;
    if (zs_chat_open(folder, &options, tokenizer, &model->config, out, err) != ZS_OK)
        return zs_fail_context(err, "%s", key);
    zs_chat_add_ends(*out, &model->config);
    zs_log(ZS_LOG_DEBUG, "%s: chat format %s, begin token %d%s, turns end with token %d", key,
           zs_chat_name(*out), (*out)->begin_id, (*out)->begin_plain ? "" : " (not written)", (*out)->end_id);
    return ZS_OK;
}

/* Leaves the first `limit` questions. */
static void cut_questions(zs_qa *qa, int64_t limit) {
    if (limit <= 0 || qa->count <= limit) return;
    zs_qa rest = {ZS_NEW(zs_question, qa->count - limit), qa->count - limit};
    memcpy(rest.questions, qa->questions + limit, (size_t)rest.count * sizeof *rest.questions);
    zs_qa_free(&rest);
    qa->count = limit;
}

zs_status zs_setup_questions(const zs_config *config, const char *key, int64_t limit, zs_qa *out,
                             zs_error *err) {
    *out = (zs_qa){0};
    if (zs_config_count(config, key) == 0)
        return zs_config_fail(config, key, err, "at least one question set (JSON lines) is needed");
    for (int i = 0; i < zs_config_count(config, key); i++) {
        zs_qa more;
        if (zs_qa_load(zs_config_string_at(config, key, i), &more, err) != ZS_OK)
            return zs_fail_context(err, "%s", key);
        cut_questions(&more, limit);
        out->questions = zs_grow(out->questions, out->count, out->count + more.count, sizeof *out->questions);
        memcpy(out->questions + out->count, more.questions, (size_t)more.count * sizeof *out->questions);
        out->count += more.count;
        zs_free(more.questions);
    }
    if (out->count == 0)
        return zs_config_fail(config, key, err, "%s holds no question", zs_config_string_at(config, key, 0));
    return ZS_OK;
}

zs_status zs_setup_templates(const zs_config *config, const char *engine, zs_search_setup *out,
                             zs_error *err) {
    const char *kind = !strcmp(engine, "simulate_sft") ? "sft" : "prompt";
    struct {
        const char *key, *way;
        zs_string *text;
    } wanted[] = {{"search.useful_template", "useful", &out->useful},
                  {"search.noisy_template", "noisy", &out->noisy}};
    for (int i = 0; i < 2; i++) {
        char fallback[64];
        if (zs_search_is_self(engine)) /* it knows no more for a useful than for a noisy one */
            snprintf(fallback, sizeof fallback, "simulate_self");
        else
            snprintf(fallback, sizeof fallback, "simulate_%s_%s", kind, wanted[i].way);
        const char *name = zs_config_string(config, wanted[i].key);
        if (zs_template_load(*name ? name : fallback, wanted[i].text, err) != ZS_OK)
            return zs_fail_context(err, "%s", wanted[i].key);
    }
    return ZS_OK;
}

/* The engine over a model that writes documents; out holds its templates. */
static zs_status make_simulator(const zs_config *config, const char *engine, const zs_model *model,
                                const zs_tokenizer *tokenizer, const zs_chat *chat, zs_search_setup *out,
                                zs_error *err) {
    zs_simulator_options options = {.name = engine,
                                    .model = model,
                                    .tokenizer = tokenizer,
                                    .useful_template = out->useful.data,
                                    .noisy_template = out->noisy.data,
                                    .top_k = (int)zs_config_int(config, "search.top_k"),
                                    .words = (int)zs_config_int(config, "search.words"),
                                    .temperature = zs_config_float(config, "search.temperature"),
                                    .top_p = zs_config_float(config, "search.top_p"),
                                    .max_new_tokens = zs_config_int(config, "search.max_new_tokens"),
                                    .max_batch = zs_config_int(config, "search.max_batch"),
                                    .max_length = zs_config_int(config, "search.max_length"),
                                    .cache_tokens = zs_config_int(config, "search.cache_tokens"),
                                    .seed = (uint64_t)zs_config_int(config, "seed"),
                                    .chat = chat};
    zs_keep_named(zs_config_string(config, "search.cache_dtype"), &options.cache_dtype);
    if (zs_search_simulator_check(&options, err) != ZS_OK) return zs_fail_context(err, "search");
    out->search = zs_search_simulator(&options);
    return ZS_OK;
}

/* Collective on `simulators`. */
static zs_status setup_simulator(const zs_comm *comm, const zs_group *simulators, const zs_config *config,
                                 const char *engine, zs_search_setup *out, zs_error *err) {
    zs_status status = zs_comm_agree(comm, simulators, zs_setup_templates(config, engine, out, err), err);
    if (status == ZS_OK)
        status = zs_setup_frozen(comm, simulators, config, "model.simulator", "model.simulator_dtype",
                                 &out->simulator, &out->tokenizer, err);
    if (status == ZS_OK) zs_frozen_pack(comm, &out->simulator);
    if (status == ZS_OK)
        status =
            zs_setup_chat(config, "model.simulator", out->tokenizer, out->simulator.model, &out->chat, err);
    if (status != ZS_OK) return status;
    return make_simulator(config, engine, out->simulator.model, out->tokenizer, out->chat, out, err);
}

zs_status zs_setup_self(const zs_config *config, const zs_model *model, const zs_tokenizer *tokenizer,
                        const zs_chat *chat, zs_search_setup *out, zs_error *err) {
    *out = (zs_search_setup){0};
    zs_status status = zs_setup_templates(config, "self", out, err);
    return status == ZS_OK ? make_simulator(config, "self", model, tokenizer, chat, out, err) : status;
}

/* A corpus that takes minutes is not indexed in a job of several ranks, which would all wait for it. */
static zs_status build_on_first(const zs_comm *comm, const char *corpus, const char *index, zs_error *err) {
    enum { MOST_BYTES = 1 << 30 };
    struct stat info;
    if (comm->world.rank > 0) return ZS_OK;
    if (comm->world.size > 1 && stat(corpus, &info) == 0 && info.st_size > MOST_BYTES &&
        !zs_corpus_is_built(corpus, index))
        return zs_fail(err, ZS_FAILED,
                       "%s: has no complete index yet and is too large to make it while %d ranks wait; "
                       "`zerosearch index --corpus %s --index %s` makes it, or goes on with it",
                       corpus, comm->world.size, corpus, index);
    return zs_corpus_build(corpus, index, err);
}

/* Builds the index unless a good one that is newer than the passages is there. */
static zs_status build_index(const zs_comm *comm, const zs_config *config, char *index, size_t size,
                             zs_error *err) {
    const char *corpus = zs_config_string(config, "data.corpus"),
               *given = zs_config_string(config, "data.corpus_index");
    if (!*corpus && !*given)
        return zs_config_fail(config, "data.corpus", err, "the corpus engine needs passages (JSON lines)");
    if (*given)
        snprintf(index, size, "%s", given);
    else
        snprintf(index, size, "%s.fts5", corpus);
    zs_status status = *corpus ? build_on_first(comm, corpus, index, err) : ZS_OK;
    return zs_comm_agree(comm, &comm->world, status, err);
}

zs_status zs_setup_search(const zs_comm *comm, const zs_config *config, const char *engine, bool here,
                          zs_search_setup *out, zs_error *err) {
    int documents = (int)zs_config_int(config, "search.top_k");
    return zs_setup_deep_search(comm, config, engine, documents, here, out, err);
}

zs_status zs_setup_deep_search(const zs_comm *comm, const zs_config *config, const char *engine,
                               int documents, bool here, zs_search_setup *out, zs_error *err) {
    *out = (zs_search_setup){0};
    zs_status status = ZS_OK;
    if (zs_search_is_self(engine)) return ZS_OK; /* needs the policy: zs_setup_self */
    if (!strcmp(engine, "none")) {
        out->search = here ? zs_search_none() : NULL;
    } else if (!strcmp(engine, "corpus")) {
        char index[PATH_MAX + 8];
        zs_corpus *corpus;
        status = build_index(comm, config, index, sizeof index, err);
        if (status == ZS_OK && here && (status = zs_corpus_open(index, &corpus, err)) == ZS_OK)
            out->search = zs_search_corpus(corpus, documents);
    } else if (zs_search_is_service(engine)) {
        if (here) status = zs_setup_service(config, engine, documents, out, err);
    } else {
        zs_group simulators =
            zs_group_select(comm, &comm->world, here, comm->world.rank, "all ranks, to make simulators");
        if (here) status = setup_simulator(comm, &simulators, config, engine, out, err);
        zs_group_free(&simulators);
    }
    return zs_comm_agree(comm, &comm->world, status, err);
}

void zs_setup_search_free(zs_search_setup *setup) {
    if (setup->search) setup->search->destroy(setup->search);
    zs_frozen_free(&setup->simulator);
    zs_tokenizer_destroy(setup->tokenizer);
    zs_chat_free(setup->chat);
    zs_string_free(&setup->useful);
    zs_string_free(&setup->noisy);
}
