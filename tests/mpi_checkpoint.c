/* ranks: 1 2 3 4 */
/* Checkpoints: written by uneven pieces and read by another division to the bit; torn, altered and foreign
 * files refused; a full disk leaves the old files. */
#include "zerosearch/checkpoint.h"
#include "zerosearch/comm.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

#define LONG_ARRAY (((int64_t)5 << 20) + 12345) /* several blocks and stripes, the last ones not whole */

static zs_comm comm;
static MPI_Comm world;
static int rank, size;
static char folder[] = "/tmp/zs-checkpoint-XXXXXX";
static zs_model *model;

static float value_at(int array, int64_t i) {
    return (float)((i * 2654435761u + (int64_t)array * 97) % 16777213) - 8388606.5f;
}

static const char *in_folder(const char *name) {
    static char paths[16][200];
    static int next;
    return zs_path_join(paths[next++ % 16], sizeof paths[0], folder, name);
}

/* A division of [0, total) into 23 pieces of uneven length, dealt to ranks in no order; the same on all ranks
 * for one seed. Fills the pieces with the array's values, or with NaN to be read into. */
typedef struct division {
    zs_piece pieces[23];
    int count;
} division;

static division divide(uint64_t seed, int array, int64_t total, bool fill) {
    division out = {.count = 0};
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_TEST, 0, 0, 0);
    int64_t cuts[24] = {0};
    for (int i = 1; i < 23; i++)
        cuts[i] = zs_rng_below(&rng, total + 1);
    cuts[23] = total;
    for (int i = 1; i < 23; i++)
        for (int j = i; j > 1 && cuts[j] < cuts[j - 1]; j--) {
            int64_t swap = cuts[j];
            cuts[j] = cuts[j - 1];
            cuts[j - 1] = swap;
        }
    for (int i = 22; i >= 0; i--) {
        /* a quarter of the pieces goes to the last rank, so that loads differ much */
        int64_t owner = zs_rng_below(&rng, 4) == 0 ? size - 1 : zs_rng_below(&rng, size);
        if (owner != rank) continue;
        zs_piece piece = {cuts[i], cuts[i + 1] - cuts[i], NULL};
        piece.data = ZS_NEW(float, piece.count);
        for (int64_t k = 0; k < piece.count; k++)
            piece.data[k] = fill ? value_at(array, piece.begin + k) : NAN;
        out.pieces[out.count++] = piece;
    }
    return out;
}

static int64_t wrong_values(const division *division, int array) {
    int64_t wrong = 0;
    for (int p = 0; p < division->count; p++)
        for (int64_t k = 0; k < division->pieces[p].count; k++)
            wrong += division->pieces[p].data[k] != value_at(array, division->pieces[p].begin + k);
    return wrong;
}

static bool untouched(const division *division) {
    for (int p = 0; p < division->count; p++)
        for (int64_t k = 0; k < division->pieces[p].count; k++)
            if (division->pieces[p].data[k] == division->pieces[p].data[k]) return false;
    return true;
}

static void undivide(division *division) {
    for (int p = 0; p < division->count; p++)
        zs_free(division->pieces[p].data);
}

static const char *const names[] = {"model/params", "optimizer/m", "optimizer/v"};

typedef struct arrays { /* params, a long one, an empty one */
    division divisions[3];
    zs_checkpoint_array list[3];
} arrays;

static arrays *make_arrays(uint64_t seed, bool fill) {
    arrays *a = ZS_NEW(arrays, 1);
    const int64_t totals[] = {model->num_params, LONG_ARRAY, 0};
    for (int i = 0; i < 3; i++) {
        a->divisions[i] = divide(seed + (uint64_t)i, i, totals[i], fill);
        a->list[i] =
            (zs_checkpoint_array){names[i], totals[i], a->divisions[i].count, a->divisions[i].pieces};
    }
    return a;
}

static void free_arrays(arrays *a) {
    for (int i = 0; i < 3; i++)
        undivide(&a->divisions[i]);
    zs_free(a);
}

static void write_one(const char *path, uint64_t seed, const char *state) {
    zs_error err = {0};
    arrays *a = make_arrays(seed, true);
    zs_status status = zs_checkpoint_write(&comm, &comm.world, path, model, a->list, 3, state, &err);
    if (status) fail_msg("%s", err.text);
    free_arrays(a);
}

static void expect_whole(const char *path, uint64_t seed, const char *state) {
    zs_error err = {0};
    arrays *a = make_arrays(seed, false);
    zs_string text = {0};
    zs_status status = zs_checkpoint_read(world, path, model, a->list, 3, &text, &err);
    if (status) fail_msg("%s", err.text);
    for (int i = 0; i < 3; i++)
        assert_int_equal(wrong_values(&a->divisions[i], i), 0);
    assert_string_equal(text.data, state);
    zs_string_free(&text);
    free_arrays(a);
}

/* The file is refused by name on all ranks, nothing is filled. */
static void expect_refused(const char *path, const char *expected) {
    zs_error err = {0};
    arrays *a = make_arrays(900, false);
    zs_status status = zs_checkpoint_read(world, path, model, a->list, 3, NULL, &err);
    assert_int_equal(status, ZS_FAILED);
    assert_non_null(strstr(err.text, path));
    if (!strstr(err.text, expected)) fail_msg("'%s' does not say '%s'", err.text, expected);
    for (int i = 0; i < 3; i++)
        assert_true(untouched(&a->divisions[i]));
    char first[sizeof err.text];
    memcpy(first, err.text, sizeof first);
    MPI_Bcast(first, sizeof first, MPI_CHAR, 0, world);
    assert_string_equal(err.text, first); /* one fault, one text */
    free_arrays(a);
}

static int64_t length_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (int64_t)info.st_size : -1;
}

static void flip(const char *path, int64_t at) {
    MPI_Barrier(world);
    if (rank == 0) {
        int fd = open(path, O_RDWR);
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    MPI_Barrier(world);
}

/* A disk that fills up late. These stand in for the C library's functions, in MPI and HDF5 too: while a limit
 * is set the file system cannot reserve room, and nothing can be written beyond the limit. */
static int64_t disk_limit = INT64_MAX;
static int refused_writes;

static bool disk_full(int64_t end) {
    if (end <= disk_limit) return false;
    refused_writes++;
    errno = ENOSPC;
    return true;
}

int fallocate(int fd, int mode, off_t begin, off_t length) {
    if (disk_limit == INT64_MAX) return (int)syscall(SYS_fallocate, fd, mode, begin, length);
    errno = EOPNOTSUPP;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return disk_full(at + (int64_t)count) ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return pwrite(fd, bytes, count, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    int64_t end = at;
    for (int i = 0; i < count; i++)
        end += (int64_t)parts[i].iov_len;
    return disk_full(end) ? -1 : syscall(SYS_pwritev, fd, parts, count, at, 0);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return pwritev(fd, parts, count, at);
}

/* Tests. */

static void test_round_trip(void **state) {
    (void)state;
    const char *path = in_folder("step-5.h5");
    const char *json = "{\"step\": 5, \"text\": \"\xc3\xa9\"}";
    if (rank == 0) { /* what a killed run left must not be in the way */
        FILE *left = fopen(in_folder("step-5.h5.tmp"), "w");
        fputs("half a checkpoint", left);
        fclose(left);
    }
    write_one(path, 1, json);
    assert_false(zs_file_exists(in_folder("step-5.h5.tmp")));
    expect_whole(path, 1, json);
    expect_whole(path, 2, json);
    /* every rank may read everything, and one array alone */
    zs_error err = {0};
    zs_piece all = {0, LONG_ARRAY, ZS_NEW(float, LONG_ARRAY)};
    zs_checkpoint_array one = {"optimizer/m", LONG_ARRAY, 1, &all};
    assert_int_equal(zs_checkpoint_read(world, path, NULL, &one, 1, NULL, &err), ZS_OK);
    for (int64_t i = 0; i < LONG_ARRAY; i += 997)
        assert_true(all.data[i] == value_at(1, i));
    /* one rank may own everything: the file is the same to the byte whatever the division */
    zs_piece none = {0, 0, NULL};
    for (int64_t i = 0; i < LONG_ARRAY; i++)
        all.data[i] = value_at(1, i);
    zs_checkpoint_array lone = {"optimizer/m", LONG_ARRAY, 1, rank == size - 1 ? &all : &none};
    assert_int_equal(zs_checkpoint_write(&comm, &comm.world, in_folder("lone.h5"), NULL, &lone, 1, "", &err),
                     ZS_OK);
    memset(all.data, 0, (size_t)LONG_ARRAY * sizeof(float));
    zs_string text = {0};
    assert_int_equal(zs_checkpoint_read(world, in_folder("lone.h5"), NULL, &one, 1, &text, &err), ZS_OK);
    for (int64_t i = 0; i < LONG_ARRAY; i += 997)
        assert_true(all.data[i] == value_at(1, i));
    assert_int_equal(text.length, 0);
    zs_free(all.data);
    zs_string_free(&text);
    MPI_Barrier(world);
    if (rank == 0) unlink(in_folder("lone.h5"));
}

static void test_inspect(void **state) {
    (void)state;
    zs_model_config config;
    zs_string text = {0};
    zs_error err = {0};
    assert_int_equal(zs_checkpoint_inspect(in_folder("step-5.h5"), &config, &text, &err), ZS_OK);
    assert_int_equal(config.hidden_size, model->config.hidden_size);
    assert_int_equal(config.vocab_size, model->config.vocab_size);
    assert_non_null(strstr(text.data, "\"step\": 5"));
    zs_string_free(&text);
    assert_int_equal(zs_checkpoint_inspect(in_folder("nothing.h5"), &config, NULL, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "nothing.h5"));
}

static void test_mismatch(void **state) {
    (void)state;
    zs_error err = {0};
    const char *path = in_folder("step-5.h5");
    zs_checkpoint_array other = {"optimizer/m", LONG_ARRAY + 1, 0, NULL};
    assert_int_equal(zs_checkpoint_read(world, path, NULL, &other, 1, NULL, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "array optimizer/m has 5255225 elements; 5255226 float32 expected"));
    other = (zs_checkpoint_array){"no/such", 1, 0, NULL};
    assert_int_equal(zs_checkpoint_read(world, path, NULL, &other, 1, NULL, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "no/such"));
    zs_model_config config = model->config;
    config.intermediate_size += 8;
    zs_model *wider = zs_model_layout(&config);
    assert_int_equal(zs_checkpoint_read(world, path, wider, NULL, 0, NULL, &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "intermediate_size"));
    zs_model_destroy(wider);
    /* pieces that leave a gap, or two owners of one element */
    float values[10] = {0};
    zs_piece gap = {1, 9, values}, whole = {0, 10, values}, one = {3, 1, values};
    zs_piece pair[2] = {whole, one};
    zs_checkpoint_array array = {"x", 10, rank == 0, &gap};
    assert_int_equal(
        zs_checkpoint_write(&comm, &comm.world, in_folder("gap.h5"), NULL, &array, 1, "{}", &err), ZS_FAILED);
    assert_non_null(strstr(err.text, "gap or overlap"));
    array = (zs_checkpoint_array){"x", 10, rank == 0 ? 2 : 0, pair};
    assert_int_equal(
        zs_checkpoint_write(&comm, &comm.world, in_folder("gap.h5"), NULL, &array, 1, "{}", &err), ZS_FAILED);
    assert_int_equal(
        zs_checkpoint_write(&comm, &comm.world, in_folder("no/folder.h5"), NULL, &array, 0, "{}", &err),
        ZS_FAILED);
    assert_non_null(strstr(err.text, "no/folder.h5"));
    assert_false(zs_file_exists(in_folder("gap.h5")) || zs_file_exists(in_folder("gap.h5.tmp")));
}

static void test_torn(void **state) {
    (void)state;
    const char *path = in_folder("torn.h5");
    write_one(path, 3, "{\"x\": 1}");
    int64_t length = length_of(path);
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, 0, 0, 0);
    /* a flipped bit anywhere: envelope, HDF5's metadata, the texts, the data of both arrays */
    for (int round = 0; round < 40; round++) {
        int64_t at = round < 12   ? zs_rng_below(&rng, 4096)
                     : round < 28 ? 4096 + zs_rng_below(&rng, 8192)
                                  : length - 1 - zs_rng_below(&rng, length - 12288);
        flip(path, at);
        expect_refused(path, at < 22 ? "mark" : "damaged");
        flip(path, at);
    }
    expect_whole(path, 4, "{\"x\": 1}");
    /* one byte too long; then cut at ever smaller lengths */
    MPI_Barrier(world);
    if (rank == 0) assert_int_equal(truncate(path, length + 1), 0);
    MPI_Barrier(world);
    expect_refused(path, "bytes long");
    const int64_t cuts[] = {length - 1, length - (1 << 20), length / 2, 5000, 4096, 4095, 700, 0};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        MPI_Barrier(world);
        if (rank == 0) assert_int_equal(truncate(path, cuts[i]), 0);
        MPI_Barrier(world);
        expect_refused(path, cuts[i] < 4096 ? "cut short" : "bytes long");
    }
    MPI_Barrier(world);
    if (rank == 0) unlink(path);
    MPI_Barrier(world);
    expect_refused(path, "No such file");
}

/* A full disk, here a limit on file size that takes effect on all ranks. */
static void test_disk_full(void **state) {
    (void)state;
    const char *path = in_folder("step-5.h5");
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    const rlim_t limits[] = {100, 3000, 6000, 1 << 20, 5 << 20, 20 << 20};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        zs_error err = {0};
        arrays *a = make_arrays(50, true);
        small = (struct rlimit){limits[i], old.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        zs_status status = zs_checkpoint_write(&comm, &comm.world, path, model, a->list, 3, "{}", &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, ZS_FAILED);
        assert_non_null(strstr(err.text, "step-5.h5"));
        assert_false(zs_file_exists(in_folder("step-5.h5.tmp")));
        free_arrays(a);
        expect_whole(path, 6, "{\"step\": 5, \"text\": \"\xc3\xa9\"}"); /* the old one stands */
    }
    write_one(in_folder("step-6.h5"), 7, "{}"); /* and with room again it goes on */
    expect_whole(in_folder("step-6.h5"), 8, "{}");
}

/* The arrays' own writes fail, on the ranks whose stripes lie behind the limit. */
static void test_disk_full_late(void **state) {
    (void)state;
    const char *path = in_folder("step-6.h5");
    for (int64_t limit = 3 << 20; limit < LONG_ARRAY * 4; limit += 6 << 20) {
        zs_error err = {0};
        arrays *a = make_arrays(60, true);
        MPI_Barrier(world);
        refused_writes = 0;
        disk_limit = limit;
        zs_status status = zs_checkpoint_write(&comm, &comm.world, path, model, a->list, 3, "{}", &err);
        disk_limit = INT64_MAX;
        MPI_Allreduce(MPI_IN_PLACE, &refused_writes, 1, MPI_INT, MPI_SUM, world);
        assert_true(refused_writes > 0);
        assert_int_equal(status, ZS_FAILED);
        assert_non_null(strstr(err.text, "step-6.h5"));
        assert_false(zs_file_exists(in_folder("step-6.h5.tmp")));
        free_arrays(a);
        expect_whole(path, 9, "{}");
    }
    write_one(path, 10, "{\"again\": 1}");
    expect_whole(path, 11, "{\"again\": 1}");
}

/* Bits that are no number, or that arithmetic would change, in a file as they were when begin returned. */
static uint32_t bits_at(int64_t i) {
    return (uint32_t)i % 3 == 0 ? 0x7fa00001u + (uint32_t)i % 7 : (uint32_t)i * 2654435761u;
}

static void test_background(void **state) {
    (void)state;
    zs_error err = {0};
    zs_checkpoint_writer *writer = zs_checkpoint_writer_create(&comm, &comm.world, true);
    for (int round = 0; round < 3; round++) { /* the copy is used again, and grows */
        int64_t total = round == 1 ? 0 : LONG_ARRAY + round * 3000000;
        int64_t begin = total * rank / size, end = total * (rank + 1) / size;
        uint32_t *words = ZS_NEW(uint32_t, end - begin);
        for (int64_t i = begin; i < end; i++)
            words[i - begin] = bits_at(i + round);
        zs_piece piece = {begin, end - begin, (float *)words};
        zs_checkpoint_array array = {"words", total, 1, &piece};
        const char *path = in_folder(round == 1 ? "empty.h5" : "words.h5");
        assert_int_equal(zs_checkpoint_begin(writer, path, NULL, &array, 1, "{}", &err), ZS_OK);
        assert_int_equal(zs_file_exists(path), round == 2);         /* the round before's */
        memset(words, 0x55, (size_t)(end - begin) * sizeof *words); /* training goes on */
        zs_checkpoint_written written;
        assert_int_equal(zs_checkpoint_finish(writer, &written, &err), ZS_OK);
        assert_true(zs_checkpoint_poll(writer) && written.bytes == 4.0 * (double)total);
        assert_int_equal(zs_checkpoint_read(world, path, NULL, &array, 1, NULL, &err), ZS_OK);
        for (int64_t i = begin; i < end; i++)
            if (words[i - begin] != bits_at(i + round)) fail_msg("element %lld", (long long)i);
        zs_free(words);
    }
    zs_checkpoint_writer_destroy(writer);
}

/* The thread's writes fail after begin: said by finish, alike on all ranks; then it goes on. */
static void test_background_disk_full(void **state) {
    (void)state;
    zs_error err = {0};
    const char *path = in_folder("words.h5");
    int64_t before = length_of(path);
    zs_checkpoint_writer *writer = zs_checkpoint_writer_create(&comm, &comm.world, true);
    arrays *a = make_arrays(70, true);
    MPI_Barrier(world);
    disk_limit = 9 << 20;
    zs_status begun = zs_checkpoint_begin(writer, path, model, a->list, 3, "{}", &err);
    zs_status status = begun == ZS_OK ? zs_checkpoint_finish(writer, NULL, &err) : ZS_OK;
    disk_limit = INT64_MAX;
    assert_int_equal(begun, ZS_OK);
    assert_int_equal(status, ZS_FAILED);
    assert_non_null(strstr(err.text, "words.h5"));
    assert_int_equal(length_of(path), before);
    assert_false(zs_file_exists(in_folder("words.h5.tmp")));
    assert_int_equal(zs_checkpoint_begin(writer, path, model, a->list, 3, "{\"on\": 1}", &err), ZS_OK);
    assert_int_equal(zs_checkpoint_finish(writer, NULL, &err), ZS_OK);
    free_arrays(a);
    zs_checkpoint_writer_destroy(writer);
    expect_whole(path, 71, "{\"on\": 1}");
}

static void test_list_and_prune(void **state) {
    (void)state;
    MPI_Barrier(world);
    if (rank == 0) {
        const char *others[] = {"step-x.h5", "step-7.h5x", "step-.h5", "step-007", "step--1.h5", "best.h5"};
        for (int i = 0; i < 6; i++)
            fclose(fopen(in_folder(others[i]), "w"));
        fclose(fopen(in_folder("step-12.h5"), "w"));
        fclose(fopen(in_folder("step-100.h5"), "w"));
        fclose(fopen(in_folder("step-3.h5.tmp"), "w"));
        int64_t steps[8];
        assert_int_equal(zs_checkpoint_list(folder, steps, 8), 4);
        assert_true(steps[0] == 100 && steps[1] == 12 && steps[2] == 6 && steps[3] == 5);
        assert_int_equal(zs_checkpoint_list(folder, steps, 1), 1);
        assert_int_equal(zs_checkpoint_list(in_folder("nowhere"), steps, 8), 0);
        zs_checkpoint_prune(folder, 2);
        assert_int_equal(zs_checkpoint_list(folder, steps, 8), 2);
        assert_true(steps[0] == 100 && steps[1] == 12);
        assert_true(zs_file_exists(in_folder("best.h5")) && zs_file_exists(in_folder("step-x.h5")));
        assert_false(zs_file_exists(in_folder("step-3.h5.tmp")));
        char path[100];
        zs_checkpoint_path(path, sizeof path, "a/b", 17);
        assert_string_equal(path, "a/b/step-17.h5");
    }
    MPI_Barrier(world);
}

int main(int argc, char **argv) {
    zs_error err = {0};
    if (zs_comm_start(&argc, &argv, &comm, &err) != ZS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    world = comm.world.comm;
    rank = comm.world.rank;
    size = comm.world.size;
    if (rank == 0 && !mkdtemp(folder)) return 1;
    MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, world);
    zs_model_config config;
    if (!zs_model_shape("tiny", &config)) return 1;
    model = zs_model_layout(&config);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_mismatch),      cmocka_unit_test(test_torn),
        cmocka_unit_test(test_disk_full),     cmocka_unit_test(test_disk_full_late),
        cmocka_unit_test(test_background),    cmocka_unit_test(test_background_disk_full),
        cmocka_unit_test(test_list_and_prune)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Barrier(world);
    if (rank == 0) {
        char command[100];
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        failed += system(command) != 0;
    }
    zs_model_destroy(model);
    if (failed) MPI_Abort(MPI_COMM_WORLD, 1); /* a rank that failed alone must not leave the others waiting */
    zs_comm_finish(&comm);
    return 0;
}
