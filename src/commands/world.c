/* zerosearch world: writes the demo world, its questions, and the texts to learn from. */
#include "zerosearch/command.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/tokenizer.h"
#include "zerosearch/world.h"

#include <stdio.h>
#include <string.h>

static const zs_world_text_options defaults = {
    .min_documents = 4, .max_documents = 6, .observation_weight = 0.02, .name_weight = 0.05};

/* The part of the seed that is its own for each file: no two share a draw. */
enum { BASE_1 = 1, BASE_2, SIMULATOR, PROBE, SAMPLES, QUESTIONS, INSTRUCT };
static uint64_t seed_of(uint64_t seed, int file) {
    return seed * 16 + (uint64_t)file;
}

static zs_status write_and_free(const char *folder, const char *name, zs_string *text, zs_error *err) {
    char path[1000];
    zs_status status =
        zs_file_write(zs_path_join(path, sizeof path, folder, name), text->data, text->length, err);
    zs_string_free(text);
    return status;
}

/* A question set of the world NAME: qa_NAME.jsonl, or qa_NAME_SUFFIX.jsonl. */
static zs_status write_questions(const char *folder, uint64_t seed, const zs_world *world, const char *name,
                                 const char *suffix, zs_world_domain domain, int64_t count, zs_error *err) {
    char file[100], path[1000], prefix[60];
    snprintf(file, sizeof file, "qa_%s%s.jsonl", name, suffix);
    snprintf(prefix, sizeof prefix, "%s%s_", name, suffix);
    zs_path_join(path, sizeof path, folder, file);
    return zs_world_write_questions(world, seed_of(seed, QUESTIONS), domain, count, prefix, path, err);
}

typedef struct world_options {
    zs_world_split split;
    zs_world_sizes sizes;
    int64_t questions;
    bool divided;       /* the question set asks in the domain only */
    bool out_of_domain; /* and there are sets beside it that do not */
} world_options;

static zs_status write_world(const char *folder, uint64_t seed, const char *name,
                             const world_options *options, zs_error *err) {
    static const struct {
        const char *suffix;
        zs_world_domain domain;
    } others[] = {{"_relations", ZS_WORLD_OTHER_RELATIONS},
                  {"_hops", ZS_WORLD_MORE_HOPS},
                  {"_phrasing", ZS_WORLD_OTHER_PHRASING}};
    char file[100], path[1000];
    zs_world world;
    zs_world_make(seed, options->split, &options->sizes, &world);
    snprintf(file, sizeof file, "corpus_%s.jsonl", name);
    zs_status status = zs_world_write_corpus(&world, zs_path_join(path, sizeof path, folder, file), err);
    if (status == ZS_OK)
        status = write_questions(folder, seed, &world, name, "",
                                 options->divided ? ZS_WORLD_IN : ZS_WORLD_ALL, options->questions, err);
    for (int i = 0; i < 3 && options->out_of_domain && status == ZS_OK; i++)
        status = write_questions(folder, seed, &world, name, others[i].suffix, others[i].domain,
                                 options->questions, err);
    zs_world_free(&world);
    return status;
}

static zs_status write_training(const char *folder, uint64_t seed, int64_t base_1, int64_t base_2,
                                int64_t simulator, zs_error *err) {
    zs_string text = {0};
    zs_status status = ZS_OK;
    for (int64_t i = 0; i < base_1; i++) {
        zs_world_text_options options = defaults;
        zs_world_kind kind = zs_world_first_stage(seed_of(seed, BASE_1), i, base_1, &options);
        zs_world_text(seed_of(seed, BASE_1), kind, i, &options, &text, NULL);
    }
    status = write_and_free(folder, "base_1.jsonl", &text, err);
    for (int64_t i = 0; i < base_2 && status == ZS_OK; i++) {
        zs_world_text_options options = defaults;
        zs_world_kind kind = zs_world_second_stage(seed_of(seed, BASE_2), i, &options);
        zs_world_text(seed_of(seed, BASE_2), kind, i, &options, &text, NULL);
    }
    if (status == ZS_OK) status = write_and_free(folder, "base_2.jsonl", &text, err);
    for (int64_t i = 0; i < simulator && status == ZS_OK; i++) {
        zs_world_text_options options = defaults;
        options.observation_weight = 0;
        zs_world_text(seed_of(seed, SIMULATOR), ZS_WORLD_SIMULATOR, i, &options, &text, NULL);
    }
    return status == ZS_OK ? write_and_free(folder, "simulator.jsonl", &text, err) : status;
}

/* Episodes without bad habits: what an instruction-tuned start has seen. */
static zs_status write_instruct(const char *folder, uint64_t seed, int64_t count, zs_error *err) {
    zs_string text = {0};
    for (int64_t i = 0; i < count; i++) {
        zs_world_text_options options = defaults;
        options.clean = true;
        zs_world_text(seed_of(seed, INSTRUCT), ZS_WORLD_TRANSCRIPT, i, &options, &text, NULL);
    }
    return write_and_free(folder, "instruct.jsonl", &text, err);
}

/* Held-out items whose weight-1 tokens are copied objects: how well the model reads. */
static zs_status write_probe(const char *folder, uint64_t seed, zs_error *err) {
    zs_string text = {0};
    for (int64_t i = 0; i < 96 * 2; i++) {
        zs_world_text_options options = defaults;
        options.split = ZS_WORLD_DEV;
        options.clean = options.graded = true;
        options.min_documents = options.max_documents = ZS_WORLD_TOP_K;
        zs_world_text(seed_of(seed, PROBE), i % 2 ? ZS_WORLD_TRANSCRIPT : ZS_WORLD_READING, i, &options,
                      &text, NULL);
    }
    return write_and_free(folder, "probe.jsonl", &text, err);
}

/* Sample texts, and the tokenizer trained on them. */
static zs_status write_tokenizer(const char *folder, uint64_t seed, int64_t vocab_size, zs_error *err) {
    zs_string text = {0};
    for (int64_t i = 0; i < 8000; i++) {
        zs_world_text_options options = defaults;
        options.clean = i % 8 == 0;
        zs_world_text(seed_of(seed, SAMPLES), (zs_world_kind)(i % ZS_WORLD_NUM_KINDS), i, &options, NULL,
                      &text);
        zs_string_puts(&text, "\n");
        /* What the environment says, so that it is cheap too. */
        if (i % 16 == 0)
            zs_string_puts(&text, "<information>Doc 1: No information available</information>\n");
        if (i % 16 == 8) zs_string_puts(&text, "\nSearch or answer.\n");
    }
    char path[1000];
    const char *texts[] = {text.data};
    zs_tokenizer *tokenizer = NULL;
    zs_status status = zs_tokenizer_train(texts, &text.length, 1, vocab_size, zs_world_specials,
                                          zs_world_num_specials, zs_world_pattern, &tokenizer, err);
    if (status == ZS_OK) {
        status = zs_tokenizer_save(tokenizer, zs_path_join(path, sizeof path, folder, "tokenizer.json"), err);
    }
    zs_tokenizer_destroy(tokenizer);
    zs_status written = write_and_free(folder, "tokenizer.txt", &text, status == ZS_OK ? err : NULL);
    return status == ZS_OK ? written : status;
}

static zs_status make_all(const zs_arguments *arguments, zs_error *err) {
    const char *folder;
    int64_t seed = 1, base_1 = 0, base_2 = 0, simulator = 0, vocab_size = 0, questions = 0, instruct = 0;
    bool divided = zs_arg(arguments, "out-of-domain") != NULL;
    zs_status status = zs_arg_need(arguments, "out", &folder, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "seed", 1, &seed, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "base-1", 12000, &base_1, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "base-2", 32000, &base_2, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "simulator", 14000, &simulator, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "instruct", 0, &instruct, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "vocab-size", 768, &vocab_size, err);
    if (status == ZS_OK) status = zs_arg_int(arguments, "questions", 400, &questions, err);
    if (status != ZS_OK) return status;
    if (seed < 0 || base_1 < 1 || base_2 < 1 || simulator < 1 || questions < 1 || instruct < 0) {
        return zs_fail(err, ZS_USAGE, "world: seed and instruct must be >= 0 and the other counts >= 1");
    }
    const world_options train = {ZS_WORLD_TRAIN, {400, 200, 50, 200, 200}, 4000, divided, false},
                        dev = {ZS_WORLD_DEV, {100, 50, 12, 50, 50}, 200, divided, false},
                        test = {ZS_WORLD_TEST, {150, 75, 18, 75, 75}, questions, divided, divided};
    status = zs_make_folder(folder, err);
    uint64_t s = (uint64_t)seed;
    if (status == ZS_OK) status = write_world(folder, s, "train", &train, err);
    if (status == ZS_OK) status = write_world(folder, s, "dev", &dev, err);
    if (status == ZS_OK) status = write_world(folder, s, "test", &test, err);
    if (status == ZS_OK) status = write_training(folder, s, base_1, base_2, simulator, err);
    if (status == ZS_OK && instruct > 0) status = write_instruct(folder, s, instruct, err);
    if (status == ZS_OK) status = write_probe(folder, s, err);
    if (status == ZS_OK) status = write_tokenizer(folder, s, vocab_size, err);
    if (status == ZS_OK) zs_log(ZS_LOG_INFO, "the demo world of seed %lld is in %s", (long long)seed, folder);
    return status;
}

/* One process writes; the others wait for its word. */
static zs_status run(const zs_arguments *arguments, zs_error *err) {
    zs_status status = arguments->comm->world.rank == 0 ? make_all(arguments, err) : ZS_OK;
    return zs_comm_agree(arguments->comm, &arguments->comm->world, status, err);
}

static const zs_option options[] = {
    {"out", "DIR", "folder to write to (made if missing)"},
    {"seed", "N", "everything is a function of it (1)"},
    {"questions", "N", "test questions (400)"},
    {"base-1", "N", "examples of the first pre-training stage (12000)"},
    {"base-2", "N", "examples of the second (32000)"},
    {"simulator", "N", "examples of simulation tuning (14000)"},
    {"instruct", "N", "clean episodes for an instruction-tuned start, in instruct.jsonl (0)"},
    {"out-of-domain", NULL,
     "training and test questions without some relations, three hops and one phrasing; test sets of these "
     "beside"},
    {"vocab-size", "N", "entries of the tokenizer (768)"},
    {NULL, NULL, NULL},
};

const zs_command zs_command_world = {
    .name = "world",
    .summary = "makes the demo world: facts, passages, question sets, training texts, tokenizer",
    .usage =
        "zerosearch world --out DIR [--seed N] [--questions N] [--base-1 N] [--base-2 N] [--simulator N]\n"
        "                 [--instruct N] [--out-of-domain]\n"
        "Writes corpus_*.jsonl and qa_*.jsonl of the train, dev and test worlds (dev and test: entities\n"
        "whose names occur in no training text), base_1, base_2, simulator and probe.jsonl, tokenizer.txt\n"
        "and tokenizer.json. --out-of-domain: qa_*.jsonl ask one or two hops without the relations "
        "publisher\n"
        "and seat; qa_test_relations, qa_test_hops and qa_test_phrasing.jsonl each differ in one thing.",
    .options = options,
    .run = run,
    .alone = true,
};
