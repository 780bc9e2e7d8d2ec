/* Simulation tuning (ZeroSearch, arXiv 2505.04588, section 3.2): from a policy's searches with a real engine
 * to the examples on which a simulator is tuned, and the figures that tell how good a simulator is.
 *
 *   trajectories -> pairs (query, documents) -> verdicts (useful, noisy) -> selection -> prompt, completion
 *
 * All local, on the rank that holds the pairs, but for the judge that is a model. */
#ifndef ZEROSEARCH_COLLECT_H
#define ZEROSEARCH_COLLECT_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"
#include "zerosearch/search.h"
#include "zerosearch/setup.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum zs_verdict { ZS_NOISY, ZS_USEFUL, ZS_UNDECIDED } zs_verdict;
typedef enum zs_part { ZS_PART_NONE, ZS_PART_TRAIN, ZS_PART_HELD_OUT } zs_part;

/* A search: what was asked for which question, and what the engine gave. */
typedef struct zs_pair {
    char *question, *query;
    char **answers; /* [num_answers] golden ones */
    int num_answers;
    char *documents; /* "Doc 1: ...\nDoc 2: ..."; "" in a file of queries */
    char *further;   /* in the same form, those that the engine gave beyond what was shown; or "" */
    int64_t turn;    /* of its episode, from 0 */
    /* Searches that it stands for after zs_pairs_merge; of those with a known end, and with the right one. */
    int64_t copies, outcomes, right;
    int64_t contrast_of; /* the place of the useful pair that it was made for; -1: it was searched itself */
    zs_verdict verdict;
    zs_part part;
} zs_pair;

typedef struct zs_pairs {
    zs_pair *items;
    int64_t count, capacity;
    int64_t rows, searches, failed, empty; /* read; searches left out: the engine failed, it found nothing */
} zs_pairs;

/* Adds the searches of a file of JSON lines (gzip accepted), in order. A row is
 *   a trajectory
 * {"question","golden_answers","em","cover_em","searches":[{"turn","query","documents","further","failed"}]}
 *   a search
 * {"query","question","golden_answers","documents"}, and perhaps "further", and "right" (true, false) or
 * "label" ("useful", "noisy"), which say how its trajectory ended
 *   a query
 * the same without documents, where need_documents is false.
 * documents, further: "Doc 1: ..." as one text, or a list of texts or of {"title","text"}.
 * `right`: the score that must be 1 (em, cover_em). The error names file, line and key. */
zs_status zs_pairs_read(const char *path, const char *right, bool need_documents, zs_pairs *out,
                        zs_error *err);
/* A pair of copies of the texts, for those who read their own. */
zs_pair *zs_pairs_add(zs_pairs *pairs, const char *query, const char *question, char *const *answers,
                      int num_answers);
void zs_pairs_free(zs_pairs *pairs);

/* Makes pairs of the same question, query and documents one, the first. Returns how many are gone. */
int64_t zs_pairs_merge(zs_pairs *pairs);

/* Single documents of "Doc 1: ...\nDoc 2: ...", without the marks; *out is zs_alloc'ed, the texts too. */
int zs_documents_split(const char *documents, char ***out);
void zs_documents_free(char **documents, int count);
/* Does a text hold a golden answer, by the containment of zs_score? */
bool zs_holds_answer(const char *text, char *const *answers, int num_answers);
/* Would documents hold the pair's answer by chance, or whatever they tell: is it yes or no, nothing but
 * articles, or named by the query itself? */
bool zs_answer_proves_nothing(const zs_pair *pair);
/* Does one of the documents? */
bool zs_documents_hold(const char *documents, char *const *answers, int num_answers);

/* Judges. outcome: most of the pair's trajectories ended in the right answer. contains: a document holds a
 * golden answer; undecided where an answer proves nothing. */
void zs_judge_outcome(zs_pairs *pairs);
void zs_judge_contains(zs_pairs *pairs);
/* A model (model.judge) is asked, greedily, by the prompt collect.judge_template; `pairs` is read on rank 0
 * and gets the verdicts there, others pass NULL. Collective on world. */
zs_status zs_judge_llm(const zs_comm *comm, const zs_config *config, zs_pairs *pairs, zs_error *err);
/* Yes, no or neither in what it wrote: its first word, else the only one of the two that occurs; what stands
 * before
 * </think> does not count. */
zs_verdict zs_judge_parse(const char *text);

/* Contrast. A good engine finds noise only for bad queries, and a simulator tuned on that learns to judge
 * queries, not to do what it is told. So each useful pair whose documents hold an answer gets a noisy one
 * beside it, at the array's end: the first top_k of `documents` and `further` that hold none. None is made
 * where fewer are left, or where the answer proves nothing. Returns how many were made. */
int64_t zs_pairs_add_contrast(zs_pairs *pairs, int top_k);

/* Selection. Which of the judged pairs become examples. */
typedef struct zs_selection {
    bool deduplicate, balance; /* across questions; as many of one kind as of the other in each part */
    int64_t per_question;      /* of one question and kind; 0: any number */
    double held_out;           /* share of the questions */
    uint64_t seed;
} zs_selection;
typedef struct zs_selected {
    int64_t undecided, duplicates, over, unbalanced; /* left out, and why */
    int64_t useful[3], noisy[3];                     /* kept, by zs_part */
    int64_t questions[3];
} zs_selected;
/* Sets `part` of every pair: a question's pairs are all in one part. A function of the pairs and the seed. */
zs_selected zs_pairs_select(zs_pairs *pairs, const zs_selection *selection);

/* The completion of an example: the documents as the simulator is to write them, each cut to about `words`
 * words (a useful one so that it still holds the answer that it held), at most top_k: of a useful pair in
 * which only later ones hold an answer, the first of these comes last; `clean`: those of a noisy pair that
 * hold an answer are left out, and `further` ones take their place. Appends nothing when none is left. */
void zs_pair_completion(const zs_pair *pair, int top_k, int64_t words, bool clean, zs_string *out);

/* Figures of a source of documents. */
typedef struct zs_source {
    int64_t replies;
    double holds;         /* share of replies in which a document holds a golden answer */
    double valid;         /* share in the exact form: "Doc 1: ..." to "Doc k: ...", one a line, and ended */
    double cut;           /* share that hit the limit of tokens */
    double documents;     /* documents in a reply that could be read, mean */
    double words, tokens; /* of a document, means */
    double distinct[3];   /* distinct n-grams of words over all of them, n = 1, 2, 3 */
    double repeated;      /* share of documents that stand twice in a reply */
    double duplicates;    /* share of documents that an earlier reply held too */
    double seconds, tokens_per_second;
} zs_source;
/* Is the text "Doc 1: ..." to "Doc top_k: ...", one document a line? White space at its ends and an
 * </information> with what follows do not count. */
bool zs_documents_valid(const char *raw, int64_t length, int top_k);
/* documents[i] and pairs[i] (query and answers) belong together; fills all but valid, cut, seconds and the
 * rate. `tokenizer` counts tokens. */
void zs_source_measure(zs_source *out, const zs_pairs *pairs, char *const *documents,
                       const zs_tokenizer *tokenizer);

#endif
