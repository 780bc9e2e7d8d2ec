/* learn.algorithm: the papers' points of the grid of settings, and what does not go together. */
#ifndef ZEROSEARCH_PRESETS_H
#define ZEROSEARCH_PRESETS_H

#include "zerosearch/config.h"

/* Gives the keys of learn.algorithm's preset their values where the user has set none. How much is done
 * (steps, questions, epochs, minibatches, rates) is never a preset's. */
void zs_presets_apply(zs_config *config);

/* ZS_USAGE, naming the key, for settings that cannot work together. Tells in the log of keys that were set
 * otherwise than the preset has them. */
zs_status zs_presets_check(const zs_config *config, zs_error *err);

#endif
