/* The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for U+0100 on. */
#include "tokenizer_internal.h"

#include <utf8proc.h>

static bool is_printable(int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

void zs_byte_level_fill(int32_t character[256], int16_t byte_of[512]) {
    for (int i = 0; i < 512; i++)
        byte_of[i] = -1;
    for (int byte = 0, next = 256; byte < 256; byte++) {
        character[byte] = is_printable(byte) ? byte : next++;
        byte_of[character[byte]] = (int16_t)byte;
    }
}

void zs_byte_level_write(const char *bytes, int64_t length, zs_string *out) {
    int32_t character[256];
    int16_t byte_of[512];
    zs_byte_level_fill(character, byte_of);
    for (int64_t i = 0; i < length; i++) {
        utf8proc_uint8_t encoded[4];
        utf8proc_ssize_t n = utf8proc_encode_char(character[(unsigned char)bytes[i]], encoded);
        zs_string_append(out, (const char *)encoded, n);
    }
}

bool zs_byte_level_read(const int16_t byte_of[512], const char *text, int64_t length, zs_string *out) {
    zs_string_clear(out);
    for (int64_t at = 0; at < length;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, length - at, &c);
        if (n <= 0 || c < 0 || c >= 512 || byte_of[c] < 0) return false;
        char byte = (char)byte_of[c];
        zs_string_append(out, &byte, 1);
        at += n;
    }
    return true;
}
