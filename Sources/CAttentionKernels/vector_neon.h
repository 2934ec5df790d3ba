// SPDX-License-Identifier: Apache-2.0
// The vector operations of attend_vector.h in NEON. Included inside a target bracket where there is one.
#ifndef DCP_VECTOR_NEON_H
#define DCP_VECTOR_NEON_H

typedef float32x4_t dcp_vec;
typedef uint32x4_t dcp_words;

enum { dcp_width = 4 };

// 16 sums, 8 vectors of K or V and a broadcast: 25 of 32 registers.
#define dcp_vectors_max(rows) 4

// FMAX gives NaN where either is NaN; the comparison is false there and selects the second.
static inline float32x4_t vec_max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

// e^x / 2^shift as dcp_shifted_exp computes it, but with fused multiply-adds.
static inline __attribute__((always_inline)) float32x4_t vec_shifted_exp(float32x4_t x, int shift) {
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504088896341f));
    float32x4_t r = vfmaq_n_f32(x, n, -0.693359375f);
    r = vfmaq_n_f32(r, n, 2.12194440e-4f);
    float32x4_t p = vfmaq_n_f32(vdupq_n_f32(1.3981999507e-3f), r, 1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    // 2^n is made from its exponent. Below 2^-126 it has none, and the result is 0.
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127 - shift)), 23);
    const float32x4_t result = vmulq_f32(p, vreinterpretq_f32_s32(power));
    const float32x4_t limit = vdupq_n_f32(-87.33654f + 0.69314718f * (float)shift);
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(result), vcltq_f32(x, limit)));
}

#define vec_zero() vdupq_n_f32(0)
#define vec_set1(value) vdupq_n_f32(value)
#define vec_load(at) vld1q_f32(at)
#define vec_store(at, vec) vst1q_f32(at, vec)
#define vec_fma(a, b, c) vfmaq_f32(c, a, b)
#define vec_add(a, b) vaddq_f32(a, b)
#define vec_sub(a, b) vsubq_f32(a, b)
#define vec_mul(a, b) vmulq_f32(a, b)
#define vec_mul_nonzero(a, b)                                                                                          \
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vmulq_f32(a, b)), vceqzq_f32(a)))
#define vec_fma_nonzero(a, b, c) vbslq_f32(vceqzq_f32(a), c, vfmaq_f32(c, a, b))
static inline float32x4_t vec_look_up(const float *table, int64_t count, const int32_t *at) {
    (void)count;
    return (float32x4_t){table[at[0]], table[at[1]], table[at[2]], table[at[3]]};
}
#define vec_sum_lanes(vec) vaddvq_f32(vec)
#define vec_max_lanes(vec) vmaxvq_f32(vec)
#define vec_from_f16(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)))
typedef uint16x4_t dcp_halves;
#define halves_load(at) vld1_u16(at)
// Moves sign, exponent and mantissa to their places in f16. The shift doubles the sign, and the mask cuts off the copy.
#define halves_f16(halves)                                                                                             \
    vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(vshr_n_s16(vreinterpret_s16_u16(halves), 1), vdup_n_s16((int16_t)0xBF80))))
#define halves_low_e4m3(halves) halves_f16(vshl_n_u16(halves, 8))
#define halves_high_e4m3(halves) halves_f16(halves)
#define words_flip_signs(words) veorq_u32(words, vdupq_n_u32(0x80808080u))
#define words_byte(words, i)                                                                                           \
    vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(vshlq_n_u32(words, 24 - 8 * (i))), 24))
#define words_load(at) vld1q_u32(at)
#define words_low(words) vreinterpretq_f32_u32(vshlq_n_u32(words, 16))
#define words_high(words) vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xFFFF0000u)))

// Dimensions are even, so those that do not fill a vector of four are two.
#define vec_load_some(at, n) ((void)(n), vcombine_f32(vld1_f32(at), vdup_n_f32(0)))
#define vec_store_some(at, n, vec) ((void)(n), vst1_f32(at, vget_low_f32(vec)))
#define words_load_some(at, n) ((void)(n), vcombine_u32(vld1_u32(at), vdup_n_u32(0)))

static inline uint16x4_t halves_load_some(const uint16_t *at, int n) {
    uint16_t pair[4] = {0};
    memcpy(pair, at, 2 * (size_t)n);
    return vld1_u16(pair);
}

#define vec_from_f16_some(at, n) vcvt_f32_f16(vreinterpret_f16_u16(halves_load_some(at, n)))

#endif
