/* Chat formats: what an instruction-tuned model expects round a prompt. */
#ifndef ZEROSEARCH_CHAT_H
#define ZEROSEARCH_CHAT_H

#include "zerosearch/strings.h"

/* "none", "chatml" (Qwen2, Qwen2.5) or "llama3" (Llama 3 and later). Static strings, never freed. */
typedef const char *zs_chat_format;

/* Appends the text up to where the assistant's words begin; special tokens stand in it as text.
 * none: the system message, if any, an empty line, the user's text as it is.
 * chatml: system NULL means Qwen2.5's own default message.
 * llama3: begins with <|begin_of_text|>; system NULL means no system message (the date lines that Llama 3.1
 * puts there are not written); texts are stripped, as its template does.
 * Asserts that the format is one of the three. */
void zs_chat_wrap(zs_chat_format format, const char *system, const char *user, zs_string *out);

/* The format of a model folder. A chat template (chat_template.jinja, or chat_template in
 * tokenizer_config.json) decides; a tokenizer_config.json without one belongs to a base model: none; where
 * there is only a tokenizer.json, its special tokens decide. Anything unknown or unreadable: none. Local. */
zs_chat_format zs_chat_detect(const char *folder);

/* The format of a configuration value: "auto" (or NULL, or an unknown one) is detected from the folder. */
zs_chat_format zs_chat_named(const char *name, const char *folder);

#endif
