/* int8 weights: quantisation and products against a twin in plain C, written from kernels.h alone, to the bit
 * on every instruction set that this machine has; and how far they are from exact products. */
#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const names[] = {"avx512bf16", "avx512vnni", "avx512", "avxvnni",
                                    "avx2",       "vector",     "plain"};
enum { NUM_NAMES = sizeof names / sizeof *names, THREADS = 3, BLOCK = 64 };

/* The twin. */

/* Scale and integers of `count` numbers: max |x| / 127, NaN with any that is not finite, 0 below FLT_MIN. */
static float twin_quantize(int64_t count, const float *x, int *q) {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) finite = false;
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
    }
    volatile float scale = finite ? most / 127 : NAN; /* volatile: each rounded by itself */
    if (scale < FLT_MIN) scale = 0;
    volatile float inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < count; i++) {
        volatile float scaled = scale > 0 ? x[i] * inverse : 0;
        q[i] = (int)nearbyintf(scaled);
        assert_in_range(q[i] + 127, 0, 254);
    }
    return scale;
}

typedef struct twin { /* of a matrix [rows, k], in `parts` parts a row of `length` numbers and less */
    int64_t rows, k, length, parts;
    int *q;
    float *scales;
} twin;

static twin make_twin(int64_t rows, int64_t k, int64_t length, const float *x) {
    twin t = {rows, k, length, (k + length - 1) / length, ZS_NEW(int, rows *k), NULL};
    t.scales = ZS_NEW(float, rows *t.parts);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < t.parts; b++) {
            int64_t at = i * k + b * length, rest = k - b * length;
            t.scales[i * t.parts + b] = twin_quantize(rest < length ? rest : length, x + at, t.q + at);
        }
    return t;
}

static void free_twin(twin t) {
    zs_free(t.q);
    zs_free(t.scales);
}

static float twin_product(const twin *x, int64_t i, const twin *w, int64_t j) {
    float total = 0;
    for (int64_t b = 0; b < x->parts; b++) {
        int64_t sum = 0;
        for (int64_t p = b * BLOCK; p < x->k && p < (b + 1) * BLOCK; p++)
            sum += x->q[i * x->k + p] * w->q[j * w->k + p];
        total = fmaf(x->scales[i * x->parts + b], (float)sum, total);
    }
    volatile float scaled = w->scales[j] * total;
    return scaled;
}

/* Numbers. */

static float *random_floats(int64_t count, int64_t key) {
    zs_rng rng = zs_rng_make(5, ZS_STREAM_TEST, key, count, 0);
    float *x = ZS_NEW(float, count);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)zs_rng_normal(&rng);
    return x;
}

/* Row i of 13 kinds: as it was; one odd number in it; all of one odd kind; halves, which tie. */
static void make_odd(int64_t rows, int64_t k, float *x) {
    static const float one[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -FLT_MAX, 1e-40f};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < k; p++) {
            float *at = x + i * k + p;
            int64_t kind = i % 13;
            if (kind >= 1 && kind <= 6 && p == (i * 7 + 3) % k) *at = one[kind - 1];
            if (kind == 7) *at = p % 2 ? 0.0f : -0.0f;
            if (kind == 8) *at *= 1e-41f;
            if (kind == 9) *at *= 1e-36f; /* the largest of some blocks have a scale, of others none */
            if (kind == 10) *at *= 5e37f;
            if (kind == 11) *at = (float)(p % 255 - 127) * 0.5f;
            if (kind == 12 && p / BLOCK % 2) *at = 0;
        }
}

static bool same_bits(float a, float b) {
    return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

/* Memory with 64-byte alignment and a guard after it. */
static uint8_t *quantized(int64_t n, int64_t k, const float *w, int threads) {
    int64_t bytes = zs_int8_bytes(n, k);
    uint8_t *to = zs_alloc(bytes + 1, 1);
    assert_int_equal((uintptr_t)to % 64, 0);
    to[bytes] = 0x5a;
    zs_quantize_int8(n, k, w, to, threads);
    assert_int_equal(to[bytes], 0x5a);
    return to;
}

/* 16 rows of round_up(k, 64) bytes and 16 scales of 4, for every 16 rows begun. */
static void test_bytes(void **state) {
    (void)state;
    const int64_t expected[][3] = {
        {1, 1, 1088},         {16, 64, 1088},       {17, 64, 2176},          {16, 65, 2112},
        {1152, 896, 1036800}, {896, 4864, 4361728}, {151936, 896, 136742400}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(zs_int8_bytes(expected[i][0], expected[i][1]), expected[i][2]);
        assert_int_equal(zs_int8_bytes(expected[i][0], expected[i][1]) % 64, 0);
    }
}

/* Rows come back as scale times integer, whatever the instruction set and threads; panels quantised alone are
 * parts of the whole. */
static void test_quantize(void **state) {
    (void)state;
    const int64_t ns[] = {1, 15, 16, 17, 48, 100, 130}, ks[] = {1, 3, 4, 63, 64, 65, 128, 200, 896, 1100};
    uint8_t *first = NULL;
    for (int c = 0; c < 7 * 10; c++) {
        int64_t n = ns[c / 10], k = ks[c % 10];
        float *memory = random_floats(n * k + 1, c), *w = memory + 1, *row = ZS_NEW(float, k);
        if (c % 2) make_odd(n, k, w);
        twin t = make_twin(n, k, k, w);
        for (int name = NUM_NAMES - 1; name >= 0; name--) {
            if (!zs_kernels_use(names[name])) continue;
            uint8_t *whole = quantized(n, k, w, 1 + name % 2 * (THREADS - 1));
            if (!first) first = whole;
            assert_memory_equal(whole, first, (size_t)zs_int8_bytes(n, k));
            for (int64_t j = 0; j < n; j++) {
                zs_int8_row(k, whole, j, row);
                for (int64_t p = 0; p < k; p++)
                    if (!same_bits(row[p], t.scales[j] * (float)t.q[j * k + p]))
                        fail_msg("%s n %lld k %lld: [%lld, %lld] is %.9g, expected %.9g", names[name],
                                 (long long)n, (long long)k, (long long)j, (long long)p, (double)row[p],
                                 (double)(t.scales[j] * (float)t.q[j * k + p]));
            }
            for (int64_t j = 0; j < n; j += 32) {
                int64_t some = n - j < 32 ? n - j : 32;
                uint8_t *part = quantized(some, k, w + j * k, 1);
                assert_memory_equal(part, whole + zs_int8_bytes(j, k), (size_t)zs_int8_bytes(some, k));
                zs_free(part);
            }
            if (whole != first) zs_free(whole);
        }
        zs_free(first);
        first = NULL;
        free_twin(t);
        zs_free(memory);
        zs_free(row);
    }
    assert_true(zs_kernels_use(NULL));
}

/* A product of all m rows of x against the twin, each row also alone. */
typedef struct product {
    int64_t m, n, k;
    float beta;
    const float *x, *y0;
    const uint8_t *w;
    const twin *x_twin, *w_twin;
    float *work;
} product;

static void assert_twin(const char *name, const product *p, int threads) {
    int64_t count = p->m * p->n;
    float *memory = ZS_NEW(float, count + 2), *y = memory + 1;
    memory[0] = memory[count + 1] = 77;
    if (p->beta == 0)
        for (int64_t i = 0; i < count; i++)
            y[i] = NAN; /* not read */
    else
        memcpy(y, p->y0, (size_t)count * sizeof *y);
    zs_gemm_nt_int8(p->m, p->n, p->k, p->x, p->w, p->beta, y, p->work, threads);
    assert_true(memory[0] == 77 && memory[count + 1] == 77);
    for (int64_t i = 0; i < count; i++) {
        float want = twin_product(p->x_twin, i / p->n, p->w_twin, i % p->n);
        if (p->beta != 0) want = fmaf(p->beta, p->y0[i], want);
        if (!same_bits(y[i], want))
            fail_msg("%s m %lld n %lld k %lld beta %g, %d threads: [%lld, %lld] is %.9g, expected %.9g", name,
                     (long long)p->m, (long long)p->n, (long long)p->k, (double)p->beta, threads,
                     (long long)(i / p->n), (long long)(i % p->n), (double)y[i], (double)want);
    }
    zs_free(memory);
}

/* All sizes, all instruction sets (threads share the work from n k = 100000 on); x and y at odd addresses;
 * odd values in half of them. One twin serves all numbers of rows, so that no row's bits depend on the
 * others. */
static void test_product(void **state) {
    (void)state;
    const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 64, 65, 200};
    const int64_t ns[] = {1, 15, 16, 17, 48, 100, 130}, ks[] = {1, 3, 4, 63, 64, 65, 128, 200, 896};
    const float betas[] = {0, 1, 0.5f};
    enum { M = 200, NUM_M = sizeof ms / sizeof *ms };
    float *work = ZS_NEW(float, THREADS *zs_gemm_bf16_work());
    for (int c = 0; c < 7 * 9; c++) {
        int64_t n = ns[c / 9], k = ks[c % 9];
        float *x = random_floats(M * k + 1, 2), *w = random_floats(n * k, 3), *y0 = random_floats(M * n, 4);
        if (c % 2) make_odd(M, k, x + 1);
        if (c % 4 > 1) make_odd(n, k, w);
        uint8_t *narrow = quantized(n, k, w, 1);
        twin x_twin = make_twin(M, k, BLOCK, x + 1), w_twin = make_twin(n, k, k, w);
        for (int name = 0; name < NUM_NAMES; name++) {
            if (!zs_kernels_use(names[name])) continue;
            for (int i = 0; i < NUM_M; i++) {
                product p = {ms[i], n, k, betas[(i + c) % 3], x + 1, y0, narrow, &x_twin, &w_twin, work};
                if (ms[i] * n * k > 3000000 && name > 1 && i != NUM_M - 1)
                    continue; /* plain C takes its time */
                assert_twin(names[name], &p, i % 2 ? THREADS : 1);
            }
        }
        float *all[] = {x, w, y0};
        for (int i = 0; i < 3; i++)
            zs_free(all[i]);
        zs_free(narrow);
        free_twin(x_twin);
        free_twin(w_twin);
    }
    zs_free(work);
    assert_true(zs_kernels_use(NULL));
}

/* More threads than strips of panels: rows of x are shared out, too. */
static void test_many_threads(void **state) {
    (void)state;
    enum { M = 50, N = 40, K = 2600, MOST = 17 };
    float *work = ZS_NEW(float, MOST *zs_gemm_bf16_work());
    float *x = random_floats(M * K, 2), *w = random_floats(N * K, 3), *y0 = random_floats(M * N, 4);
    uint8_t *narrow = quantized(N, K, w, MOST);
    twin x_twin = make_twin(M, K, BLOCK, x), w_twin = make_twin(N, K, K, w);
    for (int threads = 2; threads <= MOST; threads += 3)
        for (int64_t m = 1; m <= M; m += 7) {
            product p = {m, N, K, 0.5f, x, y0, narrow, &x_twin, &w_twin, work};
            assert_twin(zs_kernels_name(), &p, threads);
        }
    float *all[] = {x, w, y0, work};
    for (int i = 0; i < 4; i++)
        zs_free(all[i]);
    zs_free(narrow);
    free_twin(x_twin);
    free_twin(w_twin);
}

/* Rows of x so long that one thread's room holds few of them, or not one. */
static void test_long_rows(void **state) {
    (void)state;
    enum { M = 5, N = 17, NUM = 3 };
    const int64_t room = zs_gemm_bf16_work(), ks[NUM] = {room, 2 * room - 5, 5 * room};
    float *work = ZS_NEW(float, room);
    for (int c = 0; c < NUM; c++) {
        int64_t k = ks[c];
        float *x = random_floats(M * k, 2), *w = random_floats(N * k, 3), *y0 = random_floats(M * N, 4);
        uint8_t *narrow = quantized(N, k, w, 1);
        twin x_twin = make_twin(M, k, BLOCK, x), w_twin = make_twin(N, k, k, w);
        for (int name = 0; name < NUM_NAMES; name++) {
            if (!zs_kernels_use(names[name])) continue;
            product p = {M, N, k, 0.5f, x, y0, narrow, &x_twin, &w_twin, work};
            assert_twin(names[name], &p, 1);
        }
        float *all[] = {x, w, y0};
        for (int i = 0; i < 3; i++)
            zs_free(all[i]);
        zs_free(narrow);
        free_twin(x_twin);
        free_twin(w_twin);
    }
    zs_free(work);
    assert_true(zs_kernels_use(NULL));
}

/* How far quantisation may be off. A row's rounding errors are at most half its scale: e_w = max |w| / 254,
 * e_x the same of a block. If they were independent and uniform, the error of a sum would have a variance of
 * at most k (e_w^2 + e_x^2 + e_w^2 e_x^2) / 3 for x and w of unit variance; six of its roots are the bound
 * for the largest of many, and the mean error must lie well below one. */
static void test_precision(void **state) {
    (void)state;
    enum { M = 20, N = 100 };
    const int64_t ks[] = {64, 200, 896, 4864};
    float *work = ZS_NEW(float, zs_gemm_bf16_work());
    for (int c = 0; c < 4; c++) {
        int64_t k = ks[c];
        float *x = random_floats(M * k, 2), *w = random_floats(N * k, 3), *y = ZS_NEW(float, M *N);
        uint8_t *narrow = quantized(N, k, w, 1);
        zs_gemm_nt_int8(M, N, k, x, narrow, 0, y, work, 1);
        double squares = 0, most = 0, bound = 0;
        for (int64_t i = 0; i < M * N; i++) {
            double exact = 0, w_most = 0, x_most = 0;
            for (int64_t p = 0; p < k; p++) {
                double a = (double)x[i / N * k + p], b = (double)w[i % N * k + p];
                exact += a * b;
                w_most = fabs(b) > w_most ? fabs(b) : w_most;
                x_most = fabs(a) > x_most ? fabs(a) : x_most;
            }
            double e_w = w_most / 254, e_x = x_most / 254;
            double root = sqrt((double)k * (e_w * e_w + e_x * e_x + e_w * e_w * e_x * e_x) / 3);
            double error = fabs((double)y[i] - exact) / root;
            most = error > most ? error : most;
            squares += error * error;
            bound += root / sqrt((double)k);
        }
        /* with normal numbers an error is about 1 % of the size of a sum, sqrt(k) */
        if (most > 6 || sqrt(squares / (M * N)) > 1.1 || bound / (M * N) > 0.02)
            fail_msg(
                "k %lld: the largest error is %.3g of its root, the mean square %.3g, the root %.3g sqrt(k)",
                (long long)k, most, squares / (M * N), bound / (M * N));
        zs_free(x);
        zs_free(w);
        zs_free(y);
        zs_free(narrow);
    }
    zs_free(work);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),     cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_product),   cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_long_rows), cmocka_unit_test(test_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
