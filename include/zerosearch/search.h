/* Search engines behind one interface: what answers a query.
 *
 * Asynchronous by design, since a simulator is a language model that batches what it gets: submit queries,
 * advance, take the replies that are done. Corpus and none answer at once. */
#ifndef ZEROSEARCH_SEARCH_H
#define ZEROSEARCH_SEARCH_H

#include "zerosearch/chat.h"
#include "zerosearch/error.h"
#include "zerosearch/model.h"
#include "zerosearch/strings.h"
#include "zerosearch/template.h"
#include "zerosearch/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

/* A query carries its own question, true answer and noise draw, so a reply can never meet another's question.
 */
typedef struct zs_query {
    int64_t episode; /* identifies the asker; comes back with the reply */
    int64_t turn;
    int64_t step, question_index, sample;  /* key of the random draws */
    bool noisy;                            /* drawn from the curriculum; read by simulators only */
    const char *query, *question, *answer; /* UTF-8; answer: the golden answers joined by " or " */
} zs_query;

typedef struct zs_reply {
    int64_t episode, turn;
    bool noisy;
    /* The engine could not be asked, its answer not be read, or a model wrote nothing; a search that finds
     * nothing has not failed. */
    bool failed;
    char *documents; /* "Doc 1: ...\nDoc 2: ..." ; owned by the receiver, zs_free */
} zs_reply;

/* What an engine that can fail (a service, the corpus) did since its counts were last set to 0 (by
 * zs_search_check). */
typedef struct zs_search_counts {
    int64_t queries, failed; /* replies given; those that failed */
    int64_t requests, retries, cache_hits;
} zs_search_counts;

typedef struct zs_search zs_search;
struct zs_search { /* the interface; each engine embeds it first */
    const char *name;
    bool deterministic; /* replies do not depend on query.noisy or on random draws */
    void (*submit)(zs_search *self, const zs_query *query); /* copies what it keeps */
    /* Does a bounded amount of work (`steps` decode steps for a model); false when nothing is pending: every
     * query is answered and every reply taken. */
    bool (*advance)(zs_search *self, int64_t steps);
    /* The next reply in order of completion; false: none is ready. */
    bool (*take)(zs_search *self, zs_reply *reply);
    void (*destroy)(zs_search *self);
    /* Of services, NULL in engines that compute: */
    void (*wait)(zs_search *self, double seconds); /* until a reply may be ready, for callers without work */
    /* Of engines that can fail, else 0: */
    zs_search_counts counts;
    const char *trouble; /* why the last query failed, NULL: none has; shows no key */
    bool gave_up;        /* max_failures in a row: every further query fails at once */
};

/* corpus: SQLite FTS5 with BM25. The index file is built once and serves as long as its source stays the
 * same; query text is words only, never FTS5 syntax.
 *
 * zs_corpus_build: from JSON lines {"id","contents"} (Search-R1, FlashRAG; {"id","title","text"} too) or
 * DPR's tab-separated id, text, title (a name in .tsv), gzip or not; streaming, in bounded memory, with a
 * progress bar. It writes INDEX.part and renames it when it is complete; a run that was killed or found the
 * disk full is taken up by the next one where its last transaction ended, if the source is still the same.
 * One process at a time: another one fails with a message that says so. A bad line is an error that names
 * file, line and key.
 *
 * zs_corpus_open: read-only, for any number of processes at once; a file that is no complete index of this
 * version is refused with a message that says how to make one. Local, all of them. */
typedef struct zs_corpus zs_corpus;
zs_status zs_corpus_build(const char *source_path, const char *index_path, zs_error *err);
bool zs_corpus_is_built(const char *source_path,
                        const char *index_path); /* zs_corpus_build has nothing to do */
zs_status zs_corpus_open(const char *index_path, zs_corpus **out, zs_error *err);
typedef struct zs_passage {
    char *id, *contents;
    double score;
} zs_passage;
/* Up to top_k passages, best first; *passages is zs_alloc'ed by the callee, freed by zs_passages_free. */
zs_status zs_corpus_search(zs_corpus *corpus, const char *query, int top_k, zs_passage **passages, int *count,
                           zs_error *err);
void zs_passages_free(zs_passage *passages, int count);
/* About how many passages a query may score (20000): bounds its time on a corpus of millions. */
void zs_corpus_limit(zs_corpus *corpus, int64_t max_scored);
void zs_corpus_close(zs_corpus *corpus);

zs_search *zs_search_corpus(zs_corpus *corpus, int top_k); /* takes the corpus over */
zs_search *zs_search_none(void);                           /* always "No information available" */

/* An engine that passes queries on to another and shows each with its reply: what an engine really gave. The
 * other one is not taken over, and keeps the counts. `query` lives for the call, `reply` stays the taker's.
 */
typedef void zs_search_listener(void *context, const zs_query *query, const zs_reply *reply);
zs_search *zs_search_recorder(zs_search *engine, zs_search_listener *listener, void *context);

/* A model that writes documents. Templates have the placeholders {query} {question} {answer} {topk} {words};
 * `useful` and `noisy` are whole templates, owned by the caller. Used by simulate_sft and simulate_prompt
 * alike. */
typedef struct zs_simulator_options {
    const char *name;
    const zs_model *model;
    const zs_tokenizer *tokenizer;
    const char *useful_template, *noisy_template;
    int top_k, words; /* documents asked for; words in each (for {words}) */
    double temperature, top_p;
    int64_t max_new_tokens, max_batch, max_length;
    int64_t cache_tokens; /* 0: max_batch x max_length */
    zs_dtype cache_dtype; /* ZS_F32 or ZS_BF16 */
    uint64_t seed;
    const zs_chat *chat; /* of the model, outlives the engine; NULL: plain prompts */
} zs_simulator_options;
/* A ZS_USAGE error for options with which no query could be answered: templates that are empty or have
 * unknown placeholders, lengths that leave no room for a prompt. */
zs_status zs_search_simulator_check(const zs_simulator_options *options, zs_error *err);
zs_search *zs_search_simulator(const zs_simulator_options *options);
/* The prompt with which it asks for a query's documents, before the chat format (text, replaced) and in it
 * (ids): in a prompt that leaves no room for the reply query, question and answer are cut, the longest first,
 * by halves. Also for making its training data: without a tokenizer text alone is filled, uncut. `model` is
 * not read. */
zs_status zs_search_simulator_prompt(const zs_simulator_options *options, const zs_query *query,
                                     zs_string *text, zs_ids *ids, zs_error *err);
/* Shows each reply as the model wrote it, before it is cut to documents: its tokens, and whether it ended by
 * the limit (`cut`). */
typedef void zs_simulator_watch(void *context, int64_t episode, const char *raw, int64_t length,
                                int64_t tokens, bool cut);
void zs_search_simulator_watch(zs_search *simulator, zs_simulator_watch *watch, void *context);

/* Services: engines that ask over HTTP. A request holds one query, or several where the protocol can; equal
 * queries that are out together share one, and answers are kept in a cache on disk. A query that fails after
 * its retries is answered with "No information available" and failed = true.
 *
 * Replies come in order of completion, so which round of the search exchange they enter depends on the
 * service's speed. That changes no draw (each is keyed by question, sample and position), but the rows that
 * stand in one batch, and with them the last bits of a BLAS product. With `lockstep` replies are held until
 * the caller waits, which it does when it has nothing to decode; wait then lasts until all queries are
 * answered, and the replies come in order of submission: a service that answers the same gives the same bits,
 * at the price that episodes stand still for others (a step took 1.3 to 1.6 times as long at 0.3 s an
 * answer), and groups.deadline must be longer than a service's worst. */
typedef struct zs_service_options {
    int top_k;
    double connect_timeout, timeout, backoff; /* seconds; see zs_http_options */
    int retries, concurrency, max_failures;
    int64_t max_response;  /* bytes */
    bool verify, lockstep; /* check certificates; see above */
    const char *ca_file;   /* "": the system's certificates */
    const char *cache;     /* SQLite file; "": none */
    uint64_t seed;
} zs_service_options;

/* http: a retriever. "wiki": POST {"query","top_k"}, answered by a list of {"text"}; "search_r1": POST
 * {"queries","topk","return_scores"}, answered by {"result":[[{"document":{"contents"},"score"}]]}, up to
 * `batch` queries in a request; "auto": one query under both spellings. Whatever the protocol, documents may
 * be strings or objects with "contents" or "text" and perhaps "title", bare or under "document", in a list or
 * in an object's "result", "results" or "documents". url: whole, or without a path, then /retrieve is meant.
 * key: bearer token, "" for none. */
zs_status zs_search_http(const char *url, const char *protocol, int batch, const char *key,
                         const zs_service_options *options, zs_search **out, zs_error *err);

/* google: GET url/search.json as SerpAPI answers it: answer_box and organic_results with title and snippet.
 */
zs_status zs_search_google(const char *url, const char *key, const zs_service_options *options,
                           zs_search **out, zs_error *err);

/* openai: a model behind an OpenAI-compatible server writes the documents, from the prompts of
 * simulate_prompt. Templates as in zs_simulator_options, owned by the caller. Draws are left to the server,
 * which is sent a seed of its own for each query. */
typedef struct zs_openai_options {
    const char *url; /* of the server; a final /v1 may be given or not */
    const char *model;
    const char *key; /* bearer token; "": none */
    bool chat;       /* /v1/chat/completions, else /v1/completions */
    const char *useful_template, *noisy_template;
    int words;
    double temperature, top_p;
    int64_t max_new_tokens;
} zs_openai_options;
zs_status zs_search_openai(const zs_openai_options *openai, const zs_service_options *options,
                           zs_search **out, zs_error *err);

/* Cuts a raw reply to its first top_k "Doc i:" documents (text before the first, and after an end tag,
 * dropped; without any "Doc" mark the whole text counts as one document). Appends "Doc 1: ...\nDoc 2: ..." to
 * out. */
void zs_search_format_documents(const char *raw, int64_t length, int top_k, zs_string *out);
/* Appends one document as a line "Doc NUMBER: text" (a newline before it when number > 1), white space
 * folded. False, and nothing appended, when the text is empty. */
bool zs_search_append_document(const char *text, int64_t length, int number, zs_string *out);

#endif
