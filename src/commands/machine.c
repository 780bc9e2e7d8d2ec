#include "machine.h"

#include "cores.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Absent where another BLAS is linked. */
extern char *openblas_get_corename(void) __attribute__((weak));
extern void openblas_set_num_threads(int) __attribute__((weak));

/* BLAS kernel. */

const char *zs_machine_kernel(void) {
    return openblas_get_corename ? openblas_get_corename() : "unknown";
}

/* What OpenBLAS calls its kernels for processors that lack what this one has. Names that it may yet make up
 * are not in these lists, and are left alone. */
static const char *const before_avx2[] = {
    "Katmai", "Coppermine", "Northwood",   "Prescott",  "Banias",     "Atom",         "Core2",
    "Penryn", "Dunnington", "Nehalem",     "Athlon",    "Opteron",    "Opteron_SSE3", "Barcelona",
    "Nano",   "Bobcat",     "Sandybridge", "Bulldozer", "Piledriver", "Steamroller",  NULL};
static const char *const before_avx512[] = {"Haswell", "Zen", "Excavator", NULL};

static bool is_in(const char *const *names, const char *name) {
    while (*names && strcasecmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

zs_simd zs_machine_simd(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return (zs_simd){
        .avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
        .avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl"),
        .amd = __builtin_cpu_is("amd"),
    };
#else
    return (zs_simd){0};
#endif
}

const char *zs_machine_better_kernel(const char *kernel, zs_simd simd) {
    bool old = is_in(before_avx2, kernel);
    if (simd.avx512 && (old || is_in(before_avx512, kernel))) return "SkylakeX";
    if (simd.avx2 && old) return simd.amd ? "Zen" : "Haswell";
    return NULL;
}

void zs_machine_choose_kernel(char **argv) {
    const char *keep = getenv("ZS_KEEP_CORETYPE"), *kernel = zs_machine_kernel();
    const char *better = zs_machine_better_kernel(kernel, zs_machine_simd());
    if ((keep && keep[0] == '1') || getenv("ZS_CORETYPE_BEFORE") || !better) return;
    setenv("ZS_CORETYPE_BEFORE", kernel, 1); /* so that it happens once */
    setenv("OPENBLAS_CORETYPE", better, 1);
    zs_cores_unpin();
    execv("/proc/self/exe", argv);
    unsetenv("OPENBLAS_CORETYPE"); /* could not: go on with the kernel that there is */
}

/* Cores and threads. */

static cpu_set_t my_cores(void) {
    zs_topology topology;
    cpu_set_t cores;
    zs_topology_read("/sys/devices/system", &topology);
    zs_cores_mine(&topology, &cores);
    return cores;
}

int zs_machine_cores(void) {
    cpu_set_t cores = my_cores();
    int count = CPU_COUNT(&cores);
    return count > 0 ? count : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Ranks of the node, this one included, that may run on a core of this one's. */
static int ranks_on_my_cores(const zs_comm *comm) {
    cpu_set_t mine = my_cores();
    int size = comm->node.size, sharing = 0;
    cpu_set_t *all = ZS_NEW(cpu_set_t, size);
    char *gathered;
    int64_t *lengths;
    zs_comm_gather_bytes(comm, &comm->node, &mine, sizeof mine, 0, &gathered, &lengths, "cores of a node");
    if (gathered) memcpy(all, gathered, (size_t)size * sizeof mine);
    zs_free(gathered);
    zs_free(lengths);
    zs_comm_broadcast_bytes(comm, &comm->node, all, size * (int64_t)sizeof mine, 0, "cores of a node");
    for (int i = 0; i < size; i++) {
        cpu_set_t both;
        CPU_AND(&both, &mine, &all[i]);
        sharing += CPU_COUNT(&both) > 0;
    }
    zs_free(all);
    return sharing > 0 ? sharing : 1;
}

void zs_machine_use_threads(int threads) {
    omp_set_num_threads(threads);
    if (openblas_set_num_threads) openblas_set_num_threads(threads);
}

void zs_machine_set_threads(const zs_comm *comm, zs_string *out) {
    int cores = zs_machine_cores(), sharing = comm->node.size > 1 ? ranks_on_my_cores(comm) : 1;
    const char *given = getenv("OMP_NUM_THREADS");
    if (!given || !given[0]) zs_machine_use_threads(cores / sharing > 1 ? cores / sharing : 1);
    zs_string_printf(out, "%d rank%s, %d thread%s each%s; %d core%s", comm->world.size,
                     comm->world.size == 1 ? "" : "s", omp_get_max_threads(),
                     omp_get_max_threads() == 1 ? "" : "s", given && given[0] ? " (OMP_NUM_THREADS)" : "",
                     cores, cores == 1 ? "" : "s");
    if (sharing > 1) zs_string_printf(out, " shared by %d ranks", sharing);
    zs_string_printf(out, "; own kernels %s, BLAS kernel %s", zs_kernels_name(), zs_machine_kernel());
}

/* Trial of a kernel. */

int zs_machine_kernel_main(void) {
    const char *kernel = zs_machine_kernel(), *better = zs_machine_better_kernel(kernel, zs_machine_simd());
    return printf("%s\n", better ? better : kernel) < 0;
}

int zs_machine_measure_main(void) {
    printf("%s %.6g\n", zs_machine_kernel(), zs_machine_sgemm_rate());
    return 0;
}

/* The child's part: its stdout is the pipe. Only calls that are safe after fork. */
static void become_measurer(int out, char **environment) {
    char *argv[] = {"zerosearch", "--measure-sgemm", NULL};
    dup2(out, STDOUT_FILENO);
    execve("/proc/self/exe", argv, environment);
    _exit(127);
}

bool zs_machine_try_kernel(const char *wish, char kernel[64], double *rate) {
    extern char **environ;
    int count = 0, kept = 0, ends[2];
    while (environ[count])
        count++;
    char **environment = ZS_NEW(char *, count + 4), core_type[80];
    for (int i = 0; i < count; i++)
        if (strncmp(environ[i], "OPENBLAS_CORETYPE=", 18) != 0 &&
            strncmp(environ[i], "OMP_NUM_THREADS=", 16) != 0)
            environment[kept++] = environ[i];
    environment[kept++] = "ZS_KEEP_CORETYPE=1";
    environment[kept++] = "OMP_NUM_THREADS=1"; /* a kernel is a matter of one core, whoever uses the others */
    snprintf(core_type, sizeof core_type, "OPENBLAS_CORETYPE=%.60s", wish ? wish : "");
    if (wish) environment[kept++] = core_type;
    bool good = false;
    if (pipe(ends) == 0) {
        pid_t child = fork();
        if (child == 0) become_measurer(ends[1], environment);
        close(ends[1]);
        FILE *answer = fdopen(ends[0], "r");
        if (child > 0 && answer) good = fscanf(answer, "%63s %lf", kernel, rate) == 2;
        if (answer)
            fclose(answer);
        else
            close(ends[0]);
        int status = 0;
        if (child > 0 && waitpid(child, &status, 0) == child)
            good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    zs_free(environment);
    return good;
}
