// SPDX-License-Identifier: Apache-2.0
// Conversions between Float32 and the 16-bit types by integer arithmetic, so that they vectorise without F16C or
// AVX512-BF16 and give the same bits on every machine. Conversions to 16 bits round to nearest, ties to even. A NaN becomes
// a quiet one and keeps the upper part of its payload, as with the instructions of x86-64 and arm64; only bf16 to Float32
// is a mere shift.
#ifndef DCP_CONVERT_H
#define DCP_CONVERT_H

#include <stdint.h>
#include <string.h>

static inline uint32_t dcp_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float dcp_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline int dcp_f32_is_finite(float value) { return (dcp_bits(value) & 0x7F800000u) != 0x7F800000u; }

static inline float dcp_bf16_to_f32(uint16_t bits) { return dcp_float((uint32_t)bits << 16); }

static inline uint16_t dcp_f32_to_bf16(float value) {
    uint32_t bits = dcp_bits(value);
    // A NaN whose payload sits in the low half would round to infinity: keep it a quiet NaN.
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16);
}

static inline float dcp_f16_to_f32(uint16_t half) {
    // Exponent and mantissa are moved into place and then rescaled by 2^112, so that denormals come out right without a
    // branch.
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7FFF) << 13;
    if ((half & 0x7C00) == 0x7C00) {
        const uint32_t quiet = magnitude & 0x007FFFFFu ? 0x00400000u : 0;
        return dcp_float(sign | 0x7F800000u | quiet | (magnitude & 0x007FFFFFu));
    }
    return dcp_float(sign | dcp_bits(dcp_float(magnitude) * 0x1p112f));
}

static inline uint16_t dcp_f32_to_f16(float value) {
    const uint32_t bits = dcp_bits(value);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return sign | 0x7E00 | (uint16_t)((magnitude >> 13) & 0x03FF); // NaN
    if (magnitude >= 0x477FF000u) return sign | 0x7C00; // 65520 and above round to infinity
    if (magnitude < 0x38800000u) {
        // Below 2^-14 the result is denormal: adding 0.5 aligns the mantissa so that the adder rounds it.
        return sign | (uint16_t)(dcp_bits(dcp_float(magnitude) + 0.5f) - 0x3F000000u);
    }
    return sign | (uint16_t)((magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1)) >> 13);
}

#endif
