// SPDX-License-Identifier: Apache-2.0
// Attention over int8 panels with NEON's products of bytes, which arm64 machines have had since 2017 or so (ARMv8.2).
//
// Built on SDOT and UDOT, which add 16 products of bytes, both signed or both unsigned, to 4 integers. The integers are
// those of VPDPBUSD, to the bit.
#if defined(__aarch64__)

#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)

#include "softmax_row.h"
#include "vector_neon.h"

#define DCP_BYTE_DOT
#define DCP_BYTES_ALIKE
#define words_set1(word) vdupq_n_u32((uint32_t)(word))
#define words_sum(a, b) vaddq_u32(a, b)
#define words_to_float(words) vcvtq_f32_s32(vreinterpretq_s32_u32(words))
#define words_raise_byte(words) vshlq_n_u32(words, 8)
#define words_add_signed(c, a, b)                                                                                      \
    vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(c), vreinterpretq_s8_u32(a), vreinterpretq_s8_u32(b)))
#define words_add_unsigned(c, a, b) vdotq_u32(c, vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b))

static inline void vec_store_halves(uint8_t *high, uint8_t *low, float32x4_t vec) {
    const uint16x4_t numbers = vmovn_u32(vcvtnq_u32_f32(vec));
    const uint16x8_t both = vcombine_u16(numbers, numbers);
    const uint32_t highs = vget_lane_u32(vreinterpret_u32_u8(vshrn_n_u16(both, 8)), 0);
    const uint32_t lows = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(both)), 0);
    memcpy(high, &highs, 4);
    memcpy(low, &lows, 4);
}

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_int8_neondot, dcp_int8)

#pragma clang attribute pop

#endif
