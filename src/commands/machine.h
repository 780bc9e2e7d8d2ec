/* What this machine gives a rank: its cores, its BLAS kernel, their rates. */
#ifndef ZEROSEARCH_COMMANDS_MACHINE_H
#define ZEROSEARCH_COMMANDS_MACHINE_H

#include "zerosearch/comm.h"
#include "zerosearch/strings.h"

/* Before MPI starts: where the processor has AVX-512 and OpenBLAS runs a kernel that does not use it, by its
 * own choice or because OPENBLAS_CORETYPE says so (sites set it for all programs alike), starts the program
 * anew with OPENBLAS_CORETYPE=SkylakeX. ZS_KEEP_CORETYPE=1 leaves all as it is. */
void zs_machine_choose_kernel(char **argv);
/* The kernel that OpenBLAS runs, "unknown" under another BLAS. */
const char *zs_machine_kernel(void);

int zs_machine_cores(void); /* that this process may run on */

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

#endif
