/* A rank's timeline: what it did when, kept until rank 0 collects it (zs_timeline_merge in comm.h).
 *
 * Events are in Chrome's trace-event format, which ui.perfetto.dev and chrome://tracing open: one process for
 * each rank, spans that lie within one another, counters. Memory is bounded: what the buffer cannot hold goes
 * to a nameless temporary file (in TMPDIR, else /tmp). Nothing is recorded, and a call costs a test of one
 * flag, until zs_trace_start. One thread. */
#ifndef ZEROSEARCH_TRACE_H
#define ZEROSEARCH_TRACE_H

#include "zerosearch/strings.h"

extern bool zs_trace_on; /* read only, for callers whose arguments cost something */

/* Something that took from begin to end, in zs_seconds. `detail` (or NULL) and `number` (or -1) are shown
 * with it. The texts are copied; beyond some hundred different ones they are recorded as "other". */
void zs_trace_span(const char *name, const char *detail, int64_t number, double begin, double end);
void zs_trace_counter(const char *name, double value); /* its value from now on */

/* Begins to record as process `rank`, shown as `title`. Times are told from `origin` on, in the clock of
 * zs_seconds + offset, where `offset` was measured at the time `when` (zs_seconds). */
void zs_trace_start(int rank, const char *title, double origin, double when, double offset);
void zs_trace_title(const char *title); /* the process is shown as this from now on */
/* A later measure of the offset: clocks drift, so events between two measures take a value between them. */
void zs_trace_align(double when, double offset);
/* Nothing is recorded until it is called with false. */
void zs_trace_pause(bool paused);
/* Moves the oldest events to `out` as text, each as a comma, a newline and a JSON object, until it has
 * `bytes` or a little more. Returns how many events are left. */
int64_t zs_trace_take(zs_string *out, int64_t bytes);
int64_t zs_trace_lost(void); /* events for which there was no room in the temporary file */
void zs_trace_stop(void);    /* forgets what is left */

#endif
