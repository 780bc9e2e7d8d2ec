/* Conversion between float32 and the two 16-bit formats of model files. */
#include "zerosearch/dtype.h"

#include "zerosearch/error.h"

#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float zs_bf16_to_f32(uint16_t x) {
    return float_of((uint32_t)x << 16);
}

/* Below, each case is computed and one is chosen: without branches the loops over arrays become vector code.
 */

uint16_t zs_f32_to_bf16(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded); /* NaN stays NaN */
}

float zs_f16_to_f32(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff;
    uint32_t normal = (rest << 13) + (112u << 23), infinite = normal + (112u << 23);
    uint32_t small = bits_of((float)(int32_t)rest * 0x1p-24f); /* zero or subnormal: exact in float32 */
    /* by a mask, since a choice would let the compiler skip the float operation by a branch */
    uint32_t tiny = 0u - (rest < 0x400), value = rest >= 0x7c00 ? infinite : normal;
    return float_of(sign | (small & tiny) | (value & ~tiny));
}

uint16_t zs_f32_to_f16(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
    uint32_t normal = ((rest + 0xfffu + (rest >> 13 & 1)) >> 13) - (112u << 10);
    /* Below 2^-14: adding 0.5 puts the unit of the sum at 2^-24, so that the FPU does the rounding. */
    uint32_t small = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;
    uint32_t large = rest > 0x7f800000u ? 0x7e00 : 0x7c00; /* 65520 and above round to infinity */
    return (uint16_t)(sign | (rest >= 0x477ff000u ? large : rest < 0x38800000u ? small : normal));
}

int64_t zs_dtype_size(zs_dtype dtype) {
    switch (dtype) {
    case ZS_BF16:
    case ZS_F16:
        return 2;
    case ZS_F32:
    case ZS_I32:
        return 4;
    case ZS_I64:
        return 8;
    case ZS_INT8:
        return 1;
    default:
        return 0;
    }
}

const char *zs_dtype_name(zs_dtype dtype) {
    static const char *const names[] = {"F32", "BF16", "F16", "I32", "I64", "INT8", "OTHER"};
    return names[dtype];
}

void zs_to_f32(zs_dtype dtype, const void *from, int64_t count, float *to) {
    const uint16_t *half = from;
    if (dtype == ZS_F32) {
        memcpy(to, from, (size_t)count * sizeof *to);
    } else if (dtype == ZS_BF16) {
#pragma omp parallel for schedule(static) if (count > 1 << 20)
        for (int64_t i = 0; i < count; i++)
            to[i] = zs_bf16_to_f32(half[i]);
    } else {
        ZS_ASSERT(dtype == ZS_F16, "%s is no floating-point format", zs_dtype_name(dtype));
#pragma omp parallel for schedule(static) if (count > 1 << 20)
        for (int64_t i = 0; i < count; i++)
            to[i] = zs_f16_to_f32(half[i]);
    }
}

void zs_from_f32(zs_dtype dtype, const float *from, int64_t count, void *to) {
    uint16_t *half = to;
    if (dtype == ZS_F32) {
        memcpy(to, from, (size_t)count * sizeof *from);
    } else if (dtype == ZS_BF16) {
#pragma omp parallel for schedule(static) if (count > 1 << 20)
        for (int64_t i = 0; i < count; i++)
            half[i] = zs_f32_to_bf16(from[i]);
    } else {
        ZS_ASSERT(dtype == ZS_F16, "%s is no floating-point format", zs_dtype_name(dtype));
#pragma omp parallel for schedule(static) if (count > 1 << 20)
        for (int64_t i = 0; i < count; i++)
            half[i] = zs_f32_to_f16(from[i]);
    }
}

void zs_convert(zs_dtype from_type, const void *from, int64_t count, zs_dtype to_type, void *to) {
    if (from_type == to_type) {
        memcpy(to, from, (size_t)(count * zs_dtype_size(to_type)));
    } else if (to_type == ZS_F32) {
        zs_to_f32(from_type, from, count, to);
    } else if (from_type == ZS_F32) {
        zs_from_f32(to_type, from, count, to);
    } else {
        enum { BLOCK = 4096 };
        float wide[BLOCK];
        for (int64_t at = 0; at < count; at += BLOCK) {
            int64_t n = count - at < BLOCK ? count - at : BLOCK;
            zs_to_f32(from_type, (const char *)from + at * zs_dtype_size(from_type), n, wide);
            zs_from_f32(to_type, wide, n, (char *)to + at * zs_dtype_size(to_type));
        }
    }
}

int64_t zs_f16_overflows(const float *from, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        float size = __builtin_fabsf(from[i]);
        found += size >= 65520.0f && size < __builtin_inff();
    }
    return found;
}
