/* A small HTTP server for tests: a process of its own, a child for each connection, kept alive between
 * requests. The path says how it behaves; the request's own keys say which protocol answers. */
#ifndef ZEROSEARCH_TESTS_HTTP_SERVER_H
#define ZEROSEARCH_TESTS_HTTP_SERVER_H

#include "zerosearch/strings.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define GOOD_KEY "s3cret/Key+=" /* what google and openai are asked with */

typedef struct server_counts { /* shared by all processes of the server and whoever started it */
    atomic_int requests, queries, connections, at_once, most_at_once;
} server_counts;

typedef struct server_request {
    char method[8], path[2000], query[4000], authorization[200];
    zs_string body;
} server_request;

static void server_answer(int out, int status, const char *header, const char *body) {
    dprintf(out, "HTTP/1.1 %d Status\r\n%sContent-Length: %zu\r\n\r\n%s", status, header, strlen(body), body);
}

/* One request, or false at the connection's end. */
static bool server_read(int in, server_request *r) {
    zs_string text = {0};
    char *end = NULL, byte;
    while (!end) {
        if (recv(in, &byte, 1, 0) != 1) return false;
        zs_string_append(&text, &byte, 1);
        if (text.length >= 4 && memcmp(text.data + text.length - 4, "\r\n\r\n", 4) == 0) end = text.data;
    }
    char target[6000];
    if (sscanf(text.data, "%7s %5999s", r->method, target) != 2) return false;
    char *mark = strchr(target, '?');
    snprintf(r->query, sizeof r->query, "%s", mark ? mark + 1 : "");
    if (mark) *mark = '\0';
    snprintf(r->path, sizeof r->path, "%.1999s", target);
    const char *length = strcasestr(text.data, "\r\nContent-Length:"),
               *key = strcasestr(text.data, "\r\nAuthorization: Bearer ");
    r->authorization[0] = '\0';
    if (key) sscanf(key + 24, "%199[^\r]", r->authorization);
    zs_string_clear(&r->body);
    for (long left = length ? strtol(length + 17, NULL, 10) : 0; left > 0; left--) {
        if (recv(in, &byte, 1, 0) != 1) return false;
        zs_string_append(&r->body, &byte, 1);
    }
    zs_string_free(&text);
    return true;
}

/* The value of a URL parameter, decoded. */
static void server_parameter(const char *query, const char *name, char *out, size_t size) {
    size_t length = strlen(name), used = 0;
    for (const char *at = query; at; at = strchr(at, '&') ? strchr(at, '&') + 1 : NULL) {
        if (strncmp(at, name, length) != 0 || at[length] != '=') continue;
        for (at += length + 1; *at && *at != '&' && used + 1 < size; at++) {
            unsigned code = (unsigned char)*at;
            if (*at == '%' && sscanf(at + 1, "%2x", &code) == 1) at += 2;
            out[used++] = (char)code;
        }
        break;
    }
    out[used] = '\0';
}

/* Documents for a query: `count` of them, the query's words in each. */
static json_t *server_documents(const char *query, json_int_t count, bool nested) {
    json_t *list = json_array();
    for (json_int_t i = 1; i <= count; i++) {
        char text[5000];
        snprintf(text, sizeof text, "\"Title %d\"\nPassage %d on %s.", (int)i, (int)i, query);
        json_array_append_new(list, nested ? json_pack("{s:{s:s,s:i},s:f}", "document", "contents", text,
                                                       "id", (int)i, "score", 1.0 / (double)i)
                                           : json_pack("{s:s}", "text", text));
    }
    return list;
}

static json_t *server_retrieve(const json_t *request, const char *path, server_counts *counts) {
    const json_t *queries = json_object_get(request, "queries"), *one;
    const char *query = json_string_value(json_object_get(request, "query"));
    if (queries && !strstr(path, "wiki")) {
        json_t *lists = json_array();
        size_t i;
        json_array_foreach(queries, i, one) {
            json_int_t count = json_integer_value(json_object_get(request, "topk"));
            json_array_append_new(lists, server_documents(json_string_value(one), count, true));
            atomic_fetch_add(&counts->queries, 1);
        }
        return json_pack("{s:o}", "result", lists);
    }
    if (!query || strstr(path, "r1")) return NULL;
    atomic_fetch_add(&counts->queries, 1);
    bool nothing = strstr(query, "nothing") != NULL;
    return server_documents(query, nothing ? 0 : json_integer_value(json_object_get(request, "top_k")),
                            false);
}

static json_t *server_google(const server_request *r) {
    char query[3000], key[200];
    server_parameter(r->query, "q", query, sizeof query);
    server_parameter(r->query, "api_key", key, sizeof key);
    if (strcmp(key, GOOD_KEY) != 0) return NULL;
    if (strstr(query, "nothing"))
        return json_pack("{s:s}", "error", "Google hasn't returned any results for this query.");
    char snippet[3200];
    snprintf(snippet, sizeof snippet, "What the web says\nof %s.", query);
    return json_pack("{s:{s:s,s:s},s:[{s:s,s:s},{s:s},{s:s,s:s}]}", "answer_box", "title", "Box", "answer",
                     "forty-two", "organic_results", "title", "First", "snippet", snippet, "title", "Bare",
                     "title", "Third", "snippet", "More.");
}

/* As a model would write: thoughts, more documents than asked for, an end tag. */
static json_t *server_openai(const server_request *r, const json_t *request) {
    bool chat = strstr(r->path, "chat") != NULL;
    const char *prompt = chat ? json_string_value(json_object_get(
                                    json_array_get(json_object_get(request, "messages"), 0), "content"))
                              : json_string_value(json_object_get(request, "prompt"));
    if (!prompt || strcmp(r->authorization, GOOD_KEY) != 0) return NULL;
    char text[4000];
    snprintf(text, sizeof text,
             "<think>Doc 1: no</think>Doc 1: %s, seed %lld\nDoc 2: %s\nDoc 3: c</information>",
             json_string_value(json_object_get(request, "model")),
             (long long)json_integer_value(json_object_get(request, "seed")),
             strstr(prompt, "noisy") ? "noise" : "use");
    if (chat)
        return json_pack("{s:[{s:{s:s,s:s}}]}", "choices", "message", "role", "assistant", "content", text);
    return json_pack("{s:[{s:s}]}", "choices", "text", text);
}

/* Sends the body piece by piece, or, `torn`, half of what was promised. */
static void server_pieces(int out, const char *body, bool torn) {
    int length = (int)strlen(body), piece = 7;
    if (torn) {
        dprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%.*s", length, length / 2, body);
        _exit(0);
    }
    dprintf(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int at = 0; at < length; at += piece)
        dprintf(out, "%x\r\n%.*s\r\n", length - at < piece ? length - at : piece, piece, body + at);
    dprintf(out, "0\r\n\r\n");
}

static void server_be_slow(server_counts *counts) {
    int now = atomic_fetch_add(&counts->at_once, 1) + 1, most = atomic_load(&counts->most_at_once);
    while (now > most && !atomic_compare_exchange_weak(&counts->most_at_once, &most, now))
        continue;
    usleep(300000);
    atomic_fetch_sub(&counts->at_once, 1);
}

static void server_respond(int out, const server_request *r, server_counts *counts) {
    const char *path = r->path;
    int number = atomic_fetch_add(&counts->requests, 1); /* before this one */
    json_t *request = json_loadb(r->body.data ? r->body.data : "", (size_t)r->body.length, 0, NULL);
    json_t *answer = strstr(path, "/search.json") ? server_google(r)
                     : strstr(path, "/v1/")       ? server_openai(r, request)
                                                  : server_retrieve(request, path, counts);
    char *body = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    if (strstr(path, "/slow")) server_be_slow(counts);
    if (strstr(path, "/never")) sleep(1000);
    if (strstr(path, "/mortal") && number >= 6)
        kill(getppid(), SIGKILL), _exit(0); /* the server, with this */
    if (strstr(path, "/down") || (strstr(path, "/often_down") && number % 3 > 0) ||
        (strstr(path, "/flaky") && number < 2))
        server_answer(out, 500, "", "{\"detail\":\"out of order\"}");
    else if (strstr(path, "/busy") && number < 1)
        server_answer(out, 429, "Retry-After: 1\r\n", "{}");
    else if (strstr(path, "/gone"))
        server_answer(out, 404, "", "{}");
    else if (strstr(path, "/moved"))
        server_answer(out, 302, "Location: /retrieve\r\n", "{}");
    else if (strstr(path, "/words"))
        server_answer(out, 200, "", "<html>no JSON at all</html>");
    else if (strstr(path, "/wrong"))
        server_answer(out, 200, "", "{\"hello\":[1,2,3]}");
    else if (strstr(path, "/numbers"))
        server_answer(out, 200, "", "[1,2,3]");
    else if (strstr(path, "/nul"))
        server_answer(out, 200, "", "[\"bad \\u0000 and \xff bytes\",{\"title\":\"T\",\"text\":\"body\"}]");
    else if (strstr(path, "/huge")) {
        zs_string huge = {0};
        for (int i = 0; i < 200000; i++)
            zs_string_puts(&huge, "[\"0123456789\"],");
        server_answer(out, 200, "", huge.data);
        zs_string_free(&huge);
    } else if (!body) { /* as a careless server: it echoes what it was sent, keys and all */
        zs_string echo = {0};
        zs_string_printf(&echo, "{\"detail\":\"refused: %s %s %s\"}", r->query, r->authorization,
                         r->body.length ? "a body" : "");
        server_answer(out, strstr(path, "/search.json") || strstr(path, "/v1/") ? 401 : 422, "", echo.data);
        zs_string_free(&echo);
    } else if (strstr(path, "/torn") || strstr(path, "/chunked"))
        server_pieces(out, body, strstr(path, "/torn") != NULL);
    else
        server_answer(out, 200, "", body);
    free(body);
    json_decref(answer);
    json_decref(request);
}

static void server_connection(int connection, server_counts *counts, FILE *log) {
    server_request r = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN); /* a client may leave before it has all */
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    atomic_fetch_add(&counts->connections, 1);
    while (server_read(connection, &r)) {
        if (log) fprintf(log, "%s %s\n", r.method, r.path), fflush(log);
        server_respond(connection, &r, counts);
    }
    _exit(0);
}

/* A listening socket on this machine alone; port 0: any, then told in *port. */
static int server_listen(int *port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 256) != 0) return -1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    *port = ntohs(address.sin_port);
    return listener;
}

static server_counts *server_counts_new(void) {
    return mmap(NULL, sizeof(server_counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Serves until killed; each request is a line "METHOD PATH" of the log (NULL: none). */
static void server_run(int listener, server_counts *counts, FILE *log) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        if (fork() == 0) {
            close(listener);
            server_connection(connection, counts, log);
        }
        close(connection);
    }
}

#endif
