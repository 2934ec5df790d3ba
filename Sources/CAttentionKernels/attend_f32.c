// SPDX-License-Identifier: Apache-2.0
// Attention over f32 panels: K [Dk][blockTokens], V [Dv/64][blockTokens][64], read in place.
#include "attend_block.h"

static inline dcp_view load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch) {
    (void)scratch;
    return (dcp_view){(const float *)panel + first, rows->block_tokens};
}

static inline dcp_view load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                   int64_t dim, int64_t width, float *scratch) {
    (void)tokens, (void)width, (void)scratch;
    const int64_t strip = dcp_strip_of(dim), stride = dcp_strip_width(strip, rows->value_dim);
    return (dcp_view){(const float *)panel + strip * rows->value_tokens + first * stride + dim - strip, stride};
}

void dcp_attend_f32_scalar(const dcp_attention_rows *rows, const void *keys, const void *values,
                           dcp_token_ranges visible, dcp_ahead ahead) {
    (void)ahead;
    dcp_attend_over(rows, keys, values, visible, dcp_format(dcp_f32), load_keys, load_values);
}
