/* The collapse guard: watches a run's own numbers and says when they look as they do before or in a collapse,
 * as GRPO on search is known to end (Deng et al. 2025, arXiv 2512.04220). Every rank that sees the same
 * numbers comes to the same alarms. Local. */
#ifndef ZEROSEARCH_GUARD_H
#define ZEROSEARCH_GUARD_H

#include "zerosearch/config.h"

typedef enum zs_signal {
    ZS_SIGNAL_REWARD,     /* mean reward of the step's episodes: fallen from its best */
    ZS_SIGNAL_ENTROPY,    /* nats a token: risen to a multiple of what it was at first, or next to 0 */
    ZS_SIGNAL_KL,         /* to the reference, nats a token: too large */
    ZS_SIGNAL_GRAD_NORM,  /* of this update: far from those before (z-score), or not finite */
    ZS_SIGNAL_VALID,      /* share of actions that are a search or an answer: fallen from its best */
    ZS_SIGNAL_LENGTH,     /* policy tokens an episode: risen to a multiple of what it was at first */
    ZS_SIGNAL_LIKELIHOOD, /* log-probability a token of episodes that earned something: fallen from its best
                           */
    ZS_SIGNALS
} zs_signal;
extern const char *const zs_signal_names[ZS_SIGNALS];

enum { ZS_GUARD_NORMS = 32 };

/* Doubles only, so that a checkpoint keeps it as a list of numbers. */
typedef struct zs_guard_state {
    double seen[ZS_SIGNALS];    /* values so far */
    double mean[ZS_SIGNALS];    /* running means over about `window` steps */
    double best[ZS_SIGNALS];    /* reward, valid, likelihood: the highest mean; entropy, length: the first */
    double alarmed[ZS_SIGNALS]; /* 1: the alarm is on, and not raised again before it has been off */
    double norms[ZS_GUARD_NORMS], num_norms;
} zs_guard_state;

typedef struct zs_guard {
    double window, reward_drop, entropy_rise, entropy_low, kl_most, grad_norm_z, valid_drop, length_rise,
        likelihood_drop;
    zs_guard_state state;
} zs_guard;

zs_guard zs_guard_make(const zs_config *config); /* guard.* */

/* Takes the numbers of a step (NAN: nothing known; not for the gradient norm, where it is alarming) and
 * returns the alarms that came on with it, bit 1 << signal. */
unsigned zs_guard_watch(zs_guard *guard, const double values[ZS_SIGNALS]);

/* The gradient norm above which an update is an outlier; INFINITY while too few are known. */
double zs_guard_norm_limit(const zs_guard *guard);

#endif
