// Decode with NEON, which every arm64 machine has, fused multiply-adds included.
//
// Built on FMLA (four rows by four vectors are 16 independent sums), LD1R for query elements and weights, SHL and AND to
// split bf16 pairs, and FCVTL for f16. bf16 is widened, not fed to BFDOT: that would round the weights to bf16.
#if defined(__aarch64__)

#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "decode.h"
#include "panels.h"
#include "softmax_row.h"

typedef float32x4_t dcp_vec;
typedef uint32x4_t dcp_words;

enum { dcp_width = 4 };

// 16 sums, 8 vectors of K or V and a broadcast: 25 of 32 registers.
#define dcp_vectors_max(rows) 4

// FMAX gives NaN where either is NaN; a comparison is false there and selects the second.
static inline float32x4_t vec_max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

static inline float32x4_t vec_power(float32x4_t n) {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(n), 23);
    return vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32((127u + 32u) << 23)));
}

static inline float32x4_t vec_zero_below(float32x4_t x, float limit, float32x4_t vec) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vec), vcltq_f32(x, vdupq_n_f32(limit))));
}

#define vec_zero() vdupq_n_f32(0)
#define vec_set1(value) vdupq_n_f32(value)
#define vec_load(at) vld1q_f32(at)
#define vec_store(at, vec) vst1q_f32(at, vec)
#define vec_fma(a, b, c) vfmaq_f32(c, a, b)
#define vec_add(a, b) vaddq_f32(a, b)
#define vec_sub(a, b) vsubq_f32(a, b)
#define vec_mul(a, b) vmulq_f32(a, b)
#define vec_sum_lanes(vec) vaddvq_f32(vec)
#define vec_max_lanes(vec) vmaxvq_f32(vec)
#define vec_from_f16(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)))
#define words_load(at) vld1q_u32(at)
#define words_low(words) vreinterpretq_f32_u32(vshlq_n_u32(words, 16))
#define words_high(words) vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xFFFF0000u)))

// Dimensions are even: what does not fill a vector of four is two of them.
#define vec_load_some(at, n) ((void)(n), vcombine_f32(vld1_f32(at), vdup_n_f32(0)))
#define vec_store_some(at, n, vec) ((void)(n), vst1_f32(at, vget_low_f32(vec)))
#define words_load_some(at, n) ((void)(n), vcombine_u32(vld1_u32(at), vdup_n_u32(0)))

static inline float32x4_t vec_from_f16_some(const uint16_t *at, int n) {
    uint16_t pair[4] = {0};
    memcpy(pair, at, 2 * (size_t)n);
    return vec_from_f16(pair);
}

#include "decode_vector.h"

DCP_DECODE_KERNEL(dcp_decode_bf16_neon, dcp_bf16)
DCP_DECODE_KERNEL(dcp_decode_f16_neon, dcp_f16)
DCP_DECODE_KERNEL(dcp_decode_f32_neon, dcp_f32)

#endif
