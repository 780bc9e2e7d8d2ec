/* JSON lines: made on every rank, written by the root. */
#include "zerosearch/record.h"
#include "zerosearch/memory.h"

#include <jansson.h>

json_t *zs_record_text(const zs_tokenizer *tokenizer, const int32_t *ids, int64_t count) {
    zs_string text = {0}, clean = {0};
    zs_tokenizer_decode(tokenizer, ids, count, &text);
    zs_utf8_clean(text.data ? text.data : "", text.length, &clean);
    json_t *string = json_stringn(clean.data ? clean.data : "", (size_t)clean.length);
    zs_string_free(&text);
    zs_string_free(&clean);
    return string;
}

void zs_record_line(zs_string *lines, json_t *object) {
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(7));
    ZS_ASSERT(text, "a record that is no JSON: a text in it is not UTF-8");
    zs_string_puts(lines, text);
    zs_string_puts(lines, "\n");
    free(text);
    json_decref(object);
}

zs_status zs_record_write(const char *bytes, int64_t length, FILE *file, const char *path, zs_error *err) {
    if (fwrite(bytes, 1, (size_t)length, file) == (size_t)length && fflush(file) == 0) return ZS_OK;
    return zs_fail(err, ZS_FAILED, "%s: cannot be written (disk full?)", path);
}

zs_status zs_record_gather(const zs_comm *comm, zs_string *lines, FILE *file, const char *path,
                           zs_error *err) {
    char *all;
    int64_t *lengths, total = 0;
    zs_comm_gather_bytes(comm, &comm->world, lines->data ? lines->data : "", lines->length, 0, &all, &lengths,
                         "the records");
    zs_string_free(lines);
    if (!all) return ZS_OK;
    for (int r = 0; r < comm->world.size; r++)
        total += lengths[r];
    zs_status status = zs_record_write(all, total, file, path, err);
    zs_free(all);
    zs_free(lengths);
    return status;
}
