/* From text to ids and back: added tokens, normalisation, pre-tokenizing; bpe.c merges the words.
 *
 * Any bytes can be encoded. Text is cut into runs of valid UTF-8 and single invalid bytes; a pattern sees one
 * run at a time, so that the border to an invalid byte counts as an end of text, and each invalid byte is a
 * word of its own. Nothing is replaced or lost. */
#include "tokenizer_internal.h"

#include "zerosearch/memory.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Ids. */

void zs_ids_append(zs_ids *ids, const int32_t *data, int64_t length) {
    if (ids->length + length > ids->capacity) {
        int64_t capacity = ids->capacity ? ids->capacity : 64;
        while (capacity < ids->length + length)
            capacity *= 2;
        ids->data = zs_grow(ids->data, ids->capacity, capacity, sizeof(int32_t));
        ids->capacity = capacity;
    }
    for (int64_t i = 0; i < length; i++) /* mostly one or two: a loop beats memcpy */
        ids->data[ids->length + i] = data[i];
    ids->length += length;
}

void zs_ids_clear(zs_ids *ids) {
    ids->length = 0;
}

void zs_ids_free(zs_ids *ids) {
    zs_free(ids->data);
    *ids = (zs_ids){0};
}

/* Encoders: one for each thread that is encoding at the moment. */

static zs_encoder *encoder_create(const zs_tokenizer *tokenizer) {
    zs_encoder *encoder = ZS_NEW(zs_encoder, 1);
    encoder->tokenizer = tokenizer;
    encoder->match = pcre2_match_data_create(1, NULL);
    encoder->match_context = pcre2_match_context_create(NULL);
    encoder->jit_stack = pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, NULL);
    ZS_ASSERT(encoder->match && encoder->match_context && encoder->jit_stack, "out of memory for PCRE2");
    pcre2_jit_stack_assign(encoder->match_context, NULL, encoder->jit_stack);
    encoder->cache = ZS_NEW(zs_cache_slot, ZS_CACHE_SLOTS);
    return encoder;
}

static void encoder_destroy(zs_encoder *encoder) {
    pcre2_match_data_free(encoder->match);
    pcre2_match_context_free(encoder->match_context);
    pcre2_jit_stack_free(encoder->jit_stack);
    zs_free(encoder->cache);
    zs_string_free(&encoder->normal);
    for (int i = 0; i < ZS_MAX_STAGES; i++)
        zs_string_free(&encoder->prefixed[i]);
    zs_free(encoder->codepoints);
    zs_free(encoder->symbols);
    zs_free(encoder->ranks);
    zs_free(encoder->previous);
    zs_free(encoder->following);
    zs_free(encoder->heap);
    zs_free(encoder);
}

/* The list of idle encoders is the one thing that encoding changes, and it cannot be seen from outside. */
zs_encoder *zs_encoder_borrow(const zs_tokenizer *tokenizer) {
    zs_tokenizer *owner = (zs_tokenizer *)tokenizer;
    pthread_mutex_lock(&owner->lock);
    zs_encoder *encoder = owner->idle;
    if (encoder) owner->idle = encoder->next;
    pthread_mutex_unlock(&owner->lock);
    return encoder ? encoder : encoder_create(tokenizer);
}

void zs_encoder_return(const zs_tokenizer *tokenizer, zs_encoder *encoder) {
    zs_tokenizer *owner = (zs_tokenizer *)tokenizer;
    pthread_mutex_lock(&owner->lock);
    encoder->next = owner->idle;
    owner->idle = encoder;
    pthread_mutex_unlock(&owner->lock);
}

/* UTF-8. */

int zs_utf8_length(const char *text, int64_t length) {
    if (length > 0 && (unsigned char)text[0] < 0x80) return 1;
    utf8proc_int32_t codepoint;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)text, length < 4 ? length : 4, &codepoint);
    return n > 0 ? (int)n : 0;
}

/* Bytes of valid UTF-8 from the start of text. */
static int64_t valid_run(const char *text, int64_t length) {
    int64_t at = 0;
    while (at < length) {
        uint64_t chunk;
        if (length - at >= 8 && (memcpy(&chunk, text + at, 8), !(chunk & 0x8080808080808080u))) {
            at += 8;
            continue;
        }
        int n = zs_utf8_length(text + at, length - at);
        if (n == 0) break;
        at += n;
    }
    return at;
}

static int32_t codepoint_at(const char *text, int64_t length) {
    utf8proc_int32_t codepoint = -1;
    utf8proc_iterate((const utf8proc_uint8_t *)text, length, &codepoint);
    return codepoint;
}

/* Where the last character of text[0, end) begins; end when it is not a valid one. */
static int64_t character_before(const char *text, int64_t end) {
    int64_t at = end;
    while (at > 0 && end - at < 4) {
        at--;
        if (((unsigned char)text[at] & 0xC0) != 0x80) break;
    }
    return end > 0 && zs_utf8_length(text + at, end - at) == end - at ? at : end;
}

static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static bool is_word(int32_t c) {
    if (c < 0) return false;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* Normalisation. */

/* Characters below U+0300 are in NFC whatever stands beside them, unless a mark from U+0300 on follows. */
static bool is_normal(const char *text, int64_t length) {
    for (int64_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= 0xCC) return false;
    return true;
}

static void normalize_run(zs_encoder *encoder, const char *text, int64_t length, zs_string *out) {
    if (is_normal(text, length)) {
        zs_string_append(out, text, length);
        return;
    }
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t n = 0;
    for (int64_t need = 2 * length + 16;; need = n + 16) {
        if (need > encoder->codepoints_capacity) {
            encoder->codepoints =
                zs_grow(encoder->codepoints, encoder->codepoints_capacity, need, sizeof(int32_t));
            encoder->codepoints_capacity = need;
        }
        n = utf8proc_decompose(bytes, length, encoder->codepoints, encoder->codepoints_capacity - 1, options);
        if (n < encoder->codepoints_capacity) break;
    }
    if (n >= 0) n = utf8proc_reencode(encoder->codepoints, n, options);
    if (n >= 0)
        zs_string_append(out, (const char *)encoder->codepoints, n);
    else
        zs_string_append(out, text, length);
}

void zs_tokenizer_normalize(zs_encoder *encoder, const char *text, int64_t length, zs_string *out) {
    for (int64_t at = 0; at < length;) {
        int64_t run = valid_run(text + at, length - at);
        if (run > 0) normalize_run(encoder, text + at, run, out);
        at += run;
        if (at < length) zs_string_append(out, text + at++, 1);
    }
}

/* Pre-tokenizing. */

/* The next non-empty match from `from` on. A matcher that gives up counts as "no match": nothing is lost. */
static bool next_match(zs_encoder *encoder, const zs_stage *stage, const char *text, int64_t length,
                       int64_t from, int64_t *begin, int64_t *end) {
    while (from < length) {
        int rc = PCRE2_ERROR_JIT_STACKLIMIT;
        PCRE2_SPTR subject = (PCRE2_SPTR)text;
        if (stage->jit)
            rc = pcre2_jit_match(stage->code, subject, (size_t)length, (size_t)from, 0, encoder->match,
                                 encoder->match_context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(stage->code, subject, (size_t)length, (size_t)from,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, encoder->match, encoder->match_context);
        if (rc < 0) return false;
        const size_t *span = pcre2_get_ovector_pointer(encoder->match);
        *begin = (int64_t)span[0], *end = (int64_t)span[1];
        if (*end > *begin && *begin >= from) return true;
        int64_t next = *end > from ? *end : from;
        from = next + (next < length ? zs_utf8_length(text + next, length - next) : 1);
    }
    return false;
}

static void split_stage(zs_encoder *encoder, int index, const char *text, int64_t length,
                        const zs_word_sink *sink) {
    if (length == 0) return;
    if (index == encoder->tokenizer->num_stages) {
        sink->word(sink->context, text, length);
        return;
    }
    const zs_stage *stage = &encoder->tokenizer->stages[index];
    if (stage->prefix_space && text[0] != ' ') {
        zs_string *prefixed = &encoder->prefixed[index];
        zs_string_clear(prefixed);
        zs_string_append(prefixed, " ", 1);
        zs_string_append(prefixed, text, length);
        text = prefixed->data, length = prefixed->length;
    }
    int64_t done = 0, begin, end;
    while (stage->code && next_match(encoder, stage, text, length, done, &begin, &end)) {
        split_stage(encoder, index + 1, text + done, begin - done, sink);
        split_stage(encoder, index + 1, text + begin, end - begin, sink);
        done = end;
    }
    split_stage(encoder, index + 1, text + done, length - done, sink);
}

static void split_runs(zs_encoder *encoder, const char *text, int64_t length, const zs_word_sink *sink) {
    for (int64_t at = 0; at < length;) {
        int64_t run = valid_run(text + at, length - at);
        split_stage(encoder, 0, text + at, run, sink);
        at += run;
        if (at < length) sink->word(sink->context, text + at++, 1);
    }
}

/* Added tokens. */

static int compare_added(const void *x, const void *y) {
    const zs_added *a = *(const zs_added *const *)x, *b = *(const zs_added *const *)y;
    int64_t shorter = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->content, b->content, (size_t)shorter);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

void zs_added_set_build(zs_added_set *set, const zs_added *added, int count, bool normalized) {
    set->sorted = ZS_NEW(const zs_added *, count);
    for (int i = 0; i < count; i++) {
        if (added[i].normalized != normalized) continue;
        set->sorted[set->count++] = &added[i];
        set->first[(unsigned char)added[i].content[0]] = true;
    }
    qsort(set->sorted, (size_t)set->count, sizeof *set->sorted, compare_added);
}

/* The longest token that starts at text. */
static const zs_added *longest_added(const zs_added_set *set, const char *text, int64_t length) {
    int low = 0, high = set->count;
    const zs_added *found = NULL;
    for (int64_t depth = 0; low < high && depth < length; depth++) {
        unsigned char byte = (unsigned char)text[depth];
        /* sorted[low, high) share their first `depth` bytes; those that end here come first */
        if (set->sorted[low]->length == depth) low++;
        int a = low, b = high;
        while (a < b) {
            int middle = (a + b) / 2;
            if ((unsigned char)set->sorted[middle]->content[depth] < byte)
                a = middle + 1;
            else
                b = middle;
        }
        low = a, b = high;
        while (a < b) {
            int middle = (a + b) / 2;
            if ((unsigned char)set->sorted[middle]->content[depth] <= byte)
                a = middle + 1;
            else
                b = middle;
        }
        high = a;
        if (low < high && set->sorted[low]->length == depth + 1) found = set->sorted[low];
    }
    return found;
}

static bool stands_alone(const char *text, int64_t length, int64_t begin, int64_t end) {
    int64_t before = character_before(text, begin);
    return !(before < begin && is_word(codepoint_at(text + before, begin - before))) &&
           !(end < length && is_word(codepoint_at(text + end, length - end)));
}

/* Calls `between` for the text between tokens of the set, sink->added for the tokens. */
static void split_added(zs_encoder *encoder, const zs_added_set *set, const char *text, int64_t length,
                        const zs_word_sink *sink,
                        void (*between)(zs_encoder *, const char *, int64_t, const zs_word_sink *)) {
    int64_t done = 0;
    for (int64_t at = 0; at < length && set->count > 0;) {
        const zs_added *token = NULL;
        if (set->first[(unsigned char)text[at]]) token = longest_added(set, text + at, length - at);
        if (!token) {
            at++;
            continue;
        }
        int64_t begin = at, end = at + token->length;
        at = end;
        if (token->single_word && !stands_alone(text, length, begin, end)) continue;
        if (begin < done) continue; /* the space that a token before it took was part of this one */
        if (token->lstrip) {
            for (int64_t c; begin > done && (c = character_before(text, begin)) < begin && c >= done &&
                            is_space(codepoint_at(text + c, begin - c));)
                begin = c;
        }
        if (token->rstrip)
            while (end < length && is_space(codepoint_at(text + end, length - end)))
                end += zs_utf8_length(text + end, length - end);
        if (begin > done) between(encoder, text + done, begin - done, sink);
        sink->added(sink->context, token->id);
        done = end;
    }
    if (done < length) between(encoder, text + done, length - done, sink);
}

static void split_normal(zs_encoder *encoder, const char *text, int64_t length, const zs_word_sink *sink) {
    const zs_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->nfc && !is_normal(text, length)) {
        zs_string_clear(&encoder->normal);
        zs_tokenizer_normalize(encoder, text, length, &encoder->normal);
        text = encoder->normal.data, length = encoder->normal.length;
    }
    split_added(encoder, &tokenizer->normal_added, text, length, sink, split_runs);
}

void zs_tokenizer_words(const zs_tokenizer *tokenizer, zs_encoder *encoder, const char *text, int64_t length,
                        const zs_word_sink *sink) {
    split_added(encoder, &tokenizer->raw_added, text, length, sink, split_normal);
}

/* The interface. */

static void encode_word(void *context, const char *bytes, int64_t length) {
    zs_bpe_word(context, bytes, length);
}

static void encode_added(void *context, int32_t id) {
    zs_encoder *encoder = context;
    zs_ids_append(encoder->out, &id, 1);
}

void zs_tokenizer_encode(const zs_tokenizer *tokenizer, const char *text, int64_t length, zs_ids *out) {
    if (length <= 0) return;
    zs_encoder *encoder = zs_encoder_borrow(tokenizer);
    encoder->out = out;
    zs_word_sink sink = {encode_word, encode_added, encoder};
    zs_tokenizer_words(tokenizer, encoder, text, length, &sink);
    encoder->out = NULL;
    zs_encoder_return(tokenizer, encoder);
}

void zs_tokenizer_decode(const zs_tokenizer *tokenizer, const int32_t *ids, int64_t count, zs_string *out) {
    for (int64_t i = 0; i < count; i++) {
        int64_t length;
        const char *piece = zs_tokenizer_piece(tokenizer, ids[i], &length);
        zs_string_append(out, piece, length);
    }
}

const char *zs_tokenizer_piece(const zs_tokenizer *tokenizer, int32_t id, int64_t *length) {
    if (id < 0 || id >= tokenizer->vocab_size || tokenizer->piece_begin[id] < 0) {
        *length = 0;
        return "";
    }
    *length = tokenizer->piece_length[id];
    return tokenizer->pool + tokenizer->piece_begin[id];
}

int64_t zs_tokenizer_vocab_size(const zs_tokenizer *tokenizer) {
    return tokenizer->vocab_size;
}

int32_t zs_tokenizer_find(const zs_tokenizer *tokenizer, const char *token) {
    int64_t length = (int64_t)strlen(token);
    for (int i = 0; i < tokenizer->num_added; i++) {
        int64_t size;
        const char *piece = zs_tokenizer_piece(tokenizer, tokenizer->added[i].id, &size);
        if (size == length && memcmp(piece, token, (size_t)length) == 0) return tokenizer->added[i].id;
    }
    return length > 0 ? zs_word_find(tokenizer, token, length) : -1;
}

bool zs_tokenizer_is_special(const zs_tokenizer *tokenizer, int32_t id) {
    for (int i = 0; i < tokenizer->num_added; i++)
        if (tokenizer->added[i].id == id) return true;
    return false;
}

void zs_tokenizer_destroy(zs_tokenizer *tokenizer) {
    if (!tokenizer) return;
    for (zs_encoder *encoder = tokenizer->idle, *next; encoder; encoder = next) {
        next = encoder->next;
        encoder_destroy(encoder);
    }
    for (int i = 0; i < tokenizer->num_stages; i++)
        pcre2_code_free(tokenizer->stages[i].code);
    for (int i = 0; i < tokenizer->num_added; i++)
        zs_free(tokenizer->added[i].content);
    zs_free(tokenizer->added);
    zs_free(tokenizer->raw_added.sorted);
    zs_free(tokenizer->normal_added.sorted);
    zs_free(tokenizer->pool);
    zs_free(tokenizer->piece_begin);
    zs_free(tokenizer->piece_length);
    zs_free(tokenizer->piece_kind);
    zs_free(tokenizer->word_slots);
    zs_free(tokenizer->merges);
    zs_free(tokenizer->merge_list);
    json_decref(tokenizer->shell);
    pthread_mutex_destroy(&tokenizer->lock);
    zs_free(tokenizer);
}
