// SPDX-License-Identifier: Apache-2.0
// Attention over bf16 panels: K [Dk/2][blockTokens][2], V [Dv/64][blockTokens/2][64][2]. A pair is one 32-bit word; its
// first element is the low half (little-endian), so a shift and a mask make two Float32.
#include "attend_block.h"

static inline dcp_view load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch) {
    for (int64_t pair = 0; pair < rows->key_dim / 2; pair++) {
        const uint32_t *words = (const uint32_t *)panel + pair * rows->block_tokens + first;
        float *even = scratch + 2 * pair * dcp_lanes, *odd = even + dcp_lanes;
        for (int i = 0; i < dcp_lanes; i++) even[i] = dcp_float(words[i] << 16);
        for (int i = 0; i < dcp_lanes; i++) odd[i] = dcp_float(words[i] & 0xFFFF0000u);
    }
    return (dcp_view){scratch, dcp_lanes};
}

static inline dcp_view load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                   int64_t dim, int64_t width, float *scratch) {
    const int64_t strip = dcp_strip_of(dim), stride = dcp_strip_width(strip, rows->value_dim);
    const uint32_t *words = (const uint32_t *)panel + (strip * rows->value_tokens + first * stride) / 2 + dim - strip;
    for (int64_t t = 0; t < tokens; t += 2, words += stride) {
        float *even = scratch + t * dcp_lanes, *odd = even + dcp_lanes;
        for (int64_t i = 0; i < width; i++) even[i] = dcp_float(words[i] << 16);
        for (int64_t i = 0; i < width; i++) odd[i] = dcp_float(words[i] & 0xFFFF0000u);
    }
    return (dcp_view){scratch, dcp_lanes};
}

void dcp_attend_bf16_scalar(const dcp_attention_rows *rows, const void *keys, const void *values,
                            dcp_token_ranges visible, dcp_ahead ahead) {
    (void)ahead;
    dcp_attend_over(rows, keys, values, visible, dcp_format(dcp_bf16), load_keys, load_values);
}
