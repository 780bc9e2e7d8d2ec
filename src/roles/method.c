/* The methods: a table, their templates, their prompts. */
#include "zerosearch/method.h"

#include "zerosearch/template.h"

#include <string.h>

static const struct {
    const char *name;
    bool searches, retrieves;
    const char *prompt_key;
    const char *opening; /* NULL: rollout.last_turn_template */
} methods[] = {{"search", true, false, "rollout.prompt_template", NULL},
               {"direct", false, false, "rollout.direct_template", "<answer>"},
               {"cot", false, false, "rollout.cot_template", "<think>"},
               {"rag", false, true, "rollout.rag_template", ""}};
enum { METHODS = sizeof methods / sizeof *methods };

static const char *const placeholders[] = {"question", "documents"};

static int find(const char *name) {
    for (int i = 0; i < METHODS; i++)
        if (!strcmp(methods[i].name, name)) return i;
    return -1;
}

bool zs_method_exists(const char *name) {
    return find(name) >= 0;
}

bool zs_method_needs_engine(const char *name) {
    int m = find(name);
    return m >= 0 && (methods[m].searches || methods[m].retrieves);
}

static zs_status load_text(const zs_config *config, const char *key, zs_string *out, zs_error *err) {
    if (zs_template_load(zs_config_string(config, key), out, err) != ZS_OK)
        return zs_fail_context(err, "%s", key);
    return ZS_OK;
}

/* Fills the template in once, so that a bad one is told before the run. */
static zs_status try_prompt(const zs_method *method, const char *key, zs_error *err) {
    static const char mark[] = "\x01";
    const char *values[] = {"?", mark};
    zs_string trial = {0};
    zs_status status =
        zs_template_fill(method->prompt.data, placeholders, values, 1 + method->retrieves, &trial, err);
    if (status == ZS_OK && trial.length == 0) status = zs_fail(err, ZS_USAGE, "the template is empty");
    if (status == ZS_OK && method->retrieves && !strstr(trial.data, mark))
        status = zs_fail(err, ZS_USAGE, "the template has no {documents}, which this method puts there");
    zs_string_free(&trial);
    return status == ZS_OK ? ZS_OK : zs_fail_context(err, "%s", key);
}

zs_status zs_method_load(const zs_config *config, const char *name, zs_method *out, zs_error *err) {
    int m = find(name);
    *out = (zs_method){0};
    if (m < 0)
        return zs_fail(err, ZS_USAGE, "no method \"%.100s\": one of search, direct, cot, rag is expected",
                       name);
    *out = (zs_method){
        .name = methods[m].name, .searches = methods[m].searches, .retrieves = methods[m].retrieves};
    zs_status status = load_text(config, methods[m].prompt_key, &out->prompt, err);
    if (status == ZS_OK && !methods[m].opening)
        status = load_text(config, "rollout.last_turn_template", &out->opening, err);
    if (status == ZS_OK && methods[m].opening) zs_string_puts(&out->opening, methods[m].opening);
    if (status == ZS_OK) status = try_prompt(out, methods[m].prompt_key, err);
    if (status != ZS_OK) zs_method_free(out);
    return status;
}

void zs_method_free(zs_method *method) {
    zs_string_free(&method->prompt);
    zs_string_free(&method->opening);
    *method = (zs_method){0};
}

void zs_method_prompt(const zs_method *method, const zs_chat *chat, const zs_tokenizer *tokenizer,
                      const char *question, const char *documents, bool open, int64_t room, zs_ids *out) {
    const char *values[] = {question, documents ? documents : ""};
    zs_string filled = {0};
    zs_error err = {0};
    zs_status status =
        zs_template_fill(method->prompt.data, placeholders, values, 1 + method->retrieves, &filled, &err);
    ZS_ASSERT(status == ZS_OK, "%s", err.text); /* the template was tried when it was loaded */
    zs_ids_clear(out);
    zs_chat_encode(chat, tokenizer, filled.data, out);
    if (open) zs_tokenizer_encode(tokenizer, method->opening.data, method->opening.length, out);
    if (out->length > room) {
        int32_t first = out->data[0];
        memmove(out->data, out->data + out->length - room, (size_t)room * sizeof(int32_t));
        out->length = room;
        if (chat && first == chat->begin_id) out->data[0] = first;
    }
    zs_string_free(&filled);
}
