// Queries as sums of bf16, for the kernels that multiply bf16 pairs.
#include <string.h>

#include "convert.h"
#include "attention.h"

// Each term is cut off, not rounded: what remains then has 8 significant bits fewer, and the largest Float32 does not
// become infinite.
//
// The terms have pointers of their own, which tells a compiler that several numbers may be split at once.
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
