/* What this machine gives a rank: its cores, its BLAS kernel, their rates. */
#ifndef ZEROSEARCH_COMMANDS_MACHINE_H
#define ZEROSEARCH_COMMANDS_MACHINE_H

#include "zerosearch/comm.h"
#include "zerosearch/strings.h"

/* Before MPI starts: where OpenBLAS runs a kernel that leaves AVX-512 or AVX2 of this processor unused, since
 * it does not know the processor or since OPENBLAS_CORETYPE says so (sites set it for all programs alike),
 * starts the program anew with the one that uses it. ZS_KEEP_CORETYPE=1 leaves all as it is.
 *
 * Which one is known, not measured: the f32 products of OpenBLAS's Cooperlake and SapphireRapids are those of
 * SkylakeX (they differ in bf16 products, which are ours: src/kernels/gemm_bf16.c), and every OpenBLAS since
 * 0.3.0 has SkylakeX. */
void zs_machine_choose_kernel(char **argv);
typedef struct zs_simd {
    bool avx2, avx512, amd; /* avx2: with fused multiply-add; avx512: as of Skylake-X; amd: who made it */
} zs_simd;
zs_simd zs_machine_simd(void); /* of this processor; all false where it is not x86-64 */
/* The kernel that such a processor is better served by than by `kernel`; NULL: none. */
const char *zs_machine_better_kernel(const char *kernel, zs_simd simd);
/* The kernel that OpenBLAS runs, "unknown" under another BLAS. */
const char *zs_machine_kernel(void);

int zs_machine_cores(void); /* that this process may run on; hardware threads of one core count once */

void zs_machine_use_threads(int threads); /* of OpenMP and of the BLAS */

/* Unless OMP_NUM_THREADS is set: one thread for each core of this rank, where ranks of a node that may run on
 * the same cores share them out. Puts one line about it into `out`. Collective on the node. */
void zs_machine_set_threads(const zs_comm *comm, zs_string *out);

/* What the machine can do at best, on the threads that OpenMP and BLAS have now; a second or two. */
double zs_machine_sgemm_rate(void); /* GFlop/s of the best run of the best of several shapes up to 2048^3 */
double zs_machine_read_rate(void);  /* GB/s of reading more than the caches hold, best of several runs */

/* What the machine is: "Intel(R) Xeon(R) ...", "unknown" where the system does not say; bytes of the data
 * cache of level 1 to 3, 0 where there is none. */
void zs_machine_processor(char out[128]);
int64_t zs_machine_cache(int level);

/* Runs this program on one thread with the given OPENBLAS_CORETYPE (NULL: none) to measure its product;
 * false: it could not. `kernel` is what OpenBLAS made of the wish. */
bool zs_machine_try_kernel(const char *wish, char kernel[64], double *rate);
/* What such a child does: prints kernel and rate. */
int zs_machine_measure_main(void);
/* zerosearch --blas-kernel: prints the kernel that OPENBLAS_CORETYPE should name here, for other programs. */
int zs_machine_kernel_main(void);

#endif
