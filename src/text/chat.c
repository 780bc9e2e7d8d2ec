/* Chat formats, written out by hand: the few that matter here need no template language. */
#include "zerosearch/chat.h"

#include "zerosearch/error.h"

#include <ctype.h>
#include <jansson.h>
#include <string.h>

static const char *const formats[] = {"none", "chatml", "llama3"};
enum { NONE, CHATML, LLAMA3, NUM_FORMATS };

static const char qwen_system[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

static void put_stripped(zs_string *out, const char *text) {
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        length--;
    zs_string_append(out, text, (int64_t)length);
}

static void put_llama3(zs_string *out, const char *role, const char *text) {
    zs_string_printf(out, "<|start_header_id|>%s<|end_header_id|>\n\n", role);
    put_stripped(out, text);
    zs_string_puts(out, "<|eot_id|>");
}

static void put_chatml(zs_string *out, const char *role, const char *text) {
    zs_string_printf(out, "<|im_start|>%s\n", role);
    zs_string_puts(out, text);
    zs_string_puts(out, "<|im_end|>\n");
}

void zs_chat_wrap(zs_chat_format format, const char *system, const char *user, zs_string *out) {
    if (strcmp(format, formats[CHATML]) == 0) {
        put_chatml(out, "system", system ? system : qwen_system);
        put_chatml(out, "user", user);
        zs_string_puts(out, "<|im_start|>assistant\n");
    } else if (strcmp(format, formats[LLAMA3]) == 0) {
        zs_string_puts(out, "<|begin_of_text|>");
        if (system) put_llama3(out, "system", system);
        put_llama3(out, "user", user);
        zs_string_puts(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    } else {
        ZS_ASSERT(strcmp(format, formats[NONE]) == 0, "chat format \"%s\"", format);
        if (system && *system) {
            zs_string_puts(out, system);
            zs_string_puts(out, "\n\n");
        }
        zs_string_puts(out, user);
    }
}

/* The format whose marks stand in a template or in the text of a tokenizer file. */
static zs_chat_format format_of(const char *text) {
    if (strstr(text, "<|im_start|>")) return formats[CHATML];
    if (strstr(text, "<|start_header_id|>")) return formats[LLAMA3];
    return formats[NONE];
}

static bool read_beside(const char *folder, const char *name, zs_string *text) {
    zs_string path = {0};
    zs_string_printf(&path, "%s/%s", folder, name);
    bool read = zs_file_exists(path.data) && zs_file_read(path.data, text, NULL) == ZS_OK && text->data;
    zs_string_free(&path);
    return read;
}

/* chat_template is a text, or a list of {"name", "template"} of which the default counts. */
static zs_chat_format format_of_config(const char *config_text, int64_t length) {
    json_t *config = json_loadb(config_text, (size_t)length, 0, NULL), *item;
    const json_t *template = json_object_get(config, "chat_template");
    const char *text = json_string_value(template);
    size_t i;
    json_array_foreach(template, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!text || (name && strcmp(name, "default") == 0))
            text = json_string_value(json_object_get(item, "template"));
    }
    zs_chat_format format = text ? format_of(text) : formats[NONE];
    json_decref(config);
    return format;
}

zs_chat_format zs_chat_detect(const char *folder) {
    zs_string text = {0};
    zs_chat_format format = formats[NONE];
    if (read_beside(folder, "chat_template.jinja", &text))
        format = format_of(text.data);
    else if (read_beside(folder, "tokenizer_config.json", &text))
        format = format_of_config(text.data, text.length);
    else if (read_beside(folder, "tokenizer.json", &text))
        format = format_of(text.data);
    zs_string_free(&text);
    return format;
}

zs_chat_format zs_chat_named(const char *name, const char *folder) {
    for (int i = 0; name && i < NUM_FORMATS; i++)
        if (strcmp(name, formats[i]) == 0) return formats[i];
    return zs_chat_detect(folder);
}
