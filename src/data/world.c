/* The demo world's words, facts and questions. The training texts made of them are in world_texts.c. */
#include "zerosearch/world.h"
#include "zerosearch/memory.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

const zs_world_relation zs_world_relations[ZS_WORLD_NUM_RELATIONS] = {
    {"birthplace", ZS_WORLD_PERSON, ZS_WORLD_CITY, "Where was ", " born?"},
    {"birthyear", ZS_WORLD_PERSON, ZS_WORLD_YEAR, "When was ", " born?"},
    {"spouse", ZS_WORLD_PERSON, ZS_WORLD_PERSON, "Who is married to ", "?"},
    {"country", ZS_WORLD_CITY, ZS_WORLD_COUNTRY, "In which country is ", "?"},
    {"mayor", ZS_WORLD_CITY, ZS_WORLD_PERSON, "Who governs ", "?"},
    {"author", ZS_WORLD_NOVEL, ZS_WORLD_PERSON, "Who wrote ", "?"},
    {"publisher", ZS_WORLD_NOVEL, ZS_WORLD_COMPANY, "Which company published ", "?"},
    {"founder", ZS_WORLD_COMPANY, ZS_WORLD_PERSON, "Who founded ", "?"},
    {"seat", ZS_WORLD_COMPANY, ZS_WORLD_CITY, "In which city sits ", "?"},
};

const double zs_world_hop_shares[ZS_WORLD_MAX_HOPS] = {0.55, 0.35, 0.10};

/* 120 syllables of three letters; as each is one token, a word is two. */
enum { ONSETS = 12, VOWELS = 5, SYLLABLES = ONSETS * VOWELS * 2 };

static void syllable(int64_t index, char out[3]) {
    int64_t onset = index % ONSETS, vowel = index / ONSETS % VOWELS, second = index / (ONSETS * VOWELS);
    out[0] = "bdfgklmnprst"[onset];
    out[1] = "aeiou"[vowel];
    out[2] = "nrls"[(onset + vowel + 2 * second) % 4];
}

static uint32_t word_hash(const char *word) {
    return (uint32_t)crc32(0, (const unsigned char *)word, (unsigned)strlen(word));
}

bool zs_world_held_out(const char *word) {
    return word_hash(word) % 8 == 0;
}

static bool in_split(const char *word, zs_world_split split) {
    uint32_t hash = word_hash(word);
    if (split == ZS_WORLD_TRAIN) return hash % 8 != 0;
    return hash % 8 == 0 && (hash / 8 % 3 == 0) == (split == ZS_WORLD_DEV);
}

void zs_world_draw_word(zs_rng *rng, zs_world_split split, char out[ZS_WORLD_WORD]) {
    do {
        syllable(zs_rng_below(rng, SYLLABLES), out);
        syllable(zs_rng_below(rng, SYLLABLES), out + 3);
        out[0] = (char)(out[0] - 'a' + 'A');
        out[6] = 0;
    } while (!in_split(out, split));
}

void zs_world_draw_year(zs_rng *rng, char out[ZS_WORLD_WORD]) {
    snprintf(out, ZS_WORLD_WORD, "%d", (int)(1500 + zs_rng_below(rng, 500)));
}

/* A closed world. */

typedef char word[ZS_WORLD_WORD];

static void shuffle_words(zs_rng *rng, word *words, int64_t count) {
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = zs_rng_below(rng, i + 1);
        word swap;
        memcpy(swap, words[i], sizeof swap);
        memcpy(words[i], words[j], sizeof swap);
        memcpy(words[j], swap, sizeof swap);
    }
}

static void add_fact(zs_world *world, int relation, const char *subject, const char *object) {
    zs_fact *fact = &world->facts[world->num_facts++];
    fact->relation = relation;
    snprintf(fact->subject, sizeof fact->subject, "%s", subject);
    snprintf(fact->object, sizeof fact->object, "%s", object);
}

/* Objects come from a shuffled deck, so that none is much oftener named than another: a popular one would
 * push the right passage out of the first few. */
static void deal(zs_world *world, zs_rng *rng, int relation, word *subjects, int64_t num_subjects,
                 word *objects, int64_t num_objects) {
    word *deck = ZS_NEW(word, num_objects);
    memcpy(deck, objects, (size_t)num_objects * sizeof *deck);
    for (int64_t i = 0; i < num_subjects; i++) {
        if (i % num_objects == 0) shuffle_words(rng, deck, num_objects);
        add_fact(world, relation, subjects[i], deck[i % num_objects]);
    }
    zs_free(deck);
}

static void marry(zs_world *world, zs_rng *rng, int relation, word *persons, int64_t count) {
    word *deck = ZS_NEW(word, count);
    memcpy(deck, persons, (size_t)count * sizeof *deck);
    shuffle_words(rng, deck, count);
    for (int64_t i = 0; i + 1 < count; i += 2) {
        add_fact(world, relation, deck[i], deck[i + 1]);
        add_fact(world, relation, deck[i + 1], deck[i]);
    }
    zs_free(deck);
}

void zs_world_make(uint64_t seed, zs_world_split split, const zs_world_sizes *sizes, zs_world *out) {
    const int64_t counts[ZS_WORLD_NUM_TYPES] = {[ZS_WORLD_PERSON] = sizes->persons,
                                                [ZS_WORLD_CITY] = sizes->cities,
                                                [ZS_WORLD_COUNTRY] = sizes->countries,
                                                [ZS_WORLD_NOVEL] = sizes->novels,
                                                [ZS_WORLD_COMPANY] = sizes->companies};
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_WORLD, 1000 + split, 0, 0);
    int64_t total = 0, num_facts = 0;
    for (int type = 0; type < ZS_WORLD_NUM_TYPES; type++)
        total += counts[type];
    for (int r = 0; r < ZS_WORLD_NUM_RELATIONS; r++)
        num_facts += counts[zs_world_relations[r].subject];

    word *all = ZS_NEW(word, total), *names[ZS_WORLD_NUM_TYPES];
    for (int64_t made = 0; made < total;) { /* all words differ */
        zs_world_draw_word(&rng, split, all[made]);
        bool known = false;
        for (int64_t i = 0; i < made && !known; i++)
            known = strcmp(all[i], all[made]) == 0;
        made += !known;
    }
    word *next = all;
    for (int type = 0; type < ZS_WORLD_NUM_TYPES; type++) {
        names[type] = next;
        next += counts[type];
    }

    *out = (zs_world){.facts = ZS_NEW(zs_fact, num_facts)};
    for (int r = 0; r < ZS_WORLD_NUM_RELATIONS; r++) {
        zs_world_type from = zs_world_relations[r].subject, to = zs_world_relations[r].object;
        if (to == ZS_WORLD_YEAR) {
            for (int64_t i = 0; i < counts[from]; i++) {
                word year;
                zs_world_draw_year(&rng, year);
                add_fact(out, r, names[from][i], year);
            }
        } else if (from == to) {
            marry(out, &rng, r, names[from], counts[from]);
        } else {
            deal(out, &rng, r, names[from], counts[from], names[to], counts[to]);
        }
    }
    zs_free(all);
}

void zs_world_free(zs_world *world) {
    zs_free(world->facts);
    *world = (zs_world){0};
}

int64_t zs_world_find(const zs_world *world, int relation, const char *subject) {
    for (int64_t i = 0; i < world->num_facts; i++) {
        if (world->facts[i].relation == relation && strcmp(world->facts[i].subject, subject) == 0) return i;
    }
    return -1;
}

void zs_world_draw_chain(zs_rng *rng, zs_world_chain *chain) {
    double draw = zs_rng_uniform(rng);
    *chain = (zs_world_chain){.hops = 1};
    while (chain->hops < ZS_WORLD_MAX_HOPS && draw >= zs_world_hop_shares[chain->hops - 1]) {
        draw -= zs_world_hop_shares[chain->hops - 1];
        chain->hops++;
    }
    bool fits;
    do {
        fits = true;
        for (int h = 0; h < chain->hops; h++) {
            int here = (int)zs_rng_below(rng, ZS_WORLD_NUM_RELATIONS);
            chain->relations[h] = here;
            if (h == 0) continue;
            fits = fits &&
                   zs_world_relations[chain->relations[h - 1]].object == zs_world_relations[here].subject;
            for (int g = 0; g < h; g++)
                fits = fits && chain->relations[g] != here;
        }
    } while (!fits);
}

/* Texts. */

/* Subjects come before their objects in every form: a causal model then meets the key before the value. */
void zs_world_sentence(const zs_fact *fact, int form, zs_string *out) {
    const char *noun = zs_world_relations[fact->relation].noun;
    if (form == 0)
        zs_string_printf(out, "The %s of %s is %s.", noun, fact->subject, fact->object);
    else
        zs_string_printf(out, "%s's %s is %s.", fact->subject, noun, fact->object);
}

void zs_world_query(int relation, const char *subject, zs_string *out) {
    zs_string_printf(out, "%s of %s", zs_world_relations[relation].noun, subject);
}

void zs_world_question(const zs_world_chain *chain, const char *subject, int form, zs_string *out) {
    int last = chain->hops - 1;
    const zs_world_relation *relation = &zs_world_relations[chain->relations[last]];
    if (form == ZS_WORLD_OTHER_FORM) {
        zs_string_printf(out, "What is %s", subject);
        for (int h = 0; h <= last; h++)
            zs_string_printf(out, "'s %s", zs_world_relations[chain->relations[h]].noun);
        zs_string_puts(out, "?");
        return;
    }
    if (form == 0)
        zs_string_printf(out, "What is the %s of ", relation->noun);
    else
        zs_string_puts(out, relation->before);
    for (int h = last - 1; h >= 0; h--) {
        zs_string_printf(out, "the %s of ", zs_world_relations[chain->relations[h]].noun);
    }
    zs_string_puts(out, subject);
    zs_string_puts(out, form == 0 ? "?" : relation->after);
}

zs_status zs_world_write_corpus(const zs_world *world, const char *path, zs_error *err) {
    zs_string out = {0};
    for (int64_t i = 0; i < world->num_facts; i++) {
        const zs_fact *fact = &world->facts[i];
        int form = (int)((word_hash(fact->subject) / 64 + (uint32_t)fact->relation) % 2);
        zs_string_printf(&out, "{\"id\":\"%lld\",\"contents\":\"", (long long)i);
        zs_world_sentence(fact, form, &out);
        zs_string_puts(&out, "\"}\n");
    }
    zs_status status = zs_file_write(path, out.data, out.length, err);
    zs_string_free(&out);
    return status;
}

/* A question as its chain and first fact; gold: the facts along the chain. False if the world does not have
 * them, or if the answer is the subject itself ("the spouse of the mayor of the birthplace of X"). */
typedef struct asked {
    zs_world_chain chain;
    int64_t gold[ZS_WORLD_MAX_HOPS];
} asked;

static bool follow(const zs_world *world, asked *question) {
    const char *first = world->facts[question->gold[0]].subject, *subject = first;
    for (int h = 0; h < question->chain.hops; h++) {
        question->gold[h] = zs_world_find(world, question->chain.relations[h], subject);
        if (question->gold[h] < 0) return false;
        subject = world->facts[question->gold[h]].object;
    }
    return strcmp(subject, first) != 0;
}

/* The relations about companies that only questions of other domains ask about. */
static bool is_kept_back(int relation) {
    return strcmp(zs_world_relations[relation].noun, "publisher") == 0 ||
           strcmp(zs_world_relations[relation].noun, "seat") == 0;
}

static bool in_domain(zs_world_domain domain, const zs_world_chain *chain) {
    if (domain == ZS_WORLD_ALL) return true;
    bool kept_back = false;
    for (int h = 0; h < chain->hops; h++)
        kept_back = kept_back || is_kept_back(chain->relations[h]);
    return kept_back == (domain == ZS_WORLD_OTHER_RELATIONS) &&
           (chain->hops == ZS_WORLD_MAX_HOPS) == (domain == ZS_WORLD_MORE_HOPS);
}

zs_status zs_world_write_questions(const zs_world *world, uint64_t seed, zs_world_domain domain,
                                   int64_t count, const char *id_prefix, const char *path, zs_error *err) {
    zs_string out = {0};
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_WORLD, 2000, 0, 0);
    asked *questions = ZS_NEW(asked, count);
    int64_t made = 0;
    for (int64_t tries = 0; made < count && tries < count * 1000; tries++) {
        asked *q = &questions[made];
        *q = (asked){0};
        zs_world_draw_chain(&rng, &q->chain);
        if (!in_domain(domain, &q->chain)) continue;
        do
            q->gold[0] = zs_rng_below(&rng, world->num_facts);
        while (world->facts[q->gold[0]].relation != q->chain.relations[0]);
        int form = domain == ZS_WORLD_OTHER_PHRASING ? ZS_WORLD_OTHER_FORM : (int)zs_rng_below(&rng, 2);
        bool good = follow(world, q);
        for (int64_t i = 0; i < made && good; i++)
            good = memcmp(&questions[i], q, sizeof *q) != 0;
        if (!good) continue;
        zs_string_printf(&out, "{\"id\":\"%s%lld\",\"question\":\"", id_prefix, (long long)made);
        zs_world_question(&q->chain, world->facts[q->gold[0]].subject, form, &out);
        zs_string_printf(&out, "\",\"golden_answers\":[\"%s\"],\"hops\":%d,\"gold\":[",
                         world->facts[q->gold[q->chain.hops - 1]].object, q->chain.hops);
        for (int h = 0; h < q->chain.hops; h++) {
            zs_string_printf(&out, "%s\"%lld\"", h ? "," : "", (long long)q->gold[h]);
        }
        zs_string_puts(&out, "]}\n");
        made++;
    }
    zs_status status =
        made == count ? zs_file_write(path, out.data, out.length, err)
                      : zs_fail(err, ZS_FAILED, "%s: the world is too small for %lld different questions",
                                path, (long long)count);
    zs_free(questions);
    zs_string_free(&out);
    return status;
}
