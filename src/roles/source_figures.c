/* Figures of a source of documents: what they hold, their form, their length, how much they differ. */
#include "zerosearch/collect.h"
#include "zerosearch/memory.h"
#include "zerosearch/score.h"

#include "pair_index.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool zs_documents_valid(const char *raw, int64_t length, int top_k) {
    static const char end_tag[] = "</information>";
    const char *end = length > 0 ? memmem(raw, (size_t)length, end_tag, sizeof end_tag - 1) : NULL;
    if (!end) end = raw + length;
    while (end > raw && strchr(" \t\r\n", end[-1]) && end[-1])
        end--;
    while (raw < end && strchr(" \t\r\n", *raw) && *raw)
        raw++;
    int number = 0;
    for (const char *line = raw; line < end; number++) {
        char mark[24];
        int mark_length = snprintf(mark, sizeof mark, "Doc %d: ", number + 1);
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        if (stop - line <= mark_length || memcmp(line, mark, (size_t)mark_length) != 0) return false;
        line = stop < end ? stop + 1 : end;
    }
    return number == top_k;
}

/* A set of 64-bit hashes; a collision in some millions is one in some millions. */
typedef struct set {
    uint64_t *slots; /* [capacity], 0: free */
    int64_t count, capacity, seen;
} set;

static void set_put(set *s, uint64_t hash);

static void set_grow(set *s) {
    set larger = {.capacity = s->capacity ? 2 * s->capacity : 1024, .seen = s->seen};
    larger.slots = ZS_NEW(uint64_t, larger.capacity);
    for (int64_t i = 0; i < s->capacity; i++)
        if (s->slots[i]) set_put(&larger, s->slots[i]);
    larger.seen = s->seen;
    zs_free(s->slots);
    *s = larger;
}

static void set_put(set *s, uint64_t hash) {
    if (2 * s->count >= s->capacity) set_grow(s);
    if (hash == 0) hash = 1;
    s->seen++;
    for (uint64_t at = hash ^ (hash >> 29);; at++) {
        uint64_t *slot = &s->slots[at & (uint64_t)(s->capacity - 1)];
        if (*slot == hash) return;
        if (*slot == 0) {
            *slot = hash;
            s->count++;
            return;
        }
    }
}

static double distinct_share(const set *s) {
    return s->seen ? (double)s->count / (double)s->seen : 0.0;
}

/* The n-grams (n = 1, 2, 3) of normalised words; returns the words. */
static int64_t add_ngrams(const char *text, set grams[3]) {
    zs_string words = {0};
    zs_score_normalize(text, (int64_t)strlen(text), &words);
    uint64_t hashes[3] = {0}; /* of the last words, the newest first */
    int64_t count = 0;
    char *rest = words.data ? words.data : NULL;
    for (char *word; rest && (word = strtok_r(rest, " ", &rest));) {
        hashes[2] = hashes[1], hashes[1] = hashes[0], hashes[0] = zs_hash_text(word, 0);
        count++;
        uint64_t gram = 0;
        for (int n = 0; n < 3 && n < count; n++) {
            gram = (gram ^ hashes[n]) * 1099511628211ULL + (uint64_t)n;
            set_put(&grams[n], gram);
        }
    }
    zs_string_free(&words);
    return count;
}

typedef struct tally {
    int64_t documents, holding, words, tokens, repeated;
    set grams[3], texts;
} tally;

static void add_reply(tally *t, const zs_pair *pair, const char *documents, const zs_tokenizer *tokenizer) {
    char **texts;
    int count = zs_documents_split(documents, &texts);
    bool holds = false;
    zs_ids ids = {0};
    for (int i = 0; i < count; i++) {
        holds = holds || zs_holds_answer(texts[i], pair->answers, pair->num_answers);
        t->words += add_ngrams(texts[i], t->grams);
        zs_ids_clear(&ids);
        zs_tokenizer_encode(tokenizer, texts[i], (int64_t)strlen(texts[i]), &ids);
        t->tokens += ids.length;
        bool again = false;
        for (int k = 0; k < i; k++)
            again |= strcmp(texts[k], texts[i]) == 0;
        t->repeated += again;
        if (!again) set_put(&t->texts, zs_hash_text(texts[i], 0));
    }
    t->documents += count;
    t->holding += holds;
    zs_ids_free(&ids);
    zs_documents_free(texts, count);
}

void zs_source_measure(zs_source *out, const zs_pairs *pairs, char *const *documents,
                       const zs_tokenizer *tokenizer) {
    tally t = {0};
    for (int64_t i = 0; i < pairs->count; i++)
        add_reply(&t, &pairs->items[i], documents[i], tokenizer);
    double replies = fmax(1.0, (double)pairs->count), all = fmax(1.0, (double)t.documents);
    out->replies = pairs->count;
    out->holds = (double)t.holding / replies;
    out->documents = (double)t.documents / replies;
    out->words = (double)t.words / all;
    out->tokens = (double)t.tokens / all;
    out->repeated = (double)t.repeated / all;
    out->duplicates = t.texts.seen ? 1.0 - distinct_share(&t.texts) : 0.0;
    for (int n = 0; n < 3; n++) {
        out->distinct[n] = distinct_share(&t.grams[n]);
        zs_free(t.grams[n].slots);
    }
    zs_free(t.texts.slots);
}
