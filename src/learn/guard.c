/* The collapse guard: running means, what they are compared with, and the alarms. */
#include "zerosearch/guard.h"

#include <math.h>

const char *const zs_signal_names[ZS_SIGNALS] = {"reward",        "entropy", "kl",        "grad_norm",
                                                 "valid_actions", "length",  "likelihood"};

enum { LEAST_NORMS = 16 };
#define LEAST_SPREAD 0.3

zs_guard zs_guard_make(const zs_config *config) {
    return (zs_guard){.window = (double)zs_config_int(config, "guard.window"),
                      .reward_drop = zs_config_float(config, "guard.reward_drop"),
                      .entropy_rise = zs_config_float(config, "guard.entropy_rise"),
                      .entropy_low = zs_config_float(config, "guard.entropy_low"),
                      .kl_most = zs_config_float(config, "guard.kl"),
                      .grad_norm_z = zs_config_float(config, "guard.grad_norm_z"),
                      .valid_drop = zs_config_float(config, "guard.valid_drop"),
                      .length_rise = zs_config_float(config, "guard.length_rise"),
                      .likelihood_drop = zs_config_float(config, "guard.likelihood_drop")};
}

/* Norms spread over magnitudes, so that the z-score is of their logarithms; a spread of LEAST_SPREAD is taken
 * for granted, lest a run of equal ones makes a small change an outlier. */
double zs_guard_norm_limit(const zs_guard *g) {
    const zs_guard_state *s = &g->state;
    int n = (int)fmin(s->num_norms, ZS_GUARD_NORMS);
    if (n < LEAST_NORMS) return INFINITY;
    double mean = 0.0, squares = 0.0;
    for (int i = 0; i < n; i++)
        mean += log(s->norms[i]) / n;
    for (int i = 0; i < n; i++)
        squares += pow(log(s->norms[i]) - mean, 2.0);
    return exp(mean + g->grad_norm_z * fmax(sqrt(squares / (n - 1)), LEAST_SPREAD));
}

/* A step without an update, or with nothing to learn, has norm 0, which says nothing of the others. */
static bool watch_norm(zs_guard *g, double norm) {
    zs_guard_state *s = &g->state;
    bool outlier = !isfinite(norm) || norm > zs_guard_norm_limit(g);
    if (isfinite(norm) && norm > 0.0) {
        s->norms[(int)fmod(s->num_norms, ZS_GUARD_NORMS)] = norm;
        s->num_norms += 1.0;
    }
    return outlier;
}

/* Is the running mean where it should not be? Falls and rises have to be large in themselves too, so that a
 * reward near zero or an entropy near zero is not alarming for moving a little. */
static bool is_off(const zs_guard *g, zs_signal signal) {
    double mean = g->state.mean[signal], best = g->state.best[signal];
    switch (signal) {
    case ZS_SIGNAL_REWARD:
        return best - mean > fmax(0.1, g->reward_drop * fabs(best));
    case ZS_SIGNAL_ENTROPY:
        return (mean > g->entropy_rise * best && mean > best + 0.5) || mean < g->entropy_low;
    case ZS_SIGNAL_KL:
        return mean > g->kl_most;
    case ZS_SIGNAL_VALID:
        return best - mean > g->valid_drop;
    case ZS_SIGNAL_LENGTH:
        return mean > g->length_rise * fmax(1.0, best);
    case ZS_SIGNAL_LIKELIHOOD:
        return best - mean > g->likelihood_drop;
    default:
        return false;
    }
}

static bool watch_mean(zs_guard *g, zs_signal signal, double value) {
    zs_guard_state *s = &g->state;
    if (!isfinite(value)) return s->alarmed[signal] > 0.0;
    s->seen[signal] += 1.0;
    s->mean[signal] += (value - s->mean[signal]) / fmin(s->seen[signal], 0.5 * (g->window + 1.0));
    bool first = signal == ZS_SIGNAL_ENTROPY || signal == ZS_SIGNAL_LENGTH;
    if (s->seen[signal] <= g->window || (!first && s->mean[signal] > s->best[signal]))
        s->best[signal] = s->mean[signal];
    return s->seen[signal] > g->window && is_off(g, signal);
}

unsigned zs_guard_watch(zs_guard *g, const double values[ZS_SIGNALS]) {
    unsigned alarms = 0;
    for (int i = 0; i < ZS_SIGNALS; i++) {
        bool off =
            i == ZS_SIGNAL_GRAD_NORM ? watch_norm(g, values[i]) : watch_mean(g, (zs_signal)i, values[i]);
        if (off && g->state.alarmed[i] == 0.0) alarms |= 1u << i;
        g->state.alarmed[i] = off;
    }
    return alarms;
}
