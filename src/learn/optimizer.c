/* The learning-rate schedule and AdamW sharded over the learners. */
#include "zerosearch/checkpoint.h"
#include "zerosearch/learn.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <string.h>

double zs_schedule_rate(const zs_schedule *schedule, int64_t step) {
    if (step < schedule->warmup_steps)
        return schedule->peak * (double)(step + 1) / (double)schedule->warmup_steps;
    double begin = fmax((double)schedule->warmup_steps, schedule->decay_from * (double)schedule->total);
    double span = (double)schedule->total - begin;
    if (schedule->kind == ZS_CONSTANT || span <= 0.0 || (double)step <= begin) return schedule->peak;
    double x = fmin(1.0, ((double)step - begin) / span);
    double shape = schedule->kind == ZS_LINEAR ? 1.0 - x : 0.5 * (1.0 + cos(acos(-1.0) * x));
    return schedule->peak * (schedule->final_fraction + (1.0 - schedule->final_fraction) * shape);
}

zs_optimizer *zs_optimizer_create(const zs_comm *comm, zs_model *model, const zs_config *config,
                                  int64_t total) {
    zs_optimizer *optimizer = ZS_NEW(zs_optimizer, 1);
    optimizer->comm = comm;
    optimizer->model = model;
    optimizer->reducer =
        zs_reducer_create(comm, model->num_params, zs_config_int(config, "learn.bucket_params"));
    optimizer->num_spans = zs_reducer_spans(optimizer->reducer, &optimizer->spans);
    for (int i = 0; i < optimizer->num_spans; i++)
        optimizer->shard += optimizer->spans[i].count;
    optimizer->m = ZS_NEW(float, optimizer->shard);
    optimizer->v = ZS_NEW(float, optimizer->shard);
    optimizer->grads = ZS_NEW(float, model->num_params);
    optimizer->adamw = (zs_adamw){.beta1 = zs_config_float(config, "learn.beta1"),
                                  .beta2 = zs_config_float(config, "learn.beta2"),
                                  .eps = zs_config_float(config, "learn.eps"),
                                  .weight_decay = zs_config_float(config, "learn.weight_decay")};
    const char *kind = zs_config_string(config, "learn.schedule");
    optimizer->schedule = (zs_schedule){.kind = !strcmp(kind, "linear")   ? ZS_LINEAR
                                                : !strcmp(kind, "cosine") ? ZS_COSINE
                                                                          : ZS_CONSTANT,
                                        .peak = zs_config_float(config, "learn.learning_rate"),
                                        .final_fraction = zs_config_float(config, "learn.final_fraction"),
                                        .decay_from = zs_config_float(config, "learn.decay_from"),
                                        .warmup_steps = zs_config_int(config, "learn.warmup_steps"),
                                        .total = total};
    optimizer->clip_gradient = zs_config_float(config, "learn.clip_gradient");
    return optimizer;
}

void zs_optimizer_destroy(zs_optimizer *optimizer) {
    if (!optimizer) return;
    zs_reducer_destroy(optimizer->reducer);
    zs_free(optimizer->m);
    zs_free(optimizer->v);
    zs_free(optimizer->grads);
    zs_free(optimizer);
}

void zs_optimizer_ready(void *context, int64_t begin, int64_t end) {
    zs_optimizer *optimizer = context;
    zs_reducer_ready(optimizer->reducer, optimizer->grads, begin, end);
}

double zs_optimizer_update(zs_optimizer *optimizer, double *rate) {
    zs_reducer_finish(optimizer->reducer, optimizer->grads);
    double squares = 0.0;
    for (int i = 0; i < optimizer->num_spans; i++)
        squares += zs_sum_of_squares(optimizer->spans[i].count, optimizer->grads + optimizer->spans[i].begin);
    zs_comm_sum(optimizer->comm, &optimizer->comm->learners, &squares, 1,
                "the gradient norm of the learners");
    double norm = sqrt(squares);
    optimizer->adamw.learning_rate = zs_schedule_rate(&optimizer->schedule, optimizer->step);
    *rate = optimizer->adamw.learning_rate;
    optimizer->step++;
    bool outlier = optimizer->norm_limit > 0.0 && norm > optimizer->norm_limit;
    if (isfinite(norm) && !outlier) {
        double scale =
            optimizer->clip_gradient > 0.0 ? fmin(1.0, optimizer->clip_gradient / (norm + 1e-6)) : 1.0;
        int64_t at = 0;
        for (int i = 0; i < optimizer->num_spans; i++) {
            zs_span span = optimizer->spans[i];
            zs_adamw_update(span.count, optimizer->step, optimizer->adamw, (float)scale,
                            optimizer->grads + span.begin, optimizer->model->params + span.begin,
                            optimizer->m + at, optimizer->v + at);
            at += span.count;
        }
        zs_reducer_gather(optimizer->reducer, optimizer->model->params);
    } else {
        zs_log(ZS_LOG_WARNING, "update %lld skipped: the gradient norm is %s", (long long)optimizer->step,
               outlier ? "an outlier" : "not finite");
    }
    zs_zero(optimizer->grads, optimizer->model->num_params * (int64_t)sizeof(float));
    return norm;
}

void zs_optimizer_arrays(zs_optimizer *optimizer, zs_checkpoint_array *arrays, zs_piece **pieces) {
    int n = optimizer->num_spans;
    int64_t total = optimizer->model->num_params, size = optimizer->comm->learners.size,
            rank = optimizer->comm->learners.rank;
    zs_piece *list = ZS_NEW(zs_piece, 1 + 2 * n);
    int64_t begin = total * rank / size, end = total * (rank + 1) / size, at = 0;
    list[0] = (zs_piece){begin, end - begin, optimizer->model->params + begin};
    for (int i = 0; i < n; i++) {
        zs_span span = optimizer->spans[i];
        list[1 + i] = (zs_piece){span.begin, span.count, optimizer->m + at};
        list[1 + n + i] = (zs_piece){span.begin, span.count, optimizer->v + at};
        at += span.count;
    }
    arrays[0] = (zs_checkpoint_array){"model/params", total, 1, list};
    arrays[1] = (zs_checkpoint_array){"optimizer/m", total, n, list + 1};
    arrays[2] = (zs_checkpoint_array){"optimizer/v", total, n, list + 1 + n};
    *pieces = list;
}
