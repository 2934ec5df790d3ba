// SPDX-License-Identifier: Apache-2.0
// exp and tanh without a branch or a table, so that a loop over them vectorises for any instruction set.
// The constants are those of Cephes 2.8 (expf.c, tanhf.c; S. L. Moshier).
#ifndef DCP_POINTWISE_H
#define DCP_POINTWISE_H

#include "convert.h"

#pragma STDC FP_CONTRACT OFF

// e^x / 2^shift for x <= 0: at most 2 ulp over [-88, 0] while it is a normal number, exact at 0, exactly 0 below -88 and at
// -inf, NaN for NaN. It is correct for positive x up to 88 as well, but the softmax has none.
static inline float dcp_shifted_exp(float x, int shift) {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const float shifted = x * 1.44269504088896341f + 0x1.8p23f;
    const float n = shifted - 0x1.8p23f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    // 2^n is applied in two factors: a result below 2^-126 is a denormal that only the second multiplication rounds.
    const uint32_t exponent = dcp_bits(shifted) - 0x4B400000u + 127u + 32u - (uint32_t)shift;
    const float result = p * dcp_float(exponent << 23) * 0x1p-32f;
    return x < -88.0f ? 0.0f : result;
}

static inline float dcp_exp(float x) { return dcp_shifted_exp(x, 0); }

// tanh x, relative error at most about 2e-7: a polynomial near 0, where the exponential would cancel.
static inline float dcp_tanh(float x) {
    const float magnitude = dcp_float(dcp_bits(x) & 0x7FFFFFFFu);
    const float decay = dcp_exp(-2.0f * magnitude);
    const float large = (1.0f - decay) / (1.0f + decay);
    const float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const float small = p * z * x + x;
    return magnitude < 0.625f ? small : (x < 0.0f ? -large : large);
}

#endif
