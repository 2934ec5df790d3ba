// SPDX-License-Identifier: Apache-2.0
// Panels with NEON.
//
// Built on TRN1 and TRN2 for the transpose (8 for a tile of 64 bytes), SRI to pair high halves, FCVTN and FCVTL for f16. No
// store bypasses the caches: STNP is only a hint.
#if defined(__aarch64__)

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "panels.h"

typedef uint32x4_t dcp_words;

enum { dcp_width = 4 };

#define words_zero() vdupq_n_u32(0)
#define words_set1(bits) vdupq_n_u32(bits)
#define words_and(a, b) vandq_u32(a, b)
#define words_load(at) vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)(at)))
#define words_store(at, words) vst1q_u8((uint8_t *)(at), vreinterpretq_u8_u32(words))
#define words_stream(at, words) words_store(at, words)
#define words_fence() ((void)0)
#define words_max16(a, b) vreinterpretq_u32_u16(vmaxq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)))
#define words_load_half(at) vreinterpret_u16_u8(vld1_u8((const uint8_t *)(at)))
#define words_from_bf16(at) vshlq_n_u32(vmovl_u16(words_load_half(at)), 16)
#define words_from_f16(at) vreinterpretq_u32_f32(vcvt_f32_f16(vreinterpret_f16_u16(words_load_half(at))))
#define words_pair_high(a, b) vsriq_n_u32(b, a, 16)
#define words_pack_bf16(a, b) vreinterpretq_u32_u16(vcombine_u16(vshrn_n_u32(a, 16), vshrn_n_u32(b, 16)))
#define words_store_low(at, words) vst1_u8((uint8_t *)(at), vreinterpret_u8_u16(vmovn_u32(words)))
#define words_store_high(at, words) vst1_u8((uint8_t *)(at), vreinterpret_u8_u16(vshrn_n_u32(words, 16)))

static inline uint32x4_t words_round_bf16(uint32x4_t bits) {
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7FFF));
    // A NaN is made quiet and not rounded, which could make it infinite.
    const uint32x4_t nan = vcgtq_u32(vandq_u32(bits, vdupq_n_u32(0x7FFFFFFF)), vdupq_n_u32(0x7F800000));
    return vbslq_u32(nan, vorrq_u32(bits, vdupq_n_u32(0x00400000)), rounded);
}

static inline uint32x4_t words_pack_f16(uint32x4_t a, uint32x4_t b) {
    const float16x4_t low = vcvt_f16_f32(vreinterpretq_f32_u32(a)), high = vcvt_f16_f32(vreinterpretq_f32_u32(b));
    return vreinterpretq_u32_u16(vcombine_u16(vreinterpret_u16_f16(low), vreinterpret_u16_f16(high)));
}

#define words_trn64(which, a, b) \
    vreinterpretq_u32_u64(vtrn##which##q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)))

static inline __attribute__((always_inline)) void words_transpose(uint32x4_t *t) {
    const uint32x4_t even01 = vtrn1q_u32(t[0], t[1]), odd01 = vtrn2q_u32(t[0], t[1]);
    const uint32x4_t even23 = vtrn1q_u32(t[2], t[3]), odd23 = vtrn2q_u32(t[2], t[3]);
    t[0] = words_trn64(1, even01, even23);
    t[1] = words_trn64(1, odd01, odd23);
    t[2] = words_trn64(2, even01, even23);
    t[3] = words_trn64(2, odd01, odd23);
}

#define words_raise(words) vshlq_n_u32(words, 16)

#include "panels_vector.h"
#include "panels_read.h"
#include "values_vector.h"

DCP_PANEL_KERNELS(neon)
DCP_PANEL_READER(neon)
DCP_VALUES_OF_KEYS(neon)

#endif
