#include "machine.h"

#include "zerosearch/kernels.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <cblas.h>
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

static bool has_avx512(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

void zs_machine_choose_kernel(char **argv) {
    const char *keep = getenv("ZS_KEEP_CORETYPE");
    if ((keep && keep[0] == '1') || getenv("ZS_CORETYPE_BEFORE") || !has_avx512()) return;
    const char *kernel = zs_machine_kernel();
    static const char *const good[] = {"unknown", "SkylakeX", "Cooperlake", "SapphireRapids"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (strcasecmp(kernel, good[i]) == 0) return;
    setenv("ZS_CORETYPE_BEFORE", kernel, 1); /* so that it happens once */
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
    execv("/proc/self/exe", argv);
    unsetenv("OPENBLAS_CORETYPE"); /* could not: go on with the kernel that there is */
}

/* Cores and threads. */

int zs_machine_cores(void) {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return (int)sysconf(_SC_NPROCESSORS_ONLN);
    return CPU_COUNT(&cores);
}

/* Ranks of the node, this one included, that may run on a core of this one's. */
static int ranks_on_my_cores(const zs_comm *comm) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    sched_getaffinity(0, sizeof mine, &mine);
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

void zs_machine_set_threads(const zs_comm *comm, zs_string *out) {
    int cores = zs_machine_cores(), sharing = comm->node.size > 1 ? ranks_on_my_cores(comm) : 1;
    const char *given = getenv("OMP_NUM_THREADS");
    if (!given || !given[0]) {
        int threads = cores / sharing > 1 ? cores / sharing : 1;
        omp_set_num_threads(threads);
        if (openblas_set_num_threads) openblas_set_num_threads(threads);
    }
    zs_string_printf(out, "%d rank%s, %d thread%s each%s; %d core%s", comm->world.size,
                     comm->world.size == 1 ? "" : "s", omp_get_max_threads(),
                     omp_get_max_threads() == 1 ? "" : "s", given && given[0] ? " (OMP_NUM_THREADS)" : "",
                     cores, cores == 1 ? "" : "s");
    if (sharing > 1) zs_string_printf(out, " shared by %d ranks", sharing);
    zs_string_printf(out, "; own kernels %s, BLAS kernel %s", zs_kernels_name(), zs_machine_kernel());
}

/* Rates. */

double zs_machine_sgemm_rate(void) {
    enum { N = 512 };
    float *a = ZS_NEW(float, N *N), *b = ZS_NEW(float, N *N), *c = ZS_NEW(float, N *N);
    for (int i = 0; i < N * N; i++) {
        a[i] = (float)(i % 13) * 0.1f;
        b[i] = (float)(i % 7) * 0.1f;
    }
    double best = 1e30, begin = zs_seconds();
    for (int run = 0; run < 4 || (run < 200 && zs_seconds() - begin < 0.3); run++) {
        double start = zs_seconds();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, a, N, b, N, 0, c, N);
        double spent = zs_seconds() - start;
        best = spent < best ? spent : best;
    }
    zs_free(a);
    zs_free(b);
    zs_free(c);
    return 2e-9 * N * N * N / best;
}

double zs_machine_read_rate(void) {
    const int64_t count = INT64_C(1) << 26, block = INT64_C(1) << 12;
    float *data = ZS_NEW(float, count);
    double best = 1e30;
    volatile float sink;
    for (int run = 0; run < 4; run++) {
        double start = zs_seconds();
        float sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
        for (int64_t begin = 0; begin < count; begin += block) {
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = begin; i < begin + block; i++)
                part += data[i];
            sum += part;
        }
        sink = sum;
        double spent = zs_seconds() - start;
        best = spent < best ? spent : best;
    }
    (void)sink;
    zs_free(data);
    return 1e-9 * (double)count * sizeof *data / best;
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
