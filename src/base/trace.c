#include "zerosearch/trace.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAPACITY = 1 << 14, MOST_TEXTS = 512, SLOTS = 1024, BLOCK = 64 };

typedef enum event_kind { SPAN, COUNTER } event_kind;

typedef struct event {
    double begin, extent; /* extent: seconds of a span, value of a counter */
    int64_t number;
    uint16_t name, detail; /* into texts; detail 0: none */
    uint16_t kind;
} event;

bool zs_trace_on;

static struct {
    int rank;
    bool titled; /* the process has told its name */
    zs_string title;
    double origin, when[2], offset[2]; /* the last two measures of the clock */
    event *events;                     /* [CAPACITY], of which [first, count) are kept */
    int64_t first, count;
    int spill;                        /* file that holds the older ones, -1: none yet */
    int64_t spilled, unspilled, lost; /* events written to it, events taken back from it */
    char *texts[MOST_TEXTS];          /* 0: none, 1: "other" */
    uint16_t slots[SLOTS];            /* by hash, 0: empty */
    int num_texts;
} trace = {.spill = -1};

/* Texts. */

static void put_text(zs_string *out, const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            zs_string_printf(out, "\\%c", *c);
        else
            zs_string_append(out, *c < ' ' || *c > '~' ? "?" : (const char *)c, 1);
}

static uint16_t text_number(const char *text) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = text; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    int slot = (int)(hash % SLOTS);
    for (; trace.slots[slot]; slot = (slot + 1) % SLOTS)
        if (strcmp(trace.texts[trace.slots[slot]], text) == 0) return trace.slots[slot];
    if (trace.num_texts == MOST_TEXTS) return 1;
    trace.texts[trace.num_texts] = zs_strdup(text);
    trace.slots[slot] = (uint16_t)trace.num_texts++;
    return trace.slots[slot];
}

/* Events. */

static int make_temporary(void) {
    const char *folder = getenv("TMPDIR");
    char path[600];
    snprintf(path, sizeof path, "%s/zerosearch-trace-XXXXXX", folder && *folder ? folder : "/tmp");
    int file = mkstemp(path);
    if (file >= 0) unlink(path);
    return file;
}

/* Empties the buffer into the temporary file. */
static void spill(void) {
    int64_t n = trace.count - trace.first;
    size_t bytes = (size_t)n * sizeof(event);
    if (trace.spill < 0) trace.spill = make_temporary();
    ssize_t written = trace.spill < 0 ? -1
                                      : pwrite(trace.spill, trace.events + trace.first, bytes,
                                               (off_t)(trace.spilled * (int64_t)sizeof(event)));
    if (written == (ssize_t)bytes)
        trace.spilled += n;
    else
        trace.lost += n;
    trace.first = trace.count = 0;
}

static void record(event e) {
    if (trace.count == CAPACITY) spill();
    trace.events[trace.count++] = e;
}

void zs_trace_span(const char *name, const char *detail, int64_t number, double begin, double end) {
    if (!zs_trace_on) return;
    record((event){begin, end - begin, number, text_number(name), detail ? text_number(detail) : 0, SPAN});
}

void zs_trace_counter(const char *name, double value) {
    if (!zs_trace_on) return;
    record((event){zs_seconds(), value, -1, text_number(name), 0, COUNTER});
}

/* Start and end. */

void zs_trace_start(int rank, const char *title, double origin, double when, double offset) {
    zs_trace_stop();
    trace.rank = rank;
    trace.origin = origin;
    trace.when[0] = trace.when[1] = when;
    trace.offset[0] = trace.offset[1] = offset;
    trace.events = ZS_NEW(event, CAPACITY);
    trace.texts[0] = zs_strdup("");
    trace.texts[1] = zs_strdup("other");
    trace.num_texts = 2;
    zs_string_puts(&trace.title, title);
    zs_trace_on = true;
}

void zs_trace_title(const char *title) {
    if (!trace.events) return;
    zs_string_clear(&trace.title);
    zs_string_puts(&trace.title, title);
    trace.titled = false;
}

void zs_trace_align(double when, double offset) {
    trace.when[0] = trace.when[1];
    trace.offset[0] = trace.offset[1];
    trace.when[1] = when;
    trace.offset[1] = offset;
}

void zs_trace_pause(bool paused) {
    zs_trace_on = trace.events && !paused;
}

int64_t zs_trace_lost(void) {
    return trace.lost;
}

void zs_trace_stop(void) {
    zs_trace_on = false;
    zs_free(trace.events);
    for (int i = 0; i < trace.num_texts; i++)
        zs_free(trace.texts[i]);
    zs_string_free(&trace.title);
    if (trace.spill >= 0) close(trace.spill);
    memset(&trace, 0, sizeof trace);
    trace.spill = -1;
}

/* Text. */

/* Microseconds since the origin, on the clock of rank 0. */
static double told_time(double local) {
    double span = trace.when[1] - trace.when[0], offset = trace.offset[1];
    if (span > 0 && local < trace.when[1]) {
        double at = local < trace.when[0] ? 0 : (local - trace.when[0]) / span;
        offset = trace.offset[0] + at * (trace.offset[1] - trace.offset[0]);
    }
    return 1e6 * (local + offset - trace.origin);
}

static void put_title(zs_string *out) {
    zs_string_printf(out,
                     ",\n{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{"
                     "\"sort_index\":%d}}",
                     trace.rank, trace.rank);
    zs_string_printf(
        out, ",\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"rank %d: ",
        trace.rank, trace.rank);
    put_text(out, trace.title.data ? trace.title.data : "");
    zs_string_puts(out, "\"}}");
    trace.titled = true;
}

static void put_event(zs_string *out, const event *e) {
    double begin = told_time(e->begin);
    zs_string_puts(out, ",\n{\"name\":\"");
    put_text(out, trace.texts[e->name]);
    zs_string_printf(out, "\",\"ph\":\"%c\",\"pid\":%d,\"tid\":0,\"ts\":%.3f", e->kind == SPAN ? 'X' : 'C',
                     trace.rank, begin);
    if (e->kind == COUNTER) {
        zs_string_printf(out, ",\"args\":{\"value\":%.6g}}", isfinite(e->extent) ? e->extent : 0.0);
        return;
    }
    zs_string_printf(out, ",\"dur\":%.3f", told_time(e->begin + e->extent) - begin);
    if (e->number >= 0 || e->detail) zs_string_puts(out, ",\"args\":{");
    if (e->number >= 0)
        zs_string_printf(out, "\"number\":%lld%s", (long long)e->number, e->detail ? "," : "}");
    if (e->detail) {
        zs_string_puts(out, "\"for\":\"");
        put_text(out, trace.texts[e->detail]);
        zs_string_puts(out, "\"}");
    }
    zs_string_puts(out, "}");
}

int64_t zs_trace_take(zs_string *out, int64_t bytes) {
    if (!trace.titled && trace.events) put_title(out);
    event block[BLOCK];
    while (out->length < bytes && trace.unspilled < trace.spilled) {
        int64_t n = trace.spilled - trace.unspilled;
        if (n > BLOCK) n = BLOCK;
        size_t wanted = (size_t)n * sizeof(event);
        if (pread(trace.spill, block, wanted, (off_t)(trace.unspilled * (int64_t)sizeof(event))) ==
            (ssize_t)wanted)
            for (int64_t i = 0; i < n; i++)
                put_event(out, &block[i]);
        else
            trace.lost += n;
        trace.unspilled += n;
    }
    if (trace.spilled > 0 && trace.unspilled == trace.spilled) { /* its room is given back */
        trace.spilled = trace.unspilled = 0;
        if (ftruncate(trace.spill, 0) != 0) return trace.count - trace.first; /* it is written over */
    }
    while (out->length < bytes && trace.spilled == 0 && trace.first < trace.count)
        put_event(out, &trace.events[trace.first++]);
    if (trace.first == trace.count) trace.first = trace.count = 0;
    return trace.spilled - trace.unspilled + trace.count - trace.first;
}
