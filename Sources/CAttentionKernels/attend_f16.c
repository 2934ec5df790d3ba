// SPDX-License-Identifier: Apache-2.0
// Attention over f16 panels: K [Dk][blockTokens], V [Dv/64][blockTokens][64].
#include "attend_block.h"

static inline dcp_view load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch) {
    for (int64_t d = 0; d < rows->key_dim; d++) {
        const uint16_t *halves = (const uint16_t *)panel + d * rows->block_tokens + first;
        for (int i = 0; i < dcp_lanes; i++) scratch[d * dcp_lanes + i] = dcp_f16_to_f32(halves[i]);
    }
    return (dcp_view){scratch, dcp_lanes};
}

static inline dcp_view load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                   int64_t dim, int64_t width, float *scratch) {
    const int64_t strip = dcp_strip_of(dim), stride = dcp_strip_width(strip, rows->value_dim);
    const uint16_t *halves = (const uint16_t *)panel + strip * rows->value_tokens + first * stride + dim - strip;
    for (int64_t t = 0; t < tokens; t++, halves += stride) {
        for (int64_t i = 0; i < width; i++) scratch[t * dcp_lanes + i] = dcp_f16_to_f32(halves[i]);
    }
    return (dcp_view){scratch, dcp_lanes};
}

void dcp_attend_f16_scalar(const dcp_attention_rows *rows, const void *keys, const void *values,
                           dcp_token_ranges visible, dcp_ahead ahead) {
    (void)ahead;
    dcp_attend_over(rows, keys, values, visible, dcp_format(dcp_f16), load_keys, load_values);
}
