/* Prompt templates: found by name, filled by placeholder. */
#include "zerosearch/template.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_path(const char *name) {
    size_t length = strlen(name);
    return strchr(name, '/') || (length > 4 && strcmp(name + length - 4, ".txt") == 0);
}

/* The folder of the running program, "" when the system does not say. */
static void program_folder(char out[PATH_MAX]) {
    ssize_t length = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[length > 0 ? length : 0] = 0;
    char *slash = strrchr(out, '/');
    *(slash ? slash : out) = 0;
}

static zs_status find(const char *name, zs_string *path, zs_error *err) {
    char program[PATH_MAX];
    program_folder(program);
    const char *own = getenv("ZS_PROMPTS");
    struct {
        const char *folder, *under;
    } places[] = {{".", "/configs/prompts"},
                  {own ? own : "", ""},
                  {program, "/../configs/prompts"},
                  {program, "/../../configs/prompts"},
                  {program, "/../share/zerosearch/prompts"}};
    zs_string tried = {0};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (!places[i].folder[0]) continue;
        zs_string_clear(path);
        zs_string_printf(path, "%s%s/%s.txt", places[i].folder, places[i].under, name);
        if (zs_file_exists(path->data)) {
            zs_string_free(&tried);
            return ZS_OK;
        }
        zs_string_printf(&tried, "%s%s", tried.length ? ", " : "", path->data);
    }
    zs_status status = zs_fail(err, ZS_USAGE, "no prompt template \"%s\"; looked for %s", name,
                               tried.data ? tried.data : "");
    zs_string_free(&tried);
    return status;
}

zs_status zs_template_load(const char *name_or_path, zs_string *out, zs_error *err) {
    zs_string path = {0};
    zs_status status = ZS_OK;
    if (is_path(name_or_path))
        zs_string_puts(&path, name_or_path);
    else
        status = find(name_or_path, &path, err);
    if (!status) status = zs_file_read(path.data, out, err);
    if (!status && out->length > 0 && memchr(out->data, 0, (size_t)out->length))
        status = zs_fail(err, ZS_USAGE, "%s: a prompt template is text, this holds a zero byte", path.data);
    zs_string_free(&path);
    if (status) return status;
    if (out->length > 0 && out->data[out->length - 1] == '\n') out->data[--out->length] = 0;
    if (!out->data) zs_string_puts(out, "");
    return ZS_OK;
}

static bool is_word_byte(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

/* Length of "{word}" at text, 0 when there is none. */
static int64_t placeholder(const char *text) {
    if (text[0] != '{' || !is_word_byte(text[1], true)) return 0;
    int64_t at = 1;
    while (is_word_byte(text[at], at == 1))
        at++;
    return text[at] == '}' ? at + 1 : 0;
}

zs_status zs_template_fill(const char *text, const char *const *names, const char *const *values, int n,
                           zs_string *out, zs_error *err) {
    zs_string filled = {0};
    zs_string_puts(&filled, "");
    while (*text) {
        int64_t length = placeholder(text);
        if (length == 0) {
            const char *next = strchr(text + 1, '{');
            length = next ? next - text : (int64_t)strlen(text);
            zs_string_append(&filled, text, length);
        } else {
            int found = 0;
            while (found < n && (strlen(names[found]) != (size_t)length - 2 ||
                                 strncmp(names[found], text + 1, (size_t)length - 2) != 0))
                found++;
            if (found == n) {
                zs_string known = {0};
                for (int i = 0; i < n; i++)
                    zs_string_printf(&known, "%s{%s}", i ? " " : "", names[i]);
                zs_fail(err, ZS_USAGE, "unknown placeholder %.*s in a prompt template; known: %s",
                        (int)(length < 60 ? length : 60), text, known.data ? known.data : "none");
                zs_string_free(&known);
                zs_string_free(&filled);
                return ZS_USAGE;
            }
            zs_string_puts(&filled, values[found]);
        }
        text += length;
    }
    zs_string_append(out, filled.data, filled.length);
    zs_string_free(&filled);
    return ZS_OK;
}
