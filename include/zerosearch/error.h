/* Errors that carry where and why, and the exit codes of the program.
 *
 * Parsing and I/O return a zs_status and fill a zs_error; kernels cannot fail. The command prints
 * the error once (zs_comm_agree makes it one message for all ranks) and exits with the status. */
#ifndef ZEROSEARCH_ERROR_H
#define ZEROSEARCH_ERROR_H

typedef enum zs_status {
    ZS_OK = 0,      /* done */
    ZS_FAILED = 1,  /* failed: a torn file, a full disk, a dead rank */
    ZS_USAGE = 2,   /* wrong usage or configuration */
    ZS_STOPPED = 75 /* stopped early with a checkpoint: run me again */
} zs_status;

typedef struct zs_error {
    zs_status status;
    char text[1000];
} zs_error;

/* Sets the error and returns `status`, so that a function can `return zs_fail(err, ZS_FAILED, ...)`.
 * `err` may be NULL. The text names the file, key or rank and what was expected; no final newline. */
zs_status zs_fail(zs_error *err, zs_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " before the text of an error that is set; returns its status. */
zs_status zs_fail_context(zs_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Programming fault: prints the condition, message, rank, role and phase (see log.h), then aborts. */
#define ZS_ASSERT(condition, ...)                                                                            \
    ((condition) ? (void)0 : zs_assert_failed(#condition, __FILE__, __LINE__, __VA_ARGS__))
void zs_assert_failed(const char *condition, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5), noreturn));

/* Test hook: ZS_TEST_KILL="PLACE:NUMBER" in the environment ends this process by SIGKILL there. */
void zs_test_kill(const char *place, long long number);

#endif
