/* Placing sequences in the cache, and the prompt pages that the members of a group share.
 *
 * A group keeps its pages while any member is submitted, so that late members still find them; but pages that
 * no admitted member holds are given up when a sequence cannot be placed otherwise, since the queue must
 * never wait for pages that only those behind its head would release. */
#include "state.h"

#include "zerosearch/memory.h"

/* Tokens that a member need not compute once the group is ready. */
static int64_t shared_tokens(const zs_engine *engine, const group *g) {
    return g->tail_page >= 0 ? g->prompt_length - 1 : g->num_pages * engine->cache.page_size;
}

int64_t zs_group_join(zs_engine *engine, const zs_sequence_request *request) {
    if (request->prompt_group < 0) return -1;
    int64_t unused = -1;
    for (int64_t i = engine->num_groups - 1; i >= 0; i--) {
        group *g = &engine->groups[i];
        if (g->users == 0) {
            unused = i;
        } else if (g->id == request->prompt_group) {
            ZS_ASSERT(g->prompt_length == request->prompt_length,
                      "sequences of prompt group %lld have prompts of different length", (long long)g->id);
            g->users++;
            return i;
        }
    }
    if (unused < 0) {
        unused = engine->num_groups;
        int64_t more = engine->num_groups ? 2 * engine->num_groups : 16;
        engine->groups = zs_grow(engine->groups, engine->num_groups, more, sizeof(group));
        engine->num_groups = more;
    }
    group *g = &engine->groups[unused];
    *g = (group){.id = request->prompt_group,
                 .users = 1,
                 .prompt_length = request->prompt_length,
                 .leader = -1,
                 .pages = g->pages,
                 .page_capacity = g->page_capacity,
                 .tail_page = -1};
    return unused;
}

static void drop_tail(zs_engine *engine, group *g) {
    if (g->tail_page >= 0) zs_kv_drop(&engine->cache, g->tail_page);
    g->tail_page = -1;
}

static void drop_pages(zs_engine *engine, group *g) {
    drop_tail(engine, g);
    for (int64_t i = 0; i < g->num_pages; i++)
        zs_kv_drop(&engine->cache, g->pages[i]);
    g->num_pages = 0;
    g->placed = g->ready = false;
    g->leader = -1;
    g->computed = 0;
}

/* Takes the group's shared pages from the leader's table. */
static void lead(zs_engine *engine, group *g, int64_t handle) {
    const sequence *s = &engine->sequences[handle];
    g->leader = handle;
    if (!g->placed) {
        g->num_pages = (g->prompt_length - 1) / engine->cache.page_size;
        if (g->num_pages > g->page_capacity) {
            g->pages = zs_grow(g->pages, g->page_capacity, g->num_pages, sizeof(int32_t));
            g->page_capacity = g->num_pages;
        }
        for (int64_t i = 0; i < g->num_pages; i++) {
            g->pages[i] = s->pages[i];
            zs_kv_share(&engine->cache, s->pages[i]);
        }
        g->placed = true;
    }
    if (g->tail_page < 0 && (g->prompt_length - 1) % engine->cache.page_size != 0) {
        g->tail_page = s->pages[g->num_pages];
        zs_kv_share(&engine->cache, g->tail_page);
    }
}

/* Frees what no admitted sequence needs until `wanted` pages are free: idle groups other than `own`, then
 * the copies of partly filled pages, then `own` when idle. */
static void reclaim(zs_engine *engine, group *own, int64_t wanted) {
    for (int64_t i = 0; i < engine->num_groups && engine->cache.num_free < wanted; i++) {
        group *g = &engine->groups[i];
        if (g != own && g->users > 0 && g->placed && g->holders == 0) drop_pages(engine, g);
    }
    for (int64_t i = 0; i < engine->num_groups && engine->cache.num_free < wanted; i++)
        if (engine->groups[i].users > 0 && engine->groups[i].ready) drop_tail(engine, &engine->groups[i]);
    if (own && engine->cache.num_free < wanted && own->placed && own->holders == 0) drop_pages(engine, own);
}

bool zs_group_place(zs_engine *engine, int64_t handle) {
    sequence *s = &engine->sequences[handle];
    group *g = s->group >= 0 ? &engine->groups[s->group] : NULL;
    int64_t total = (s->max_length + engine->cache.page_size - 1) / engine->cache.page_size;
    int64_t wanted = total - (g && g->placed ? g->num_pages : 0);
    if (engine->cache.num_free < wanted) {
        reclaim(engine, g, wanted);
        wanted = total - (g && g->placed ? g->num_pages : 0);
        if (engine->cache.num_free < wanted) return false;
    }
    if (total > s->page_capacity) {
        s->pages = zs_grow(s->pages, s->page_capacity, total, sizeof(int32_t));
        s->page_capacity = total;
    }
    s->num_pages = 0;
    if (g && g->placed)
        for (; s->num_pages < g->num_pages; s->num_pages++) {
            s->pages[s->num_pages] = g->pages[s->num_pages];
            zs_kv_share(&engine->cache, g->pages[s->num_pages]);
        }
    while (s->num_pages < total)
        s->pages[s->num_pages++] = zs_kv_take(&engine->cache);
    if (g) {
        g->holders++;
        if (g->placed)
            s->awaiting_prefix = true;
        else
            lead(engine, g, handle);
    }
    return true;
}

void zs_group_advance(zs_engine *engine) {
    for (int64_t i = engine->running.begin; i < engine->running.end; i++) {
        int64_t handle = engine->running.data[i];
        sequence *s = &engine->sequences[handle];
        if (s->group < 0) continue;
        group *g = &engine->groups[s->group];
        if (handle == g->leader && !g->ready) g->ready = s->computed >= g->prompt_length - 1;
        if (!s->awaiting_prefix) continue;
        if (g->ready) {
            s->computed = shared_tokens(engine, g);
            if (g->tail_page >= 0)
                zs_kv_copy(&engine->cache, g->tail_page, s->pages[g->num_pages],
                           (g->prompt_length - 1) % engine->cache.page_size);
            engine->stats.shared_tokens += s->computed;
            s->awaiting_prefix = false;
        } else if (g->leader < 0) {
            s->computed = g->computed;
            lead(engine, g, handle);
            s->awaiting_prefix = false;
        }
    }
}

void zs_group_leave(zs_engine *engine, int64_t handle) {
    sequence *s = &engine->sequences[handle];
    group *g = s->group >= 0 ? &engine->groups[s->group] : NULL;
    if (g) {
        if (s->num_pages > 0) g->holders--;
        if (g->leader == handle) {
            g->ready = g->ready || s->computed >= g->prompt_length - 1;
            g->leader = -1;
            if (!g->ready) { /* its own, half-computed page goes with it */
                int64_t shared = g->num_pages * engine->cache.page_size;
                g->computed = s->computed < shared ? s->computed : shared;
                drop_tail(engine, g);
            }
        }
        if (--g->users == 0) drop_pages(engine, g);
    }
    for (int64_t i = 0; i < s->num_pages; i++)
        zs_kv_drop(&engine->cache, s->pages[i]);
    s->num_pages = 0;
}
