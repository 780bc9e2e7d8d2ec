/* Number formats of weights, and the conversions between them. */
#ifndef ZEROSEARCH_DTYPE_H
#define ZEROSEARCH_DTYPE_H

#include <stdint.h>

/* ZS_INT8 is no format of files: a way of keeping weights, with a scale a row (zs_quantize_int8). */
typedef enum zs_dtype { ZS_F32, ZS_BF16, ZS_F16, ZS_I32, ZS_I64, ZS_INT8, ZS_DTYPE_OTHER } zs_dtype;

float zs_bf16_to_f32(uint16_t x);
uint16_t zs_f32_to_bf16(float x); /* round to nearest even */
float zs_f16_to_f32(uint16_t x);
uint16_t zs_f32_to_f16(float x);
int64_t zs_dtype_size(zs_dtype dtype); /* bytes of an element, 1 for ZS_INT8, 0 for ZS_DTYPE_OTHER */
const char *zs_dtype_name(zs_dtype dtype);
/* Whole arrays; dtype is ZS_F32, ZS_BF16 or ZS_F16. */
void zs_to_f32(zs_dtype dtype, const void *from, int64_t count, float *to);
void zs_from_f32(zs_dtype dtype, const float *from, int64_t count, void *to);
/* Between any two of the three, rounded to nearest even. */
void zs_convert(zs_dtype from_type, const void *from, int64_t count, zs_dtype to_type, void *to);
/* Finite numbers that ZS_F16 rounds to infinity: 65520 and above. */
int64_t zs_f16_overflows(const float *from, int64_t count);

#endif
