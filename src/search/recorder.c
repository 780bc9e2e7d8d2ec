/* An engine in front of another: remembers the queries under way, and shows each with its reply. */
#include "zerosearch/search.h"

#include "zerosearch/memory.h"

typedef struct zs_recorder {
    zs_search search;
    zs_search *engine;
    zs_search_listener *listener;
    void *context;
    zs_query *waiting; /* [count], texts are copies */
    int64_t count, capacity;
} zs_recorder;

static void recorder_submit(zs_search *self, const zs_query *query) {
    zs_recorder *recorder = (zs_recorder *)self;
    if (recorder->count == recorder->capacity) {
        int64_t grown = recorder->capacity ? 2 * recorder->capacity : 64;
        recorder->waiting = zs_grow(recorder->waiting, recorder->capacity, grown, sizeof(zs_query));
        recorder->capacity = grown;
    }
    zs_query *kept = &recorder->waiting[recorder->count++];
    *kept = *query;
    kept->query = zs_strdup(query->query);
    kept->question = zs_strdup(query->question);
    kept->answer = zs_strdup(query->answer);
    recorder->engine->submit(recorder->engine, query);
}

static bool recorder_advance(zs_search *self, int64_t steps) {
    zs_search *engine = ((zs_recorder *)self)->engine;
    return engine->advance(engine, steps);
}

static void free_query(zs_query *query) {
    zs_free((char *)query->query);
    zs_free((char *)query->question);
    zs_free((char *)query->answer);
}

static bool recorder_take(zs_search *self, zs_reply *reply) {
    zs_recorder *recorder = (zs_recorder *)self;
    if (!recorder->engine->take(recorder->engine, reply)) return false;
    for (int64_t i = 0; i < recorder->count; i++) {
        zs_query *query = &recorder->waiting[i];
        if (query->episode != reply->episode || query->turn != reply->turn) continue;
        recorder->listener(recorder->context, query, reply);
        free_query(query);
        *query = recorder->waiting[--recorder->count];
        return true;
    }
    ZS_ASSERT(false, "a reply for episode %lld that nobody waits for", (long long)reply->episode);
    return true;
}

static void recorder_wait(zs_search *self, double seconds) {
    zs_search *engine = ((zs_recorder *)self)->engine;
    engine->wait(engine, seconds);
}

static void recorder_destroy(zs_search *self) {
    zs_recorder *recorder = (zs_recorder *)self;
    for (int64_t i = 0; i < recorder->count; i++)
        free_query(&recorder->waiting[i]);
    zs_free(recorder->waiting);
    zs_free(recorder);
}

zs_search *zs_search_recorder(zs_search *engine, zs_search_listener *listener, void *context) {
    zs_recorder *recorder = ZS_NEW(zs_recorder, 1);
    *recorder = (zs_recorder){.search = {.name = engine->name,
                                         .deterministic = engine->deterministic,
                                         .submit = recorder_submit,
                                         .advance = recorder_advance,
                                         .take = recorder_take,
                                         .destroy = recorder_destroy,
                                         .wait = engine->wait ? recorder_wait : NULL},
                              .engine = engine,
                              .listener = listener,
                              .context = context};
    return &recorder->search;
}
