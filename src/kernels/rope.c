/* Rotary embedding in half-split pairs: (x_i, x_{i+half}) turns by position * inv_freq[i]. */
#include "zerosearch/kernels.h"

#include <math.h>

void zs_rope_tables(int64_t max_positions, int64_t half, const double *inv_freq, float *cos_table,
                    float *sin_table) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < max_positions; p++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)p * inv_freq[i];
            cos_table[p * half + i] = (float)cos(angle);
            sin_table[p * half + i] = (float)sin(angle);
        }
    }
}

void zs_rope_apply(int64_t rows, int64_t heads, int64_t head_dim, int64_t row_stride,
                   const int32_t *positions, const float *cos_table, const float *sin_table, bool inverse,
                   float *x) {
    int64_t half = head_dim / 2;
    float sign = inverse ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) if (rows * heads * head_dim > 32768)
    for (int64_t t = 0; t < rows; t++) {
        const float *c = cos_table + positions[t] * half, *s = sin_table + positions[t] * half;
        for (int64_t head = 0; head < heads; head++) {
            float *restrict a = x + t * row_stride + head * head_dim, *restrict b = a + half;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float first = a[i], second = b[i], turn = sign * s[i];
                a[i] = first * c[i] - second * turn;
                b[i] = second * c[i] + first * turn;
            }
        }
    }
}
