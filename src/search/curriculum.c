/* The curriculum: schedules of the share of noise, the controller that follows the reward, and the draws. */
#include "zerosearch/curriculum.h"

#include "zerosearch/error.h"
#include "zerosearch/rng.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static int place_of(const char *name, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (!strcmp(name, names[i])) return i;
    ZS_ASSERT(false, "\"%s\" is in the schema but not known here", name);
    return 0;
}

void zs_curriculum_open(const zs_config *config, zs_curriculum *out) {
    static const char *const kinds[] = {"exponential", "linear", "step", "constant", "reversed", "adaptive"};
    static const char *const draws[] = {"turn", "query", "episode", "question"};
    *out = (zs_curriculum){
        .kind = (zs_curriculum_kind)place_of(zs_config_string(config, "curriculum.kind"), kinds, 6),
        .draw = (zs_curriculum_draw)place_of(zs_config_string(config, "curriculum.draw"), draws, 4),
        .start = zs_config_float(config, "curriculum.start"),
        .end = zs_config_float(config, "curriculum.end"),
        .base = zs_config_float(config, "curriculum.base"),
        .stages = zs_config_int(config, "curriculum.stages"),
        .target = zs_config_float(config, "curriculum.target"),
        .rate = zs_config_float(config, "curriculum.rate"),
        .sensitivity = zs_config_float(config, "curriculum.sensitivity"),
        .smoothing = zs_config_float(config, "curriculum.smoothing")};
    out->noise = out->start;
}

/* How far the exponential has come, 0 to 1. Near base 1 the quotient loses all its digits, and its limit is
 * linear. */
static double exponential_share(double base, double progress) {
    if (base <= 0 || fabs(base - 1) < 1e-9) return progress;
    return (pow(base, progress) - 1) / (base - 1);
}

double zs_curriculum_noise(const zs_curriculum *c, int64_t step, int64_t total) {
    if (c->kind == ZS_CURRICULUM_ADAPTIVE) return c->noise;
    if (c->kind == ZS_CURRICULUM_CONSTANT) return c->start;
    if (total <= 0 || step < 0) step = 0;
    if (total <= 0) total = 1;
    if (step > total) step = total;
    if (c->kind == ZS_CURRICULUM_REVERSED) step = total - step;
    double progress = (double)step / (double)total, share = progress;
    if (c->kind == ZS_CURRICULUM_STEP) {
        int64_t last = c->stages - 1, stage = step * c->stages / total;
        share = last > 0 ? (double)(stage < last ? stage : last) / (double)last : 0;
    } else if (c->kind != ZS_CURRICULUM_LINEAR) {
        share = exponential_share(c->base, progress);
    }
    if (share <= 0) return c->start;
    if (share >= 1) return c->end;
    return c->start + share * (c->end - c->start);
}

void zs_curriculum_observe(zs_curriculum *c, double mean_reward) {
    if (c->kind != ZS_CURRICULUM_ADAPTIVE || !isfinite(mean_reward)) return;
    double weight = c->observed > 0 ? c->smoothing : 0;
    c->reward = weight * c->reward + (1 - weight) * mean_reward;
    c->observed++;
    double wanted = c->noise + c->rate * tanh(c->sensitivity * (c->reward - c->target));
    c->noise = fmin(fmax(wanted, fmin(c->start, c->end)), fmax(c->start, c->end));
}

json_t *zs_curriculum_save(const zs_curriculum *c) {
    return json_pack("{s:f,s:f,s:I}", "noise", c->noise, "reward", c->reward, "observed",
                     (json_int_t)c->observed);
}

void zs_curriculum_restore(zs_curriculum *c, const json_t *state) {
    const json_t *noise = json_object_get(state, "noise");
    if (!noise) return;
    c->noise = json_number_value(noise);
    c->reward = json_number_value(json_object_get(state, "reward"));
    c->observed = json_integer_value(json_object_get(state, "observed"));
}

/* FNV-1a, 32 bits: a draw's place, not a key of anything. */
static uint32_t hash_text(const char *text) {
    uint32_t hash = 2166136261u;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    return hash;
}

bool zs_curriculum_is_noisy(zs_curriculum_draw draw, double noise, uint64_t seed, int64_t step,
                            int64_t question, int64_t sample, int64_t turn, const char *query) {
    int64_t place = draw == ZS_DRAW_TURN ? turn : draw == ZS_DRAW_QUERY ? hash_text(query) : 0;
    bool shared = draw == ZS_DRAW_QUERY || draw == ZS_DRAW_QUESTION;
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_NOISE, step, question, shared ? 0 : sample);
    return zs_rng_uniform_at(&rng, place) < noise;
}
