// SPDX-License-Identifier: Apache-2.0
// Converts rows of keys or values to bytes, with a scale for each row: the result for a row depends on no other. Loops have
// no branches, run over any number of dimensions, and use integers and single operations of Float32, so that they vectorise
// for any instruction set and give the same bits.
#ifndef DCP_BYTES_H
#define DCP_BYTES_H

#include <math.h>

#include "formats.h"
#include "rotation.h"

#pragma STDC FP_CONTRACT OFF

// The smallest scale: numbers far below it become 0, and weights of 2^-66 or more times a scale are normal numbers.
#define DCP_SCALE_MIN 0x1p-60f

// The largest magnitude in a row; infinity if a number is not finite.
static inline float dcp_row_magnitude(const float *row, int64_t dim) {
    uint32_t most = 0;
    for (int64_t d = 0; d < dim; d++) {
        const uint32_t bits = dcp_bits(row[d]) & 0x7FFFFFFFu;
        most = bits > most ? bits : most;
    }
    return most < 0x7F800000u ? dcp_float(most) : INFINITY;
}

// A row's largest number divided by that of the format, rounded to 12 bits. So a row that was read back, and is off by a
// rounding of Float32, gets the same scale again, and the same bytes. `high` is the largest scale with which the largest
// number is finite when it is read.
static inline float dcp_largest_scale(float most, float largest, float high) {
    const float scale = dcp_float((dcp_bits(most / largest) + 0x800u) & 0xFFFFF000u);
    return scale < DCP_SCALE_MIN ? DCP_SCALE_MIN : scale > high ? high : scale;
}

// The smallest power of two for which the largest number, divided by it and rounded, is at most 448.
static inline float dcp_power_scale(float most) {
    // 464, halfway from 448 to 480, which would follow it, is 1.8125 times 2^8.
    const uint32_t bits = dcp_bits(most);
    const uint32_t exponent = (bits >> 23) + ((bits & 0x7FFFFFu) > 0x680000u);
    const float scale = exponent > 8 ? dcp_float((exponent - 8) << 23) : 0.0f, high = 0x1p119f;
    return scale < DCP_SCALE_MIN ? DCP_SCALE_MIN : scale > high ? high : scale;
}

// Rounds to the nearest of -127...127, ties to even.
static inline void dcp_to_int8(const float *restrict row, int64_t dim, float scale, uint8_t *restrict bytes) {
    const float inverse = 1.0f / scale;
    for (int64_t d = 0; d < dim; d++) {
        const int32_t number = (int32_t)(dcp_bits(row[d] * inverse + 0x1.8p23f) - 0x4B400000u);
        bytes[d] = (uint8_t)(number > 127 ? 127 : number < -127 ? -127 : number);
    }
}

// Converts a row, of which `most` is the largest magnitude, and returns its scale.
static inline float dcp_int8_row(const float *row, int64_t dim, float most, uint8_t *bytes) {
    const float scale = dcp_largest_scale(most, 127.0f, 0x1.02p121f);
    dcp_to_int8(row, dim, scale, bytes);
    return scale;
}

// Rounds to the nearest e4m3, ties to even, and saturates at 448.
static inline void dcp_to_fp8(const float *restrict row, int64_t dim, float scale, uint8_t *restrict bytes) {
    const float inverse = 1.0f / scale;
    for (int64_t d = 0; d < dim; d++) {
        const uint32_t bits = dcp_bits(row[d] * inverse), magnitude = bits & 0x7FFFFFFFu;
        const uint32_t normal = (magnitude - (120u << 23) + 0x7FFFFu + (magnitude >> 20 & 1)) >> 20;
        // Numbers below 2^-6 are denormal as e4m3: the addition rounds them to multiples of 2^-9.
        const uint32_t denormal = dcp_bits(dcp_float(magnitude) + 0x1p14f) - 0x46800000u;
        const uint32_t code = magnitude < 0x3C800000u ? denormal : normal;
        bytes[d] = (uint8_t)((code > 0x7E ? 0x7E : code) | (bits >> 24 & 0x80));
    }
}

static inline float dcp_e4m3(uint8_t code) {
    // Exponent and mantissa are moved into place and then rescaled, so that denormals come out right without a branch.
    return dcp_float((uint32_t)(code & 0x80) << 24 | dcp_bits(dcp_float((uint32_t)(code & 0x7F) << 20) * 0x1p120f));
}

// A byte of a row as a number, not yet scaled.
static inline float dcp_byte_value(int format, uint8_t byte) {
    return format == dcp_fp8 ? dcp_e4m3(byte) : (float)(int8_t)byte;
}

// Converts a row to e4m3, and returns its scale. A row that is e4m3 times a power of two, as the caches of engines are,
// stays exactly what it is. In any other row, the largest number becomes 448: if it were rounded like the others, a
// dimension that stands out could be off by as much as all others are large.
static inline float dcp_fp8_row(const float *row, int64_t dim, float most, uint8_t *bytes) {
    const float power = dcp_power_scale(most);
    dcp_to_fp8(row, dim, power, bytes);
    uint32_t differs = 0;
    for (int64_t d = 0; d < dim; d++) differs |= dcp_bits(dcp_e4m3(bytes[d]) * power) ^ dcp_bits(row[d]);
    if (differs == 0) return power;
    const float scale = dcp_largest_scale(most, 448.0f, 0x1.248p119f);
    dcp_to_fp8(row, dim, scale, bytes);
    return scale;
}

#endif
