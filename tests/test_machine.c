/* What a machine is found to be, and what is said about ranks on it: folders like /sys and ranks made up
 * here; the expected words follow from the launchers' manuals (mpirun(1) --map-by ppr, srun(1)
 * --cpus-per-task). */
#include "../src/commands/binding.h"
#include "../src/commands/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void write_file(const char *root, const char *path, const char *text) {
    char whole[400];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = whole + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(whole, 0777);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static cpu_set_t cores(int first, int last) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = first; i <= last; i++)
        CPU_SET(i, &set);
    return set;
}

/* Two sockets of two cores with two hardware threads each, numbered as Linux numbers them. */
static void topology_of_two_sockets(void **state) {
    (void)state;
    char root[] = "/tmp/zs-sys-XXXXXX", command[100];
    assert_non_null(mkdtemp(root));
    write_file(root, "cpu/online", "0-7\n");
    for (int i = 0; i < 8; i++) {
        char path[100], text[20];
        snprintf(path, sizeof path, "cpu/cpu%d/topology/thread_siblings_list", i);
        snprintf(text, sizeof text, "%d,%d\n", i % 4, i % 4 + 4);
        write_file(root, path, text);
    }
    write_file(root, "node/online", "0,1-2\n");
    write_file(root, "node/node0/cpulist", "0-1,4-5\n");
    write_file(root, "node/node1/cpulist", "2-3,6-7\n");
    write_file(root, "node/node2/cpulist", "\n"); /* memory alone */
    write_file(root, "node/node1/meminfo", "Node 1 MemTotal:  2097152 kB\nNode 1 MemFree: 5 kB\n");
    static zs_topology t;
    zs_topology_read(root, &t);
    for (int i = 0; i < 8; i++)
        assert_int_equal(t.core[i], i % 4);
    assert_int_equal(t.num_numa, 2);
    cpu_set_t expected = cores(2, 3);
    assert_int_equal(t.numa[1].id, 1);
    assert_true(CPU_EQUAL(&t.numa[1].cores, &expected));
    assert_true(t.numa[0].gib == 0 && t.numa[1].gib == 2);
    zs_string names = {0};
    cpu_set_t some = cores(1, 2);
    assert_int_equal(zs_cores_numa(&t, &some, &names), 2);
    assert_string_equal(names.data, "0,1");
    zs_string_clear(&names);
    CPU_SET(5, &some);
    zs_cores_describe(&some, &names);
    assert_string_equal(names.data, "1-2,5");
    zs_string_free(&names);
    zs_topology_read("/nowhere", &t);
    assert_int_equal(t.core[5], 5);
    assert_int_equal(t.num_numa, 0);
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

/* `count` ranks, `each` a node of `size` cores; each bound to `width` cores of its own, 0: not bound. */
static void make_ranks(zs_rank_cores *ranks, int count, int each, int size, int width, int threads) {
    memset(ranks, 0, (size_t)count * sizeof *ranks);
    for (int i = 0; i < count; i++) {
        ranks[i] = (zs_rank_cores){.node = i / each * each, .threads = threads, .launched = true, .numa = 1};
        snprintf(ranks[i].host, sizeof ranks[i].host, "n%d", i / each);
        ranks[i].granted = cores(0, size - 1);
        int at = i % each * width;
        ranks[i].mine = width ? cores(at, at + width - 1) : ranks[i].granted;
    }
}

/* NULL: nothing is said. */
static void expect(const zs_rank_cores *ranks, int count, const char *words) {
    zs_string out = {0};
    bool said = zs_binding_judge(ranks, count, &out);
    if (words)
        assert_string_equal(said ? out.data : "nothing", words);
    else
        assert_string_equal(said ? out.data : "nothing", "nothing");
    zs_string_free(&out);
}

static void well_placed_ranks_are_not_spoken_of(void **state) {
    (void)state;
    zs_rank_cores r[8];
    make_ranks(r, 8, 4, 16, 4, 4);
    expect(r, 8, NULL);
    make_ranks(r, 4, 4, 16, 0, 4);
    expect(r, 4, NULL);
    make_ranks(r, 3, 3, 16, 5, 5); /* the sixteenth core cannot be shared out */
    expect(r, 3, NULL);
    make_ranks(r, 1, 1, 16, 0, 1); /* one process with OMP_NUM_THREADS=1: a wish */
    expect(r, 1, NULL);
    make_ranks(r, 1, 1, 16, 4, 4); /* taskset */
    r[0].launched = false;
    expect(r, 1, NULL);
    make_ranks(r, 2, 2, 96, 4, 4); /* 8 cores of a node that jobs share, without a cpuset */
    r[0].allotted = r[1].allotted = 8;
    expect(r, 2, NULL);
    make_ranks(r, 2, 2, 16, 0, 4);
    CPU_ZERO(&r[0].mine); /* the system does not say */
    expect(r, 2, NULL);
}

static void idle_cores(void **state) {
    (void)state;
    zs_rank_cores r[8];
    make_ranks(r, 2, 2, 16, 1, 1); /* what Open MPI does with -n 2 */
    expect(
        r, 2,
        "n0: 2 ranks with 1 thread each on 2 of 16 cores, 14 idle; give each rank 8 cores: mpirun --map-by "
        "ppr:2:node:PE=8 --bind-to core, or srun --ntasks-per-node=2 --cpus-per-task=8 --cpu-bind=cores");
    make_ranks(r, 8, 4, 16, 1, 1);
    for (int i = 0; i < 8; i++) {
        r[i].numa = 2;
        r[i].wished = true;
    }
    expect(
        r, 8,
        "n0 and 1 more node: 4 ranks with 1 thread each on 4 of 16 cores, 12 idle; give each rank 4 cores: "
        "mpirun --map-by ppr:2:numa:PE=4 --bind-to core, or srun --ntasks-per-node=4 --cpus-per-task=4 "
        "--cpu-bind=cores, with OMP_NUM_THREADS=4");
    make_ranks(r, 2, 2, 16, 0, 4); /* OMP_NUM_THREADS=4 where 8 would serve */
    r[0].wished = r[1].wished = true;
    expect(r, 2,
           "n0: 2 ranks with 4 threads each on 16 cores, 8 idle; give each rank 8 cores: mpirun --map-by "
           "ppr:2:node:PE=8 --bind-to core, or srun --ntasks-per-node=2 --cpus-per-task=8 --cpu-bind=cores, "
           "with OMP_NUM_THREADS=8");
}

static void shared_cores(void **state) {
    (void)state;
    zs_rank_cores r[8];
    make_ranks(r, 4, 4, 16, 0, 16);
    expect(r, 4,
           "n0: 4 ranks with 16 threads each on 16 cores, so that threads wait for each other; set "
           "OMP_NUM_THREADS=4");
    make_ranks(r, 2, 2, 16, 1, 8); /* OMP_NUM_THREADS=8 under Open MPI's default */
    expect(r, 2,
           "n0: 2 ranks with 8 threads each on 2 of 16 cores, so that threads wait for each other; give each "
           "rank "
           "8 cores: mpirun --map-by ppr:2:node:PE=8 --bind-to core, or srun --ntasks-per-node=2 "
           "--cpus-per-task=8 --cpu-bind=cores");
    make_ranks(r, 2, 2, 16, 1, 1);
    r[1].mine = r[0].mine; /* both on core 0 */
    expect(r, 2,
           "n0: 2 ranks with 1 thread each on 1 of 16 cores, so that threads wait for each other; give each "
           "rank 8 "
           "cores: mpirun --map-by ppr:2:node:PE=8 --bind-to core, or srun --ntasks-per-node=2 "
           "--cpus-per-task=8 "
           "--cpu-bind=cores");
    make_ranks(r, 6, 3, 2, 0, 1);
    expect(r, 6,
           "n0 and 1 more node: 3 ranks with 1 thread each on 2 cores, so that threads wait for each other; "
           "start "
           "at most 2 ranks a node");
    make_ranks(r, 4, 2, 16, 0, 8);
    r[2].threads = 9; /* the second node alone */
    expect(r, 4,
           "n1: 2 ranks with 9 threads each at most on 16 cores, so that threads wait for each other; set "
           "OMP_NUM_THREADS=8");
}

static void pinned_on_each_other(void **state) {
    (void)state;
    zs_rank_cores r[4];
    make_ranks(r, 4, 2, 16, 0, 8);
    for (int i = 0; i < 4; i++)
        r[i].pinned = true;
    expect(r, 4,
           "n0 and 1 more node: 2 ranks with 8 threads each on 16 cores, and OMP_PROC_BIND pins threads of "
           "several "
           "ranks to the same ones; unset it, or give each rank 8 cores: mpirun --map-by ppr:2:node:PE=8 "
           "--bind-to core, or srun --ntasks-per-node=2 --cpus-per-task=8 --cpu-bind=cores");
    make_ranks(r, 4, 2, 16, 8, 8); /* cores of their own: as jobs/train.slurm has it */
    for (int i = 0; i < 4; i++)
        r[i].pinned = true;
    expect(r, 4, NULL);
}

static void better_blas_kernel(void **state) {
    (void)state;
    zs_simd avx512 = {true, true, false}, intel = {true, false, false}, amd = {true, false, true}, old = {0};
    const char *const left_by_avx512[] = {"SkylakeX", "Cooperlake", "SapphireRapids", "unknown", "NewRapids"};
    for (int i = 0; i < 5; i++)
        assert_null(zs_machine_better_kernel(left_by_avx512[i], avx512));
    assert_string_equal(zs_machine_better_kernel("Haswell", avx512), "SkylakeX");
    assert_string_equal(zs_machine_better_kernel("Prescott", avx512), "SkylakeX");
    assert_string_equal(zs_machine_better_kernel("Prescott", intel), "Haswell");
    assert_string_equal(zs_machine_better_kernel("Core2", intel), "Haswell");
    assert_string_equal(zs_machine_better_kernel("sandybridge", amd), "Zen");
    assert_null(zs_machine_better_kernel("Haswell", intel));
    assert_null(zs_machine_better_kernel("Zen", amd));
    assert_null(zs_machine_better_kernel("Prescott", old));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topology_of_two_sockets),
        cmocka_unit_test(well_placed_ranks_are_not_spoken_of),
        cmocka_unit_test(idle_cores),
        cmocka_unit_test(shared_cores),
        cmocka_unit_test(pinned_on_each_other),
        cmocka_unit_test(better_blas_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
