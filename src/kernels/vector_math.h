/* exp for loops that the compiler turns into vector code.
 *
 * libm's expf does not vectorise without -ffast-math, which we do not want elsewhere; this is the Cephes
 * polynomial (S. Moshier) on the range |r| <= ln2/2, about 1e-7 relative. Below -87 the result is exactly 0,
 * so a masked score of -1e30 has no weight at all. NaN stays NaN. */
#ifndef ZEROSEARCH_VECTOR_MATH_H
#define ZEROSEARCH_VECTOR_MATH_H

#include <stdint.h>
#include <string.h>

#ifdef __FMA__
#define ZS_FMA(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define ZS_FMA(a, b, c) ((a) * (b) + (c))
#endif

/* clang keeps sqrtf scalar while it may set errno, and says so as a warning; the result is the same. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

static inline float zs_expf(float x) {
    const float lowest = -87.0f, highest = 88.37f, magic = 12582912.0f; /* 1.5 * 2^23: rounds to integer */
    float clipped = x < lowest ? lowest : x;
    clipped = clipped > highest ? highest : clipped;
    float shifted = ZS_FMA(clipped, 1.44269504088896341f, magic);
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    float n = shifted - magic;
    float r = ZS_FMA(n, -0.693359375f, clipped);
    r = ZS_FMA(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = ZS_FMA(p, r, 1.3981999507e-3f);
    p = ZS_FMA(p, r, 8.3334519073e-3f);
    p = ZS_FMA(p, r, 4.1665795894e-2f);
    p = ZS_FMA(p, r, 1.6666665459e-1f);
    p = ZS_FMA(p, r, 5.0000001201e-1f);
    p = ZS_FMA(p * r, r, r) + 1.0f;
    /* 2^n: the low bits of the shifted number are n itself; unsigned, so that NaN's garbage is defined. */
    uint32_t power = ((uint32_t)bits - 0x4B400000u + 127u) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    float result = p * scale;
    return x < lowest ? 0.0f : result;
}

static inline float zs_sigmoidf(float x) {
    return 1.0f / (1.0f + zs_expf(-x));
}

#endif
