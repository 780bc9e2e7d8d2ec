/* The curriculum: how likely noisy documents are at each step of training, and which searches share a draw.
 *
 * All kinds run between `start` and `end`. Those of a schedule are functions of step and total alone; the
 * adaptive one has a state, which belongs into the checkpoint. */
#ifndef ZEROSEARCH_CURRICULUM_H
#define ZEROSEARCH_CURRICULUM_H

#include "zerosearch/config.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum zs_curriculum_kind {
    ZS_CURRICULUM_EXPONENTIAL, /* ZeroSearch eq. 3: start + (base^(i/total) - 1) / (base - 1) * (end - start)
                                */
    ZS_CURRICULUM_LINEAR,      /* start + i/total * (end - start): what the exponential is at base 1 */
    ZS_CURRICULUM_STEP,        /* `stages` of one length each, the first at start, the last at end */
    ZS_CURRICULUM_CONSTANT,    /* start */
    ZS_CURRICULUM_REVERSED,    /* the exponential played backwards: at i what it is at total - i */
    ZS_CURRICULUM_ADAPTIVE     /* follows the reward, see zs_curriculum_observe */
} zs_curriculum_kind;

typedef enum zs_curriculum_draw {
    ZS_DRAW_TURN,    /* each search of each episode for itself */
    ZS_DRAW_QUERY,   /* the same query text to the same question meets the same kind of documents, whichever
                        sample and turn asks, as with an engine that answers a query once */
    ZS_DRAW_EPISODE, /* all searches of an episode alike */
    ZS_DRAW_QUESTION /* all searches of all samples of a question alike: noise is the same for a whole group,
                        so it does not enter the advantage */
} zs_curriculum_draw;

typedef struct zs_curriculum {
    zs_curriculum_kind kind;
    zs_curriculum_draw draw;
    double start, end, base;
    int64_t stages;
    double target, rate, sensitivity, smoothing; /* of the adaptive kind */
    /* state of the adaptive kind; {start, 0, 0} before the first step */
    double noise, reward; /* reward: the running mean */
    int64_t observed;     /* steps */
} zs_curriculum;

/* From curriculum.*; the adaptive kind begins at start. Local, no error: the schema has checked all. */
void zs_curriculum_open(const zs_config *config, zs_curriculum *out);

/* The probability at step i (from 0) of total. Past the end it stays; total 0: that of the first step. */
double zs_curriculum_noise(const zs_curriculum *curriculum, int64_t step, int64_t total);

/* Once a step, with the mean reward of its episodes; nothing happens unless the kind is adaptive:
 *   reward = smoothing * reward + (1 - smoothing) * mean   (the first mean as it is)
 *   noise  = clip(noise + rate * tanh(sensitivity * (reward - target)), between start and end)
 * the rule by which AdaRFT moves its target difficulty (Shi et al. 2025, arXiv 2504.05520), here on a running
 * mean, with the share of noise as the difficulty. A reward that is not finite is passed over. */
void zs_curriculum_observe(zs_curriculum *curriculum, double mean_reward);

/* The state as JSON with all digits (a new reference), and back. NULL, or an object without it: the state
 * of a run that has just begun, so that a run may turn adaptive on resume. */
struct json_t;
struct json_t *zs_curriculum_save(const zs_curriculum *curriculum);
void zs_curriculum_restore(zs_curriculum *curriculum, const struct json_t *state);

/* Whether a search meets noisy documents, drawn with probability `noise` (random numbers by counter: rng.h).
 */
bool zs_curriculum_is_noisy(zs_curriculum_draw draw, double noise, uint64_t seed, int64_t step,
                            int64_t question, int64_t sample, int64_t turn, const char *query);

#endif
