/* What a simulator wrote, cut to the documents that it was asked for. */
#include "zerosearch/search.h"

#include "zerosearch/memory.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <utf8proc.h>

/* The length of a mark "Doc 3:" (also "Document 3:", "**Doc 3:**", "[Doc 3]") at text, 0 if there is none. */
static int64_t mark_length(const char *text, int64_t length) {
    int64_t i = 0;
    while (i < length && i < 3 && strchr("*[#(", text[i]) && text[i])
        i++;
    if (length - i < 3 || strncasecmp(text + i, "doc", 3) != 0) return 0;
    i += 3;
    if (length - i >= 5 && strncasecmp(text + i, "ument", 5) == 0) i += 5;
    while (i < length && (text[i] == ' ' || text[i] == '#'))
        i++;
    int64_t digits = i;
    while (i < length && i - digits < 4 && isdigit((unsigned char)text[i]))
        i++;
    if (i == digits) return 0;
    int64_t end = i;
    while (end < length && end - i < 3 && strchr("*])", text[end]) && text[end])
        end++;
    bool colon = end < length && text[end] == ':';
    if (!colon && !(end > i && text[end - 1] == ']')) return 0;
    end += colon;
    while (end < length && text[end] == '*')
        end++;
    return end;
}

/* A mark begins a word: "see Doc 2:" is one, "postdoc 2:" is not. */
static bool may_begin(const char *text, int64_t at) {
    return at == 0 || !isalnum((unsigned char)text[at - 1]);
}

/* Bytes that are no UTF-8 are left out, since the documents go into JSON. */
bool zs_search_append_document(const char *text, int64_t length, int number, zs_string *out) {
    bool any = false, space = false;
    for (int64_t i = 0; i < length;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + i, length - i, &code);
        if (used <= 0 || code == 0) {
            i++;
        } else if (code == ' ' || (code >= 9 && code <= 13)) {
            space = any;
            i += used;
        } else {
            if (!any) zs_string_printf(out, "%sDoc %d: ", number > 1 ? "\n" : "", number);
            if (space) zs_string_append(out, " ", 1);
            any = true;
            space = false;
            zs_string_append(out, text + i, used);
            i += used;
        }
    }
    return any;
}

void zs_search_format_documents(const char *raw, int64_t length, int top_k, zs_string *out) {
    static const char begin_tag[] = "<information>", end_tag[] = "</information>";
    while (length > 0 && isspace((unsigned char)*raw))
        raw++, length--;
    if (length >= (int64_t)sizeof begin_tag - 1 && memcmp(raw, begin_tag, sizeof begin_tag - 1) == 0) {
        raw += sizeof begin_tag - 1;
        length -= (int64_t)sizeof begin_tag - 1;
    }
    const char *end = length > 0 ? memmem(raw, (size_t)length, end_tag, sizeof end_tag - 1) : NULL;
    if (end) length = end - raw;

    int64_t begin = -1; /* of the text of the document being read */
    int count = 0;
    for (int64_t i = 0; i < length && count < top_k; i++) {
        int64_t mark = may_begin(raw, i) ? mark_length(raw + i, length - i) : 0;
        if (mark == 0) continue;
        if (begin >= 0) count += zs_search_append_document(raw + begin, i - begin, count + 1, out);
        begin = i + mark;
        i = begin - 1;
    }
    if (count >= top_k) return;
    if (begin < 0) begin = 0;
    zs_search_append_document(raw + begin, length - begin, count + 1, out);
}
