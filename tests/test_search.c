/* Document cutting, the corpus index and its recall, and the engines that answer at once. */
#include "zerosearch/memory.h"
#include "zerosearch/qa.h"
#include "zerosearch/search.h"
#include "zerosearch/strings.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

static char folder[] = "/tmp/zs search?_XXXXXX"; /* a space and a ? as a path may have */
static char jsonl[64], index_path[64];

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(jsonl, sizeof jsonl, "%s/corpus.jsonl", folder);
    snprintf(index_path, sizeof index_path, "%s/corpus.index", folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(jsonl);
    unlink(index_path);
    return rmdir(folder); /* fails when an aside file was left */
}

static bool shared_file(char *out, size_t size, const char *name) {
    const char *golden = getenv("GOLDEN"), *shared = getenv("ZS_SHARED");
    if (golden && strncmp(name, "golden/", 7) == 0)
        snprintf(out, size, "%s/%s", golden, name + 7);
    else
        snprintf(out, size, "%s/%s", shared ? shared : "../shared", name);
    bool there = zs_file_exists(out);
    if (!there) print_message("skip: %s is missing\n", out);
    return there;
}

static void assert_documents(const char *raw, int top_k, const char *expected) {
    zs_string out = {0};
    zs_search_format_documents(raw, (int64_t)strlen(raw), top_k, &out);
    assert_string_equal(out.data ? out.data : "", expected);
    zs_string_free(&out);
}

static void test_documents(void **state) {
    (void)state;
    assert_documents("Sure! Doc 1: one\ntwo \n\nDoc 2:three</information> tail Doc 3: x", 5,
                     "Doc 1: one two\nDoc 2: three");
    assert_documents("Doc 1: a\nDoc 2: b\nDoc 3: c", 2, "Doc 1: a\nDoc 2: b");
    assert_documents("<information> Plain text.\n More. </information>", 5, "Doc 1: Plain text. More.");
    assert_documents("Doc 4: a Doc 7: \nDoc 9: b", 5, "Doc 1: a\nDoc 2: b"); /* renumbered, empty left out */
    assert_documents("**Doc 1:** a\n[Document 2] b\nDocument 3: c", 5, "Doc 1: a\nDoc 2: b\nDoc 3: c");
    assert_documents("A postdoc 3: no mark; a doctor 2", 5, "Doc 1: A postdoc 3: no mark; a doctor 2");
    assert_documents("Doc 1: \xFF"
                     "a\xC3",
                     5, "Doc 1: a");
    assert_documents("", 5, "");
    assert_documents("   </information>", 5, "");
    assert_documents("Doc 1:", 5, "");
    assert_documents("Doc 1: a", 0, "");
}

static void write_corpus(const char *text) {
    assert_int_equal(zs_file_write(jsonl, text, (int64_t)strlen(text), NULL), ZS_OK);
}

static const char small_corpus[] =
    "{\"id\":\"p0\",\"contents\":\"\\\"Jeff Porcaro\\\"\\nAn American drummer of the band Toto.\"}\n"
    "{\"id\":\"p1\",\"contents\":\"\\\"Toto\\\"\\nA rock band.\\nIt had a drummer.\"}\n"
    "{\"id\":2,\"contents\":\"\\\"S\\u00e3o Paulo\\\"\\nA city.\"}\n"
    "{\"id\":\"p3\",\"contents\":\"Tanbur Gustin was born in Tuvuvo.\"}\n";

/* Searches, and checks the first id ("" for none) and the count. */
static void assert_first(zs_corpus *corpus, const char *query, const char *id, int at_least) {
    zs_passage *passages;
    int count;
    zs_error err = {0};
    assert_int_equal(zs_corpus_search(corpus, query, 10, &passages, &count, &err), ZS_OK);
    assert_true(count >= at_least);
    assert_string_equal(count ? passages[0].id : "", id);
    for (int i = 1; i < count; i++)
        assert_true(passages[i - 1].score >= passages[i].score);
    zs_passages_free(passages, count);
}

static void test_corpus(void **state) {
    (void)state;
    zs_error err = {0};
    zs_corpus *corpus;
    write_corpus(small_corpus);
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    assert_first(corpus, "Who was the drummer Jeff Porcaro?", "p0", 2);
    assert_first(corpus, "band named TOTO", "p1", 2);
    assert_first(corpus, "sao paulo", "2", 1); /* accents do not matter */
    assert_first(corpus, "birthplace of Tanbur Gustin", "p3", 1);
    assert_first(corpus, "was in", "p3", 1); /* stop words alone still search */
    static const char *const hostile[] = {"",
                                          "???",
                                          "\"",
                                          "NEAR(",
                                          "* OR AND NOT",
                                          "title:",
                                          "a\" OR \"b",
                                          "col : -x ^y {z}",
                                          "\xFF\xFE",
                                          "\xCC\x81",
                                          "-- ; DROP TABLE words",
                                          "AND",
                                          "a AND OR NOT b",
                                          "NEAR(a b, 3)",
                                          "(((((((((",
                                          "\"unclosed",
                                          "\"\"\"\"",
                                          "{title body}: x",
                                          "^^toto**",
                                          "- -toto --",
                                          "a + b + c",
                                          "\t\n\r\x01\x7f",
                                          "\xF0\x9F\x98\x80 \xE6\x9D\xB1\xE4\xBA\xAC \xD7\xA9\xD7\x9C",
                                          "\xED\xA0\x80\xF4\x90\x80\x80\xC0\xAF",
                                          "'; SELECT 1; --",
                                          "rank MATCH ?1",
                                          "%s%n\\"};
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        zs_passage *passages;
        int count;
        assert_int_equal(zs_corpus_search(corpus, hostile[i], 3, &passages, &count, &err), ZS_OK);
        zs_passages_free(passages, count);
    }
    zs_string text = {0};
    for (int i = 0; i < 16000; i++)
        zs_string_printf(&text, "word%d ", i);
    assert_true(text.length > 100000);
    assert_first(corpus, text.data, "", 0);
    zs_string_clear(&text);
    for (int i = 0; i < 100000; i++)
        zs_string_puts(&text, i % 2 ? "\"" : "x");
    assert_first(corpus, text.data, "", 0);
    /* Operators are words: with them as without. */
    assert_first(corpus, "drummer AND NOT porcaro", "p0", 2);
    assert_first(corpus, "-tanbur* ^gustin:", "p3", 1);
    assert_first(corpus, "\"toto\" OR (band", "p1", 2);
    zs_string_free(&text);
    zs_corpus_close(corpus);
}

static void test_corpus_reuse(void **state) {
    (void)state;
    zs_error err = {0};
    struct stat before, after;
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(stat(index_path, &before), 0);
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(stat(index_path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino); /* reused */
    write_corpus("{\"id\":\"n\",\"contents\":\"Entirely new words.\"}\n");
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    zs_corpus *corpus;
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    assert_first(corpus, "entirely new", "n", 1);
    zs_corpus_close(corpus);
}

static void test_corpus_errors(void **state) {
    (void)state;
    static const char *const bad[] = {"{\"id\":\"a\"}", "{\"contents\":\"a\"}",
                                      "{\"id\":\"a\",\"contents\":1}", "{"};
    zs_error err = {0};
    zs_corpus *corpus;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[200], place[128];
        snprintf(text, sizeof text, "{\"id\":\"a\",\"contents\":\"b\"}\n%s\n", bad[i]);
        snprintf(place, sizeof place, "%s:2", jsonl);
        write_corpus(text);
        unlink(index_path);
        assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_FAILED);
        assert_non_null(strstr(err.text, place));
        assert_false(zs_file_exists(index_path)); /* complete or absent */
    }
    assert_int_equal(zs_corpus_build("/nowhere/c.jsonl", index_path, &err), ZS_FAILED);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, index_path));
    assert_int_equal(zs_file_write(index_path, "torn", 4, NULL), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, index_path));
}

/* Corpora as they are published; the same passages from each. */
static void test_corpus_forms(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
    } forms[] = {
        {"a.jsonl", "\xEF\xBB\xBF{\"id\": \"1\", \"contents\": \"\\\"Aaron\\\"\\nAaron \\\"\\\"the\\\"\\\" "
                    "prophet\"}\r\n\r\n"
                    "{\"id\": \"2\", \"contents\": \"\\\"Bo\\\"\\nA village\", \"title\": \"not read\"}\r\n"},
        {"b.jsonl", "{\"id\": 1, \"title\": \"Aaron\", \"text\": \"Aaron \\\"\\\"the\\\"\\\" prophet\"}\n"
                    "{\"_id\": \"2\", \"title\": \"Bo\", \"text\": \"A village\", \"metadata\": {}}"},
        {"c.tsv", "id\ttext\ttitle\n1\t\"Aaron \"\"\"\"the\"\"\"\" prophet\"\tAaron\n2\tA village\tBo\n"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char source[80];
        zs_error err = {0};
        zs_corpus *corpus;
        zs_passage *passages;
        int count;
        snprintf(source, sizeof source, "%s/%s", folder, forms[i].name);
        gzFile file = gzopen(source, i == 2 ? "wb" : "wbT"); /* gzip for one of them */
        assert_int_equal(gzputs(file, forms[i].text), (int)strlen(forms[i].text));
        assert_int_equal(gzclose(file), Z_OK);
        assert_int_equal(zs_corpus_build(source, index_path, &err), ZS_OK);
        assert_true(zs_corpus_is_built(source, index_path));
        assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
        assert_int_equal(zs_corpus_search(corpus, "prophet", 3, &passages, &count, &err), ZS_OK);
        assert_int_equal(count, 1);
        assert_string_equal(passages[0].id, "1");
        assert_string_equal(passages[0].contents, "\"Aaron\"\nAaron \"\"the\"\" prophet");
        zs_passages_free(passages, count);
        assert_first(corpus, "bo", "2", 1);
        zs_corpus_close(corpus);
        unlink(source);
    }
    zs_error err = {0};
    char source[80];
    snprintf(source, sizeof source, "%s/d.tsv", folder);
    static const char short_row[] = "1\ttext\ttitle\n2\tno title\n";
    assert_int_equal(zs_file_write(source, short_row, (int64_t)strlen(short_row), NULL), ZS_OK);
    assert_int_equal(zs_corpus_build(source, index_path, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "d.tsv:2"));
    unlink(source);
    write_corpus("[{\"id\":\"1\",\"contents\":\"a\"}]\n");
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "JSON array"));
}

/* Passages scored by a bound: words that many passages hold neither choose passages alone nor are forgotten.
 */
static void test_bounded_scoring(void **state) {
    (void)state;
    zs_error err = {0};
    zs_corpus *corpus;
    zs_string text = {0};
    for (int i = 0; i < 4000; i++)
        zs_string_printf(
            &text,
            "{\"id\":\"%d\",\"contents\":\"\\\"item%d\\\"\\nall passages, part%d of shelf%d in room%d\"}\n",
            i, i, i % 400, i % 60, i % 7);
    write_corpus(text.data);
    zs_string_free(&text);
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    for (int limit = 4000; limit >= 1; limit /= 8) {
        zs_corpus_limit(corpus, limit);
        assert_first(corpus, "item123 in room4", "123", 10);
        assert_first(corpus, "passages of shelf17 and room3 part17", "17", 10); /* 17: all three, the first */
        assert_first(corpus, "all passages", "0", 10); /* each one alike: the first rows */
        assert_first(corpus, "shelf59", "59", 10);
    }
    zs_corpus_close(corpus);
}

static zs_query ask(int64_t episode, const char *text) {
    return (zs_query){.episode = episode, .turn = episode % 3, .query = text, .question = "?", .answer = "!"};
}

static void test_engines(void **state) {
    (void)state;
    zs_error err = {0};
    zs_corpus *corpus;
    write_corpus(small_corpus);
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    zs_search *engines[] = {zs_search_corpus(corpus, 1), zs_search_none()};
    const char *expected[2][2] = {
        {"Doc 1: \"Toto\" A rock band. It had a drummer.", "No information available"},
        {"No information available", "No information available"}};
    for (int e = 0; e < 2; e++) {
        zs_search *engine = engines[e];
        zs_reply reply;
        assert_false(engine->take(engine, &reply));
        for (int64_t i = 0; i < 200; i++) {
            zs_query query = ask(i, i % 2 ? "xyzzy" : "Toto band");
            engine->submit(engine, &query);
        }
        assert_true(engine->advance(engine, 1));
        for (int64_t i = 0; i < 150; i++) {
            assert_true(engine->take(engine, &reply));
            assert_int_equal(reply.episode, i);
            assert_int_equal(reply.turn, i % 3);
            assert_string_equal(reply.documents, expected[e][i % 2]);
            zs_free(reply.documents);
        }
        engine->destroy(engine); /* with replies left in it */
    }
}

/* An index that can no longer be read: each search fails, is counted, and says why in words for one message.
 */
static void test_corpus_lost(void **state) {
    (void)state;
    zs_error err = {0};
    zs_corpus *corpus;
    zs_reply reply;
    write_corpus(small_corpus);
    assert_int_equal(zs_corpus_build(jsonl, index_path, &err), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    assert_int_equal(truncate(index_path, 4096), 0);
    zs_search *engine = zs_search_corpus(corpus, 3);
    for (int64_t i = 0; i < 2; i++) {
        zs_query query = ask(i, "Toto band");
        engine->submit(engine, &query);
        assert_true(engine->take(engine, &reply));
        assert_true(reply.failed);
        assert_string_equal(reply.documents, "No information available");
        zs_free(reply.documents);
    }
    assert_int_equal(engine->counts.queries, 2);
    assert_int_equal(engine->counts.failed, 2);
    assert_non_null(strstr(engine->trouble, index_path));
    engine->destroy(engine);
}

/* The share of each question's gold passages among the first 3 and 10, the question being the query. */
static void assert_recall(zs_corpus *corpus, const char *name, double at_3, double at_10) {
    char path[4096];
    zs_qa qa;
    zs_error err = {0};
    assert_true(shared_file(path, sizeof path, name));
    assert_int_equal(zs_qa_load(path, &qa, &err), ZS_OK);
    double sum_3 = 0, sum_10 = 0;
    for (int64_t q = 0; q < qa.count; q++) {
        zs_passage *passages;
        int count;
        const zs_question *question = &qa.questions[q];
        assert_int_equal(zs_corpus_search(corpus, question->question, 10, &passages, &count, &err), ZS_OK);
        for (int g = 0; g < question->num_gold; g++)
            for (int i = 0; i < count; i++)
                if (strcmp(question->gold[g], passages[i].id) == 0) {
                    sum_3 += i < 3 ? 1.0 / question->num_gold : 0;
                    sum_10 += 1.0 / question->num_gold;
                    break;
                }
        zs_passages_free(passages, count);
    }
    print_message("%s: recall %.4f at 3, %.4f at 10\n", name, sum_3 / (double)qa.count,
                  sum_10 / (double)qa.count);
    assert_true(sum_3 / (double)qa.count >= at_3);
    assert_true(sum_10 / (double)qa.count >= at_10);
    zs_qa_free(&qa);
}

static void test_recall(void **state) {
    (void)state;
    char path[4096];
    zs_error err = {0};
    zs_corpus *corpus;
    if (!shared_file(path, sizeof path, "qa/corpus.jsonl")) skip();
    unlink(index_path);
    assert_int_equal(zs_corpus_build(path, index_path, &err), ZS_OK);
    assert_int_equal(zs_corpus_open(index_path, &corpus, &err), ZS_OK);
    assert_recall(corpus, "qa/hotpotqa.jsonl", 0.69, 0.915);
    assert_recall(corpus, "qa/musique.jsonl", 0.46, 0.61);
    zs_corpus_close(corpus);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),    cmocka_unit_test(test_corpus),
        cmocka_unit_test(test_corpus_reuse), cmocka_unit_test(test_corpus_errors),
        cmocka_unit_test(test_corpus_forms), cmocka_unit_test(test_bounded_scoring),
        cmocka_unit_test(test_engines),      cmocka_unit_test(test_corpus_lost),
        cmocka_unit_test(test_recall),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
