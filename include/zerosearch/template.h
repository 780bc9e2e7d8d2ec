/* Prompt templates: texts with {placeholders}, kept in files so that a user's own can replace them. */
#ifndef ZEROSEARCH_TEMPLATE_H
#define ZEROSEARCH_TEMPLATE_H

#include "zerosearch/error.h"
#include "zerosearch/strings.h"

/* Reads a template into `out`, replacing it. A path (it has a slash or ends in .txt) is taken as it is. A
 * name is looked for as NAME.txt in configs/prompts under the current folder, in $ZS_PROMPTS, in
 * configs/prompts one and two folders above the program's own, and in ../share/zerosearch/prompts beside it;
 * the error lists them. One newline at the end of the file is dropped, since editors put it there: a template
 * that shall end with a newline ends with two. Local. */
zs_status zs_template_load(const char *name_or_path, zs_string *out, zs_error *err);

/* Appends `text` with each {name} replaced by its value; values are not looked into again. Braces around
 * anything but a word ([A-Za-z_][A-Za-z0-9_]*) stand for themselves. A {word} that is not among the n names
 * is an error that names it, and then nothing is appended. */
zs_status zs_template_fill(const char *text, const char *const *names, const char *const *values, int n,
                           zs_string *out, zs_error *err);

#endif
