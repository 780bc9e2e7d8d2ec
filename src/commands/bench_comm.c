/* bench: what ranks do together, each beside the plain MPI or file call that moves as much. */
#include "bench.h"

#include "zerosearch/checkpoint.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Of small and of large messages; the medians count. */
enum { ROUNDS = 21, LARGE_ROUNDS = 5 };

/* Seconds of the slowest rank. */
static double slowest(const zs_bench *bench, double seconds) {
    zs_comm_max(bench->comm, &bench->comm->world, &seconds, 1, "all ranks, to time the bench");
    return seconds;
}

static void barrier(const zs_bench *bench) {
    zs_comm_barrier(bench->comm, &bench->comm->world, "all ranks, to start the bench together");
}

/* Plain calls move an int's count at most: larger models are measured on this much. */
static int64_t float_count(const zs_bench *bench) {
    zs_model *layout = zs_model_layout(&bench->config);
    int64_t count = layout->num_params;
    zs_model_destroy(layout);
    return count < (1 << 28) ? count : 1 << 28;
}

/* Exchange: a round in which every rank sends every other one message. GB/s are those of one rank. */

static double exchange_seconds(const zs_bench *bench, const char *message, int64_t bytes) {
    zs_exchange *exchange = zs_exchange_create(bench->comm);
    double seconds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        barrier(bench);
        double start = zs_seconds();
        for (int to = 0; to < bench->comm->pod.size; to++)
            zs_exchange_put(exchange, to, message, bytes);
        zs_exchange_begin(exchange, 1);
        zs_exchange_finish(exchange);
        int from;
        int64_t length;
        while (zs_exchange_take(exchange, &from, &length))
            ;
        seconds[round] = slowest(bench, zs_seconds() - start);
    }
    zs_exchange_destroy(exchange);
    return zs_bench_median(seconds, ROUNDS);
}

static double alltoallv_seconds(const zs_bench *bench, int bytes) {
    int size = bench->comm->pod.size;
    char *out = zs_alloc((int64_t)bytes * size, 1), *in = zs_alloc((int64_t)bytes * size, 1);
    int *counts = ZS_NEW(int, size), *starts = ZS_NEW(int, size), *theirs = ZS_NEW(int, size);
    for (int i = 0; i < size; i++) {
        counts[i] = bytes;
        starts[i] = i * bytes;
    }
    double seconds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        barrier(bench);
        double start = zs_seconds();
        MPI_Alltoall(counts, 1, MPI_INT, theirs, 1, MPI_INT, bench->comm->pod.comm);
        MPI_Alltoallv(out, counts, starts, MPI_BYTE, in, theirs, starts, MPI_BYTE, bench->comm->pod.comm);
        seconds[round] = slowest(bench, zs_seconds() - start);
    }
    void *all[] = {out, in, counts, starts, theirs};
    for (int i = 0; i < 5; i++)
        zs_free(all[i]);
    return zs_bench_median(seconds, ROUNDS);
}

zs_status zs_bench_exchange(zs_bench *bench, zs_error *err) {
    zs_status status = zs_comm_divide(bench->comm, ZS_LAYOUT_COLOCATED, 0, 0, 0, 1, true, err);
    if (status != ZS_OK) return status;
    for (int bytes = 1 << 10; bytes <= 1 << 20; bytes <<= 5) {
        zs_memory_reset_peak();
        char *message = zs_alloc(bytes, 1);
        double ours = exchange_seconds(bench, message, bytes), plain = alltoallv_seconds(bench, bytes);
        double moved = 1e-9 * bytes * bench->comm->pod.size;
        zs_bench_field fields[] = {{"message_bytes", bytes},
                                   {"us_per_round", ours * 1e6},
                                   {"gb_per_s", moved / ours},
                                   {"of_plain_alltoallv", plain / ours}};
        zs_bench_report(bench, "exchange", fields, 4);
        zs_free(message);
    }
    return ZS_OK;
}

/* Allreduce: gradients reduced to their owners, parameters gathered from them. */

zs_status zs_bench_allreduce(zs_bench *bench, zs_error *err) {
    zs_status status = zs_comm_divide(bench->comm, ZS_LAYOUT_COLOCATED, 0, 0, 0, 1, false, err);
    if (status != ZS_OK) return status;
    int64_t count = float_count(bench);
    float *values = ZS_NEW(float, count);
    zs_reducer *reducer = zs_reducer_create(bench->comm, count, 1 << 20);
    double ours[LARGE_ROUNDS], plain[LARGE_ROUNDS];
    for (int round = 0; round < LARGE_ROUNDS; round++) {
        barrier(bench);
        double start = zs_seconds();
        zs_reducer_ready(reducer, values, 0, count);
        zs_reducer_finish(reducer, values);
        zs_reducer_gather(reducer, values);
        ours[round] = slowest(bench, zs_seconds() - start);
        barrier(bench);
        start = zs_seconds();
        MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, bench->comm->world.comm);
        plain[round] = slowest(bench, zs_seconds() - start);
    }
    zs_reducer_destroy(reducer);
    zs_free(values);
    double size = 4e-9 * (double)count, seconds = zs_bench_median(ours, LARGE_ROUNDS);
    zs_bench_field fields[] = {{"megabytes", size * 1e3},
                               {"gb_per_s", size / seconds},
                               {"of_plain_allreduce", zs_bench_median(plain, LARGE_ROUNDS) / seconds}};
    zs_bench_report(bench, "allreduce", fields, bench->comm->world.size > 1 ? 3 : 1);
    return ZS_OK;
}

/* Broadcast: learner to rollouts, as `layout = "auto"` divides the ranks, beside a plain MPI_Bcast of the
 * same bytes. In bf16 the rounding counts too, in int8 the quantisation. */

/* The first `params` of values. */
static void quantize(zs_model *to, const float *values, int64_t params) {
    for (zs_model_piece p = {0}; zs_model_next_piece(to, 1 << 24, &p) && p.end <= params;)
        zs_model_quantize_piece(to, &p, values + p.begin);
}

static void bench_weights(zs_bench *bench, zs_dtype dtype, MPI_Comm plain_comm, float *values) {
    const zs_comm *comm = bench->comm;
    int64_t params = float_count(bench), count = params;
    zs_memory_reset_peak();
    zs_model *block = dtype == ZS_INT8 ? zs_model_create_narrow(&bench->config, dtype) : NULL;
    if (block && zs_model_bytes(block, dtype) < 1 << 28) count = zs_model_bytes(block, dtype);
    zs_weights *weights = zs_weights_create(comm, count, 1 << 20, dtype);
    double ours[LARGE_ROUNDS], plain[LARGE_ROUNDS];
    for (int round = 0; round < LARGE_ROUNDS; round++) {
        barrier(bench);
        double start = zs_seconds();
        if (zs_weights_sends(weights) && block) quantize(block, values, params);
        zs_weights_begin(weights, block ? (void *)block->int8 : values);
        zs_weights_finish(weights);
        ours[round] = slowest(bench, zs_seconds() - start);
        barrier(bench);
        start = zs_seconds();
        if (plain_comm != MPI_COMM_NULL)
            MPI_Bcast(block ? (void *)block->int8 : values, (int)(count * zs_dtype_size(dtype)), MPI_BYTE, 0,
                      plain_comm);
        plain[round] = slowest(bench, zs_seconds() - start);
    }
    zs_weights_destroy(weights);
    zs_model_destroy(block);
    double size = 1e-9 * (double)(count * zs_dtype_size(dtype)),
           seconds = zs_bench_median(ours, LARGE_ROUNDS);
    zs_bench_field fields[] = {{"weight_bytes", (double)zs_dtype_size(dtype)},
                               {"megabytes", size * 1e3},
                               {"seconds", seconds},
                               {"gb_per_s", size / seconds},
                               {"of_plain_bcast", zs_bench_median(plain, LARGE_ROUNDS) / seconds}};
    zs_bench_report(bench, "broadcast", fields, comm->world.size > 1 ? 5 : 2);
}

zs_status zs_bench_broadcast(zs_bench *bench, zs_error *err) {
    zs_status status = zs_comm_divide(bench->comm, ZS_LAYOUT_AUTO, 0, 1, 1, 1, false, err);
    if (status != ZS_OK) return status;
    const zs_comm *comm = bench->comm;
    int64_t count = float_count(bench);
    float *values = ZS_NEW(float, count);
    for (int64_t i = 0; i < count; i++) /* zeros are quantised in no time */
        values[i] = (float)(i % 255 - 127);
    bool root = comm->pod.rank == comm->pod_learners[0];
    bool takes_part = root || (comm->is_rollout && !comm->is_learner);
    MPI_Comm plain_comm;
    MPI_Comm_split(comm->pod.comm, takes_part ? 0 : MPI_UNDEFINED, root ? 0 : 1 + comm->pod.rank,
                   &plain_comm);
    if (bench->dtype == ZS_F32 || bench->dtype == ZS_DTYPE_OTHER)
        bench_weights(bench, ZS_F32, plain_comm, values);
    if (bench->dtype == ZS_BF16 || bench->dtype == ZS_DTYPE_OTHER)
        bench_weights(bench, ZS_BF16, plain_comm, values);
    if (bench->dtype == ZS_INT8) bench_weights(bench, ZS_INT8, plain_comm, values);
    if (plain_comm != MPI_COMM_NULL) MPI_Comm_free(&plain_comm);
    zs_free(values);
    return ZS_OK;
}

/* Checkpoint: parameters and both moments, without a copy and with one, beside a plain file for each rank. */

static zs_status plain_write(const char *path, const float *data, int64_t count, zs_error *err) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const char *at = (const char *)data;
    int64_t left = count * (int64_t)sizeof(float);
    while (file >= 0 && left > 0) {
        ssize_t wrote = write(file, at, (size_t)(left < (64 << 20) ? left : 64 << 20));
        if (wrote <= 0) break;
        at += wrote;
        left -= wrote;
    }
    bool good = file >= 0 && left == 0 && fsync(file) == 0;
    if (file >= 0) close(file);
    unlink(path);
    return good ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: cannot write (--folder chooses where)", path);
}

/* With a copy: seconds in all, and those in which training would stand still. */
static zs_status write_behind(const zs_bench *bench, zs_checkpoint_writer *writer, const char *path,
                              const zs_model *layout, const zs_checkpoint_array *arrays, double *seconds,
                              double *stall, zs_error *err) {
    barrier(bench);
    double start = zs_seconds();
    zs_status status = zs_checkpoint_begin(writer, path, layout, arrays, 3, "{}", err);
    if (status != ZS_OK) return status;
    double begun = zs_seconds(), written = 1.0;
    while (written > 0.0) {
        usleep(1000);
        written = !zs_checkpoint_poll(writer);
        zs_comm_max(bench->comm, &bench->comm->world, &written, 1, "all ranks, to write a checkpoint");
    }
    double ended = zs_seconds();
    status = zs_checkpoint_finish(writer, NULL, err);
    if (status != ZS_OK) return status;
    *stall = slowest(bench, begun - start + zs_seconds() - ended);
    *seconds = slowest(bench, zs_seconds() - start);
    return ZS_OK;
}

zs_status zs_bench_checkpoint(zs_bench *bench, zs_error *err) {
    zs_model *layout = zs_model_layout(&bench->config);
    const zs_group *world = &bench->comm->world;
    int64_t begin = layout->num_params * world->rank / world->size;
    int64_t count = layout->num_params * (world->rank + 1) / world->size - begin;
    float *data = ZS_NEW(float, 3 * count);
    zs_rng rng = zs_rng_make(3, ZS_STREAM_TEST, 0, 0, world->rank);
    for (int64_t i = 0; i < 3 * count; i++)
        data[i] = (float)zs_rng_uniform(&rng);
    zs_piece pieces[3];
    zs_checkpoint_array arrays[3];
    const char *names[] = {"model/params", "optimizer/m", "optimizer/v"};
    for (int i = 0; i < 3; i++) {
        pieces[i] = (zs_piece){begin, count, data + i * count};
        arrays[i] = (zs_checkpoint_array){names[i], layout->num_params, 1, &pieces[i]};
    }
    char path[4096], own[4096], name[64];
    zs_path_join(path, sizeof path, bench->folder, "zerosearch-bench.h5");
    snprintf(name, sizeof name, "zerosearch-bench.%d", world->rank);
    zs_path_join(own, sizeof own, bench->folder, name);
    double ours = INFINITY, plain = INFINITY, reading = INFINITY, behind = INFINITY, stall = INFINITY;
    zs_checkpoint_writer *writer = zs_checkpoint_writer_create(bench->comm, world, true);
    zs_status status = ZS_OK;
    for (int round = 0; round < 3 && status == ZS_OK; round++) {
        barrier(bench);
        double start = zs_seconds();
        status = zs_checkpoint_write(bench->comm, world, path, layout, arrays, 3, "{}", err);
        if (status != ZS_OK) break;
        ours = fmin(ours, slowest(bench, zs_seconds() - start));
        double seconds, stands;
        status = write_behind(bench, writer, path, layout, arrays, &seconds, &stands, err);
        if (status != ZS_OK) break;
        behind = fmin(behind, seconds);
        stall = fmin(stall, stands); /* the first also takes the copy's memory */
        start = zs_seconds();
        zs_string state = {0};
        status = zs_checkpoint_read(world->comm, path, layout, arrays, 3, &state, err);
        zs_string_free(&state);
        if (status != ZS_OK) break;
        reading = fmin(reading, slowest(bench, zs_seconds() - start));
        barrier(bench);
        start = zs_seconds();
        status = zs_comm_agree(bench->comm, world, plain_write(own, data, 3 * count, err), err);
        if (status == ZS_OK) plain = fmin(plain, slowest(bench, zs_seconds() - start));
    }
    zs_checkpoint_writer_destroy(writer);
    if (world->rank == 0) unlink(path);
    if (status == ZS_OK) {
        double size = 12e-9 * (double)layout->num_params;
        zs_bench_field fields[] = {{"megabytes", size * 1e3},
                                   {"write_gb_per_s", size / ours},
                                   {"behind_gb_per_s", size / behind},
                                   {"plain_gb_per_s", size / plain},
                                   {"read_gb_per_s", size / reading},
                                   {"stall_seconds", stall},
                                   {"stall_of_write", stall / behind},
                                   {"of_plain_write", plain / ours},
                                   {"behind_of_plain_write", plain / behind}};
        zs_bench_report(bench, "checkpoint", fields, 9);
    }
    zs_free(data);
    zs_model_destroy(layout);
    return status;
}
