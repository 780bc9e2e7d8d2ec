/* Simulation-tuning sets: documents, judges, merging, selection and completions on pairs made by hand, and
 * the judge `contains` on annotated passages (useful_noisy_gold.jsonl). */
#include "zerosearch/collect.h"
#include "zerosearch/memory.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static zs_pair *add(zs_pairs *pairs, const char *question, const char *answer, const char *query,
                    const char *documents) {
    char *answers[] = {(char *)answer};
    zs_pair *pair = zs_pairs_add(pairs, query, question, answers, 1);
    zs_free(pair->documents);
    pair->documents = zs_strdup(documents);
    return pair;
}

static void write_file(char *path, const char *text) {
    snprintf(path, 64, "/tmp/zs_collect_XXXXXX");
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text));
    close(file);
}

/* Extraction. */

static void reads_the_searches_of_trajectories(void **state) {
    (void)state;
    char path[64];
    write_file(
        path,
        "{\"question\":\"Q1\",\"golden_answers\":[\"A\",\"B\"],\"em\":1.0,\"cover_em\":1.0,\"searches\":["
        "{\"turn\":0,\"query\":\"q1\",\"documents\":\"Doc 1: one\\nDoc 2: two\",\"failed\":false},"
        "{\"turn\":1,\"query\":\"q2\",\"documents\":\"No information available\",\"failed\":false},"
        "{\"turn\":2,\"query\":\"q3\",\"documents\":\"No information available\",\"failed\":true}]}\n"
        "{\"question\":\"Q2\",\"golden_answers\":[\"C\"],\"em\":0,\"cover_em\":1,\"searches\":[]}\n"
        "{\"question\":\"Q3\",\"golden_answers\":[\"D\"],\"query\":\"q4\",\"label\":\"noisy\","
        "\"documents\":[\"x\\ny\",{\"title\":\"T\",\"text\":\"z\"},\"\"],\"further\":[\"v\",\"\",\"w\"]}\n");
    zs_pairs pairs = {0};
    zs_error err = {0};
    assert_int_equal(zs_pairs_read(path, "em", true, &pairs, &err), ZS_OK);
    assert_int_equal(pairs.rows, 3);
    assert_int_equal(pairs.searches, 4);
    assert_int_equal(pairs.failed, 1);
    assert_int_equal(pairs.empty, 1);
    assert_int_equal(pairs.count, 2);
    assert_string_equal(pairs.items[0].query, "q1");
    assert_string_equal(pairs.items[0].documents, "Doc 1: one\nDoc 2: two");
    assert_string_equal(pairs.items[0].further, "");
    assert_string_equal(pairs.items[1].further, "Doc 1: v\nDoc 2: w");
    assert_int_equal(pairs.items[0].contrast_of, -1);
    assert_int_equal(pairs.items[0].num_answers, 2);
    assert_int_equal(pairs.items[0].right, 1);
    assert_string_equal(pairs.items[1].documents, "Doc 1: x y\nDoc 2: \"T\" z");
    assert_int_equal(pairs.items[1].outcomes, 1);
    assert_int_equal(pairs.items[1].right, 0);
    zs_pairs_free(&pairs);
    unlink(path);
}

static void bad_rows_are_named(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{\"golden_answers\":[\"A\"],\"query\":\"q\",\"documents\":\"\"}", "question"},
        {"{\"question\":\"Q\",\"golden_answers\":[],\"query\":\"q\",\"documents\":\"\"}", "golden_answers"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\"],\"documents\":\"\"}", "query"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\"],\"query\":\"q\"}", "documents"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\"],\"query\":\"q\",\"documents\":[1]}", "documents"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\"],\"query\":\"q\",\"documents\":\"\",\"further\":[1]}",
         "further"},
        {"{\"question\":\"Q\",\"golden_answers\":[\"A\"],\"query\":\"q\",\"documents\":\"\",\"label\":\"x\"}",
         "label"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[64], expected[120];
        write_file(path, rows[i][0]);
        zs_pairs pairs = {0};
        zs_error err = {0};
        assert_int_equal(zs_pairs_read(path, "em", true, &pairs, &err), ZS_FAILED);
        snprintf(expected, sizeof expected, "%s:1: key \"%s\"", path, rows[i][1]);
        assert_non_null(strstr(err.text, expected));
        zs_pairs_free(&pairs);
        unlink(path);
    }
}

static void splits_documents(void **state) {
    (void)state;
    char **texts;
    int count = zs_documents_split("Doc 1: see Doc 2: there\nDoc 2: a\nb\nDoc 4: c\nDoc 3: d", &texts);
    assert_int_equal(count, 3);
    assert_string_equal(texts[0], "see Doc 2: there");
    assert_string_equal(texts[1], "a\nb\nDoc 4: c");
    assert_string_equal(texts[2], "d");
    zs_documents_free(texts, count);
    assert_int_equal(zs_documents_split("", &texts), 0);
}

/* Judges. */

static void judges(void **state) {
    (void)state;
    zs_pairs pairs = {0};
    add(&pairs, "Q", "The Hague", "q",
        "Doc 1: x\nDoc 2: It lies in the Hague!");             /* by normalised containment */
    add(&pairs, "Q", "2", "q", "Doc 1: x\nDoc 2: y");          /* a mark is no text */
    add(&pairs, "Q", "x y", "q", "Doc 1: x\nDoc 2: y");        /* nor do documents join */
    add(&pairs, "Q", "Yes.", "q", "Doc 1: yes");               /* which proves nothing */
    add(&pairs, "Q", "Rome", "who rules rome", "Doc 1: Rome"); /* the query tells it */
    zs_judge_contains(&pairs);
    static const zs_verdict contains[] = {ZS_USEFUL, ZS_NOISY, ZS_NOISY, ZS_UNDECIDED, ZS_UNDECIDED};
    for (int i = 0; i < 5; i++)
        assert_int_equal(pairs.items[i].verdict, contains[i]);
    static const int ends[4][2] = {{1, 1}, {1, 0}, {2, 1}, {0, 0}}; /* known, right */
    static const zs_verdict outcome[] = {ZS_USEFUL, ZS_NOISY, ZS_UNDECIDED, ZS_UNDECIDED};
    for (int i = 0; i < 4; i++)
        pairs.items[i].outcomes = ends[i][0], pairs.items[i].right = ends[i][1];
    zs_judge_outcome(&pairs);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pairs.items[i].verdict, outcome[i]);
    zs_pairs_free(&pairs);

    static const struct {
        const char *text;
        zs_verdict verdict;
    } said[] = {{"Yes", ZS_USEFUL},
                {" no.\n", ZS_NOISY},
                {"**YES**, since no other", ZS_USEFUL},
                {"The answer is yes.", ZS_USEFUL},
                {"Well, yes and no", ZS_UNDECIDED},
                {"nothing known", ZS_UNDECIDED},
                {"", ZS_UNDECIDED},
                {"<think> yes or no? </think> No", ZS_NOISY}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        assert_int_equal(zs_judge_parse(said[i].text), said[i].verdict);
}

/* Annotated passages: how often `contains` calls the supporting ones useful, and the others noisy (an answer
 * such as a country stands in many a passage that does not prove it). The counts are those of a Python script
 * with SQuAD's own normalisation. */
static void contains_agrees_with_annotators(void **state) {
    (void)state;
    const char *shared = getenv("SHARED");
    char path[1000];
    snprintf(path, sizeof path, "%s/qa/useful_noisy_gold.jsonl", shared ? shared : "../shared");
    if (access(path, R_OK) != 0) skip();
    json_t *texts = json_object(), *row;
    zs_json_lines *lines;
    zs_error err = {0};
    snprintf(path, sizeof path, "%s/qa/corpus.jsonl", shared ? shared : "../shared");
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    while (zs_json_lines_next(lines, &row, &err) == ZS_OK && row) {
        json_object_set(texts, json_string_value(json_object_get(row, "id")),
                        json_object_get(row, "contents"));
        json_decref(row);
    }
    zs_json_lines_close(lines);
    snprintf(path, sizeof path, "%s/qa/useful_noisy_gold.jsonl", shared ? shared : "../shared");
    assert_int_equal(zs_json_lines_open(path, &lines, &err), ZS_OK);
    int right[2] = {0, 0}, all[2] = {0, 0};
    while (zs_json_lines_next(lines, &row, &err) == ZS_OK && row) {
        static const char *const kinds[] = {"noisy", "useful"};
        zs_pairs pairs = {0};
        for (int kind = 0; kind < 2; kind++) {
            json_t *golden = json_object_get(row, "golden_answers"), *ids = json_object_get(row, kinds[kind]);
            zs_string documents = {0};
            int number = 0;
            for (size_t i = 0; i < json_array_size(ids); i++) {
                const char *text =
                    json_string_value(json_object_get(texts, json_string_value(json_array_get(ids, i))));
                number += zs_search_append_document(text, (int64_t)strlen(text), number + 1, &documents);
            }
            if (number > 0)
                add(&pairs, "Q", json_string_value(json_array_get(golden, 0)), "?", documents.data)->turn =
                    kind;
            zs_string_free(&documents);
        }
        zs_judge_contains(&pairs);
        for (int64_t i = 0; i < pairs.count; i++) {
            int64_t kind = pairs.items[i].turn;
            if (pairs.items[i].verdict == ZS_UNDECIDED) continue;
            all[kind]++;
            right[kind] += pairs.items[i].verdict == (kind ? ZS_USEFUL : ZS_NOISY);
        }
        zs_pairs_free(&pairs);
        json_decref(row);
    }
    zs_json_lines_close(lines);
    json_decref(texts);
    assert_int_equal(all[1], 485);
    assert_int_equal(right[1], 484);
    assert_int_equal(all[0], 485);
    assert_int_equal(right[0], 382);
}

/* Merging and selection. */

static void merges_equal_searches(void **state) {
    (void)state;
    zs_pairs pairs = {0};
    static const struct {
        const char *question, *query, *documents;
        int right;
    } rows[] = {{"Q", "q", "Doc 1: a", 1}, {"Q", "q", "Doc 1: b", 1}, {"Q", "q", "Doc 1: a", 1},
                {"R", "q", "Doc 1: a", 0}, {"Q", "p", "Doc 1: a", 1}, {"Q", "q", "Doc 1: a", 0}};
    for (int i = 0; i < 6; i++) {
        zs_pair *pair = add(&pairs, rows[i].question, "A", rows[i].query, rows[i].documents);
        pair->outcomes = 1, pair->right = rows[i].right;
    }
    assert_int_equal(zs_pairs_merge(&pairs), 2);
    assert_int_equal(pairs.count, 4);
    assert_int_equal(pairs.items[0].copies, 3);
    assert_int_equal(pairs.items[0].outcomes, 3);
    assert_int_equal(pairs.items[0].right, 2);
    assert_string_equal(pairs.items[2].question, "R");
    assert_string_equal(pairs.items[3].query, "p");
    zs_judge_outcome(&pairs);
    assert_int_equal(pairs.items[0].verdict, ZS_USEFUL);
    zs_pairs_free(&pairs);
}

static zs_pair *add_deep(zs_pairs *pairs, const char *answer, const char *documents, const char *further,
                         zs_verdict verdict) {
    zs_pair *pair = add(pairs, "Q", answer, "q", documents);
    zs_free(pair->further);
    pair->further = zs_strdup(further);
    pair->verdict = verdict;
    return pair;
}

static void contrasts(void **state) {
    (void)state;
    zs_pairs pairs = {0};
    static const char shown[] = "Doc 1: a\nDoc 2: in Rome, q\nDoc 3: b",
                      rest[] = "Doc 1: Rome!\nDoc 2: c\nDoc 3: d";
    add_deep(&pairs, "Rome", shown, rest, ZS_NOISY);            /* is noise itself */
    add_deep(&pairs, "Oslo", shown, rest, ZS_USEFUL);           /* led to the answer without it */
    add_deep(&pairs, "Rome", shown, rest, ZS_USEFUL)->turn = 2; /* gets a, b, c */
    add_deep(&pairs, "Rome", shown, "Doc 1: Rome!", ZS_USEFUL); /* too little is left */
    add_deep(&pairs, "yes", "Doc 1: yes\nDoc 2: a\nDoc 3: b", rest, ZS_USEFUL); /* says nothing */
    add_deep(&pairs, "Rome", "Doc 1: a", rest, ZS_USEFUL);   /* only what was shown counts */
    add_deep(&pairs, "Q", shown, "Doc 1: Rome!", ZS_USEFUL); /* the query names it */
    add_deep(&pairs, "Rome", shown, rest, ZS_UNDECIDED);
    assert_int_equal(zs_pairs_add_contrast(&pairs, 3), 1);
    assert_int_equal(pairs.count, 9);
    const zs_pair *made = &pairs.items[8];
    assert_string_equal(made->documents, "Doc 1: a\nDoc 2: b\nDoc 3: c");
    assert_string_equal(made->query, "q");
    assert_string_equal(made->question, "Q");
    assert_string_equal(made->answers[0], "Rome");
    assert_int_equal(made->verdict, ZS_NOISY);
    assert_int_equal(made->contrast_of, 2);
    assert_int_equal(made->turn, 2);
    assert_int_equal(made->outcomes, 0); /* no trajectory is told twice */
    zs_pairs_free(&pairs);
}

/* 40 questions: three useful pairs and a noisy one each, and what is to be left out. */
static void make_judged(zs_pairs *pairs) {
    for (int q = 0; q < 40; q++)
        for (int k = 0; k < 4; k++) {
            char question[20], query[20];
            snprintf(question, sizeof question, "Q%d", q);
            snprintf(query, sizeof query, "q%d.%d", q, k);
            add(pairs, question, "A", query, "Doc 1: d")->verdict = k < 3 ? ZS_USEFUL : ZS_NOISY;
        }
    add(pairs, "Q1", "A", "u", "Doc 1: d");                          /* undecided */
    add(pairs, "Q41", "A", "q3.0", "Doc 1: d")->verdict = ZS_USEFUL; /* a duplicate across questions */
    add(pairs, "Q41", "A", "q3.0", "Doc 1: d")->verdict = ZS_NOISY;  /* which this is not */
}

static void selects(void **state) {
    (void)state;
    zs_pairs pairs = {0};
    make_judged(&pairs);
    zs_selection selection = {.deduplicate = true, .balance = true, .held_out = 0.2, .seed = 7};
    zs_selected s = zs_pairs_select(&pairs, &selection);
    assert_int_equal(s.undecided, 1);
    assert_int_equal(s.duplicates, 1);
    assert_int_equal(s.useful[1], s.noisy[1]); /* balanced in each part: 41 noisy in all */
    assert_int_equal(s.useful[2], s.noisy[2]);
    assert_int_equal(s.noisy[1] + s.noisy[2], 41);
    assert_int_equal(s.noisy[2], 8); /* 0.2 of 41 questions */
    assert_int_equal(s.unbalanced, 120 - 41);
    int64_t kept = 0;
    for (int64_t i = 0; i < pairs.count; i++) {
        kept += pairs.items[i].part != ZS_PART_NONE;
        for (int64_t k = 0; k < i; k++) /* no question is in both parts */
            if (!strcmp(pairs.items[i].question, pairs.items[k].question) && pairs.items[i].part &&
                pairs.items[k].part)
                assert_int_equal(pairs.items[i].part, pairs.items[k].part);
    }
    assert_int_equal(kept, 82);

    zs_pairs again = {0};
    make_judged(&again);
    zs_pairs_select(&again, &selection);
    int differ = 0;
    for (int64_t i = 0; i < pairs.count; i++)
        assert_int_equal(pairs.items[i].part, again.items[i].part);
    selection.seed = 8;
    zs_pairs_select(&again, &selection);
    for (int64_t i = 0; i < pairs.count; i++)
        differ += pairs.items[i].part != again.items[i].part;
    assert_true(differ > 0);

    selection = (zs_selection){.per_question = 1, .held_out = 0};
    s = zs_pairs_select(&again, &selection);
    assert_int_equal(s.over, 80);
    assert_int_equal(s.useful[1], 41);
    assert_int_equal(s.noisy[1], 41);
    assert_int_equal(s.useful[2] + s.noisy[2] + s.duplicates + s.unbalanced, 0);
    zs_pairs_free(&pairs);
    zs_pairs_free(&again);
}

/* Completions. */

static void expect_completion(zs_pair *pair, int top_k, int words, bool clean, const char *expected) {
    zs_string out = {0};
    zs_pair_completion(pair, top_k, words, clean, &out);
    assert_string_equal(out.data ? out.data : "", expected);
    zs_string_free(&out);
}

static void completes(void **state) {
    (void)state;
    zs_pairs pairs = {0};
    zs_pair *pair = add(&pairs, "Q", "Rome", "q",
                        "Doc 1: one two three four five six seven\nDoc 2: \"T\" a b c d. It is Rome. e f g "
                        "h\nDoc 3: a b c. d");
    pair->verdict = ZS_USEFUL;
    expect_completion(pair, 5, 30, true, pair->documents);
    expect_completion(pair, 1, 30, true, "Doc 1: \"T\" a b c d. It is Rome. e f g h");
    /* cut at four words, or at a sentence's end soon after; a document that states the answer keeps it */
    expect_completion(pair, 3, 4, true,
                      "Doc 1: one two three four\nDoc 2: \"T\" It is Rome. e\nDoc 3: a b c. d");
    expect_completion(pair, 3, 2, true, "Doc 1: one two\nDoc 2: \"T\" It is Rome.\nDoc 3: a b c.");
    pair->verdict = ZS_NOISY;
    expect_completion(pair, 5, 30, true, "Doc 1: one two three four five six seven\nDoc 2: a b c. d");
    expect_completion(pair, 5, 30, false, pair->documents);
    pair = add(&pairs, "Q", "Rome", "q", "Doc 1: Rome");
    pair->verdict = ZS_NOISY;
    expect_completion(pair, 5, 30, true, "");
    /* what is left out is made up for, in noise alone */
    pair = add_deep(&pairs, "Rome", "Doc 1: a\nDoc 2: Rome", "Doc 1: Rome\nDoc 2: b\nDoc 3: c", ZS_NOISY);
    expect_completion(pair, 2, 30, true, "Doc 1: a\nDoc 2: b");
    expect_completion(pair, 5, 30, true, "Doc 1: a\nDoc 2: b\nDoc 3: c");
    expect_completion(pair, 5, 30, false, "Doc 1: a\nDoc 2: Rome");
    pair->verdict = ZS_USEFUL;
    expect_completion(pair, 5, 30, true, "Doc 1: a\nDoc 2: Rome");
    /* an answer beyond the documents asked for comes among them */
    pair = add_deep(&pairs, "Rome", "Doc 1: a\nDoc 2: b\nDoc 3: c\nDoc 4: Rome", "", ZS_USEFUL);
    expect_completion(pair, 2, 30, true, "Doc 1: a\nDoc 2: Rome");
    expect_completion(pair, 4, 30, true, pair->documents);
    zs_pairs_free(&pairs);
}

/* Figures. */

static void checks_the_form(void **state) {
    (void)state;
    static const struct {
        const char *raw;
        int top_k;
        bool valid;
    } cases[] = {{"Doc 1: a\nDoc 2: b", 2, true},
                 {"\nDoc 1: a\nDoc 2: b\n</information> more", 2, true},
                 {"Doc 1: a\nDoc 2: b", 3, false},
                 {"Doc 1: a\nDoc 2: b\nDoc 3: c", 2, false},
                 {"Here:\nDoc 1: a", 1, false},
                 {"Doc 1: a\nDoc 3: b", 2, false},
                 {"Doc 1: a\nDoc 2:", 2, false},
                 {"a", 1, false},
                 {"", 1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(zs_documents_valid(cases[i].raw, (int64_t)strlen(cases[i].raw), cases[i].top_k),
                         cases[i].valid);
}

static void takes_figures(void **state) {
    (void)state;
    static const char *const specials[] = {"<eos>"};
    const char *text = "a b c d";
    int64_t length = 7;
    zs_tokenizer *tokenizer;
    zs_error err = {0};
    assert_int_equal(zs_tokenizer_train(&text, &length, 1, 260, specials, 1, NULL, &tokenizer, &err), ZS_OK);
    zs_pairs queries = {0};
    add(&queries, "Q", "x", "q", "");
    add(&queries, "R", "y", "r", "");
    char first[] = "Doc 1: w x\nDoc 2: w x\nDoc 3: w v", second[] = "Doc 1: w x";
    char *documents[] = {first, second};
    zs_source s = {0};
    zs_source_measure(&s, &queries, documents, tokenizer);
    assert_int_equal(s.replies, 2);
    assert_float_equal(s.holds, 0.5, 1e-9);
    assert_float_equal(s.documents, 2, 1e-9);
    assert_float_equal(s.words, 2, 1e-9);
    assert_float_equal(s.distinct[0], 3.0 / 8, 1e-9); /* w x v of eight words */
    assert_float_equal(s.distinct[1], 2.0 / 4, 1e-9); /* "w x", "w v" of four */
    assert_float_equal(s.distinct[2], 0, 1e-9);
    assert_float_equal(s.repeated, 1.0 / 4, 1e-9);
    assert_float_equal(s.duplicates, 1.0 / 3, 1e-9); /* of "w x", "w v" and the second reply's "w x" */
    zs_pairs_free(&queries);
    zs_tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_searches_of_trajectories),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(splits_documents),
        cmocka_unit_test(judges),
        cmocka_unit_test(contains_agrees_with_annotators),
        cmocka_unit_test(merges_equal_searches),
        cmocka_unit_test(contrasts),
        cmocka_unit_test(selects),
        cmocka_unit_test(completes),
        cmocka_unit_test(checks_the_form),
        cmocka_unit_test(takes_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
