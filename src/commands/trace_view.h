/* The trace of an episode as it grows, in colour on a terminal: what the policy thinks, asks and answers,
 * what the search engine returned, what the program put in. Plain text is the same without the colours. */
#ifndef ZEROSEARCH_COMMANDS_TRACE_VIEW_H
#define ZEROSEARCH_COMMANDS_TRACE_VIEW_H

#include "zerosearch/episode.h"

#include <stdio.h>

typedef struct zs_trace_view {
    FILE *out;
    bool colours;
    bool prompt; /* show it too */
    /* state */
    int span;      /* of the policy's words: none, think, search, answer */
    bool begun;    /* the prompt is over */
    char held[16]; /* the beginning of what may become a tag */
    int num_held;
    const char *active; /* the colour that the terminal is in; NULL: none */
} zs_trace_view;

/* Whether to colour: "always", "never", or "auto": on a terminal that can (TERM is not dumb) unless NO_COLOR
 * is set to anything (no-color.org). */
bool zs_trace_view_colours(const char *choice, FILE *out);

/* A zs_rollout_watch; context is the view. Tags may be cut anywhere between two pieces. */
void zs_trace_view_put(void *view, const char *bytes, int64_t length, zs_token_kind kind);
/* What was held back, and back to no colour and no span: ready for another episode. */
void zs_trace_view_end(zs_trace_view *view);

#endif
