#include "zerosearch/config.h"
#include "zerosearch/memory.h"
#include "schema.h"

#include <libconfig.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct value {
    double number; /* int (exact up to 2^53), float, bool */
    char **texts;  /* [count]: string (count 1) or strings */
    int count;
    char *source; /* "FILE:LINE" or "--set"; NULL: the default */
} value;

struct zs_config {
    value *values; /* parallel to zs_schema */
};

/* Values. */

static void clear_texts(value *v) {
    for (int i = 0; i < v->count; i++)
        zs_free(v->texts[i]);
    zs_free(v->texts);
    v->texts = NULL;
    v->count = 0;
}

static void add_text(value *v, const char *text) {
    v->texts = zs_grow(v->texts, v->count, v->count + 1, sizeof *v->texts);
    v->texts[v->count++] = zs_strdup(text);
}

static zs_config *create_defaults(void) {
    zs_config *config = ZS_NEW(zs_config, 1);
    config->values = ZS_NEW(value, zs_schema_count);
    for (int i = 0; i < zs_schema_count; i++) {
        config->values[i].number = zs_schema[i].number;
        if (zs_schema[i].type == ZS_KEY_STRING) add_text(&config->values[i], zs_schema[i].text);
    }
    return config;
}

void zs_config_free(zs_config *config) {
    if (!config) return;
    for (int i = 0; i < zs_schema_count; i++) {
        clear_texts(&config->values[i]);
        zs_free(config->values[i].source);
    }
    zs_free(config->values);
    zs_free(config);
}

/* The shortest text that reads back as the same number. */
static const char *number_text(char out[40], double number) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, 40, "%.*g", digits, number);
        if (strtod(out, NULL) == number) break;
    }
    return out;
}

/* What a key takes, for messages and the dump: "an integer from 1 to 9", "one of a, b". */
static void describe(const zs_key *key, zs_string *out) {
    char low[40], high[40];
    switch (key->type) {
    case ZS_KEY_INT:
        zs_string_printf(out, "an integer from %.0f to %.0f", key->min, key->max);
        break;
    case ZS_KEY_FLOAT:
        zs_string_printf(out, "a number from %s to %s", number_text(low, key->min),
                         number_text(high, key->max));
        break;
    case ZS_KEY_BOOL:
        zs_string_puts(out, "true or false");
        break;
    case ZS_KEY_STRING:
        zs_string_puts(out, key->choices ? "one of " : "a text in quotes");
        for (const char *c = key->choices; c && *c; c++)
            zs_string_puts(out, *c == '|' ? ", " : (char[]){*c, '\0'});
        break;
    case ZS_KEY_STRINGS:
        zs_string_puts(out, "an array of texts, [ \"...\", \"...\" ]");
        break;
    }
}

static bool is_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    for (const char *begin = choices; begin;) {
        const char *bar = strchr(begin, '|');
        size_t here = bar ? (size_t)(bar - begin) : strlen(begin);
        if (here == length && memcmp(begin, text, length) == 0) return true;
        begin = bar ? bar + 1 : NULL;
    }
    return false;
}

/* "SOURCE: KEY: GIVEN; X is expected". */
static zs_status wrong(const zs_key *key, const char *source, const char *given, zs_error *err) {
    zs_string expected = {0};
    describe(key, &expected);
    zs_fail(err, ZS_USAGE, "%s: %s: %.100s; %s is expected", source, key->name, given, expected.data);
    zs_string_free(&expected);
    return ZS_USAGE;
}

static zs_status put_number(const zs_key *key, value *v, double number, const char *source, zs_error *err) {
    if (!(number >= key->min && number <= key->max)) {
        char text[60], digits[40];
        snprintf(text, sizeof text, "%s is out of range", number_text(digits, number));
        return wrong(key, source, text, err);
    }
    v->number = number;
    return ZS_OK;
}

static zs_status put_text(const zs_key *key, value *v, const char *text, const char *source, zs_error *err) {
    if (key->choices && !is_choice(key->choices, text)) {
        char given[120];
        snprintf(given, sizeof given, "\"%.80s\" is not known", text);
        return wrong(key, source, given, err);
    }
    clear_texts(v);
    add_text(v, text);
    return ZS_OK;
}

static void set_source(value *v, const char *source) {
    char *copy = zs_strdup(source);
    zs_free(v->source);
    v->source = copy;
}

/* Takes a libconfig setting as the value of `key`. */
static zs_status put_setting(const zs_key *key, value *v, const config_setting_t *setting, const char *source,
                             zs_error *err) {
    int type = config_setting_type(setting);
    bool is_int = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
    double integer = is_int ? (double)config_setting_get_int64(setting) : 0;
    bool is_list = type == CONFIG_TYPE_ARRAY || type == CONFIG_TYPE_LIST;
    zs_status status = ZS_OK;
    if (key->type == ZS_KEY_INT && is_int) {
        status = put_number(key, v, integer, source, err);
    } else if (key->type == ZS_KEY_FLOAT && (is_int || type == CONFIG_TYPE_FLOAT)) {
        status = put_number(key, v, is_int ? integer : config_setting_get_float(setting), source, err);
    } else if (key->type == ZS_KEY_BOOL && type == CONFIG_TYPE_BOOL) {
        v->number = config_setting_get_bool(setting) != 0;
    } else if ((key->type == ZS_KEY_STRING || key->type == ZS_KEY_STRINGS) && type == CONFIG_TYPE_STRING) {
        status = put_text(key, v, config_setting_get_string(setting), source, err);
    } else if (key->type == ZS_KEY_STRINGS && is_list) {
        clear_texts(v);
        for (int i = 0; i < config_setting_length(setting); i++) {
            const char *text = config_setting_get_string_elem(setting, i);
            if (!text) return wrong(key, source, "an element is not a text", err);
            add_text(v, text);
        }
    } else {
        static const char *const names[] = {"nothing",       "a group",  "an integer",
                                            "an integer",    "a number", "a text",
                                            "true or false", "an array", "a list"};
        char given[60];
        const char *name = type >= 0 && type <= CONFIG_TYPE_LIST ? names[type] : "something else";
        snprintf(given, sizeof given, "%s was given", name);
        return wrong(key, source, given, err);
    }
    if (status == ZS_OK) set_source(v, source);
    return status;
}

/* Reading. */

static zs_status read_group(zs_config *config, const config_setting_t *group, const char *prefix,
                            const char *path, zs_error *err) {
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
        const char *file = config_setting_source_file(setting);
        char name[300], source[PATH_MAX + 40];
        snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] ? "." : "", config_setting_name(setting));
        snprintf(source, sizeof source, "%s:%u", file ? file : path, config_setting_source_line(setting));
        int index = zs_schema_find(name);
        zs_status status;
        if (index >= 0)
            status = put_setting(&zs_schema[index], &config->values[index], setting, source, err);
        else if (config_setting_is_group(setting) &&
                 (zs_schema_is_group(name) || config_setting_length(setting) > 0) && strlen(name) < 200)
            status = read_group(config, setting, name, path, err);
        else
            status = zs_schema_unknown(name, source, err);
        if (status != ZS_OK) return status;
    }
    return ZS_OK;
}

/* Where the text outside quotes and comments goes on after `at`, which starts one of them; else `at`. */
static const char *skip_quoted(const char *at) {
    if (*at == '"') {
        for (at++; *at && *at != '"'; at++)
            if (*at == '\\' && at[1]) at++;
        return *at ? at + 1 : at;
    }
    if (*at == '#' || (at[0] == '/' && at[1] == '/')) return at + strcspn(at, "\n");
    if (at[0] == '/' && at[1] == '*') {
        const char *end = strstr(at + 2, "*/");
        return end ? end + 2 : at + strlen(at);
    }
    return at;
}

/* libconfig before 1.7 cuts integers to 32 bits unless an L follows them: puts the L after long ones. */
static void mark_long_integers(const char *text, zs_string *out) {
    for (const char *at = text, *next; *at; at = next) {
        next = skip_quoted(at);
        size_t digits = next == at ? strspn(at, "0123456789") : 0;
        size_t word =
            next == at ? strspn(at, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.*") : 0;
        if (next == at) next += word ? word : 1;
        zs_string_append(out, at, next - at);
        if (digits >= 10 && digits == word) zs_string_puts(out, "L");
    }
}

static zs_status read_file(zs_config *config, const char *path, zs_error *err) {
    /* The scanner of libconfig ends the process on a folder or an unreadable file: look first. */
    zs_string text = {0};
    zs_error why = {0};
    if (zs_file_read(path, &text, &why) != ZS_OK) {
        zs_string_free(&text);
        return zs_fail(err, ZS_USAGE, "%s", why.text);
    }
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    zs_string marked = {0};
    zs_string_puts(&marked, "");
    if (text.length > 0) mark_long_integers(text.data, &marked);
    config_t file;
    config_init(&file);
    config_set_include_dir(&file, slash ? folder : ".");
    zs_status status;
    if (memchr(text.data, '\0', (size_t)text.length)) {
        status = zs_fail(err, ZS_USAGE, "%s: not a settings file: it holds a zero byte", path);
    } else if (config_read_string(&file, marked.data) != CONFIG_TRUE) {
        const char *where = config_error_file(&file);
        status = zs_fail(err, ZS_USAGE, "%s:%d: %s", where ? where : path, config_error_line(&file),
                         config_error_text(&file));
    } else {
        status = read_group(config, config_root_setting(&file), "", path, err);
    }
    config_destroy(&file);
    zs_string_free(&marked);
    zs_string_free(&text);
    return status;
}

/* Parses `text` as libconfig writes a value. */
static zs_status put_quoted(const zs_key *key, value *v, const char *text, const char *source,
                            zs_error *err) {
    config_t parsed;
    config_init(&parsed);
    zs_string line = {0};
    zs_string_printf(&line, "value = %s;", text);
    zs_status status;
    if (config_read_string(&parsed, line.data) == CONFIG_TRUE &&
        config_setting_length(config_root_setting(&parsed)) == 1)
        status = put_setting(key, v, config_lookup(&parsed, "value"), source, err);
    else
        status = wrong(key, source, text, err);
    zs_string_free(&line);
    config_destroy(&parsed);
    return status;
}

zs_status zs_config_set(zs_config *config, const char *override, zs_error *err) {
    const char *equals = strchr(override, '=');
    if (!equals || equals == override)
        return zs_fail(err, ZS_USAGE, "--set %.200s: KEY=VALUE is expected", override);
    char name[300];
    snprintf(name, sizeof name, "%.*s", equals - override < 299 ? (int)(equals - override) : 299, override);
    const char *text = equals + 1;
    int index = zs_schema_find(name);
    if (index < 0) return zs_schema_unknown(name, "--set", err);
    const zs_key *key = &zs_schema[index];
    value *v = &config->values[index];
    zs_status status;
    int64_t integer;
    double number;
    if (key->type == ZS_KEY_INT)
        status = zs_parse_int(text, &integer)
                     ? put_number(key, v, (double)integer, "--set", err)
                     : wrong(key, "--set", text[0] ? text : "nothing was given", err);
    else if (key->type == ZS_KEY_FLOAT)
        status = zs_parse_double(text, &number)
                     ? put_number(key, v, number, "--set", err)
                     : wrong(key, "--set", text[0] ? text : "nothing was given", err);
    else if (key->type == ZS_KEY_STRING && text[0] != '"')
        status = put_text(key, v, text, "--set", err);
    else if (key->type == ZS_KEY_STRINGS && text[0] == '\0')
        status = (clear_texts(v), ZS_OK);
    else if (key->type == ZS_KEY_STRINGS && !strchr("[(\"", text[0]))
        status = put_text(key, v, text, "--set", err);
    else
        status = put_quoted(key, v, text, "--set", err);
    if (status == ZS_OK) set_source(v, "--set");
    return status;
}

zs_status zs_config_load(const char *path, const char *const *overrides, int num_overrides, zs_config **out,
                         zs_error *err) {
    zs_config *config = create_defaults();
    zs_status status = path ? read_file(config, path, err) : ZS_OK;
    for (int i = 0; i < num_overrides && status == ZS_OK; i++)
        status = zs_config_set(config, overrides[i], err);
    if (status != ZS_OK) {
        zs_config_free(config);
        config = NULL;
    }
    *out = config;
    return status;
}

void zs_config_set_default(zs_config *config, const char *key, const char *text) {
    int index = zs_schema_find(key);
    ZS_ASSERT(index >= 0, "no key '%s' in the schema", key);
    if (config->values[index].source) return;
    char line[400];
    zs_error err = {0};
    snprintf(line, sizeof line, "%s=%s", key, text);
    zs_status status = zs_config_set(config, line, &err);
    ZS_ASSERT(status == ZS_OK, "%s", err.text);
    zs_free(config->values[index].source);
    config->values[index].source = NULL;
}

/* Asking. */

static const value *ask(const zs_config *config, const char *name, int type) {
    int index = zs_schema_find(name);
    ZS_ASSERT(index >= 0, "no key '%s' in the schema", name);
    ZS_ASSERT(type < 0 || (int)zs_schema[index].type == type, "key '%s' is asked for as another type", name);
    return &config->values[index];
}

int64_t zs_config_int(const zs_config *config, const char *key) {
    return (int64_t)ask(config, key, ZS_KEY_INT)->number;
}

double zs_config_float(const zs_config *config, const char *key) {
    return ask(config, key, ZS_KEY_FLOAT)->number;
}

bool zs_config_bool(const zs_config *config, const char *key) {
    return ask(config, key, ZS_KEY_BOOL)->number != 0;
}

const char *zs_config_string(const zs_config *config, const char *key) {
    return ask(config, key, ZS_KEY_STRING)->texts[0];
}

int zs_config_count(const zs_config *config, const char *key) {
    return ask(config, key, ZS_KEY_STRINGS)->count;
}

const char *zs_config_string_at(const zs_config *config, const char *key, int index) {
    const value *v = ask(config, key, ZS_KEY_STRINGS);
    ZS_ASSERT(index >= 0 && index < v->count, "element %d of '%s', which has %d", index, key, v->count);
    return v->texts[index];
}

bool zs_config_is_set(const zs_config *config, const char *key) {
    return ask(config, key, -1)->source != NULL;
}

zs_status zs_config_fail(const zs_config *config, const char *key, zs_error *err, const char *format, ...) {
    const char *source = ask(config, key, -1)->source;
    char text[sizeof err->text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return zs_fail(err, ZS_USAGE, "%s: %s: %.700s", source ? source : "default", key, text);
}

/* Writing. */

static void quote(const char *text, zs_string *out) {
    zs_string_puts(out, "\"");
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            zs_string_printf(out, "\\%c", *c);
        else if (*c == '\n')
            zs_string_puts(out, "\\n");
        else if (*c < 0x20 || *c == 0x7f)
            zs_string_printf(out, "\\x%02x", *c);
        else
            zs_string_append(out, (const char *)c, 1);
    }
    zs_string_puts(out, "\"");
}

static void dump_value(const zs_key *key, const value *v, zs_string *out) {
    char digits[40];
    switch (key->type) {
    case ZS_KEY_INT: /* libconfig marks 64-bit integers by an L */
        zs_string_printf(out, "%.0f%s", v->number, fabs(v->number) > INT_MAX ? "L" : "");
        break;
    case ZS_KEY_FLOAT:
        number_text(digits, v->number);
        zs_string_printf(out, "%s%s", digits, strpbrk(digits, ".e") ? "" : ".0");
        break;
    case ZS_KEY_BOOL:
        zs_string_puts(out, v->number != 0 ? "true" : "false");
        break;
    case ZS_KEY_STRING:
        quote(v->texts[0], out);
        break;
    case ZS_KEY_STRINGS:
        zs_string_puts(out, "[");
        for (int i = 0; i < v->count; i++) {
            zs_string_puts(out, i ? ", " : " ");
            quote(v->texts[i], out);
        }
        zs_string_puts(out, v->count ? " ]" : "]");
        break;
    }
}

void zs_config_dump(const zs_config *config, zs_string *out) {
    char group[64] = "";
    for (int i = 0; i < zs_schema_count; i++) {
        const zs_key *key = &zs_schema[i];
        const char *name = zs_schema_last_part(key->name);
        size_t length = name == key->name ? 0 : (size_t)(name - key->name - 1);
        if (strlen(group) != length || strncmp(group, key->name, length) != 0) {
            zs_string_puts(out, group[0] ? "};\n\n" : "\n");
            snprintf(group, sizeof group, "%.*s", (int)length, key->name);
            zs_string_printf(out, "%s:\n{\n", group);
        }
        const char *indent = length ? "    " : "";
        zs_string_printf(out, "%s# %s", indent, key->help);
        if (key->type == ZS_KEY_INT || key->type == ZS_KEY_FLOAT || key->choices) {
            zs_string_puts(out, " (");
            describe(key, out);
            zs_string_puts(out, ")");
        }
        zs_string_printf(out, "\n%s%s = ", indent, name);
        dump_value(key, &config->values[i], out);
        zs_string_puts(out, ";\n");
    }
    if (group[0]) zs_string_puts(out, "};\n");
}
