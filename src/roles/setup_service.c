/* Services as search engines: their settings, and their keys, which come from the environment alone. */
#include "zerosearch/setup.h"

#include <stdlib.h>
#include <string.h>

bool zs_search_is_service(const char *engine) {
    return !strcmp(engine, "http") || !strcmp(engine, "google") || !strcmp(engine, "openai");
}

static zs_service_options read_options(const zs_config *config, int documents) {
    return (zs_service_options){.top_k = documents,
                                .connect_timeout = zs_config_float(config, "search.connect_timeout"),
                                .timeout = zs_config_float(config, "search.timeout"),
                                .backoff = zs_config_float(config, "search.backoff"),
                                .retries = (int)zs_config_int(config, "search.retries"),
                                .concurrency = (int)zs_config_int(config, "search.concurrency"),
                                .max_failures = (int)zs_config_int(config, "search.max_failures"),
                                .max_response = zs_config_int(config, "search.max_response"),
                                .verify = zs_config_bool(config, "search.tls_verify"),
                                .lockstep = zs_config_bool(config, "search.lockstep"),
                                .ca_file = zs_config_string(config, "search.tls_ca"),
                                .cache = zs_config_string(config, "search.cache"),
                                .seed = (uint64_t)zs_config_int(config, "seed")};
}

/* The key that the environment variable named by a setting holds; "" where there is none. */
static zs_status read_key(const zs_config *config, const char *setting, bool needed, const char **key,
                          zs_error *err) {
    const char *name = zs_config_string(config, setting), *value = *name ? getenv(name) : NULL;
    *key = value ? value : "";
    if (needed && !**key)
        return zs_config_fail(config, setting, err, "the environment variable %s must hold the service's key",
                              *name ? name : "(none named)");
    for (const char *c = *key; *c; c++)
        if (*c <= ' ' || *c > '~')
            return zs_config_fail(config, setting, err,
                                  "the environment variable %s holds a blank or a character that no key has",
                                  name);
    return ZS_OK;
}

static zs_status setup_http(const zs_config *config, const zs_service_options *options, zs_search **out,
                            zs_error *err) {
    const char *key, *url = zs_config_string(config, "search.http_url");
    if (!*url) return zs_config_fail(config, "search.http_url", err, "the engine http needs its URL");
    zs_status status =
        read_key(config, "search.http_key_env", *zs_config_string(config, "search.http_key_env"), &key, err);
    if (status != ZS_OK) return status;
    status = zs_search_http(url, zs_config_string(config, "search.http_protocol"),
                            (int)zs_config_int(config, "search.http_batch"), key, options, out, err);
    return status == ZS_OK ? ZS_OK : zs_fail_context(err, "search.http_url");
}

static zs_status setup_google(const zs_config *config, const zs_service_options *options, zs_search **out,
                              zs_error *err) {
    const char *key;
    zs_status status = read_key(config, "search.google_key_env", true, &key, err);
    if (status != ZS_OK) return status;
    status = zs_search_google(zs_config_string(config, "search.google_url"), key, options, out, err);
    return status == ZS_OK ? ZS_OK : zs_fail_context(err, "search.google_url");
}

static zs_status setup_openai(const zs_config *config, const zs_service_options *options,
                              zs_search_setup *setup, zs_error *err) {
    zs_openai_options openai = {.url = zs_config_string(config, "search.openai_url"),
                                .model = zs_config_string(config, "search.openai_model"),
                                .chat = !strcmp(zs_config_string(config, "search.openai_api"), "chat"),
                                .words = (int)zs_config_int(config, "search.words"),
                                .temperature = zs_config_float(config, "search.temperature"),
                                .top_p = zs_config_float(config, "search.top_p"),
                                .max_new_tokens = zs_config_int(config, "search.max_new_tokens")};
    static const char *const needed[] = {"search.openai_url", "search.openai_model"};
    for (int i = 0; i < 2; i++)
        if (!*zs_config_string(config, needed[i]))
            return zs_config_fail(config, needed[i], err, "the engine openai needs it");
    zs_status status = read_key(config, "search.openai_key_env", false, &openai.key, err);
    if (status == ZS_OK) status = zs_setup_templates(config, "openai", setup, err);
    if (status != ZS_OK) return status;
    openai.useful_template = setup->useful.data;
    openai.noisy_template = setup->noisy.data;
    status = zs_search_openai(&openai, options, &setup->search, err);
    return status == ZS_OK ? ZS_OK : zs_fail_context(err, "search.openai_url");
}

zs_status zs_setup_service(const zs_config *config, const char *engine, int documents, zs_search_setup *out,
                           zs_error *err) {
    zs_service_options options = read_options(
        config, strcmp(engine, "openai") != 0 ? documents : (int)zs_config_int(config, "search.top_k"));
    if (!strcmp(engine, "http")) return setup_http(config, &options, &out->search, err);
    if (!strcmp(engine, "google")) return setup_google(config, &options, &out->search, err);
    return setup_openai(config, &options, out, err);
}
