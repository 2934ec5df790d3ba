// SPDX-License-Identifier: Apache-2.0
// Attention over fp8 panels.
#include "attend_scaled.h"

static inline dcp_view load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch) {
    return dcp_load_byte_keys(dcp_fp8, rows, panel, first, scratch);
}

static inline dcp_view load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                   int64_t dim, int64_t width, float *scratch) {
    return dcp_load_byte_values(dcp_fp8, rows, panel, first, tokens, dim, width, scratch);
}

void dcp_attend_fp8_scalar(const dcp_attention_rows *rows, const void *keys, const void *values,
                          dcp_token_ranges visible, dcp_ahead ahead) {
    (void)ahead;
    dcp_attend_over(rows, keys, values, visible, dcp_format(dcp_fp8), load_keys, load_values);
}
