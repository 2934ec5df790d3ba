// SPDX-License-Identifier: Apache-2.0
// Queries in the forms that kernels multiply: sums of bf16, and bytes.
#include <string.h>

#include "attention.h"
#include "bytes.h"

// Each term is truncated, not rounded: the rest then has 8 fewer significant bits, and the largest Float32 does not become
// infinite.
//
// Each term has a restrict pointer of its own, which tells a compiler that it may split several numbers at once.
static int32_t split(const float *restrict queries, int64_t count, uint16_t *restrict highs, uint16_t *restrict middles,
                     uint16_t *restrict lows) {
    uint32_t second = 0, third = 0;
    for (int64_t i = 0; i < count; i++) {
        const float high = dcp_float(dcp_bits(queries[i]) & 0xFFFF0000u);
        const float rest = queries[i] - high;
        const float middle = dcp_float(dcp_bits(rest) & 0xFFFF0000u);
        const float low = rest - middle;
        highs[i] = (uint16_t)(dcp_bits(high) >> 16);
        middles[i] = (uint16_t)(dcp_bits(middle) >> 16);
        lows[i] = (uint16_t)(dcp_bits(low) >> 16);
        second |= dcp_bits(middle) << 1;
        third |= dcp_bits(low) << 1;
    }
    return third ? 3 : second ? 2 : 1;
}

int32_t dcp_split_queries(const float *restrict queries, int64_t count, uint16_t *restrict terms, int64_t stride) {
    return split(queries, count, terms, terms + stride, terms + 2 * stride);
}

void dcp_byte_queries(const float *queries, int64_t rows, int64_t key_dim, void *out) {
    for (int64_t r = 0; r < rows; r++, queries += key_dim) {
        float row[dcp_rotated_max];
        memcpy(row, queries, sizeof *row * (size_t)key_dim);
        dcp_rotate(row, key_dim);
        const float most = dcp_row_magnitude(row, key_dim);
        // 32639 is 127 * 256 + 127, so that both bytes are signed. With more dimensions it is less, so that the sum of
        // key_dim products with 127 stays below 2^31.
        const float top = key_dim <= 512 ? 32639.0f : 29000.0f;
        const int is_some = most > 0x1p-100f && most < INFINITY;
        const float inverse = is_some ? top / most : 0.0f;
        char *high = (char *)out + r * dcp_byte_query_bytes(key_dim), *low = high + key_dim;
        int32_t sum = 0;
        for (int64_t d = 0; d < key_dim; d++) {
            const float scaled = is_some ? row[d] * inverse : 0.0f;
            const int32_t number = (int32_t)(dcp_bits(scaled + 0x1.8p23f) - 0x4B400000u);
            const int32_t below = (int8_t)(uint8_t)(number & 0xFF);
            high[d] = (char)((number - below) / 256);
            low[d] = (char)below;
            sum += number;
        }
        // If a row is not finite, its scores are not finite either.
        const dcp_byte_unit unit = {is_some ? most / top : most < INFINITY ? 0.0f : NAN, -128 * sum};
        memcpy(high + 2 * key_dim, &unit, sizeof unit);
    }
}
