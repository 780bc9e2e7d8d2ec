/* Hugging Face tokenizer.json, read; tokenizer_save.c writes it.
 *
 * Every field that changes the ids is either understood or refused by name; the rest is kept for saving.
 * Kinds: byte-level BPE. SentencePiece-style BPE (byte_fallback, Metaspace) belongs in check_model and
 * read_stages, where it is refused now. */
#include "tokenizer_internal.h"

#include "zerosearch/memory.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define FAIL(...) zs_fail(err, ZS_FAILED, __VA_ARGS__)

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Small readers. */

/* A boolean field, false when absent or null. */
static zs_status read_flag(const json_t *object, const char *key, const char *where, const char *name,
                           bool *out, zs_error *err) {
    const json_t *value = json_object_get(object, key);
    *out = json_is_true(value);
    if (value && !json_is_boolean(value) && !json_is_null(value))
        return FAIL("%s: %s.%s: expected true or false", name, where, key);
    return ZS_OK;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "(none)";
}

static bool is_absent(const json_t *value) {
    return !value || json_is_null(value);
}

/* Normalizer and pre-tokenizers. */

static zs_status read_normalizer(zs_tokenizer *tokenizer, const json_t *value, const char *name,
                                 zs_error *err) {
    if (is_absent(value)) return ZS_OK;
    const char *type = text_of(value, "type");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(value, "normalizers"), *item;
        size_t i;
        if (!json_is_array(list)) return FAIL("%s: normalizer.normalizers: expected an array", name);
        json_array_foreach(list, i, item) {
            if (strcmp(text_of(item, "type"), "Sequence") == 0)
                return FAIL("%s: normalizer.normalizers[%zu]: a sequence in a sequence", name, i);
            if (read_normalizer(tokenizer, item, name, err)) return err ? err->status : ZS_FAILED;
        }
        return ZS_OK;
    }
    if (strcmp(type, "NFC") != 0)
        return FAIL("%s: normalizer.type is %s; only NFC and none are supported", name, type);
    tokenizer->nfc = true;
    return ZS_OK;
}

/* Oniguruma's \s is the Unicode property White_Space; PCRE2's also holds U+180E. Same length as or longer
 * than the original; escapes are copied in pairs so that "\\s" stays what it is. */
static void translate_pattern(const char *pattern, zs_string *out) {
    for (const char *p = pattern; *p; p++) {
        if (p[0] == '\\' && p[1]) {
            if (p[1] == 's')
                zs_string_puts(out, "\\p{White_Space}");
            else if (p[1] == 'S')
                zs_string_puts(out, "\\P{White_Space}");
            else
                zs_string_append(out, p, 2);
            p++;
        } else {
            zs_string_append(out, p, 1);
        }
    }
}

static zs_status add_stage(zs_tokenizer *tokenizer, const char *pattern, bool literal, const char *where,
                           const char *name, zs_error *err) {
    if (tokenizer->num_stages == ZS_MAX_STAGES)
        return FAIL("%s: %s: more than %d pre-tokenizers", name, where, ZS_MAX_STAGES);
    zs_stage *stage = &tokenizer->stages[tokenizer->num_stages++];
    if (!pattern) return ZS_OK;
    zs_string translated = {0};
    if (!literal) translate_pattern(pattern, &translated);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | (literal ? PCRE2_LITERAL : 0);
    int code = 0;
    size_t offset = 0;
    if (!literal && translated.length > 0)
        stage->code = pcre2_compile((PCRE2_SPTR)translated.data, (size_t)translated.length, options, &code,
                                    &offset, NULL);
    if (!stage->code) /* PCRE2 before 10.40 does not know White_Space */
        stage->code =
            pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &code, &offset, NULL);
    zs_string_free(&translated);
    if (!stage->code) {
        PCRE2_UCHAR message[200];
        pcre2_get_error_message(code, message, sizeof message);
        return FAIL("%s: %s: bad pattern at character %zu: %s", name, where, offset, (const char *)message);
    }
    stage->jit = pcre2_jit_compile(stage->code, PCRE2_JIT_COMPLETE) == 0;
    return ZS_OK;
}

static zs_status read_split(zs_tokenizer *tokenizer, const json_t *value, const char *where, const char *name,
                            zs_error *err) {
    const json_t *pattern = json_object_get(value, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    if (!regex && !literal) return FAIL("%s: %s.pattern: expected Regex or String", name, where);
    if (strcmp(text_of(value, "behavior"), "Isolated") != 0)
        return FAIL("%s: %s.behavior is %s; only Isolated is supported", name, where,
                    text_of(value, "behavior"));
    bool invert; /* Isolated keeps matches and gaps alike, so inverting changes nothing */
    zs_status status = read_flag(value, "invert", where, name, &invert, err);
    return status ? status : add_stage(tokenizer, regex ? regex : literal, !regex, where, name, err);
}

static zs_status read_byte_level(zs_tokenizer *tokenizer, const json_t *value, const char *where,
                                 const char *name, zs_error *err) {
    bool prefix_space, use_regex = true; /* use_regex came later than the format: absent means true */
    zs_status status = read_flag(value, "add_prefix_space", where, name, &prefix_space, err);
    if (!status && !is_absent(json_object_get(value, "use_regex")))
        status = read_flag(value, "use_regex", where, name, &use_regex, err);
    if (!status && (use_regex || prefix_space)) {
        status = add_stage(tokenizer, use_regex ? gpt2_pattern : NULL, false, where, name, err);
        if (!status) tokenizer->stages[tokenizer->num_stages - 1].prefix_space = prefix_space;
    }
    return status;
}

/* One pre-tokenizer; *byte_level becomes true when it is the one that turns text into bytes. */
static zs_status read_stage(zs_tokenizer *tokenizer, const json_t *value, const char *where, const char *name,
                            bool *byte_level, zs_error *err) {
    const char *type = text_of(value, "type");
    if (*byte_level) return FAIL("%s: %s: a pre-tokenizer after ByteLevel", name, where);
    if (strcmp(type, "Split") == 0) return read_split(tokenizer, value, where, name, err);
    if (strcmp(type, "Digits") == 0) {
        bool individual;
        zs_status status = read_flag(value, "individual_digits", where, name, &individual, err);
        return status ? status
                      : add_stage(tokenizer, individual ? "\\p{N}" : "\\p{N}+", false, where, name, err);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return read_byte_level(tokenizer, value, where, name, err);
    }
    return FAIL("%s: %s.type is %s; Split, Digits and ByteLevel are supported", name, where, type);
}

static zs_status read_stages(zs_tokenizer *tokenizer, const json_t *value, const char *name, zs_error *err) {
    bool byte_level = false;
    zs_status status = ZS_OK;
    if (!json_is_object(value))
        return FAIL("%s: pre_tokenizer: expected a ByteLevel pre-tokenizer (byte-level BPE)", name);
    if (strcmp(text_of(value, "type"), "Sequence") == 0) {
        const json_t *list = json_object_get(value, "pretokenizers"), *item;
        size_t i;
        if (!json_is_array(list)) return FAIL("%s: pre_tokenizer.pretokenizers: expected an array", name);
        json_array_foreach(list, i, item) {
            char where[64];
            snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%zu]", i);
            status = read_stage(tokenizer, item, where, name, &byte_level, err);
            if (status) return status;
        }
    } else {
        status = read_stage(tokenizer, value, "pre_tokenizer", name, &byte_level, err);
    }
    if (!status && !byte_level)
        return FAIL("%s: pre_tokenizer: no ByteLevel in it; only byte-level BPE", name);
    return status;
}

/* The model. */

static zs_status check_model(zs_tokenizer *tokenizer, const json_t *model, const char *name, zs_error *err) {
    if (!json_is_object(model)) return FAIL("%s: model: expected an object", name);
    /* files before the field "type" came are BPE when they have merges */
    const json_t *type = json_object_get(model, "type");
    if (type ? strcmp(text_of(model, "type"), "BPE") != 0 : !json_object_get(model, "merges"))
        return FAIL("%s: model.type is %s; only BPE is supported", name, text_of(model, "type"));
    bool byte_fallback;
    zs_status status = read_flag(model, "byte_fallback", "model", name, &byte_fallback, err);
    if (!status) status = read_flag(model, "ignore_merges", "model", name, &tokenizer->ignore_merges, err);
    if (status) return status;
    if (byte_fallback)
        return FAIL("%s: model.byte_fallback: SentencePiece-style BPE is not supported, only byte-level",
                    name);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (!is_absent(affix) && (!json_is_string(affix) || json_string_length(affix) > 0))
            return FAIL("%s: model.%s: not supported", name, affixes[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && json_number_value(dropout) != 0)
        return FAIL("%s: model.dropout: not supported", name);
    return ZS_OK;
}

/* Puts the bytes of an entry into the pool; ids may come in any order. */
static zs_status add_piece(zs_tokenizer *tokenizer, int32_t id, zs_piece_kind kind, const char *bytes,
                           int64_t length, const char *name, const char *field, zs_error *err) {
    if (tokenizer->piece_begin[id] >= 0) return FAIL("%s: %s: two entries have the id %d", name, field, id);
    int64_t need = tokenizer->pool_length + length + 1;
    if (need > tokenizer->pool_capacity) {
        int64_t capacity = need > 2 * tokenizer->pool_capacity ? need : 2 * tokenizer->pool_capacity;
        tokenizer->pool = zs_grow(tokenizer->pool, tokenizer->pool_capacity, capacity, 1);
        tokenizer->pool_capacity = capacity;
    }
    tokenizer->piece_begin[id] = tokenizer->pool_length;
    tokenizer->piece_length[id] = (int32_t)length;
    tokenizer->piece_kind[id] = (uint8_t)kind;
    memcpy(tokenizer->pool + tokenizer->pool_length, bytes, (size_t)length);
    tokenizer->pool[tokenizer->pool_length + length] = 0;
    tokenizer->pool_length = need;
    return ZS_OK;
}

static bool is_id(const json_t *value) {
    return json_is_integer(value) && json_integer_value(value) >= 0 &&
           json_integer_value(value) < ZS_MAX_TOKEN_ID;
}

/* Sizes the tables: largest id over vocabulary and added tokens. */
static zs_status measure(zs_tokenizer *tokenizer, const json_t *vocab, const json_t *added, const char *name,
                         zs_error *err) {
    const char *key;
    const json_t *value;
    size_t i;
    int64_t largest = -1;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return FAIL("%s: model.vocab: expected an object of tokens and ids", name);
    json_object_foreach((json_t *)vocab, key, value) {
        if (!is_id(value))
            return FAIL("%s: model.vocab[\"%.40s\"]: expected an id from 0 to 2^24", name, key);
        if (json_integer_value(value) > largest) largest = json_integer_value(value);
    }
    if (!is_absent(added) && !json_is_array(added)) return FAIL("%s: added_tokens: expected an array", name);
    json_array_foreach(added, i, value) {
        const json_t *content = json_object_get(value, "content"), *id = json_object_get(value, "id");
        if (!json_is_string(content) || json_string_length(content) == 0)
            return FAIL("%s: added_tokens[%zu].content: expected some text", name, i);
        if (!is_id(id)) return FAIL("%s: added_tokens[%zu].id: expected an id from 0 to 2^24", name, i);
        if (json_integer_value(id) > largest) largest = json_integer_value(id);
    }
    tokenizer->vocab_size = largest + 1;
    tokenizer->piece_begin = ZS_NEW(int64_t, tokenizer->vocab_size);
    tokenizer->piece_length = ZS_NEW(int32_t, tokenizer->vocab_size);
    tokenizer->piece_kind = ZS_NEW(uint8_t, tokenizer->vocab_size);
    for (int64_t id = 0; id <= largest; id++)
        tokenizer->piece_begin[id] = -1;
    uint64_t slots = 16;
    while (slots < 2 * json_object_size(vocab))
        slots *= 2;
    tokenizer->word_slots = ZS_NEW(int32_t, (int64_t)slots);
    memset(tokenizer->word_slots, 0xFF, slots * sizeof(int32_t));
    tokenizer->word_mask = slots - 1;
    return ZS_OK;
}

static zs_status read_vocab(zs_tokenizer *tokenizer, const json_t *vocab, const int16_t byte_of[512],
                            const char *name, zs_error *err) {
    const char *key;
    const json_t *value;
    zs_string bytes = {0};
    zs_status status = ZS_OK;
    json_object_foreach((json_t *)vocab, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        int64_t length = (int64_t)strlen(key);
        /* an entry outside the alphabet is its own text and is reached by no merge */
        if (length > 0 && zs_byte_level_read(byte_of, key, length, &bytes)) {
            status =
                add_piece(tokenizer, id, ZS_PIECE_BYTES, bytes.data, bytes.length, name, "model.vocab", err);
            if (!status) zs_word_insert(tokenizer, id);
        } else {
            status = add_piece(tokenizer, id, ZS_PIECE_TEXT, key, length, name, "model.vocab", err);
        }
        if (status) break;
    }
    zs_string_free(&bytes);
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        tokenizer->byte_id[byte] = zs_word_find(tokenizer, &c, 1);
    }
    return status;
}

/* The two halves of a merge: "a b" or ["a", "b"]. */
static bool split_merge(const json_t *merge, const char **a, int64_t *a_length, const char **b,
                        int64_t *b_length) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space) return false;
        *a = text, *a_length = space - text;
        *b = space + 1, *b_length = (int64_t)strlen(space + 1);
        return *a_length > 0 && *b_length > 0 && !strchr(*b, ' ');
    }
    *a = json_string_value(json_array_get(merge, 0));
    *b = json_string_value(json_array_get(merge, 1));
    if (!*a || !*b || json_array_size(merge) != 2) return false;
    *a_length = (int64_t)strlen(*a), *b_length = (int64_t)strlen(*b);
    return *a_length > 0 && *b_length > 0;
}

static zs_status read_merges(zs_tokenizer *tokenizer, const json_t *merges, const int16_t byte_of[512],
                             const char *name, zs_error *err) {
    if (!json_is_array(merges)) return FAIL("%s: model.merges: expected an array", name);
    int64_t count = (int64_t)json_array_size(merges);
    uint64_t slots = 16;
    while (slots < (uint64_t)count * 3 / 2 + 1)
        slots *= 2;
    tokenizer->merges = ZS_NEW(zs_merge, (int64_t)slots);
    tokenizer->merge_mask = slots - 1;
    for (uint64_t i = 0; i < slots; i++)
        tokenizer->merges[i].key = ZS_NO_PAIR;
    tokenizer->merge_list = zs_alloc(count, sizeof *tokenizer->merge_list);

    zs_string left = {0}, right = {0};
    zs_status status = ZS_OK;
    for (int64_t i = 0; i < count && !status; i++) {
        const char *a, *b;
        int64_t a_length, b_length;
        if (!split_merge(json_array_get(merges, (size_t)i), &a, &a_length, &b, &b_length)) {
            status = FAIL("%s: model.merges[%lld]: expected \"a b\" or [\"a\", \"b\"]", name, (long long)i);
            break;
        }
        int32_t ids[3] = {-1, -1, -1};
        if (zs_byte_level_read(byte_of, a, a_length, &left) &&
            zs_byte_level_read(byte_of, b, b_length, &right)) {
            ids[0] = zs_word_find(tokenizer, left.data, left.length);
            ids[1] = zs_word_find(tokenizer, right.data, right.length);
            zs_string_append(&left, right.data, right.length);
            ids[2] = zs_word_find(tokenizer, left.data, left.length);
        }
        if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) {
            status =
                FAIL("%s: model.merges[%lld]: \"%.*s\" + \"%.*s\": a part or the whole is not in the vocab",
                     name, (long long)i, (int)(a_length < 40 ? a_length : 40), a,
                     (int)(b_length < 40 ? b_length : 40), b);
            break;
        }
        zs_merge_insert(tokenizer, ids[0], ids[1], (int32_t)i, ids[2]);
        tokenizer->merge_list[i][0] = ids[0];
        tokenizer->merge_list[i][1] = ids[1];
        tokenizer->num_merges = i + 1;
    }
    zs_string_free(&left);
    zs_string_free(&right);
    return status;
}

static zs_status read_added(zs_tokenizer *tokenizer, const json_t *vocab, const json_t *list,
                            const char *name, zs_error *err) {
    tokenizer->added = ZS_NEW(zs_added, (int64_t)json_array_size(list));
    zs_encoder *encoder = zs_encoder_borrow(tokenizer);
    const json_t *item;
    zs_status status = ZS_OK;
    size_t i;
    json_array_foreach(list, i, item) {
        zs_added *token = &tokenizer->added[tokenizer->num_added++];
        const char *content = json_string_value(json_object_get(item, "content"));
        int64_t length = (int64_t)json_string_length(json_object_get(item, "content"));
        /* the vocabulary's id counts, as in Hugging Face tokenizers */
        const json_t *known = json_object_get(vocab, content);
        token->id = (int32_t)json_integer_value(known ? known : json_object_get(item, "id"));
        char where[40];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        status = read_flag(item, "single_word", where, name, &token->single_word, err);
        if (!status) status = read_flag(item, "lstrip", where, name, &token->lstrip, err);
        if (!status) status = read_flag(item, "rstrip", where, name, &token->rstrip, err);
        if (!status) status = read_flag(item, "normalized", where, name, &token->normalized, err);
        /* it is decoded as its text, not through the byte alphabet */
        if (!status && known) tokenizer->piece_begin[token->id] = -1;
        if (!status)
            status = add_piece(tokenizer, token->id, known ? ZS_PIECE_TEXT : ZS_PIECE_ADDED, content, length,
                               name, where, err);
        if (status) break;
        zs_string looked_for = {0};
        if (token->normalized && tokenizer->nfc)
            zs_tokenizer_normalize(encoder, content, length, &looked_for);
        else
            zs_string_append(&looked_for, content, length);
        token->length = looked_for.length;
        token->content = ZS_NEW(char, looked_for.length + 1);
        memcpy(token->content, looked_for.data, (size_t)looked_for.length);
        zs_string_free(&looked_for);
    }
    zs_encoder_return(tokenizer, encoder);
    if (status) return status;
    zs_added_set_build(&tokenizer->raw_added, tokenizer->added, tokenizer->num_added, false);
    zs_added_set_build(&tokenizer->normal_added, tokenizer->added, tokenizer->num_added, true);
    return ZS_OK;
}

static zs_status build(zs_tokenizer *tokenizer, json_t *document, const char *name, zs_error *err) {
    json_t *model = json_object_get(document, "model"), *added = json_object_get(document, "added_tokens");
    zs_status status = ZS_OK;
    if (!json_is_object(document)) return FAIL("%s: expected a JSON object", name);
    int32_t character[256];
    int16_t byte_of[512];
    zs_byte_level_fill(character, byte_of);
    status = check_model(tokenizer, model, name, err);
    if (!status) status = read_normalizer(tokenizer, json_object_get(document, "normalizer"), name, err);
    if (!status) status = read_stages(tokenizer, json_object_get(document, "pre_tokenizer"), name, err);
    json_t *vocab = json_object_get(model, "vocab");
    if (!status) status = measure(tokenizer, vocab, added, name, err);
    if (!status) status = read_vocab(tokenizer, vocab, byte_of, name, err);
    if (!status) status = read_merges(tokenizer, json_object_get(model, "merges"), byte_of, name, err);
    if (!status) status = read_added(tokenizer, vocab, added, name, err);
    if (status) return status;
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk)) {
        const json_t *id = json_object_get(vocab, json_string_value(unk));
        if (id) tokenizer->unk_id = (int32_t)json_integer_value(id);
    }
    /* the shell: everything but the two big tables */
    json_t *small_model = json_copy(model);
    json_object_set_new(small_model, "vocab", json_object());
    json_object_set_new(small_model, "merges", json_array());
    tokenizer->shell = json_copy(document);
    json_object_set_new(tokenizer->shell, "model", small_model);
    return ZS_OK;
}

zs_status zs_tokenizer_from_json(json_t *document, const char *name, zs_tokenizer **out, zs_error *err) {
    zs_tokenizer *tokenizer = ZS_NEW(zs_tokenizer, 1);
    tokenizer->unk_id = -1;
    pthread_mutex_init(&tokenizer->lock, NULL);
    zs_status status = build(tokenizer, document, name, err);
    if (status) {
        zs_tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return ZS_OK;
}

zs_status zs_tokenizer_load(const char *path, zs_tokenizer **out, zs_error *err) {
    *out = NULL;
    zs_string file = {0}, text = {0};
    zs_string_puts(&file, path);
    if (!zs_ends_with(path, ".json")) zs_string_puts(&file, "/tokenizer.json");
    zs_status status = zs_file_read(file.data, &text, err);
    if (!status) {
        json_error_t where;
        json_t *document =
            json_loadb(text.data ? text.data : "", (size_t)text.length, JSON_ALLOW_NUL, &where);
        zs_string_free(&text);
        if (!document)
            status = FAIL("%s:%d: not valid JSON: %s", file.data, where.line, where.text);
        else
            status = zs_tokenizer_from_json(document, file.data, out, err);
        json_decref(document);
    }
    zs_string_free(&text);
    zs_string_free(&file);
    return status;
}
