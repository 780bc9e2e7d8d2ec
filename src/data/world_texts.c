/* Training texts of the demo world: lists to copy, documents to read, episodes with bad habits to unlearn,
 * and simulation prompts with their documents.
 *
 * What the context cannot tell (fresh names, the choice of what to state next) has a small loss weight: its
 * gradient is noise, and with it a small model takes many times longer to learn which object belongs to
 * which subject. What is copied or decided has weight 1. */
#include "zerosearch/world.h"

#include <stdio.h>
#include <string.h>

/* Pre-tokens: document marks, labels, syllables (three letters), words with their space, half years. Names
 * always stand after a space, so a name has the same tokens wherever it stands. */
const char *const zs_world_pattern =
    "\\n?Doc \\d+:| ?(?:What|When|Where|Which|Who|The|In|Question|Answer|Query|"
    "Write|Not|No|Search|I|Doc)(?![a-z])|'s| ?[A-Z][a-z]{2}|"
    " [a-z]+|[a-z]{3}| ?\\d{2}|\\s+|.";
const char *const zs_world_specials[] = {"<eos>",          "<think>",   "</think>",
                                         "<search>",       "</search>", "<information>",
                                         "</information>", "<answer>",  "</answer>"};
const int zs_world_num_specials = sizeof zs_world_specials / sizeof *zs_world_specials;

/* Shares of the bad habits; each is announced by a thought, so that reinforcement has a clean handle. */
static const double know_at_once = 0.66, wrong_query = 0.15, guess_when_found = 0.25,
                    guess_when_missing = 0.6, answer_too_early = 0.15, missing = 0.15;

enum { MAX_USED = 96, MAX_FACTS = 8 };

typedef struct writer {
    zs_rng rng;
    const zs_world_text_options *options;
    zs_string *line, *plain;
    int num_segments, num_used;
    bool graded; /* the graded object of a probe has been written */
    char used[MAX_USED][ZS_WORLD_WORD];
} writer;

static bool chance(writer *w, double share) {
    return zs_rng_uniform(&w->rng) < share;
}

static void segment(writer *w, double weight, const char *text) {
    if (w->plain) zs_string_puts(w->plain, text);
    if (!w->line) return;
    if (w->options->graded) weight = 0;
    zs_string_puts(w->line, w->num_segments++ ? ",{\"text\":\"" : "{\"text\":\"");
    for (const char *c = text; *c; c++) {
        if (*c == '\n')
            zs_string_puts(w->line, "\\n");
        else
            zs_string_append(w->line, c, 1);
    }
    zs_string_printf(w->line, "\",\"weight\":%g}", weight);
}

/* A copied object: what a probe grades, once in an example. */
static void copied(writer *w, const char *text) {
    if (w->options->graded && !w->graded && w->line) {
        zs_string_printf(w->line, "%s{\"text\":\"%s\",\"weight\":1}", w->num_segments++ ? "," : "", text);
        if (w->plain) zs_string_puts(w->plain, text);
        w->graded = true;
    } else {
        segment(w, 1, text);
    }
}

static bool is_used(const writer *w, const char *word) {
    for (int i = 0; i < w->num_used; i++) {
        if (strcmp(w->used[i], word) == 0) return true;
    }
    return false;
}

/* A word or year that this example does not have yet. */
static void fresh(writer *w, zs_world_type type, char out[ZS_WORLD_WORD]) {
    do {
        if (type == ZS_WORLD_YEAR)
            zs_world_draw_year(&w->rng, out);
        else
            zs_world_draw_word(&w->rng, w->options->split, out);
    } while (is_used(w, out));
    if (w->num_used < MAX_USED) memcpy(w->used[w->num_used++], out, ZS_WORLD_WORD);
}

/* Documents. */

typedef struct documents {
    int count;
    zs_fact facts[MAX_FACTS];
    bool stated[MAX_FACTS]; /* the fact that was searched for */
} documents;

/* A relation other than `not`, with the subject and object types asked for (-1: any); -1: there is none. */
static int draw_relation(writer *w, int not, int subject, int object) {
    int fitting[ZS_WORLD_NUM_RELATIONS], n = 0;
    for (int r = 0; r < ZS_WORLD_NUM_RELATIONS; r++) {
        if (r != not &&(subject < 0 || (int)zs_world_relations[r].subject == subject) &&
            (object < 0 || (int)zs_world_relations[r].object == object)) {
            fitting[n++] = r;
        }
    }
    return n ? fitting[zs_rng_below(&w->rng, n)] : -1;
}

static bool already_told(const documents *docs, const zs_fact *fact) {
    for (int i = 0; i < docs->count; i++) {
        if (docs->facts[i].relation == fact->relation && strcmp(docs->facts[i].subject, fact->subject) == 0) {
            return true;
        }
    }
    return false;
}

/* A passage that the engine might bring along: of the same subject, about it, or of the same relation. */
static zs_fact draw_distractor(writer *w, const documents *docs, const zs_fact *wanted, bool useful) {
    int type = (int)zs_world_relations[wanted->relation].subject;
    zs_fact fact;
    bool told;
    do {
        double draw = zs_rng_uniform(&w->rng);
        int relation = -1;
        fact = (zs_fact){0};
        if (draw < 0.35) {
            relation = draw_relation(w, wanted->relation, type, -1);
            memcpy(fact.subject, wanted->subject, ZS_WORLD_WORD);
        } else if (draw < 0.5) {
            relation = draw_relation(w, -1, -1, type);
            memcpy(fact.object, wanted->subject, ZS_WORLD_WORD);
            /* marriage goes both ways; to a noisy simulator it would give the answer away */
            if (relation == wanted->relation && useful) memcpy(fact.subject, wanted->object, ZS_WORLD_WORD);
        } else if (draw < 0.85) {
            relation = wanted->relation;
        } else {
            relation = draw_relation(w, -1, -1, -1);
        }
        told = relation < 0;
        if (told) continue;
        fact.relation = relation;
        if (!fact.subject[0]) fresh(w, zs_world_relations[relation].subject, fact.subject);
        if (!fact.object[0]) fresh(w, zs_world_relations[relation].object, fact.object);
        told = already_told(docs, &fact) ||
               (relation == wanted->relation && strcmp(fact.subject, wanted->subject) == 0);
    } while (told);
    return fact;
}

/* `count` documents, the wanted fact among them if `useful`: first in two cases of five, as a ranking engine
 * has it, else anywhere. */
static void draw_documents(writer *w, const zs_fact *wanted, bool useful, int count, documents *docs) {
    *docs = (documents){0};
    int place = !useful ? -1 : chance(w, 0.4) ? 0 : (int)zs_rng_below(&w->rng, count);
    for (int i = 0; i < count; i++) {
        docs->stated[i] = i == place;
        docs->facts[i] = i == place ? *wanted : draw_distractor(w, docs, wanted, useful);
        docs->count = i + 1;
    }
}

static void show_documents(writer *w, const documents *docs) {
    zs_string text = {0};
    zs_string_puts(&text, "\n<information>");
    for (int i = 0; i < docs->count; i++) {
        zs_string_printf(&text, "%sDoc %d: ", i ? "\n" : "", i + 1);
        zs_world_sentence(&docs->facts[i], (int)zs_rng_below(&w->rng, 2), &text);
    }
    zs_string_puts(&text, "</information>\n");
    segment(w, w->options->observation_weight, text.data);
    zs_string_free(&text);
}

/* The four kinds. */

/* A name that the context holds but does not single out: its first syllable is a guess, the rest follows. */
static void known_name(writer *w, const char *name) {
    char first[5] = {' ', name[0], name[1], name[2], 0};
    segment(w, w->options->name_weight, first);
    segment(w, 1, name + 3);
}

static void write_list(writer *w) {
    char words[24][ZS_WORLD_WORD], text[256];
    int64_t order[24];
    int group = (int)(1 + zs_rng_below(&w->rng, 3)) + (chance(w, 0.2) ? 4 : 0);
    int groups = group > 3 ? 1 : (int)(2 + zs_rng_below(&w->rng, 4));
    int count = group * groups;
    for (int i = 0; i < count; i++)
        fresh(w, ZS_WORLD_PERSON, words[i]);
    for (int g = 0; g < groups; g++)
        order[g] = g;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < count; i++) {
            const char *name = words[order[i / group] * group + i % group];
            snprintf(text, sizeof text, " %s", name);
            if (round == 0)
                segment(w, w->options->name_weight, text);
            else if (i % group == 0 && groups > 1)
                known_name(w, name);
            else
                copied(w, text);
            if (i % group == group - 1) segment(w, 0.5, ".");
        }
        zs_rng_shuffle(&w->rng, order, groups);
    }
}

static void write_reading(writer *w) {
    documents docs;
    zs_fact wanted = {.relation = draw_relation(w, -1, -1, -1)};
    zs_string text = {0};
    int64_t order[MAX_FACTS];
    int span = w->options->max_documents - w->options->min_documents + 1;
    int count = w->options->min_documents + (int)zs_rng_below(&w->rng, span);
    fresh(w, zs_world_relations[wanted.relation].subject, wanted.subject);
    fresh(w, zs_world_relations[wanted.relation].object, wanted.object);
    draw_documents(w, &wanted, true, count, &docs);
    show_documents(w, &docs);
    for (int i = 0; i < count; i++)
        order[i] = i;
    zs_rng_shuffle(&w->rng, order, count);
    for (int i = 0; i < count; i++) {
        const zs_fact *fact = &docs.facts[order[i]];
        char object[ZS_WORLD_WORD + 8];
        zs_string_clear(&text);
        zs_string_printf(&text, "%s The %s of", i ? "" : "<think>", zs_world_relations[fact->relation].noun);
        segment(w, 2 * w->options->name_weight, text.data);
        known_name(w, fact->subject);
        segment(w, 1, " is");
        snprintf(object, sizeof object, " %s", fact->object);
        copied(w, object);
        segment(w, 1, i == count - 1 ? ".</think>" : ".");
    }
    zs_string_free(&text);
}

static void say(writer *w, const char *format, const char *value) {
    char text[120];
    snprintf(text, sizeof text, format, value);
    segment(w, 1, text);
}

/* Words in which the writer chooses what to do: search or answer, go on or guess. A lesson trains what
 * follows from the choice and leaves the choice itself to the sloppy transcripts, so skill grows and the bad
 * habits stay. */
static void choose(writer *w, const char *text) {
    segment(w, w->options->lesson ? 0 : 1, text);
}

static void answer_at_random(writer *w, const char *thought, zs_world_type type) {
    char name[ZS_WORLD_WORD], text[ZS_WORLD_WORD + 1];
    fresh(w, type, name);
    snprintf(text, sizeof text, " %s", name);
    say(w, "<think> %s</think><answer>", thought);
    segment(w, w->options->name_weight, text);
    segment(w, 1, "</answer>");
}

/* The chain, its first subject and the objects along it: invented for this example. */
typedef struct story {
    zs_world_chain chain;
    char entities[ZS_WORLD_MAX_HOPS + 1][ZS_WORLD_WORD];
    int form; /* of the question */
} story;

static void draw_story(writer *w, story *story) {
    zs_world_draw_chain(&w->rng, &story->chain);
    fresh(w, zs_world_relations[story->chain.relations[0]].subject, story->entities[0]);
    for (int h = 0; h < story->chain.hops; h++) {
        fresh(w, zs_world_relations[story->chain.relations[h]].object, story->entities[h + 1]);
    }
    story->form = (int)zs_rng_below(&w->rng, 2);
}

static zs_fact story_fact(const story *story, int hop) {
    zs_fact fact = {.relation = story->chain.relations[hop]};
    memcpy(fact.subject, story->entities[hop], ZS_WORLD_WORD);
    memcpy(fact.object, story->entities[hop + 1], ZS_WORLD_WORD);
    return fact;
}

static void write_transcript(writer *w) {
    bool clean = w->options->clean;
    story story;
    zs_string text = {0};
    do
        draw_story(w, &story);
    while (w->options->lesson && story.chain.hops == 1);
    zs_world_type answer_type = zs_world_relations[story.chain.relations[story.chain.hops - 1]].object;
    zs_string_puts(&text, "Question: ");
    zs_world_question(&story.chain, story.entities[0], story.form, &text);
    zs_string_puts(&text, "\n");
    segment(w, w->options->observation_weight, text.data);
    if (!clean && chance(w, know_at_once)) {
        answer_at_random(w, "I know this.", answer_type);
        zs_string_free(&text);
        return;
    }
    choose(w, "<think> I search.</think>");
    for (int hop = 0, misses = 0; hop < story.chain.hops;) {
        zs_fact wanted = story_fact(&story, hop), searched = wanted;
        bool wrong = !clean && chance(w, wrong_query);
        if (wrong) {
            searched.relation = draw_relation(w, wanted.relation, -1, -1);
            fresh(w, zs_world_relations[searched.relation].object, searched.object);
        }
        zs_string_clear(&text);
        zs_world_query(searched.relation, searched.subject, &text);
        choose(w, "<search>");
        say(w, " %s</search>", text.data);
        bool found = !wrong && !(!w->options->graded && chance(w, missing));
        documents docs;
        draw_documents(w, &searched, found, ZS_WORLD_TOP_K, &docs);
        show_documents(w, &docs);
        if (!found) {
            if (misses++ || (!clean && chance(w, guess_when_missing))) {
                answer_at_random(w, "I guess.", answer_type);
                break;
            }
            choose(w, "<think> Not found.</think>");
            continue;
        }
        if (!clean && chance(w, guess_when_found)) {
            answer_at_random(w, "I guess.", answer_type);
            break;
        }
        char object[ZS_WORLD_WORD + 1];
        zs_string_clear(&text);
        zs_world_query(wanted.relation, wanted.subject, &text);
        choose(w, "<think> The");
        say(w, " %s is", text.data);
        snprintf(object, sizeof object, " %s", wanted.object);
        copied(w, object);
        segment(w, 1, ".</think>");
        if (++hop == story.chain.hops || (!clean && chance(w, answer_too_early))) {
            choose(w, "<answer>");
            say(w, " %s</answer>", wanted.object);
            break;
        }
    }
    zs_string_free(&text);
}

/* Almost half of the queries do not fit the question, and no document may then tell the answer: a simulator
 * that answered whatever is asked would teach bad queries. `wanted`: what is asked; `shown`: what useful
 * documents tell instead. False: the query stays as it is. */
static bool draw_misfit(writer *w, const story *story, zs_fact *wanted, zs_fact *shown) {
    double draw = zs_rng_uniform(&w->rng);
    int last = story->chain.hops - 1;
    if (draw < 0.1) { /* beside the question */
        wanted->relation = draw_relation(w, wanted->relation, -1, -1);
        fresh(w, zs_world_relations[wanted->relation].object, wanted->object);
        *shown = *wanted;
        return true;
    }
    if (draw < 0.3) { /* a hop too far: of the answer, or of its like; of a year nothing can be told */
        int type = (int)zs_world_relations[story->chain.relations[last]].object;
        int relation = draw_relation(w, story->chain.relations[last], type, -1);
        if (relation < 0) relation = draw_relation(w, -1, -1, -1);
        wanted->relation = relation;
        memcpy(wanted->subject, story->entities[last + 1], ZS_WORLD_WORD);
        if (chance(w, 0.3)) fresh(w, (zs_world_type)type, wanted->subject);
        fresh(w, zs_world_relations[relation].object, wanted->object);
        *shown = *wanted;
        if (type == ZS_WORLD_YEAR) fresh(w, zs_world_relations[relation].subject, shown->subject);
        return true;
    }
    /* a later relation of the first entity, of which only the first can be told */
    if (draw < 0.45 && last > 0) {
        *shown = *wanted = story_fact(story, 0);
        wanted->relation = story->chain.relations[1 + zs_rng_below(&w->rng, last)];
        return true;
    }
    return false;
}

static void write_simulator(writer *w) {
    story story;
    documents docs;
    zs_string text = {0};
    draw_story(w, &story);
    /* Policies ask for the first fact of a chain more often than for the last. */
    int hop = chance(w, 0.5) ? 0 : (int)zs_rng_below(&w->rng, story.chain.hops);
    bool useful = w->options->graded || chance(w, 0.5);
    zs_fact wanted = story_fact(&story, hop), shown;
    bool fits = w->options->graded || !draw_misfit(w, &story, &wanted, &shown);
    if (fits) shown = wanted;
    zs_string_printf(&text, "Write %s documents.\nQuery: ", useful ? "useful" : "noisy");
    zs_world_query(wanted.relation, wanted.subject, &text);
    zs_string_puts(&text, "\nQuestion: ");
    zs_world_question(&story.chain, story.entities[0], story.form, &text);
    zs_string_printf(&text, "\nAnswer: %s\n", story.entities[story.chain.hops]);
    segment(w, w->options->observation_weight, text.data);
    draw_documents(w, &shown, useful, ZS_WORLD_TOP_K, &docs);
    for (int i = 0; i < docs.count; i++) {
        const zs_fact *fact = &docs.facts[i];
        bool last_fact = fits && hop == story.chain.hops - 1;
        char mark[24];
        snprintf(mark, sizeof mark, "%sDoc %d:", i ? "\n" : "", i + 1);
        segment(w, 1, mark);
        zs_string_clear(&text);
        zs_string_puts(&text, " ");
        zs_world_sentence(fact, (int)zs_rng_below(&w->rng, 2), &text);
        if (!docs.stated[i]) {
            segment(w, 2 * w->options->name_weight, text.data);
            continue;
        }
        /* "The author of X is" + " Y" + ".": the object is copied from the prompt at the last hop only. */
        char *object = text.data + text.length - 1 - (int64_t)strlen(fact->object) - 1;
        char copy[ZS_WORLD_WORD + 1];
        snprintf(copy, sizeof copy, " %s", fact->object);
        *object = 0;
        segment(w, 1, text.data);
        if (last_fact && strcmp(fact->object, story.entities[story.chain.hops]) == 0)
            copied(w, copy);
        else
            segment(w, fits ? 2 * w->options->name_weight : 1, copy); /* a misfit: anything but the answer */
        segment(w, 1, ".");
    }
    segment(w, 1, "\n</information>");
    zs_string_free(&text);
}

void zs_world_text(uint64_t seed, zs_world_kind kind, int64_t index, const zs_world_text_options *options,
                   zs_string *line, zs_string *plain) {
    static const char *const names[] = {"list", "reading", "transcript", "simulator"};
    static void (*const write[])(writer *) = {write_list, write_reading, write_transcript, write_simulator};
    writer w = {.rng = zs_rng_make(seed, ZS_STREAM_WORLD, 3000 + kind, index, options->split),
                .options = options,
                .line = line,
                .plain = plain};
    if (line) zs_string_printf(line, "{\"kind\":\"%s\",\"segments\":[", names[kind]);
    write[kind](&w);
    if (line) zs_string_puts(line, "]}\n");
}

/* Stages. */

zs_world_kind zs_world_first_stage(uint64_t seed, int64_t index, int64_t count,
                                   zs_world_text_options *options) {
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_WORLD, 4000, index, 0);
    double at = (double)index / (double)count, draw = zs_rng_uniform(&rng);
    if (at < 0.1) return ZS_WORLD_LIST;
    options->min_documents = at < 0.55 ? 1 : 2;
    options->max_documents = at < 0.2 ? 1 : at < 0.35 ? 2 : at < 0.55 ? 3 : at < 0.75 ? 4 : 5;
    if (at < 0.35) return draw < 0.3 ? ZS_WORLD_LIST : ZS_WORLD_READING;
    if (at < 0.75) return draw < 0.1 ? ZS_WORLD_LIST : draw < 0.2 ? ZS_WORLD_TRANSCRIPT : ZS_WORLD_READING;
    return draw < 0.65 ? ZS_WORLD_READING : draw < 0.9 ? ZS_WORLD_TRANSCRIPT : ZS_WORLD_SIMULATOR;
}

zs_world_kind zs_world_second_stage(uint64_t seed, int64_t index, zs_world_text_options *options) {
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_WORLD, 4001, index, 0);
    double draw = zs_rng_uniform(&rng);
    options->min_documents = 4;
    options->max_documents = 6;
    options->clean = options->lesson = draw < 0.17;
    return draw < 0.47 ? ZS_WORLD_TRANSCRIPT : draw < 0.85 ? ZS_WORLD_READING : ZS_WORLD_SIMULATOR;
}
