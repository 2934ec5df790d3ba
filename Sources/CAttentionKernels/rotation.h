// SPDX-License-Identifier: Apache-2.0
// Keys of int8 panels are rotated, and queries with them. Their dot products stay the same, and a dimension that stands
// out, as in trained models, is spread over all dimensions. One scale for each token is then enough: with a dimension 100
// times as large as the others, results are off by 2.7 %, and by 34 without the rotation; apart.h takes it to less than 1. A
// scale for each dimension of a block would serve as well, but the bits of a token would depend on those beside it, and so
// on what was cut off since.
//
// The rotation flips signs, then applies a Walsh-Hadamard transform to the first 2^k dimensions and, if there are more,
// another to the last 2^k. Each sum is of two numbers, in a fixed order, so all instruction sets give the same bits.
#ifndef DCP_ROTATION_H
#define DCP_ROTATION_H

#include <stdint.h>

#include "convert.h"

#pragma STDC FP_CONTRACT OFF

enum { dcp_rotated_max = 576 };

// A bit for each dimension, from a generator of random numbers. Keys in stores depend on them, so a sign never changes.
static const uint32_t dcp_rotation_signs[dcp_rotated_max / 32] = {
    0x05FDF179, 0x6CC6BE18, 0xAC0504A5, 0x4BA71AB7, 0x28398F9F, 0xDAE85D09,
    0xF6466D5F, 0x0B8E90E9, 0x651011CB, 0x4E6980EE, 0xB822B63B, 0xC4E08E67,
    0xD47A9A78, 0x28B58AB4, 0x31BFA6AF, 0xA02BFF2F, 0x06D002DB, 0x1414F6B5,
};

// The largest power of two that is at most dim.
static inline int64_t dcp_rotation_size(int64_t dim) {
    int64_t size = 1;
    while (2 * size <= dim) size *= 2;
    return size;
}

static inline void dcp_flip_signs(float *row, int64_t dim) {
    for (int64_t d = 0; d < dim; d++) {
        const uint32_t sign = dcp_rotation_signs[d / 32] << (31 - d % 32) & 0x80000000u;
        row[d] = dcp_float(dcp_bits(row[d]) ^ sign);
    }
}

// At each level the sums go to the first half and the differences to the second, which is the order in which the next level
// takes them. So every level is the same loop, and after the last all numbers are back in their places.
static inline void dcp_transform_level(const float *restrict from, int64_t size, float *restrict to) {
    for (int64_t i = 0; i < size / 2; i++) {
        const float a = from[2 * i], b = from[2 * i + 1];
        to[i] = a + b;
        to[i + size / 2] = a - b;
    }
}

// 1 / sqrt(size): what sums and differences of all levels are multiplied by.
static inline float dcp_rotation_unit(int64_t size) {
    int levels = 0;
    for (int64_t left = size; left > 1; left /= 2) levels++;
    return (levels % 2 ? 0.70710678118654752f : 1.0f) / (float)(1 << levels / 2);
}

static inline void dcp_transform(float *row, int64_t size) {
    float other[512];
    float *from = row, *to = other;
    for (int64_t left = size; left > 1; left /= 2) {
        dcp_transform_level(from, size, to);
        float *const taken = from;
        from = to, to = taken;
    }
    const float unit = dcp_rotation_unit(size);
    for (int64_t i = 0; i < size; i++) row[i] = from[i] * unit;
}

static inline void dcp_rotate(float *row, int64_t dim) {
    const int64_t size = dcp_rotation_size(dim);
    dcp_flip_signs(row, dim);
    dcp_transform(row, size);
    if (size < dim) dcp_transform(row + dim - size, size);
}

static inline void dcp_rotate_back(float *row, int64_t dim) {
    const int64_t size = dcp_rotation_size(dim);
    if (size < dim) dcp_transform(row + dim - size, size);
    dcp_transform(row, size);
    dcp_flip_signs(row, dim);
}

#endif
