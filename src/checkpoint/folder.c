/* A folder of checkpoints: step-N.h5, and step-N.h5.tmp while one is being written. */
#include "zerosearch/checkpoint.h"
#include "zerosearch/memory.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The N of "step-N.h5" followed by `ending`; -1: another name. */
static int64_t step_of(const char *name, const char *ending) {
    if (strncmp(name, "step-", 5) != 0) return -1;
    const char *dot = strchr(name, '.');
    if (!dot || strncmp(dot, ".h5", 3) != 0 || strcmp(dot + 3, ending) != 0) return -1;
    char digits[24];
    int64_t step;
    snprintf(digits, sizeof digits, "%.*s", (int)(dot - name - 5), name + 5);
    return dot - name - 5 < 20 && zs_parse_int(digits, &step) && step >= 0 ? step : -1;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* All steps, newest first; owned by the caller. */
static int64_t *list_all(const char *folder, int64_t *count) {
    int64_t *steps = NULL;
    *count = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *item; dir && (item = readdir(dir));) {
        int64_t step = step_of(item->d_name, "");
        if (step < 0) continue;
        steps = zs_grow(steps, *count, *count + 1, sizeof *steps);
        steps[(*count)++] = step;
    }
    if (dir) closedir(dir);
    if (*count > 0) qsort(steps, (size_t)*count, sizeof *steps, newest_first);
    return steps;
}

int zs_checkpoint_list(const char *folder, int64_t *steps, int max) {
    int64_t count;
    int64_t *all = list_all(folder, &count);
    if (count > max) count = max;
    if (count > 0) memcpy(steps, all, (size_t)count * sizeof *steps);
    zs_free(all);
    return (int)count;
}

void zs_checkpoint_path(char *out, size_t size, const char *folder, int64_t step) {
    char name[40];
    snprintf(name, sizeof name, "step-%lld.h5", (long long)step);
    zs_path_join(out, size, folder, name);
}

void zs_checkpoint_prune(const char *folder, int keep) {
    char path[PATH_MAX];
    int64_t count;
    int64_t *steps = list_all(folder, &count);
    for (int64_t i = keep > 0 ? keep : 0; i < count; i++) {
        zs_checkpoint_path(path, sizeof path, folder, steps[i]);
        unlink(path);
    }
    zs_free(steps);
    /* What a killed run left behind. */
    DIR *dir = opendir(folder);
    for (struct dirent *item; dir && (item = readdir(dir));)
        if (step_of(item->d_name, ".tmp") >= 0) unlink(zs_path_join(path, sizeof path, folder, item->d_name));
    if (dir) closedir(dir);
}
