/* Kernels: pointers and sizes, no allocation, no MPI, no I/O, no globals. Matrices are row-major.
 * Parallel over rows or heads by OpenMP; each row's sum runs in a fixed order, and sums over rows too, so
 * that a result does not depend on the number of threads (but for BLAS, which says nothing of its own). */
#ifndef ZEROSEARCH_KERNELS_H
#define ZEROSEARCH_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

/* GEMM by CBLAS. Names say which operand is transposed: y [m, n] = beta y + ... */
void zs_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a /*[m,k]*/, const float *b /*[n,k]*/,
                float beta, float *y);
void zs_gemm_nn(int64_t m, int64_t n, int64_t k, const float *a /*[m,k]*/, const float *b /*[k,n]*/,
                float beta, float *y);
void zs_gemm_tn(int64_t m, int64_t n, int64_t k, const float *a /*[k,m]*/, const float *b /*[k,n]*/,
                float beta, float *y);

/* The same with bf16 weights, widened exactly: y [m, n] = beta y + a [m, k] b [n, k]^T. `work`:
 * zs_gemm_bf16_work floats for each of `threads`. b needs the alignment of uint16_t only. */
int64_t zs_gemm_bf16_work(void);
void zs_gemm_nt_bf16(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b, float beta, float *y,
                     float *work, int threads);
void zs_widen_bf16(int64_t count, const uint16_t *from, float *to); /* one thread */

/* Both for few rows, where a BLAS spends its time packing w: y [m, n] = beta y + x [m, k] w [n, k]^T with w
 * read once from memory, by code for the processor that the program runs on, whatever it was built for. A
 * row's bits do not depend on the other rows, their number or the threads, and bf16 weights give those of f32
 * weights of the same values. */
void zs_gemm_nt_rows(int64_t m, int64_t n, int64_t k, const float *x, const float *w, float beta, float *y,
                     int threads);
void zs_gemm_nt_rows_bf16(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, float beta,
                          float *y, int threads);

/* The packed layout of bf16 weights [n, k], for matrices that are only multiplied: panels of 16 rows, in
 * which a line of memory holds two k of all rows (src/kernels/packed.h). Packs in place; n % 16 rows at the
 * end stay as they are. `work`: zs_pack_bf16_work numbers for each of `threads`. */
int64_t zs_pack_bf16_work(int64_t k);
void zs_pack_bf16(int64_t n, int64_t k, uint16_t *w, uint16_t *work, int threads);
/* Row `index` of packed w in f32, out [k]. */
void zs_packed_row(int64_t n, int64_t k, const uint16_t *w, int64_t index, float *out);
/* y [m, n] = beta y + x [m, k] w [n, k]^T with packed w: each sum over k is one chain of multiply-adds in
 * order, and a row's bits do not depend on the other rows, their number or the threads. Without AVX-512, from
 * some 64 rows on, pieces are widened for BLAS instead. `work`: zs_gemm_bf16_work floats for each of
 * `threads`. */
void zs_gemm_nt_packed(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, float beta,
                       float *y, float *work, int threads);
/* The same by BLAS, whatever the rows. */
void zs_gemm_nt_packed_blas(int64_t m, int64_t n, int64_t k, const float *a, const uint16_t *b, float beta,
                            float *y, float *work, int threads);

/* int8 weights [n, k] with a scale for each row, for matrices that are only multiplied: panels of 16 rows,
 * each whole in itself, so that any run of panels is a matrix (src/kernels/int8.h). zs_int8_bytes: of the
 * matrix, a multiple of 64, 64-byte alignment wanted; n is rounded up to 16 rows, k to 64. Row o is kept as
 * q = round(w / scale), |q| <= 127, scale = max |w| / 127; a row with NaN or infinity as scale NaN and q = 0,
 * one whose scale would be under the least normal number as zeros. A run of panels quantised alone is the
 * same part of the whole; the same bits on every instruction set. */
int64_t zs_int8_bytes(int64_t n, int64_t k);
void zs_quantize_int8(int64_t n, int64_t k, const float *w, uint8_t *to, int threads);
/* Row `index` in f32, out [k]; of a row with NaN or infinity all NaN. */
void zs_int8_row(int64_t k, const uint8_t *w, int64_t index, float *out);
/* y [m, n] = beta y + x [m, k] w [n, k]^T. x is quantised, too, each row by blocks of 64 k as rows of w are:
 * within a block the sum is of integers, and exact; blocks follow in order by fused multiply-adds of the
 * block's scale and sum; the scale of w multiplies the end. So a row's bits depend neither on the other rows
 * nor on the threads nor on the instruction set. NaN or infinity in x makes its row of y NaN. `work`:
 * zs_gemm_bf16_work floats for each of `threads`. */
void zs_gemm_nt_int8(int64_t m, int64_t n, int64_t k, const float *x, const uint8_t *w, float beta, float *y,
                     float *work, int threads);

/* The instruction set of the kernels above: avx512vnni, avx512, avxvnni, avx2 or plain (those with vnni
 * differ in products with int8 weights alone, and there in speed alone); the best that the processor has
 * unless zs_kernels_use chose another. avx512bf16, never chosen unless it is named, rounds x to bf16 in
 * products with packed weights. False: there is none of that name, or not on this processor (NULL: the best).
 * Not to be called while kernels run. */
const char *zs_kernels_name(void);
bool zs_kernels_use(const char *name);

/* RMSNorm (Zhang and Sennrich 2019): y = x / rms(x) * weight; x, y [rows, d]; inv_rms [rows] kept for
 * backward. */
void zs_rmsnorm_forward(int64_t rows, int64_t d, double eps, const float *x, const float *weight, float *y,
                        float *inv_rms);
/* The same y again from the kept inv_rms, to the bit. */
void zs_rmsnorm_again(int64_t rows, int64_t d, const float *x, const float *weight, const float *inv_rms,
                      float *y);
/* dx is added to; dweight [d] is added to (NULL: not wanted). */
void zs_rmsnorm_backward(int64_t rows, int64_t d, const float *x, const float *weight, const float *inv_rms,
                         const float *dy, float *dx, float *dweight);

/* x [rows, d] += bias [d]; dbias [d] += column sums of dx. */
void zs_bias_forward(int64_t rows, int64_t d, const float *bias, float *x);
void zs_bias_backward(int64_t rows, int64_t d, const float *dx, float *dbias);

/* x [rows, d] = table[ids]; dtable[ids] += dx. */
void zs_embed_forward(int64_t rows, int64_t d, const int32_t *ids, const float *table, float *x);
void zs_embed_backward(int64_t rows, int64_t d, const int32_t *ids, const float *dx, float *dtable);

/* Rotary embedding (Su et al. 2021), half-split pairs as Hugging Face has them; the frequencies [head_dim/2]
 * come from zs_rope_frequencies in model.h. cos, sin tables [max_positions, head_dim/2]. */
void zs_rope_tables(int64_t max_positions, int64_t half, const double *inv_freq, float *cos_table,
                    float *sin_table);
/* Rotates `heads` heads of x [rows, row_stride] in place; positions [rows]; inverse rotates back (backward).
 */
void zs_rope_apply(int64_t rows, int64_t heads, int64_t head_dim, int64_t row_stride,
                   const int32_t *positions, const float *cos_table, const float *sin_table, bool inverse,
                   float *x);

/* SwiGLU (Shazeer 2020): gate_up [rows, 2 width] holds gate then up; y [rows, width] = silu(gate) * up.
 * Backward writes dgate_up and the forward result y again. dgate_up may be gate_up itself: each element is
 * read before its place is written. */
void zs_swiglu_forward(int64_t rows, int64_t width, const float *gate_up, float *y);
void zs_swiglu_backward(int64_t rows, int64_t width, const float *gate_up, const float *dy, float *dgate_up,
                        float *y);

/* Causal attention over packed sequences, in blocks with a running softmax (Dao et al. 2022): no T x T
 * matrix. qkv [tokens, (heads + 2 kv_heads) head_dim], rotated; out [tokens, heads head_dim]; lse [tokens,
 * heads] is the log-sum-exp of each row, kept for backward. `work`: zs_attention_work floats for each thread
 * of omp_get_max_threads(). Backward writes (does not add to) dqkv; delta [tokens, heads] is work memory. */
int64_t zs_attention_work(int64_t head_dim);
void zs_attention_forward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                          int64_t head_dim, const float *qkv, float *out, float *lse, float *work);
void zs_attention_backward(int64_t num_sequences, const int64_t *offsets, int64_t heads, int64_t kv_heads,
                           int64_t head_dim, const float *qkv, const float *out, const float *lse,
                           const float *dout, float *dqkv, float *delta, float *work);

/* Log-softmax of logits [rows, vocab] times inv_temperature. targets [rows]: -1 for none (log_prob 0, no
 * gradient). log_prob, entropy [rows] or NULL. With coefficient [rows] = d loss / d log_prob the logits are
 * overwritten by their gradient; without, they are left undefined. */
void zs_log_softmax_rows(int64_t rows, int64_t vocab, float inv_temperature, const int32_t *targets,
                         const float *coefficient, float *logits, float *log_prob, float *entropy);
/* The same in two steps, for a loss whose coefficients follow from the log-probabilities: forward leaves the
 * exponentials in logits and their sum in sum [rows]; backward turns those into the gradient. Bit for bit
 * what one step gives. */
void zs_softmax_rows_forward(int64_t rows, int64_t vocab, float inv_temperature, const int32_t *targets,
                             float *logits, double *sum, float *log_prob, float *entropy);
void zs_softmax_rows_backward(int64_t rows, int64_t vocab, float inv_temperature, const int32_t *targets,
                              const float *coefficient, const double *sum, float *logits);

/* AdamW (Loshchilov and Hutter 2019) on n elements. `step` counts from 1; gradients are multiplied by
 * grad_scale (clipping) first. */
typedef struct zs_adamw {
    double learning_rate, beta1, beta2, eps, weight_decay;
} zs_adamw;
void zs_adamw_update(int64_t n, int64_t step, zs_adamw settings, float grad_scale, const float *grads,
                     float *params, float *m, float *v);

double zs_sum_of_squares(int64_t n, const float *x); /* fixed order, double accumulation */

#endif
