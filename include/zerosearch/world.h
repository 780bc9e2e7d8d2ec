/* The demo world: made-up people, places and works, facts about them, questions of one to three hops, a
 * passage corpus, and the texts that a small model learns to read, search and simulate from.
 *
 * Every entity is one made-up word of two syllables ("Tanbur"). A word is held out iff crc32(word) % 8 == 0:
 * training texts and the training world use only words that are not, the test and dev worlds only words that
 * are, so that the only way to a held-out answer is to search and copy. Training texts take fresh words for
 * every example; nothing in them is worth remembering. Everything is a function of the seed. */
#ifndef ZEROSEARCH_WORLD_H
#define ZEROSEARCH_WORLD_H

#include "zerosearch/error.h"
#include "zerosearch/rng.h"
#include "zerosearch/strings.h"

#include <stdbool.h>
#include <stdint.h>

#define ZS_WORLD_WORD     8 /* bytes of a word with its NUL */
#define ZS_WORLD_MAX_HOPS 3
#define ZS_WORLD_TOP_K    5 /* documents that a search brings */

typedef enum zs_world_type {
    ZS_WORLD_PERSON,
    ZS_WORLD_CITY,
    ZS_WORLD_COUNTRY,
    ZS_WORLD_NOVEL,
    ZS_WORLD_COMPANY,
    ZS_WORLD_YEAR, /* a value: four digits, not an entity */
    ZS_WORLD_NUM_TYPES
} zs_world_type;

typedef struct zs_world_relation {
    const char *noun;              /* "birthplace": stands in the passage, the query and the thought */
    zs_world_type subject, object; /* types */
    const char *before, *after;    /* a question of its own: "Where was " SUBJECT " born?" */
} zs_world_relation;
#define ZS_WORLD_NUM_RELATIONS 9
extern const zs_world_relation zs_world_relations[ZS_WORLD_NUM_RELATIONS];

/* Which words may be drawn: TRAIN: not held out. DEV and TEST: held out, two sets without a common word. */
typedef enum zs_world_split { ZS_WORLD_TRAIN, ZS_WORLD_DEV, ZS_WORLD_TEST } zs_world_split;
bool zs_world_held_out(const char *word);
void zs_world_draw_word(zs_rng *rng, zs_world_split split, char out[ZS_WORLD_WORD]);
void zs_world_draw_year(zs_rng *rng, char out[ZS_WORLD_WORD]);

typedef struct zs_fact {
    int relation;
    char subject[ZS_WORLD_WORD], object[ZS_WORLD_WORD];
} zs_fact;

/* A closed world: each subject has one object for each relation of its type. */
typedef struct zs_world {
    int64_t num_facts;
    zs_fact *facts;
} zs_world;
typedef struct zs_world_sizes {
    int64_t persons, cities, countries, novels, companies;
} zs_world_sizes;
void zs_world_make(uint64_t seed, zs_world_split split, const zs_world_sizes *sizes, zs_world *out);
void zs_world_free(zs_world *world);

/* The index of the fact (relation, subject), or -1. */
int64_t zs_world_find(const zs_world *world, int relation, const char *subject);

/* A chain of relations whose types fit, e.g. author, birthplace: "the birthplace of the author of X". */
typedef struct zs_world_chain {
    int hops, relations[ZS_WORLD_MAX_HOPS]; /* in the order of the searches */
} zs_world_chain;
/* Draws hops by the shares below, then a chain; no relation twice. */
void zs_world_draw_chain(zs_rng *rng, zs_world_chain *chain);
extern const double zs_world_hop_shares[ZS_WORLD_MAX_HOPS];

/* Texts. A fact's sentence (form 0: "The author of X is Y."; 1: "X's author is Y."), a search query
 * ("author of X"), a question over a chain that starts at `subject` (form 0: "What is the ..."; 1: the last
 * relation's own question; ZS_WORLD_OTHER_FORM, in no training text: "What is X's author's birthplace?").
 * Appended to out. */
#define ZS_WORLD_OTHER_FORM 2
void zs_world_sentence(const zs_fact *fact, int form, zs_string *out);
void zs_world_query(int relation, const char *subject, zs_string *out);
void zs_world_question(const zs_world_chain *chain, const char *subject, int form, zs_string *out);

/* What a question set asks about. With ALL anything, in forms 0 and 1. The others divide it, for training
 * on one part and evaluation on all: IN asks one or two hops without the relations publisher and seat; the
 * out-of-domain sets differ from it in one thing each: in that one of these relations is asked about, in
 * hops (three), in phrasing (the other form). */
typedef enum zs_world_domain {
    ZS_WORLD_ALL,
    ZS_WORLD_IN,
    ZS_WORLD_OTHER_RELATIONS,
    ZS_WORLD_MORE_HOPS,
    ZS_WORLD_OTHER_PHRASING
} zs_world_domain;

/* Writes NAME's corpus (one passage a fact) and `count` different questions of a domain with their gold
 * passages. ZS_FAILED: the world does not have so many. */
zs_status zs_world_write_corpus(const zs_world *world, const char *path, zs_error *err);
zs_status zs_world_write_questions(const zs_world *world, uint64_t seed, zs_world_domain domain,
                                   int64_t count, const char *id_prefix, const char *path, zs_error *err);

/* Training texts, one JSON object a line: {"kind":...,"segments":[{"text":...,"weight":...},...]}. Segments
 * are tokenised one by one, as in a rollout; `weight` is the loss weight of each token of the segment. */
typedef enum zs_world_kind {
    ZS_WORLD_LIST,       /* names in a row, twice: teaches to copy */
    ZS_WORLD_READING,    /* documents, then a statement of each fact: teaches which object belongs where */
    ZS_WORLD_TRANSCRIPT, /* an episode with the base policy's bad habits */
    ZS_WORLD_SIMULATOR,  /* a simulation prompt and its documents */
    ZS_WORLD_NUM_KINDS
} zs_world_kind;

typedef struct zs_world_text_options {
    zs_world_split split;
    int min_documents, max_documents; /* reading */
    double observation_weight;        /* documents shown to the policy, questions, prompts */
    double name_weight;               /* names that nothing in the context tells */
    bool clean;                       /* transcript: without bad habits */
    bool lesson;                      /* transcript: clean, of two or three hops, no loss on what to do */
    bool graded;                      /* probe: weight 1 on the copied objects only, 0 elsewhere */
} zs_world_text_options;

/* Appends the JSON line of example (kind, index) to `line` and its plain text to `plain` (either NULL). */
void zs_world_text(uint64_t seed, zs_world_kind kind, int64_t index, const zs_world_text_options *options,
                   zs_string *line, zs_string *plain);

/* How the first pre-training set grows from copying to reading: kind and options of example i of n. */
zs_world_kind zs_world_first_stage(uint64_t seed, int64_t index, int64_t count,
                                   zs_world_text_options *options);
/* The second: a steady mixture of dense reading, transcripts and simulator examples. */
zs_world_kind zs_world_second_stage(uint64_t seed, int64_t index, zs_world_text_options *options);

/* The pre-tokenizer pattern that cuts words into their syllables, and the special tokens. */
extern const char *const zs_world_pattern;
extern const char *const zs_world_specials[];
extern const int zs_world_num_specials;

#endif
