/* Which judged pairs become training examples, and what the simulator is to write for one. */
#include "zerosearch/collect.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include "pair_index.h"

#include <string.h>

enum { ROUND = 1 << 21 }; /* keys of the draws, apart from those of training */

static bool same_example(const zs_pair *a, const zs_pair *b) {
    return a->verdict == b->verdict && !strcmp(a->query, b->query) && !strcmp(a->documents, b->documents);
}

static uint64_t hash_example(const zs_pair *pair) {
    return zs_hash_text(pair->documents, zs_hash_text(pair->query, 0)) + (uint64_t)pair->verdict;
}

static bool same_question(const zs_pair *a, const zs_pair *b) {
    return !strcmp(a->question, b->question);
}

static uint64_t hash_question(const zs_pair *pair) {
    return zs_hash_text(pair->question, 0);
}

/* The decided pairs in a drawn order, of same ones the first in the given order. */
static int64_t draw_order(const zs_pairs *pairs, const zs_selection *selection, zs_selected *out,
                          int64_t *order) {
    zs_pair_index index = zs_pair_index_make(pairs->count, same_example, hash_example);
    int64_t count = 0;
    for (int64_t i = 0; i < pairs->count; i++) {
        if (pairs->items[i].verdict == ZS_UNDECIDED)
            out->undecided++;
        else if (selection->deduplicate && zs_pair_index_put(&index, pairs->items, i) != i)
            out->duplicates++;
        else
            order[count++] = i;
    }
    zs_pair_index_free(&index);
    zs_rng rng = zs_rng_make(selection->seed, ZS_STREAM_SHUFFLE, ROUND, 0, 0);
    zs_rng_shuffle(&rng, order, count);
    return count;
}

typedef struct question { /* of the pairs in order */
    int64_t of_kind[2];   /* examples that it gave, by zs_verdict */
    zs_part part;
} question;

/* questions[first_of[i]] is the question of pair i; a drawn share of them is held out. */
static void divide_questions(const zs_pairs *pairs, const zs_selection *selection, const int64_t *order,
                             int64_t count, int64_t *first_of, question *questions) {
    zs_pair_index index = zs_pair_index_make(count, same_question, hash_question);
    int64_t *firsts = ZS_NEW(int64_t, count), num_questions = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = zs_pair_index_put(&index, pairs->items, order[i]);
        if (first == order[i]) firsts[num_questions++] = first;
        first_of[order[i]] = first;
    }
    zs_rng rng = zs_rng_make(selection->seed, ZS_STREAM_SHUFFLE, ROUND, 1, 0);
    zs_rng_shuffle(&rng, firsts, num_questions);
    int64_t held_out = (int64_t)(selection->held_out * (double)num_questions + 0.5);
    if (held_out == 0 && selection->held_out > 0 && num_questions > 1) held_out = 1;
    for (int64_t i = 0; i < num_questions; i++)
        questions[firsts[i]].part = i < held_out ? ZS_PART_HELD_OUT : ZS_PART_TRAIN;
    zs_pair_index_free(&index);
    zs_free(firsts);
}

zs_selected zs_pairs_select(zs_pairs *pairs, const zs_selection *selection) {
    zs_selected out = {0};
    int64_t *order = ZS_NEW(int64_t, pairs->count), *first_of = ZS_NEW(int64_t, pairs->count);
    question *questions = ZS_NEW(question, pairs->count); /* by the place of their first pair */
    for (int64_t i = 0; i < pairs->count; i++)
        pairs->items[i].part = ZS_PART_NONE;
    int64_t count = draw_order(pairs, selection, &out, order), room[3][2] = {{0}};
    divide_questions(pairs, selection, order, count, first_of, questions);
    for (int64_t i = 0; i < count; i++) { /* at most per_question of a kind, and how many of each there are */
        zs_pair *pair = &pairs->items[order[i]];
        question *q = &questions[first_of[order[i]]];
        bool over = selection->per_question > 0 && q->of_kind[pair->verdict] >= selection->per_question;
        out.over += over;
        if (over) continue;
        q->of_kind[pair->verdict]++;
        pair->part = q->part;
        room[q->part][pair->verdict]++;
    }
    for (int p = ZS_PART_TRAIN; p <= ZS_PART_HELD_OUT && selection->balance; p++)
        room[p][0] = room[p][1] = room[p][0] < room[p][1] ? room[p][0] : room[p][1];
    memset(questions, 0, (size_t)pairs->count * sizeof *questions);
    for (int64_t i = 0; i < count; i++) { /* the first in the drawn order stay */
        zs_pair *pair = &pairs->items[order[i]];
        if (pair->part == ZS_PART_NONE) continue;
        if (room[pair->part][pair->verdict]-- <= 0) {
            pair->part = ZS_PART_NONE;
            out.unbalanced++;
            continue;
        }
        (pair->verdict == ZS_USEFUL ? out.useful : out.noisy)[pair->part]++;
        out.questions[pair->part] += questions[first_of[order[i]]].of_kind[0]++ == 0;
    }
    zs_free(order);
    zs_free(first_of);
    zs_free(questions);
    return out;
}

/* Completions. */

static bool ends_sentence(const char *end) {
    return end[-1] == '.' || end[-1] == '!' || end[-1] == '?';
}

/* Bytes of about `limit` words: to the end of the sentence in which the limit falls when it is near, else to
 * the limit. White space is single blanks. */
static int64_t cut_words(const char *text, int64_t limit) {
    int64_t words = 0, at_limit = -1;
    for (const char *at = text; *at && words < limit + limit / 2;) {
        const char *end = at + strcspn(at, " ");
        words++;
        if (words == limit) at_limit = end - text;
        if (words >= limit && ends_sentence(end)) return end - text;
        if (!*end) return end - text;
        at = end + 1;
    }
    return at_limit;
}

/* Where the first sentence begins with which a text cut to `limit` words holds an answer; 0 where none does.
 */
static int64_t find_statement(const zs_pair *pair, const char *text, int64_t limit) {
    for (const char *at = text; at;) {
        zs_string piece = {0};
        zs_string_append(&piece, at, cut_words(at, limit));
        bool holds = zs_holds_answer(piece.data, pair->answers, pair->num_answers);
        zs_string_free(&piece);
        if (holds) return at - text;
        const char *next = at;
        do
            next = strchr(next, ' ');
        while (next && !ends_sentence(next++));
        at = next;
    }
    return 0;
}

/* Bytes of the quoted title in front with its blank, 0: there is none. */
static int64_t title_length(const char *text) {
    const char *end = text[0] == '"' ? strstr(text + 1, "\" ") : NULL;
    return end ? end + 2 - text : 0;
}

/* The documents of a pair, and `further` ones after them, in order. */
static int list_documents(const zs_pair *pair, bool further, char ***out) {
    char **more = NULL;
    int count = zs_documents_split(pair->documents, out);
    int added = further ? zs_documents_split(pair->further, &more) : 0;
    if (added > 0) {
        *out = zs_grow(*out, count, count + added, sizeof **out);
        memcpy(*out + count, more, (size_t)added * sizeof *more);
    }
    zs_free(more);
    return count + added;
}

/* Brings the first document that holds an answer into the first top_k, as the last of them. */
static void raise_answer(const zs_pair *pair, char **documents, int count, int top_k) {
    int first = 0;
    while (first < count && !zs_holds_answer(documents[first], pair->answers, pair->num_answers))
        first++;
    if (first < top_k || first == count) return;
    char *raised = documents[first];
    documents[first] = documents[top_k - 1];
    documents[top_k - 1] = raised;
}

/* The first top_k documents that hold no answer; returns how many there are. */
static int gather_noise(const zs_pair *pair, int top_k, zs_string *out) {
    char **documents;
    int count = list_documents(pair, true, &documents), number = 0;
    for (int i = 0; i < count && number < top_k; i++)
        if (!zs_holds_answer(documents[i], pair->answers, pair->num_answers))
            number += zs_search_append_document(documents[i], (int64_t)strlen(documents[i]), number + 1, out);
    zs_documents_free(documents, count);
    return number;
}

int64_t zs_pairs_add_contrast(zs_pairs *pairs, int top_k) {
    int64_t before = pairs->count;
    for (int64_t i = 0; i < before; i++) {
        const zs_pair *pair = &pairs->items[i];
        if (pair->verdict != ZS_USEFUL || zs_answer_proves_nothing(pair) ||
            !zs_documents_hold(pair->documents, pair->answers, pair->num_answers))
            continue;
        zs_string noise = {0};
        if (gather_noise(pair, top_k, &noise) == top_k) {
            int64_t turn = pair->turn;
            zs_pair *made =
                zs_pairs_add(pairs, pair->query, pair->question, pair->answers, pair->num_answers);
            zs_free(made->documents);
            made->documents = zs_strdup(noise.data);
            made->turn = turn;
            made->verdict = ZS_NOISY;
            made->contrast_of = i;
        }
        zs_string_free(&noise);
    }
    return pairs->count - before;
}

void zs_pair_completion(const zs_pair *pair, int top_k, int64_t words, bool clean, zs_string *out) {
    char **documents;
    bool cleaned = clean && pair->verdict == ZS_NOISY;
    int count = list_documents(pair, cleaned, &documents), number = 0;
    if (pair->verdict == ZS_USEFUL) raise_answer(pair, documents, count, top_k);
    for (int i = 0; i < count && number < top_k; i++) {
        const char *text = documents[i];
        bool holds = zs_holds_answer(text, pair->answers, pair->num_answers);
        if (cleaned && holds) continue;
        zs_string piece = {0};
        int64_t title = title_length(text), cut = cut_words(text, words), begin = 0;
        zs_string_append(&piece, text, cut);
        if (holds && pair->verdict == ZS_USEFUL &&
            !zs_holds_answer(piece.data, pair->answers, pair->num_answers))
            begin = find_statement(pair, text + title, words);
        if (begin > 0) { /* the title, and what begins with the statement */
            zs_string_clear(&piece);
            zs_string_append(&piece, text, title);
            zs_string_append(&piece, text + title + begin, cut_words(text + title + begin, words));
        }
        number += zs_search_append_document(piece.data, piece.length, number + 1, out);
        zs_string_free(&piece);
    }
    zs_documents_free(documents, count);
}
