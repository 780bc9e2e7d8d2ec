#include "trace_view.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NONE, THINK, SEARCH, ANSWER, SPANS };

static const struct {
    const char *open, *close, *colour;
} spans[SPANS] = {{"", "", NULL}, /* words outside any tag */
                  {"<think>", "</think>", "\033[90m"},
                  {"<search>", "</search>", "\033[1;33m"},
                  {"<answer>", "</answer>", "\033[1;32m"}};
static const char document_colour[] = "\033[36m", observation_colour[] = "\033[35m",
                  prompt_colour[] = "\033[2m", no_colour[] = "\033[0m";

bool zs_trace_view_colours(const char *choice, FILE *out) {
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    if (!strcmp(choice, "always")) return true;
    return !strcmp(choice, "auto") && isatty(fileno(out)) == 1 && !(none && *none) &&
           !(term && !strcmp(term, "dumb"));
}

static const char *colour_of(const zs_trace_view *view, zs_token_kind kind) {
    if (kind == ZS_TOKEN_PROMPT) return prompt_colour;
    if (kind == ZS_TOKEN_DOCUMENT) return document_colour;
    if (view->span != NONE) return spans[view->span].colour;
    return kind == ZS_TOKEN_OBSERVATION ? observation_colour : NULL;
}

static void print(zs_trace_view *view, const char *bytes, int64_t length, zs_token_kind kind) {
    if (length == 0 || (kind == ZS_TOKEN_PROMPT && !view->prompt)) return;
    const char *colour = colour_of(view, kind);
    if (view->colours && colour != view->active) fprintf(view->out, "%s%s", no_colour, colour ? colour : "");
    view->active = colour;
    fwrite(bytes, 1, (size_t)length, view->out);
}

static void print_held(zs_trace_view *view, zs_token_kind kind) {
    print(view, view->held, view->num_held, kind);
    view->num_held = 0;
}

/* One byte may complete a tag, go on towards one, or show that what is held is none. */
static void put_byte(zs_trace_view *view, char byte, zs_token_kind kind) {
    if (byte == '<') print_held(view, kind);
    if (byte != '<' && view->num_held == 0) {
        print(view, &byte, 1, kind);
        return;
    }
    view->held[view->num_held++] = byte;
    bool may_become = false;
    for (int s = THINK; s < SPANS; s++) {
        size_t held = (size_t)view->num_held, opening = strlen(spans[s].open),
               closing = strlen(spans[s].close);
        if (held == opening && !memcmp(view->held, spans[s].open, held)) {
            view->span = s;
            print_held(view, kind);
            return;
        }
        if (held == closing && !memcmp(view->held, spans[s].close, held)) {
            print_held(view, kind);
            view->span = NONE;
            return;
        }
        may_become |= (held < opening && !memcmp(view->held, spans[s].open, held)) ||
                      (held < closing && !memcmp(view->held, spans[s].close, held));
    }
    if (!may_become) print_held(view, kind);
}

/* A span that the prompt opened, which is not shown, is shown to be open. */
static void show_opening(zs_trace_view *view, zs_token_kind kind) {
    const char *open = spans[view->span].open;
    if (!view->prompt) print(view, open, (int64_t)strlen(open), kind);
    view->begun = true;
}

void zs_trace_view_put(void *context, const char *bytes, int64_t length, zs_token_kind kind) {
    zs_trace_view *view = context;
    if (!view->begun && kind != ZS_TOKEN_PROMPT) show_opening(view, kind);
    if (kind == ZS_TOKEN_DOCUMENT) { /* documents may hold anything */
        print_held(view, ZS_TOKEN_POLICY);
        view->span = NONE;
        print(view, bytes, length, kind);
    } else {
        for (int64_t i = 0; i < length; i++)
            put_byte(view, bytes[i], kind);
    }
    fflush(view->out);
}

void zs_trace_view_end(zs_trace_view *view) {
    print_held(view, ZS_TOKEN_POLICY);
    if (view->colours && view->active) fputs(no_colour, view->out);
    view->active = NULL;
    view->span = NONE;
    view->begun = false;
    fflush(view->out);
}
