/* Query-document pairs: read from trajectories or from other people's logs, looked into, merged. */
#include "zerosearch/collect.h"
#include "zerosearch/memory.h"
#include "zerosearch/score.h"

#include "pair_index.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

typedef struct zs_place {
    const char *path;
    int64_t line;
} zs_place;

static zs_status fail_at(zs_error *err, const zs_place *place, const char *key, const char *expected) {
    return zs_fail(err, ZS_FAILED, "%s:%" PRId64 ": key \"%s\": %s", place->path, place->line, key, expected);
}

zs_pair *zs_pairs_add(zs_pairs *pairs, const char *query, const char *question, char *const *answers,
                      int num_answers) {
    if (pairs->count == pairs->capacity) {
        int64_t grown = pairs->capacity ? 2 * pairs->capacity : 256;
        pairs->items = zs_grow(pairs->items, pairs->capacity, grown, sizeof *pairs->items);
        pairs->capacity = grown;
    }
    zs_pair *pair = &pairs->items[pairs->count++];
    *pair = (zs_pair){.query = zs_strdup(query),
                      .question = zs_strdup(question),
                      .answers = ZS_NEW(char *, num_answers),
                      .num_answers = num_answers,
                      .documents = zs_strdup(""),
                      .further = zs_strdup(""),
                      .copies = 1,
                      .contrast_of = -1,
                      .verdict = ZS_UNDECIDED};
    for (int i = 0; i < num_answers; i++)
        pair->answers[i] = zs_strdup(answers[i]);
    return pair;
}

static void free_pair(zs_pair *pair) {
    zs_free(pair->query);
    zs_free(pair->question);
    zs_documents_free(pair->answers, pair->num_answers);
    zs_free(pair->documents);
    zs_free(pair->further);
}

void zs_pairs_free(zs_pairs *pairs) {
    for (int64_t i = 0; i < pairs->count; i++)
        free_pair(&pairs->items[i]);
    zs_free(pairs->items);
    *pairs = (zs_pairs){0};
}

/* Reading. */

/* "Doc 1: ..." of a text as engines give it, or of a list of texts or of {"title","text"}. */
static zs_status read_documents(const json_t *value, const char *key, const zs_place *place, zs_string *out,
                                zs_error *err) {
    static const char expected[] = "a text, or a list of texts or of {\"title\",\"text\"} was expected";
    if (json_is_string(value)) {
        if (strncmp(json_string_value(value), "Doc 1: ", 7) == 0)
            zs_string_puts(out, json_string_value(value));
        return ZS_OK; /* "No information available" holds no document */
    }
    if (!json_is_array(value)) return fail_at(err, place, key, expected);
    int number = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *document = json_array_get(value, i);
        const char *title = json_string_value(json_object_get(document, "title"));
        const char *text =
            json_string_value(json_is_string(document) ? document : json_object_get(document, "text"));
        if (!text) return fail_at(err, place, key, expected);
        zs_string whole = {0};
        zs_string_printf(&whole, title && *title ? "\"%s\" " : "%s", title && *title ? title : "");
        zs_string_puts(&whole, text);
        number += zs_search_append_document(whole.data, whole.length, number + 1, out);
        zs_string_free(&whole);
    }
    return ZS_OK;
}

/* How the trajectory ended: 1 right, 0 wrong, -1 not told. */
static zs_status read_end(const json_t *row, const char *right, const zs_place *place, int *out,
                          zs_error *err) {
    const json_t *score = json_object_get(row, right), *flag = json_object_get(row, "right");
    const char *label = json_string_value(json_object_get(row, "label"));
    *out = -1;
    if (json_is_number(score)) *out = json_number_value(score) >= 1.0;
    if (json_is_boolean(flag)) *out = json_is_true(flag);
    if (label && strcmp(label, "useful") != 0 && strcmp(label, "noisy") != 0)
        return fail_at(err, place, "label", "\"useful\" or \"noisy\" was expected");
    if (label) *out = strcmp(label, "useful") == 0;
    return ZS_OK;
}

typedef struct zs_row { /* what the searches of a row share */
    const char *question;
    char **answers; /* of the row's JSON */
    int num_answers, end;
} zs_row;

static zs_status read_row(const json_t *row, const char *right, const zs_place *place, zs_row *out,
                          zs_error *err) {
    const json_t *golden = json_object_get(row, "golden_answers");
    out->question = json_string_value(json_object_get(row, "question"));
    if (!out->question) return fail_at(err, place, "question", "a text was expected");
    if (!json_is_array(golden) || json_array_size(golden) == 0)
        return fail_at(err, place, "golden_answers", "a list of texts was expected");
    out->num_answers = (int)json_array_size(golden);
    out->answers = ZS_NEW(char *, out->num_answers);
    for (int i = 0; i < out->num_answers; i++) {
        out->answers[i] = (char *)json_string_value(json_array_get(golden, (size_t)i));
        if (!out->answers[i]) return fail_at(err, place, "golden_answers", "a list of texts was expected");
    }
    return read_end(row, right, place, &out->end, err);
}

static void take_text(char **to, zs_string *text) {
    if (text->length) {
        zs_free(*to);
        *to = zs_strdup(text->data);
    }
    zs_string_free(text);
}

/* One search; in a file of queries the documents may be missing, and the question is its own query. */
static zs_status add_search(const json_t *search, const zs_row *row, const zs_place *place,
                            bool need_documents, zs_pairs *out, zs_error *err) {
    const json_t *documents = json_object_get(search, "documents"), *query = json_object_get(search, "query"),
                 *further = json_object_get(search, "further");
    if ((need_documents || query) && !json_is_string(query))
        return fail_at(err, place, "query", "a text was expected");
    out->searches++;
    if (json_is_true(json_object_get(search, "failed"))) {
        out->failed++;
        return ZS_OK;
    }
    zs_string text = {0}, rest = {0};
    zs_status status = need_documents ? read_documents(documents, "documents", place, &text, err) : ZS_OK;
    if (status == ZS_OK && need_documents && further)
        status = read_documents(further, "further", place, &rest, err);
    if (status == ZS_OK && need_documents && text.length == 0) {
        out->empty++;
    } else if (status == ZS_OK) {
        zs_pair *pair = zs_pairs_add(out, query ? json_string_value(query) : row->question, row->question,
                                     row->answers, row->num_answers);
        take_text(&pair->documents, &text);
        take_text(&pair->further, &rest);
        pair->turn = json_integer_value(json_object_get(search, "turn"));
        pair->outcomes = row->end >= 0;
        pair->right = row->end == 1;
    }
    zs_string_free(&text);
    zs_string_free(&rest);
    return status;
}

static zs_status add_row(const json_t *json, const char *right, bool need_documents, const zs_place *place,
                         zs_pairs *out, zs_error *err) {
    zs_row row = {0};
    const json_t *searches = json_object_get(json, "searches");
    zs_status status = read_row(json, right, place, &row, err);
    out->rows++;
    if (status == ZS_OK && !searches) status = add_search(json, &row, place, need_documents, out, err);
    if (status == ZS_OK && searches && !json_is_array(searches))
        status = fail_at(err, place, "searches", "a list of searches was expected");
    for (size_t i = 0; status == ZS_OK && i < json_array_size(searches); i++)
        status = add_search(json_array_get(searches, i), &row, place, need_documents, out, err);
    zs_free(row.answers);
    return status;
}

zs_status zs_pairs_read(const char *path, const char *right, bool need_documents, zs_pairs *out,
                        zs_error *err) {
    zs_json_lines *lines;
    zs_status status = zs_json_lines_open(path, &lines, err);
    if (status != ZS_OK) return status;
    for (json_t *row;;) {
        status = zs_json_lines_next(lines, &row, err);
        if (status != ZS_OK || !row) break;
        zs_place place = {path, zs_json_lines_number(lines)};
        status = add_row(row, right, need_documents, &place, out, err);
        json_decref(row);
        if (status != ZS_OK) break;
    }
    zs_json_lines_close(lines);
    return status;
}

/* Documents. */

/* The length of a mark "Doc N: " with the number given, 0 if there is none. */
static size_t mark_length(const char *text, int number) {
    char mark[24];
    size_t length = (size_t)snprintf(mark, sizeof mark, "Doc %d: ", number);
    return strncmp(text, mark, length) == 0 ? length : 0;
}

int zs_documents_split(const char *documents, char ***out) {
    int count = 0;
    *out = NULL;
    for (const char *at = documents; *at;) {
        size_t mark = mark_length(at, count + 1);
        const char *next = at + mark;
        do /* to the next mark at a line's beginning */
            next += strcspn(next, "\n");
        while (*next && !mark_length(++next, count + 2));
        zs_string text = {0};
        zs_string_append(&text, at + mark, next - at - (int64_t)mark - (*next != '\0'));
        *out = zs_grow(*out, count, count + 1, sizeof **out);
        (*out)[count++] = text.data;
        at = next;
    }
    return count;
}

void zs_documents_free(char **documents, int count) {
    for (int i = 0; i < count; i++)
        zs_free(documents[i]);
    zs_free(documents);
}

bool zs_holds_answer(const char *text, char *const *answers, int num_answers) {
    return zs_score_answer(text, (int64_t)strlen(text), (const char *const *)answers, num_answers).cover_em ==
           1;
}

bool zs_documents_hold(const char *documents, char *const *answers, int num_answers) {
    char **texts;
    bool holds = false;
    int count = zs_documents_split(documents, &texts);
    for (int i = 0; i < count && !holds; i++)
        holds = zs_holds_answer(texts[i], answers, num_answers);
    zs_documents_free(texts, count);
    return holds;
}

/* Merging. */

static bool same_search(const zs_pair *a, const zs_pair *b) {
    return !strcmp(a->query, b->query) && !strcmp(a->documents, b->documents) &&
           !strcmp(a->question, b->question);
}

static uint64_t hash_search(const zs_pair *pair) {
    return zs_hash_text(pair->documents, zs_hash_text(pair->query, zs_hash_text(pair->question, 0)));
}

int64_t zs_pairs_merge(zs_pairs *pairs) {
    zs_pair_index index = zs_pair_index_make(pairs->count, same_search, hash_search);
    int64_t kept = 0, before = pairs->count;
    for (int64_t i = 0; i < before; i++) {
        pairs->items[kept] = pairs->items[i];
        int64_t first = zs_pair_index_put(&index, pairs->items, kept);
        zs_pair *to = &pairs->items[first];
        if (first == kept) {
            kept++;
            continue;
        }
        to->copies += pairs->items[kept].copies;
        to->outcomes += pairs->items[kept].outcomes;
        to->right += pairs->items[kept].right;
        free_pair(&pairs->items[kept]);
    }
    zs_pair_index_free(&index);
    pairs->count = kept;
    return before - kept;
}
