/* Answer scores with SQuAD normalisation (Rajpurkar et al. 2016), Unicode as in Python. */
#ifndef ZEROSEARCH_SCORE_H
#define ZEROSEARCH_SCORE_H

#include "zerosearch/strings.h"

typedef struct zs_score {
    double em, cover_em, f1; /* each the best over the golden answers */
} zs_score;

/* lower-case, ASCII punctuation removed, articles a/an/the removed as whole words, white space folded */
void zs_score_normalize(const char *text, int64_t length, zs_string *out);
zs_score zs_score_answer(const char *prediction, int64_t length, const char *const *golden, int num_golden);

#endif
