/* The names of settings: which there are, and which one was probably meant. */
#include "schema.h"

#include <limits.h>
#include <string.h>

int zs_schema_find(const char *name) {
    for (int i = 0; i < zs_schema_count; i++)
        if (strcmp(zs_schema[i].name, name) == 0) return i;
    return -1;
}

bool zs_schema_is_group(const char *name) {
    size_t length = strlen(name);
    for (int i = 0; i < zs_schema_count; i++)
        if (strncmp(zs_schema[i].name, name, length) == 0 && zs_schema[i].name[length] == '.') return true;
    return false;
}

/* Edits (insert, delete, change, swap of neighbours) that turn a into b; long names count as far away. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 60 };
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST || m > LONGEST) return INT_MAX;
    int table[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= n; i++) {
        for (int j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                table[i][j] = i + j;
                continue;
            }
            int best = table[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (table[i - 1][j] + 1 < best) best = table[i - 1][j] + 1;
            if (table[i][j - 1] + 1 < best) best = table[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                table[i - 2][j - 2] + 1 < best)
                best = table[i - 2][j - 2] + 1;
            table[i][j] = best;
        }
    }
    return table[n][m];
}

const char *zs_schema_last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* The key that was probably meant: few edits away, or the same word in another group. NULL: none. */
static const char *nearest_key(const char *name) {
    const char *best = NULL;
    int fewest = (int)strlen(name) / 4 + 1;
    for (int i = 0; i < zs_schema_count; i++) {
        int edits = edit_distance(name, zs_schema[i].name);
        if (edits <= fewest && (!best || edits < fewest)) {
            best = zs_schema[i].name;
            fewest = edits;
        }
    }
    for (int i = 0; !best && i < zs_schema_count; i++)
        if (strcmp(zs_schema_last_part(name), zs_schema_last_part(zs_schema[i].name)) == 0)
            best = zs_schema[i].name;
    return best;
}

zs_status zs_schema_unknown(const char *name, const char *source, zs_error *err) {
    const char *meant = nearest_key(name);
    if (zs_schema_is_group(name))
        return zs_fail(err, ZS_USAGE, "%s: '%s' is a group of keys; a value was given", source, name);
    if (meant)
        return zs_fail(err, ZS_USAGE, "%s: unknown key '%.200s' (did you mean '%s'?)", source, name, meant);
    return zs_fail(err, ZS_USAGE, "%s: unknown key '%.200s'", source, name);
}
