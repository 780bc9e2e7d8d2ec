#include "span_writer.h"
#include "store.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BEHIND = 4 }; /* spans that may be on their way to disk at once */

struct zs_span_writer {
    char path[PATH_MAX];
    int fd;
    zs_file_span *spans; /* [count] */
    int64_t count;

    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t change;
    int64_t put, done, bytes;
    bool closed, ended;
    double ended_at;
    zs_error failure; /* the thread's own until it has ended */
};

static bool write_all(int fd, const char *data, int64_t bytes, int64_t at) {
    while (bytes > 0) {
        ssize_t wrote = pwrite(fd, data, (size_t)bytes, at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) {
            if (wrote == 0) errno = ENOSPC;
            return false;
        }
        data += wrote, at += wrote, bytes -= wrote;
    }
    return true;
}

static bool pass_span(zs_span_writer *w, const zs_file_span *span) {
    const int64_t block = ZS_CRC_BLOCK * 4;
    for (int64_t at = 0; at < span->bytes; at += block) {
        int64_t bytes = span->bytes - at < block ? span->bytes - at : block;
        const char *data = (const char *)span->data + at;
        span->crcs[at / block] = zs_crc_of(data, bytes);
        if (!write_all(w->fd, data, bytes, span->at + at)) return false;
    }
    return true;
}

/* The kernel would gather gigabytes before it begins to write: a span is set on its way at once, and the one
 * BEHIND spans before must have arrived. So the disk is busy from the start, the last flush is short, and a
 * step that wants memory finds few dirty pages. Where it is not known (ENOSYS, EINVAL) nothing is lost. */
static bool push(int fd, const zs_file_span *span, unsigned flags) {
    if (span->bytes == 0 || sync_file_range(fd, span->at, span->bytes, flags) == 0) return true;
    return errno != EIO && errno != ENOSPC && errno != EDQUOT;
}

/* The next span, when it has been put; false: there is none. */
static bool next_span(zs_span_writer *w, int64_t index) {
    pthread_mutex_lock(&w->mutex);
    while (w->put <= index && !w->closed && index < w->count)
        pthread_cond_wait(&w->change, &w->mutex);
    bool there = index < w->put;
    pthread_mutex_unlock(&w->mutex);
    return there;
}

static void *run(void *context) {
    enum { ARRIVED = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER };
    static long long written; /* spans of this process, for the tests */
    zs_span_writer *w = context;
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 10); /* Linux: of this thread alone */
    bool good = true;
    int64_t i = 0;
    for (; next_span(w, i); i++) {
        const zs_file_span *span = &w->spans[i];
        if (span->bytes > 0) zs_test_kill("writing", ++written);
        good = good && pass_span(w, span) && push(w->fd, span, SYNC_FILE_RANGE_WRITE) &&
               (i < BEHIND || push(w->fd, &w->spans[i - BEHIND], ARRIVED));
        if (!good && w->failure.status == ZS_OK)
            zs_fail(&w->failure, ZS_FAILED, "%s: not written: %s", w->path, strerror(errno));
        pthread_mutex_lock(&w->mutex);
        w->done++;
        w->bytes += span->bytes;
        pthread_cond_broadcast(&w->change);
        pthread_mutex_unlock(&w->mutex);
    }
    if (good && i == w->count && fdatasync(w->fd) != 0)
        zs_fail(&w->failure, ZS_FAILED, "%s: not written: %s", w->path, strerror(errno));
    if (close(w->fd) != 0 && w->failure.status == ZS_OK)
        zs_fail(&w->failure, ZS_FAILED, "%s: not written: %s", w->path, strerror(errno));
    pthread_mutex_lock(&w->mutex);
    w->ended = true;
    w->ended_at = zs_seconds();
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static void release(zs_span_writer *w) {
    pthread_cond_destroy(&w->change);
    pthread_mutex_destroy(&w->mutex);
    zs_free(w->spans);
    zs_free(w);
}

zs_status zs_span_writer_start(const char *path, int64_t count, zs_span_writer **out, zs_error *err) {
    *out = NULL;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return zs_fail(err, ZS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    zs_span_writer *w = ZS_NEW(zs_span_writer, 1);
    snprintf(w->path, sizeof w->path, "%s", path);
    w->fd = fd;
    w->count = count;
    w->spans = ZS_NEW(zs_file_span, count);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->change, &clock);
    pthread_condattr_destroy(&clock);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* the thread inherits it */
    int fault = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (fault) {
        close(fd);
        release(w);
        return zs_fail(err, ZS_FAILED, "%s: no thread to write it: %s", path, strerror(fault));
    }
    *out = w;
    return ZS_OK;
}

void zs_span_writer_put(zs_span_writer *w, zs_file_span span) {
    pthread_mutex_lock(&w->mutex);
    ZS_ASSERT(w->put < w->count, "more than %lld spans", (long long)w->count);
    w->spans[w->put++] = span;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->mutex);
}

void zs_span_writer_await(zs_span_writer *w, int64_t spans) {
    pthread_mutex_lock(&w->mutex);
    while (w->done < spans)
        pthread_cond_wait(&w->change, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

bool zs_span_writer_ended(zs_span_writer *w, double seconds, int64_t *bytes) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = (double)until.tv_nsec * 1e-9 + seconds;
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)((whole - (double)(time_t)whole) * 1e9);
    pthread_mutex_lock(&w->mutex);
    while (seconds > 0 && !w->ended && pthread_cond_timedwait(&w->change, &w->mutex, &until) == 0)
        ;
    bool ended = w->ended;
    if (bytes) *bytes = w->bytes;
    pthread_mutex_unlock(&w->mutex);
    return ended;
}

zs_status zs_span_writer_join(zs_span_writer *w, double *ended, zs_error *err) {
    pthread_mutex_lock(&w->mutex);
    w->closed = true;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    *ended = w->ended_at;
    zs_status status = w->failure.status;
    if (status != ZS_OK && err) *err = w->failure;
    release(w);
    return status;
}
