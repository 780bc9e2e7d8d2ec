/* Training of byte-level BPE.
 *
 * The text becomes a table of distinct words with counts. Pairs of neighbouring symbols are counted over it;
 * the most frequent is merged, in the words that hold it only, and the counts of the pairs around it are
 * corrected. A heap holds the pairs by count; an entry whose count has changed since is put back corrected.
 *
 * The result goes through the reader of tokenizer.json, so what was trained is what will be loaded. */
#include "tokenizer_internal.h"

#include "zerosearch/memory.h"

#include <string.h>

/* Special tokens never reach it: they are split off before. Digits stand alone, a run of punctuation takes no
 * space before it, a run of letters may. */
static const char default_pattern[] = " ?[\\p{L}\\p{M}]+|\\p{N}|[^\\s\\p{L}\\p{M}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* A longer word (a line of base64) is cut for counting; encoding has no such limit. */
enum { LONGEST_WORD = 512 };

typedef struct word {
    int64_t begin, count; /* symbols begin at trainer.symbols[begin] */
    int32_t length;       /* symbols left */
    int32_t num_bytes;
    int64_t bytes; /* in trainer.bytes */
} word;

typedef struct pair {
    int32_t a, b;
    int64_t count;
    int32_t *words; /* indices of words that hold it or held it; may repeat */
    int64_t num_words, capacity;
} pair;

typedef struct trainer {
    word *words;
    int64_t num_words, words_capacity;
    int64_t *word_slots; /* open addressing by bytes; -1: free */
    int64_t num_slots;
    zs_string bytes;
    int32_t *symbols;

    pair *pairs;
    int64_t num_pairs, pairs_capacity;
    int64_t *pair_slots;
    int64_t num_pair_slots;

    struct heap_item {
        int64_t count, pair;
    } * heap;
    int64_t heap_length, heap_capacity;

    zs_string *pieces; /* bytes of each id so far */
    int32_t num_pieces;
} trainer;

/* The words. */

static void grow_word_slots(trainer *t) {
    int64_t size = t->num_slots ? 2 * t->num_slots : 1 << 14;
    zs_free(t->word_slots);
    t->word_slots = ZS_NEW(int64_t, size);
    memset(t->word_slots, 0xFF, (size_t)size * sizeof(int64_t));
    t->num_slots = size;
    for (int64_t i = 0; i < t->num_words; i++) {
        const word *w = &t->words[i];
        int64_t slot = (int64_t)zs_hash_bytes(t->bytes.data + w->bytes, w->num_bytes) & (size - 1);
        while (t->word_slots[slot] >= 0)
            slot = (slot + 1) & (size - 1);
        t->word_slots[slot] = i;
    }
}

static void count_word(void *context, const char *bytes, int64_t length) {
    trainer *t = context;
    for (; length > LONGEST_WORD; bytes += LONGEST_WORD, length -= LONGEST_WORD)
        count_word(context, bytes, LONGEST_WORD);
    if (length < 2) return; /* nothing to merge */
    if (2 * t->num_words >= t->num_slots) grow_word_slots(t);
    int64_t slot = (int64_t)zs_hash_bytes(bytes, length) & (t->num_slots - 1);
    for (; t->word_slots[slot] >= 0; slot = (slot + 1) & (t->num_slots - 1)) {
        word *w = &t->words[t->word_slots[slot]];
        if (w->num_bytes == length && memcmp(t->bytes.data + w->bytes, bytes, (size_t)length) == 0) {
            w->count++;
            return;
        }
    }
    if (t->num_words == t->words_capacity) {
        int64_t capacity = t->words_capacity ? 2 * t->words_capacity : 4096;
        t->words = zs_grow(t->words, t->words_capacity, capacity, sizeof(word));
        t->words_capacity = capacity;
    }
    t->word_slots[slot] = t->num_words;
    t->words[t->num_words++] =
        (word){.count = 1, .length = (int32_t)length, .num_bytes = (int32_t)length, .bytes = t->bytes.length};
    zs_string_append(&t->bytes, bytes, length);
}

static void skip_added(void *context, int32_t id) {
    (void)context, (void)id;
}

/* The heap: largest count first, ties by the smaller pair of ids. */

static bool goes_before(const trainer *t, struct heap_item x, struct heap_item y) {
    if (x.count != y.count) return x.count > y.count;
    const pair *a = &t->pairs[x.pair], *b = &t->pairs[y.pair];
    return a->a != b->a ? a->a < b->a : a->b < b->b;
}

static void heap_push(trainer *t, int64_t pair_index) {
    struct heap_item item = {t->pairs[pair_index].count, pair_index};
    if (item.count < 1) return;
    if (t->heap_length == t->heap_capacity) {
        int64_t capacity = t->heap_capacity ? 2 * t->heap_capacity : 4096;
        t->heap = zs_grow(t->heap, t->heap_capacity, capacity, sizeof *t->heap);
        t->heap_capacity = capacity;
    }
    int64_t i = t->heap_length++;
    for (; i > 0 && goes_before(t, item, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = item;
}

static struct heap_item heap_pop(trainer *t) {
    struct heap_item top = t->heap[0], last = t->heap[--t->heap_length];
    int64_t i = 0, n = t->heap_length;
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && goes_before(t, t->heap[child + 1], t->heap[child])) child++;
        if (!goes_before(t, t->heap[child], last)) break;
        t->heap[i] = t->heap[child];
    }
    if (n > 0) t->heap[i] = last;
    return top;
}

/* The pairs. */

static int64_t pair_slot(const trainer *t, int32_t a, int32_t b) {
    uint64_t key = ((uint64_t)(uint32_t)a << 32 | (uint32_t)b) * 0x9E3779B97F4A7C15u;
    int64_t slot = (int64_t)(key ^ key >> 32) & (t->num_pair_slots - 1);
    for (; t->pair_slots[slot] >= 0; slot = (slot + 1) & (t->num_pair_slots - 1)) {
        const pair *p = &t->pairs[t->pair_slots[slot]];
        if (p->a == a && p->b == b) break;
    }
    return slot;
}

static void grow_pair_slots(trainer *t) {
    int64_t size = t->num_pair_slots ? 2 * t->num_pair_slots : 1 << 14;
    zs_free(t->pair_slots);
    t->pair_slots = ZS_NEW(int64_t, size);
    memset(t->pair_slots, 0xFF, (size_t)size * sizeof(int64_t));
    t->num_pair_slots = size;
    for (int64_t i = 0; i < t->num_pairs; i++)
        t->pair_slots[pair_slot(t, t->pairs[i].a, t->pairs[i].b)] = i;
}

/* Adds `count` (negative: takes away) to the pair's count; `in_word` >= 0: that word holds it now. */
static void count_pair(trainer *t, int32_t a, int32_t b, int64_t count, int64_t in_word) {
    if (2 * t->num_pairs >= t->num_pair_slots) grow_pair_slots(t);
    int64_t slot = pair_slot(t, a, b);
    if (t->pair_slots[slot] < 0) {
        if (t->num_pairs == t->pairs_capacity) {
            int64_t capacity = t->pairs_capacity ? 2 * t->pairs_capacity : 4096;
            t->pairs = zs_grow(t->pairs, t->pairs_capacity, capacity, sizeof(pair));
            t->pairs_capacity = capacity;
        }
        t->pair_slots[slot] = t->num_pairs;
        t->pairs[t->num_pairs++] = (pair){.a = a, .b = b};
    }
    pair *p = &t->pairs[t->pair_slots[slot]];
    p->count += count;
    if (in_word < 0 || (p->num_words > 0 && p->words[p->num_words - 1] == in_word)) return;
    if (p->num_words == p->capacity) {
        int64_t capacity = p->capacity ? 2 * p->capacity : 4;
        p->words = zs_grow(p->words, p->capacity, capacity, sizeof(int32_t));
        p->capacity = capacity;
    }
    p->words[p->num_words++] = (int32_t)in_word;
}

static void count_all_pairs(trainer *t, int32_t first_byte) {
    t->symbols = ZS_NEW(int32_t, t->bytes.length);
    for (int64_t i = 0; i < t->num_words; i++) {
        word *w = &t->words[i];
        w->begin = w->bytes;
        for (int32_t j = 0; j < w->length; j++)
            t->symbols[w->begin + j] = first_byte + (unsigned char)t->bytes.data[w->bytes + j];
        for (int32_t j = 0; j + 1 < w->length; j++)
            count_pair(t, t->symbols[w->begin + j], t->symbols[w->begin + j + 1], w->count, i);
    }
    for (int64_t i = 0; i < t->num_pairs; i++)
        heap_push(t, i);
}

/* Replaces (a, b) by id in one word, left to right. Pairs whose count rose are left in `touched`. */
static void merge_in_word(trainer *t, int64_t index, int32_t a, int32_t b, int32_t id, zs_ids *touched) {
    word *w = &t->words[index];
    int32_t *symbols = t->symbols + w->begin, kept = 0;
    for (int32_t j = 0; j < w->length; j++) {
        if (j + 1 >= w->length || symbols[j] != a || symbols[j + 1] != b) {
            symbols[kept++] = symbols[j];
            continue;
        }
        if (kept > 0) {
            int32_t left = symbols[kept - 1];
            count_pair(t, left, a, -w->count, -1);
            count_pair(t, left, id, w->count, index);
            zs_ids_append(touched, (int32_t[]){left, id}, 2);
        }
        if (j + 2 < w->length) {
            int32_t right = symbols[j + 2];
            count_pair(t, b, right, -w->count, -1);
            count_pair(t, id, right, w->count, index);
            zs_ids_append(touched, (int32_t[]){id, right}, 2);
        }
        symbols[kept++] = id;
        j++;
    }
    w->length = kept;
}

/* The merges. */

static void add_piece(trainer *t, const char *bytes, int64_t length) {
    zs_string_append(&t->pieces[t->num_pieces++], bytes, length);
}

/* The id of these bytes, -1 when there is none yet. */
static int32_t find_piece(const trainer *t, const json_t *vocab, const zs_string *bytes, zs_string *key) {
    (void)t;
    zs_string_clear(key);
    zs_byte_level_write(bytes->data, bytes->length, key);
    const json_t *id = json_object_get(vocab, key->data);
    return id ? (int32_t)json_integer_value(id) : -1;
}

/* Fills vocab and merges up to vocab_size entries, or until no pair occurs twice. */
static void learn_merges(trainer *t, int64_t vocab_size, int num_specials, json_t *vocab, json_t *merges) {
    zs_ids touched = {0};
    zs_string whole = {0}, key = {0}, line = {0};
    while (t->num_pieces < vocab_size && t->heap_length > 0) {
        struct heap_item top = heap_pop(t);
        int64_t count = t->pairs[top.pair].count;
        if (count != top.count) {
            if (count < top.count) heap_push(t, top.pair); /* a larger count was pushed when it rose */
            continue;
        }
        if (count < 2) break;
        int32_t a = t->pairs[top.pair].a, b = t->pairs[top.pair].b;
        zs_string_clear(&whole);
        zs_string_append(&whole, t->pieces[a].data, t->pieces[a].length);
        zs_string_append(&whole, t->pieces[b].data, t->pieces[b].length);
        /* two ways to the same bytes share an id; a special token's text is never built up from bytes */
        int32_t id = find_piece(t, vocab, &whole, &key);
        if (id >= 0 && id < num_specials) continue;
        if (id < 0) {
            id = t->num_pieces;
            add_piece(t, whole.data, whole.length);
            json_object_set_new(vocab, key.data, json_integer(id));
        }
        zs_string_clear(&line);
        zs_byte_level_write(t->pieces[a].data, t->pieces[a].length, &line);
        zs_string_puts(&line, " ");
        zs_byte_level_write(t->pieces[b].data, t->pieces[b].length, &line);
        json_array_append_new(merges, json_stringn(line.data, (size_t)line.length));

        /* the table may move while its counts change, so the list of words is taken out first */
        int32_t *words = t->pairs[top.pair].words;
        int64_t num_words = t->pairs[top.pair].num_words;
        t->pairs[top.pair].words = NULL;
        t->pairs[top.pair].num_words = t->pairs[top.pair].capacity = 0;
        zs_ids_clear(&touched);
        for (int64_t i = 0; i < num_words; i++)
            merge_in_word(t, words[i], a, b, id, &touched);
        zs_free(words);
        t->pairs[top.pair].count = 0;
        for (int64_t i = 0; i < touched.length; i += 2) {
            int64_t p = t->pair_slots[pair_slot(t, touched.data[i], touched.data[i + 1])];
            heap_push(t, p);
        }
    }
    zs_ids_free(&touched);
    zs_string_free(&whole);
    zs_string_free(&key);
    zs_string_free(&line);
}

/* The document. */

static json_t *special_as_json(const char *content, int id) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content, "single_word", 0,
                     "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static json_t *byte_level_as_json(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                     "use_regex", 0);
}

/* A document without merges; NULL when a text in it is not valid UTF-8. */
static json_t *document_create(const char *const *specials, int num_specials, const char *pattern) {
    json_t *added = json_array();
    for (int i = 0; i < num_specials; i++)
        if (json_array_append_new(added, special_as_json(specials[i], i))) {
            json_decref(added);
            return NULL;
        }
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern,
                              "behavior", "Isolated", "invert", 0);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:{}, s:[]}", "type", "BPE",
                              "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                              "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab", "merges");
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:[o, o]}, s:n, s:o, s:o}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", "type",
                     "Sequence", "pretokenizers", split, byte_level_as_json(), "post_processor", "decoder",
                     byte_level_as_json(), "model", model);
}

static zs_status start_vocab(trainer *t, const char *const *specials, int num_specials, json_t *vocab,
                             zs_error *err) {
    for (int i = 0; i < num_specials; i++) {
        if (!specials[i][0]) return zs_fail(err, ZS_USAGE, "special token %d is empty", i + 1);
        if (json_object_get(vocab, specials[i]))
            return zs_fail(err, ZS_USAGE, "special token \"%s\" is given twice", specials[i]);
        json_object_set_new(vocab, specials[i], json_integer(i));
        add_piece(t, specials[i], (int64_t)strlen(specials[i]));
    }
    zs_string key = {0};
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        zs_string_clear(&key);
        zs_byte_level_write(&c, 1, &key);
        if (json_object_get(vocab, key.data)) {
            zs_status status =
                zs_fail(err, ZS_USAGE, "special token \"%s\" is a single byte's name", key.data);
            zs_string_free(&key);
            return status;
        }
        json_object_set_new(vocab, key.data, json_integer(num_specials + byte));
        add_piece(t, &c, 1);
    }
    zs_string_free(&key);
    return ZS_OK;
}

static void trainer_free(trainer *t, int64_t vocab_size) {
    for (int64_t i = 0; i < t->num_pairs; i++)
        zs_free(t->pairs[i].words);
    for (int64_t i = 0; i < vocab_size; i++)
        zs_string_free(&t->pieces[i]);
    zs_free(t->pieces);
    zs_free(t->pairs);
    zs_free(t->pair_slots);
    zs_free(t->heap);
    zs_free(t->words);
    zs_free(t->word_slots);
    zs_free(t->symbols);
    zs_string_free(&t->bytes);
}

zs_status zs_tokenizer_train(const char *const *texts, const int64_t *lengths, int64_t num_texts,
                             int64_t vocab_size, const char *const *specials, int num_specials,
                             const char *pattern, zs_tokenizer **out, zs_error *err) {
    *out = NULL;
    if (vocab_size < 256 + num_specials || vocab_size > ZS_MAX_TOKEN_ID)
        return zs_fail(err, ZS_USAGE,
                       "vocabulary of %lld: expected at least %d (256 bytes and %d special tokens)",
                       (long long)vocab_size, 256 + num_specials, num_specials);
    json_t *document = document_create(specials, num_specials, pattern ? pattern : default_pattern);
    if (!document) return zs_fail(err, ZS_USAGE, "a special token or the pattern is not valid UTF-8");
    json_t *model = json_object_get(document, "model");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    trainer t = {.pieces = ZS_NEW(zs_string, vocab_size)};
    zs_tokenizer *bytes_only = NULL;
    zs_status status = start_vocab(&t, specials, num_specials, vocab, err);
    if (!status) status = zs_tokenizer_from_json(document, "training", &bytes_only, err);
    if (!status) {
        zs_encoder *encoder = zs_encoder_borrow(bytes_only);
        zs_word_sink sink = {count_word, skip_added, &t};
        for (int64_t i = 0; i < num_texts; i++)
            zs_tokenizer_words(bytes_only, encoder, texts[i], lengths[i], &sink);
        zs_encoder_return(bytes_only, encoder);
        count_all_pairs(&t, num_specials);
        learn_merges(&t, vocab_size, num_specials, vocab, merges);
        status = zs_tokenizer_from_json(document, "training", out, err);
    }
    if (!status) (*out)->trained = true;
    zs_tokenizer_destroy(bytes_only);
    trainer_free(&t, vocab_size);
    json_decref(document);
    return status;
}
