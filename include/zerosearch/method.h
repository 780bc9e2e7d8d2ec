/* How a question is put to the policy: the methods that a search agent is compared with (ZeroSearch table 3).
 *
 *   search  think, search and read in turns, then answer (prompt-only agent, Search-R1, ZeroSearch)
 *   direct  answer at once
 *   cot     think, then answer, without search (chain of thought; R1-style RL when trained)
 *   rag     the engine is asked once, with the question; its documents stand in the prompt
 *
 * A method is its prompt template, the words put into the policy's mouth (the opening) and what it may ask of
 * the engine; episodes, rewards and training are the same for all. */
#ifndef ZEROSEARCH_METHOD_H
#define ZEROSEARCH_METHOD_H

#include "zerosearch/chat.h"
#include "zerosearch/config.h"
#include "zerosearch/strings.h"
#include "zerosearch/tokenizer.h"

#include <stdbool.h>

typedef struct zs_method {
    const char *name;
    bool searches;    /* takes turns with the engine */
    bool retrieves;   /* asks it once, before the prompt is made */
    zs_string prompt; /* template: {question}, and {documents} when it retrieves */
    zs_string
        opening; /* begins the turn that must answer: of `search` its last, of the others their only one */
} zs_method;

/* name: of a method, else an error that lists them. Reads rollout.prompt_template and last_turn_template, or
 * direct_template, cot_template, rag_template, and tries them. Local. */
zs_status zs_method_load(const zs_config *config, const char *name, zs_method *out, zs_error *err);
void zs_method_free(zs_method *method);
bool zs_method_exists(const char *name);
/* Whether the method of that name asks the search engine at all; an unknown one does not. */
bool zs_method_needs_engine(const char *name);

/* The ids of a prompt: the template filled in, in the chat's form, with the opening after it if `open`.
 * Longer ones than `room` keep their end, which holds the question, and the begin token. `documents` may be
 * NULL. */
void zs_method_prompt(const zs_method *method, const zs_chat *chat, const zs_tokenizer *tokenizer,
                      const char *question, const char *documents, bool open, int64_t room, zs_ids *out);

#endif
