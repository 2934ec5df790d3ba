// SPDX-License-Identifier: Apache-2.0
// Attention over fp8 panels, scaled as they are widened: see panels_bytes.h.
#include "attend_block.h"
#include "panels_bytes.h"

static inline dcp_view load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch) {
    const float *scales = dcp_panel_scales(panel, rows->key_dim, rows->block_tokens) + first;
    for (int64_t d = 0; d < rows->key_dim; d++) {
        const uint8_t *at = (const uint8_t *)panel + dcp_key_byte(dcp_fp8, rows->block_tokens, first, d);
        const int64_t beside = dcp_format(dcp_fp8).interleaved;
        for (int i = 0; i < dcp_lanes; i++)
            scratch[d * dcp_lanes + i] = dcp_byte_value(dcp_fp8, at[i * beside] ^ dcp_key_offset(dcp_fp8)) * scales[i];
    }
    return (dcp_view){scratch, dcp_lanes};
}

static inline dcp_view load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                   int64_t dim, int64_t width, float *scratch) {
    const float *scales = dcp_panel_scales(panel, rows->value_dim, rows->value_tokens) + first;
    for (int64_t t = 0; t < tokens; t++) {
        const uint8_t *at = (const uint8_t *)panel
                            + dcp_value_byte(dcp_fp8, rows->value_tokens, rows->value_dim, first + t, dim);
        const int64_t beside = dcp_format(dcp_fp8).interleaved;
        for (int64_t i = 0; i < width; i++)
            scratch[t * dcp_lanes + i] = dcp_byte_value(dcp_fp8, at[i * beside]) * scales[t];
    }
    return (dcp_view){scratch, dcp_lanes};
}

void dcp_attend_fp8_scalar(const dcp_attention_rows *rows, const void *keys, const void *values,
                          dcp_token_ranges visible, dcp_ahead ahead) {
    (void)ahead;
    dcp_attend_over(rows, keys, values, visible, dcp_format(dcp_fp8), load_keys, load_values);
}
