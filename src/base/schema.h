/* The table of every setting: its type, default, range or choices, and one line of help. */
#ifndef ZEROSEARCH_BASE_SCHEMA_H
#define ZEROSEARCH_BASE_SCHEMA_H

#include "zerosearch/error.h"

#include <stdbool.h>

typedef enum zs_key_type { ZS_KEY_INT, ZS_KEY_FLOAT, ZS_KEY_BOOL, ZS_KEY_STRING, ZS_KEY_STRINGS } zs_key_type;

typedef struct zs_key {
    const char *name; /* "group.key", or "key" at the top */
    zs_key_type type;
    double number;       /* default of an int, float or bool */
    double min, max;     /* of an int or float, both allowed */
    const char *text;    /* default of a string */
    const char *choices; /* of a string: "one|other"; NULL: any text */
    const char *help;
} zs_key;

extern const zs_key zs_schema[];
extern const int zs_schema_count;

int zs_schema_find(const char *name);              /* its place in zs_schema; -1: no such key */
bool zs_schema_is_group(const char *name);         /* whether keys begin with "name." */
const char *zs_schema_last_part(const char *name); /* behind the dot */
/* Fails with ZS_USAGE: "SOURCE: unknown key 'NAME' (did you mean 'KEY'?)", or what else is wrong with the
 * name. */
zs_status zs_schema_unknown(const char *name, const char *source, zs_error *err);

#endif
