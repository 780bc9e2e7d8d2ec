/* The table of every setting: its type, default, range or choices, and one line of help. */
#ifndef ZEROSEARCH_BASE_SCHEMA_H
#define ZEROSEARCH_BASE_SCHEMA_H

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

#endif
