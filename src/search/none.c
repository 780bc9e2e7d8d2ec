/* The engine `none`: answers every query at once with nothing, to see what a policy does without search. */
#include "zerosearch/search.h"

#include "zerosearch/memory.h"

typedef struct zs_none {
    zs_search search;
    zs_reply *queue; /* waiting: head .. count-1 */
    int64_t head, count, capacity;
} zs_none;

static void none_submit(zs_search *self, const zs_query *query) {
    zs_none *none = (zs_none *)self;
    if (none->count == none->capacity) {
        int64_t capacity = none->capacity ? 2 * none->capacity : 64;
        none->queue = zs_grow(none->queue, none->capacity, capacity, sizeof *none->queue);
        none->capacity = capacity;
    }
    none->queue[none->count++] = (zs_reply){.episode = query->episode,
                                            .turn = query->turn,
                                            .noisy = query->noisy,
                                            .documents = zs_strdup("No information available")};
}

static bool none_advance(zs_search *self, int64_t steps) {
    (void)steps;
    zs_none *none = (zs_none *)self;
    return none->head < none->count;
}

static bool none_take(zs_search *self, zs_reply *reply) {
    zs_none *none = (zs_none *)self;
    if (none->head == none->count) return false;
    *reply = none->queue[none->head++];
    if (none->head == none->count) none->head = none->count = 0;
    return true;
}

static void none_destroy(zs_search *self) {
    zs_none *none = (zs_none *)self;
    for (int64_t i = none->head; i < none->count; i++)
        zs_free(none->queue[i].documents);
    zs_free(none->queue);
    zs_free(none);
}

zs_search *zs_search_none(void) {
    zs_none *none = ZS_NEW(zs_none, 1);
    none->search = (zs_search){"none", true, none_submit, none_advance, none_take, none_destroy};
    return &none->search;
}
