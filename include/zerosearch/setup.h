/* What `train`, `eval` and `ask` load before they start: tokenizer, policy, simulator, search engine,
 * question sets. */
#ifndef ZEROSEARCH_SETUP_H
#define ZEROSEARCH_SETUP_H

#include "zerosearch/chat.h"
#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/load.h"
#include "zerosearch/model.h"
#include "zerosearch/qa.h"
#include "zerosearch/search.h"
#include "zerosearch/tokenizer.h"

/* Divides the ranks as groups.* says. Collective on world. */
zs_status zs_setup_groups(zs_comm *comm, const zs_config *config, bool need_simulators, zs_error *err);

/* A search engine with what it stands on. */
typedef struct zs_search_setup {
    zs_search *search;   /* NULL on ranks that do not answer queries */
    zs_frozen simulator; /* with its tokenizer and templates; empty for corpus and none */
    zs_tokenizer *tokenizer;
    zs_chat *chat;
    zs_string useful, noisy;
} zs_search_setup;

/* The engine that search.engine or eval.engine (`key`) names, or "none" if none of the methods asks one.
 * num_methods 0: rollout.method. */
const char *zs_setup_engine(const zs_config *config, const char *key, const char *const *methods,
                            int num_methods);
bool zs_search_is_simulated(const char *engine); /* simulate_sft, simulate_prompt: needs simulator ranks */
bool zs_search_is_service(const char *engine);   /* http, google, openai */
bool zs_search_is_self(const char *engine);      /* self: made by zs_setup_self, from the policy */

/* Makes the engine named (search.* and data.corpus; `self` is left to zs_setup_self) on ranks where `here` is
 * true; a corpus index that is missing or older than its passages is built first, by one rank. Collective on
 * world. */
zs_status zs_setup_search(const zs_comm *comm, const zs_config *config, const char *engine, bool here,
                          zs_search_setup *out, zs_error *err);
/* The same engine, which returns up to `documents` for a query in place of search.top_k; a simulator writes
 * search.top_k all the same. */
zs_status zs_setup_deep_search(const zs_comm *comm, const zs_config *config, const char *engine,
                               int documents, bool here, zs_search_setup *out, zs_error *err);
void zs_setup_search_free(zs_search_setup *setup);

/* The engine `self`: the policy that a rollout plays, with the weights that it has when it is asked, writes
 * the documents for the queries (SSRL, Fan et al. 2025, arXiv 2508.10874). Its own prompt shows it the query
 * alone, since what it is asked for is what it knows; one that shows it the true answer must be given
 * (search.useful_template). model, tokenizer and chat outlive the engine. Local, on ranks that play the
 * policy. */
zs_status zs_setup_self(const zs_config *config, const zs_model *model, const zs_tokenizer *tokenizer,
                        const zs_chat *chat, zs_search_setup *out, zs_error *err);

/* Parts of it: the prompts that make a model write documents (search.useful_template and noisy_template, or
 * the engine's own); a service of up to `documents` for a query, its keys taken from the environment. Local.
 */
zs_status zs_setup_templates(const zs_config *config, const char *engine, zs_search_setup *out,
                             zs_error *err);
zs_status zs_setup_service(const zs_config *config, const char *engine, int documents, zs_search_setup *out,
                           zs_error *err);

/* Loads the model folder of `key` and its tokenizer, as model.read says; the tokenizer's ids must fit the
 * model. In f32, a copy for each rank. Collective on group, one error for all; NULL outside it. */
zs_status zs_setup_model(const zs_comm *comm, const zs_group *group, const zs_config *config, const char *key,
                         zs_model **model, zs_tokenizer **tokenizer, zs_error *err);
/* For a rank that only plays the policy and takes its weights from the learners: a zeroed model of the
 * folder's shape in the precision that it plays, and the tokenizer. No weights are read. Local. */
zs_status zs_setup_empty(const zs_config *config, const char *key, zs_dtype dtype, zs_model **model,
                         zs_tokenizer **tokenizer, zs_error *err);
/* As zs_setup_model, once a node and in the precision of the setting `dtype_key` (auto, f32, bf16, int8).
 * `tokenizer` may be NULL: none is loaded. */
zs_status zs_setup_frozen(const zs_comm *comm, const zs_group *group, const zs_config *config,
                          const char *key, const char *dtype_key, zs_frozen *frozen, zs_tokenizer **tokenizer,
                          zs_error *err);

/* PPO's value model beside `policy`: the folder model.value, or the policy's layers under a head of zeros.
 * Its tokens must be the policy's. Collective on group, one error for all; NULL outside it. */
zs_status zs_setup_values(const zs_comm *comm, const zs_group *group, const zs_config *config,
                          const zs_model *policy, zs_model **values, zs_error *err);

/* How the model of `key` (model.policy, model.simulator or model.judge) is spoken to, as its folder and the
 * settings say; what ends a turn there is added to the model's end tokens. *out stays NULL on a rank without
 * tokenizer. Free with zs_chat_free. Local. */
zs_status zs_setup_chat(const zs_config *config, const char *key, const zs_tokenizer *tokenizer,
                        zs_model *model, zs_chat **out, zs_error *err);

/* All question sets of an array key, one after another; of each file the first `limit` (0: all). Local. */
zs_status zs_setup_questions(const zs_config *config, const char *key, int64_t limit, zs_qa *out,
                             zs_error *err);

#endif
