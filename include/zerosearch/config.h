/* Settings: libconfig files read against one schema (src/base/schema.c), where every key has its type,
 * default, range or choices and one line of help. An unknown key, a wrong type or a value out of range is an
 * error that names file, line, key and what is allowed. */
#ifndef ZEROSEARCH_CONFIG_H
#define ZEROSEARCH_CONFIG_H

#include "zerosearch/error.h"
#include "zerosearch/strings.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct zs_config zs_config;

/* path NULL: defaults only. overrides: "a.b=c" texts from --set, applied in order after the file. A relative
 * @include is resolved beside the file. */
zs_status zs_config_load(const char *path, const char *const *overrides, int num_overrides, zs_config **out,
                         zs_error *err);
/* One more override, as --set gives it. */
zs_status zs_config_set(zs_config *config, const char *override, zs_error *err);
void zs_config_free(zs_config *config);

/* Getters assert that the key is in the schema with that type, so a misspelt key is found by the first test.
 */
int64_t zs_config_int(const zs_config *config, const char *key);
double zs_config_float(const zs_config *config, const char *key);
bool zs_config_bool(const zs_config *config, const char *key);
const char *zs_config_string(const zs_config *config, const char *key); /* "" when unset; owned by config */
/* Arrays of strings or of floats (a single value counts as an array of one). */
int zs_config_count(const zs_config *config, const char *key);
const char *zs_config_string_at(const zs_config *config, const char *key, int index);

/* True if the key was set by file or override rather than by default. */
bool zs_config_is_set(const zs_config *config, const char *key);

/* Another default: takes `text`, as after --set KEY=, unless the key was set. It must be a good value. */
void zs_config_set_default(zs_config *config, const char *key, const char *text);

/* The resolved settings, every key with its value and help as a comment: itself a valid config file. */
void zs_config_dump(const zs_config *config, zs_string *out);

/* A ZS_USAGE error about a key: "FILE:LINE: KEY: message" (file and line where it was set, else "default").
 */
zs_status zs_config_fail(const zs_config *config, const char *key, zs_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
