/* `eval --simulator`: a simulator measured by itself, a real engine beside it. */
#ifndef ZEROSEARCH_COMMANDS_EVAL_SIMULATOR_H
#define ZEROSEARCH_COMMANDS_EVAL_SIMULATOR_H

#include "zerosearch/command.h"

/* Asks search.engine for useful and for noisy documents, and eval.engine where one is set, by the queries of
 * option
 * --queries or the questions of data.eval; prints a row of figures for each. Collective on world. */
zs_status zs_eval_simulator(const zs_arguments *arguments, zs_error *err);

#endif
