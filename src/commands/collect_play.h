/* The first half of `collect`: a policy plays with a search engine, and its trajectories go into a file. */
#ifndef ZEROSEARCH_COMMANDS_COLLECT_PLAY_H
#define ZEROSEARCH_COMMANDS_COLLECT_PLAY_H

#include "zerosearch/comm.h"
#include "zerosearch/config.h"

/* Plays the questions of data.train (collect.*) and appends a line for each episode to `path`, chunk by
 * chunk, each in order of (question, sample). `resume`: chunks that stand there whole are not played again;
 * else the file is begun anew. ZS_STOPPED after a signal. Loads and frees policy and engine. Collective on
 * world. */
zs_status zs_collect_play(zs_comm *comm, const zs_config *config, const char *path, bool resume,
                          zs_error *err);

#endif
