/* The corpus behind the engine interface: answers at once, in the order of submission. */
#include "zerosearch/search.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <string.h>

typedef struct zs_corpus_engine {
    zs_search search;
    zs_corpus *corpus;
    int top_k;
    zs_reply *queue; /* waiting: head .. count-1 */
    int64_t head, count, capacity;
} zs_corpus_engine;

/* The passages as documents; a failed search is told once each time and costs the asker only this reply. */
static zs_reply answer(zs_corpus_engine *engine, const zs_query *query) {
    zs_reply reply = {.episode = query->episode, .turn = query->turn, .noisy = query->noisy};
    zs_error err;
    zs_passage *passages;
    int count, number = 0;
    zs_string documents = {0};
    if (zs_corpus_search(engine->corpus, query->query, engine->top_k, &passages, &count, &err) != ZS_OK)
        zs_log_rank(ZS_LOG_WARNING, "%s", err.text);
    for (int i = 0; i < count; i++)
        number += zs_search_append_document(passages[i].contents, (int64_t)strlen(passages[i].contents),
                                            number + 1, &documents);
    zs_passages_free(passages, count);
    reply.failed = number == 0;
    reply.documents = number > 0 ? documents.data : zs_strdup("No information available");
    if (number == 0) zs_string_free(&documents);
    return reply;
}

static void corpus_submit(zs_search *self, const zs_query *query) {
    zs_corpus_engine *engine = (zs_corpus_engine *)self;
    if (engine->count == engine->capacity) {
        int64_t capacity = engine->capacity ? 2 * engine->capacity : 64;
        engine->queue = zs_grow(engine->queue, engine->capacity, capacity, sizeof *engine->queue);
        engine->capacity = capacity;
    }
    engine->queue[engine->count++] = answer(engine, query);
}

static bool corpus_advance(zs_search *self, int64_t steps) {
    (void)steps;
    zs_corpus_engine *engine = (zs_corpus_engine *)self;
    return engine->head < engine->count;
}

static bool corpus_take(zs_search *self, zs_reply *reply) {
    zs_corpus_engine *engine = (zs_corpus_engine *)self;
    if (engine->head == engine->count) return false;
    *reply = engine->queue[engine->head++];
    if (engine->head == engine->count) engine->head = engine->count = 0;
    return true;
}

static void corpus_destroy(zs_search *self) {
    zs_corpus_engine *engine = (zs_corpus_engine *)self;
    for (int64_t i = engine->head; i < engine->count; i++)
        zs_free(engine->queue[i].documents);
    zs_free(engine->queue);
    zs_corpus_close(engine->corpus);
    zs_free(engine);
}

zs_search *zs_search_corpus(zs_corpus *corpus, int top_k) {
    zs_corpus_engine *engine = ZS_NEW(zs_corpus_engine, 1);
    *engine = (zs_corpus_engine){
        .search = {"corpus", true, corpus_submit, corpus_advance, corpus_take, corpus_destroy},
        .corpus = corpus,
        .top_k = top_k,
    };
    return &engine->search;
}
