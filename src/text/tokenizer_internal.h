/* What the files of the tokenizer share: the tables, the encoder's scratch, and the path from text to words.
 * Not part of the library's interface. */
#ifndef ZEROSEARCH_TOKENIZER_INTERNAL_H
#define ZEROSEARCH_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "zerosearch/tokenizer.h"

#include <jansson.h>
#include <pcre2.h>
#include <pthread.h>

enum { ZS_MAX_STAGES = 8, ZS_MAX_TOKEN_ID = 1 << 24 };

/* The pair (a, b) merges into `id`; the lowest rank goes first. */
typedef struct zs_merge {
    uint64_t key; /* a << 32 | b; ZS_NO_PAIR: free slot */
    int32_t rank, id;
} zs_merge;
#define ZS_NO_PAIR UINT64_MAX

typedef struct zs_added {
    char *content; /* what is looked for; normalised when `normalized` */
    int64_t length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
} zs_added;

/* Added tokens sorted by bytes: the longest one that starts at a place is found by narrowing a range. */
typedef struct zs_added_set {
    const zs_added **sorted;
    int count;
    bool first[256]; /* some token starts with this byte */
} zs_added_set;

/* One pre-tokenizer of a sequence: every match is a piece and so is what lies between (behavior Isolated). */
typedef struct zs_stage {
    pcre2_code *code; /* NULL: does not split */
    bool jit;
    bool prefix_space; /* ByteLevel add_prefix_space: a piece that does not begin with a space gets one */
} zs_stage;

typedef struct zs_encoder zs_encoder;

struct zs_tokenizer {
    int64_t vocab_size; /* largest id + 1 */
    char *pool;         /* bytes of all pieces, each followed by a NUL */
    int64_t pool_length, pool_capacity;
    int64_t *piece_begin; /* [vocab_size] into pool; -1: no such id */
    int32_t *piece_length;
    uint8_t *piece_kind; /* zs_piece_kind: how an id is written in a file */

    int32_t *word_slots; /* open addressing: bytes -> id of plain entries; -1: free */
    uint64_t word_mask;
    zs_merge *merges; /* open addressing by pair */
    uint64_t merge_mask;
    int32_t (*merge_list)[2]; /* in rank order, as saved */
    int64_t num_merges;
    int32_t byte_id[256]; /* -1: the vocabulary lacks this byte */
    int32_t unk_id;       /* for those bytes; -1: they are dropped */

    bool ignore_merges; /* a word that is itself an entry is never merged up from bytes */
    bool nfc;
    bool trained; /* made here, not loaded */
    zs_added *added;
    int num_added;
    zs_added_set raw_added, normal_added; /* found before and after normalising */
    zs_stage stages[ZS_MAX_STAGES];
    int num_stages;

    json_t *shell; /* the document without vocab and merges, so that saving loses nothing */

    pthread_mutex_t lock; /* guards `idle` only */
    zs_encoder *idle;     /* encoders that no thread is using */
};

typedef enum zs_piece_kind {
    ZS_PIECE_NONE,  /* no such id */
    ZS_PIECE_BYTES, /* in the vocabulary, written in the byte-level alphabet */
    ZS_PIECE_TEXT,  /* in the vocabulary, written as it is */
    ZS_PIECE_ADDED  /* in added_tokens alone */
} zs_piece_kind;

/* Receives the words of a text in order. */
typedef struct zs_word_sink {
    void (*word)(void *context, const char *bytes, int64_t length);
    void (*added)(void *context, int32_t id);
    void *context;
} zs_word_sink;

/* Words up to this many bytes are cached with their ids. */
enum { ZS_CACHE_WORD = 26, ZS_CACHE_IDS = 8, ZS_CACHE_SLOTS = 1 << 14 };
typedef struct zs_cache_slot {
    uint64_t hash;
    uint8_t length, num_ids; /* length 0: free */
    char word[ZS_CACHE_WORD];
    int32_t ids[ZS_CACHE_IDS];
} zs_cache_slot;

/* Scratch of one thread's encoding; kept by the tokenizer between calls. */
struct zs_encoder {
    zs_encoder *next;
    const zs_tokenizer *tokenizer;
    zs_ids *out;
    pcre2_match_data *match;
    pcre2_match_context *match_context;
    pcre2_jit_stack *jit_stack;
    zs_cache_slot *cache;
    zs_string normal, prefixed[ZS_MAX_STAGES];
    int32_t *codepoints;
    int64_t codepoints_capacity;
    /* merge loop */
    int32_t *symbols, *ranks, *previous, *following;
    int64_t symbols_capacity;
    uint64_t *heap;
    int64_t heap_length, heap_capacity;
};

/* tokenizer.c */
zs_encoder *zs_encoder_borrow(const zs_tokenizer *tokenizer);
void zs_encoder_return(const zs_tokenizer *tokenizer, zs_encoder *encoder);
void zs_tokenizer_words(const zs_tokenizer *tokenizer, zs_encoder *encoder, const char *text, int64_t length,
                        const zs_word_sink *sink);
/* Appends the NFC form of text (invalid bytes as they are) to out. */
void zs_tokenizer_normalize(zs_encoder *encoder, const char *text, int64_t length, zs_string *out);
void zs_added_set_build(zs_added_set *set, const zs_added *added, int count, bool normalized);
/* Bytes of the valid UTF-8 character at text, 0 when it is invalid or cut. */
int zs_utf8_length(const char *text, int64_t length);

/* bpe.c */
uint64_t zs_hash_bytes(const char *bytes, int64_t length);
int32_t zs_word_find(const zs_tokenizer *tokenizer, const char *bytes, int64_t length);
void zs_word_insert(zs_tokenizer *tokenizer, int32_t id);
const zs_merge *zs_merge_find(const zs_tokenizer *tokenizer, int32_t a, int32_t b);
void zs_merge_insert(zs_tokenizer *tokenizer, int32_t a, int32_t b, int32_t rank, int32_t id);
void zs_bpe_word(zs_encoder *encoder, const char *bytes, int64_t length);

/* tokenizer_json.c. Takes a reference of its own; name: for messages. */
zs_status zs_tokenizer_from_json(json_t *document, const char *name, zs_tokenizer **out, zs_error *err);

/* byte_level.c: the alphabet as two tables, byte to character and back (-1: no byte). */
void zs_byte_level_fill(int32_t character[256], int16_t byte_of[512]);
/* Appends the bytes in the alphabet. */
void zs_byte_level_write(const char *bytes, int64_t length, zs_string *out);
/* Replaces out by the bytes that `text` stands for; false when it is not written in the alphabet. */
bool zs_byte_level_read(const int16_t byte_of[512], const char *text, int64_t length, zs_string *out);

/* tokenizer_save.c */
bool zs_ends_with(const char *text, const char *end);

#endif
