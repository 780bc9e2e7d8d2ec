/* UTF-8 for places that accept nothing else: JSON and terminals. */
#include "zerosearch/tokenizer.h"

#include <utf8proc.h>

void zs_utf8_clean(const char *text, int64_t length, zs_string *out) {
    for (int64_t at = 0; at < length;) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, length - at, &codepoint);
        if (n > 0)
            zs_string_append(out, text + at, n);
        else
            zs_string_append(out, "\xEF\xBF\xBD", 3);
        at += n > 0 ? n : 1;
    }
}
