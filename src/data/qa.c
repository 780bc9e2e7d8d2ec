/* Question sets: the same JSON lines under the few names that published sets have for the answers.
 *
 * {"id", "question", "golden_answers" | "answers" | "answer" | "target", "gold", "hops"}; answers are a text,
 * a list of texts, or an object {"target": ...} as FlashRAG and Search-R1 write it. A row without an id is
 * named by its line. */
#include "zerosearch/qa.h"

#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* Where an error is: file and line, for messages. */
typedef struct zs_place {
    const char *path;
    int64_t line;
} zs_place;

static zs_status fail_at(zs_error *err, const zs_place *place, const char *key, const char *expected) {
    return zs_fail(err, ZS_FAILED, "%s:%" PRId64 ": key \"%s\": %s", place->path, place->line, key, expected);
}

/* A text of a scalar: strings as they are, numbers as JSON writes them (PopQA has years as numbers). */
static char *text_of(const json_t *value) {
    if (json_is_string(value)) return zs_strdup(json_string_value(value));
    if (json_is_integer(value) || json_is_real(value)) {
        char *dump = json_dumps(value, JSON_ENCODE_ANY), *text = zs_strdup(dump);
        free(dump);
        return text;
    }
    return NULL;
}

static void free_texts(char **texts, int count) {
    for (int i = 0; i < count; i++)
        zs_free(texts[i]);
    zs_free(texts);
}

/* A scalar or a list of scalars as texts. */
static zs_status read_texts(const json_t *value, const zs_place *place, const char *key, char ***texts,
                            int *count, zs_error *err) {
    bool list = json_is_array(value);
    int64_t length = list ? (int64_t)json_array_size(value) : 1;
    if (length > 100000) return fail_at(err, place, key, "at most 100000 entries were expected");
    *texts = ZS_NEW(char *, length);
    *count = 0;
    for (int64_t i = 0; i < length; i++) {
        char *text = text_of(list ? json_array_get(value, (size_t)i) : value);
        if (!text) {
            free_texts(*texts, *count);
            *texts = NULL;
            *count = 0;
            return fail_at(err, place, key, "a text or a list of texts was expected");
        }
        (*texts)[(*count)++] = text;
    }
    return ZS_OK;
}

static zs_status read_answers(const json_t *object, const zs_place *place, zs_question *question,
                              zs_error *err) {
    static const char *const keys[] = {"golden_answers", "answers", "answer", "target"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        const json_t *value = json_object_get(object, keys[k]);
        if (!value || json_is_null(value)) continue;
        if (json_is_object(value)) value = json_object_get(value, "target");
        if (!value) return fail_at(err, place, keys[k], "an object with \"target\" was expected");
        zs_status status = read_texts(value, place, keys[k], &question->answers, &question->num_answers, err);
        if (status != ZS_OK) return status;
        if (question->num_answers == 0) return fail_at(err, place, keys[k], "at least one answer is needed");
        return ZS_OK;
    }
    return fail_at(err, place, "golden_answers", "is missing (answers, answer or target would do as well)");
}

static zs_status read_question(const json_t *object, const zs_place *place, zs_question *question,
                               zs_error *err) {
    const json_t *text = json_object_get(object, "question");
    if (!text) return fail_at(err, place, "question", "is missing");
    if (!json_is_string(text)) return fail_at(err, place, "question", "a text was expected");
    question->question = zs_strdup(json_string_value(text));
    if (question->question[0] == '\0') return fail_at(err, place, "question", "is empty");

    const json_t *id = json_object_get(object, "id");
    if (id && !json_is_null(id)) {
        question->id = text_of(id);
        if (!question->id) return fail_at(err, place, "id", "a text was expected");
    } else {
        char name[32];
        snprintf(name, sizeof name, "line-%" PRId64, place->line);
        question->id = zs_strdup(name);
    }

    const json_t *gold = json_object_get(object, "gold");
    if (gold && !json_is_null(gold)) {
        zs_status status = read_texts(gold, place, "gold", &question->gold, &question->num_gold, err);
        if (status != ZS_OK) return status;
    }
    const json_t *hops = json_object_get(object, "hops");
    if (hops && !json_is_null(hops)) {
        if (!json_is_integer(hops) || json_integer_value(hops) < 0 || json_integer_value(hops) > 100)
            return fail_at(err, place, "hops", "a whole number from 0 to 100 was expected");
        question->hops = (int)json_integer_value(hops);
    }
    return read_answers(object, place, question, err);
}

zs_status zs_qa_load(const char *path, zs_qa *out, zs_error *err) {
    *out = (zs_qa){0};
    zs_json_lines *lines;
    zs_status status = zs_json_lines_open(path, &lines, err);
    if (status != ZS_OK) return status;
    int64_t capacity = 0;
    for (;;) {
        json_t *object;
        status = zs_json_lines_next(lines, &object, err);
        if (status != ZS_OK || !object) break;
        if (out->count == capacity) {
            int64_t larger = capacity ? 2 * capacity : 256;
            out->questions = zs_grow(out->questions, capacity, larger, sizeof *out->questions);
            capacity = larger;
        }
        zs_place place = {path, zs_json_lines_number(lines)};
        status = read_question(object, &place, &out->questions[out->count++], err);
        json_decref(object);
        if (status != ZS_OK) break;
    }
    zs_json_lines_close(lines);
    if (status == ZS_OK && out->count == 0) status = zs_fail(err, ZS_FAILED, "%s: holds no question", path);
    if (status != ZS_OK) zs_qa_free(out);
    return status;
}

void zs_qa_free(zs_qa *qa) {
    for (int64_t i = 0; i < qa->count; i++) {
        zs_question *question = &qa->questions[i];
        zs_free(question->id);
        zs_free(question->question);
        free_texts(question->answers, question->num_answers);
        free_texts(question->gold, question->num_gold);
    }
    zs_free(qa->questions);
    *qa = (zs_qa){0};
}
