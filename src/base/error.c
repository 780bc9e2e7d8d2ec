#include "zerosearch/error.h"
#include "zerosearch/log.h"

#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

zs_status zs_fail(zs_error *err, zs_status status, const char *format, ...) {
    if (err) {
        /* Formatted aside first: the arguments may point into err->text itself. */
        char text[sizeof err->text];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        err->status = status;
        memcpy(err->text, text, sizeof text);
    }
    return status;
}

zs_status zs_fail_context(zs_error *err, const char *format, ...) {
    if (!err) return ZS_FAILED;
    char context[sizeof err->text], rest[sizeof err->text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    memcpy(rest, err->text, sizeof rest);
    size_t used = strlen(context);
    snprintf(err->text, sizeof err->text, "%s", context);
    if (used + 3 < sizeof err->text)
        snprintf(err->text + used, sizeof err->text - used, ": %.*s", (int)(sizeof err->text - used - 3),
                 rest);
    return err->status;
}

void zs_assert_failed(const char *condition, const char *file, int line, const char *format, ...) {
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "zerosearch: %s:%d: %s (%s) on rank %d, role %s, phase %s, step %lld\n", file, line, text,
            condition, zs_log_rank_number(), zs_log_role(), zs_log_phase(), (long long)zs_log_step());
    fflush(stderr);
    abort();
}

void zs_test_kill(const char *place, long long number) {
    const char *wish = getenv("ZS_TEST_KILL");
    char here[64];
    snprintf(here, sizeof here, "%s:%lld", place, number);
    if (wish && !strcmp(wish, here)) raise(SIGKILL);
}
