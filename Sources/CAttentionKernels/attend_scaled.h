// SPDX-License-Identifier: Apache-2.0
// The loads of the scalar kernels for formats with scales, which scale numbers as they widen them. Rotated keys get what
// their words keep apart in all dimensions, rotated alike: the scores are those of queries that are rotated, too. See
// panels_bytes.h.
#ifndef DCP_ATTEND_SCALED_H
#define DCP_ATTEND_SCALED_H

#include "attend_block.h"
#include "panels_bytes.h"

static inline dcp_view dcp_load_byte_keys(int format, const dcp_attention_rows *rows, const void *panel, int64_t first,
                                          float *scratch) {
    const float *scales = dcp_panel_scales(panel, rows->key_dim, rows->block_tokens) + first;
    const uint32_t *words = dcp_panel_words(panel, rows->key_dim, rows->block_tokens) + first;
    const int64_t beside = dcp_format(format).interleaved;
    for (int64_t d = 0; d < rows->key_dim; d++) {
        const uint8_t *at = (const uint8_t *)panel + dcp_key_byte(format, rows->block_tokens, first, d);
        for (int i = 0; i < dcp_lanes; i++)
            scratch[d * dcp_lanes + i] = dcp_byte_value(format, at[i * beside] ^ dcp_key_offset(format)) * scales[i];
    }
    for (int i = 0; i < dcp_lanes && dcp_has_words(format); i++)
        dcp_add_apart_rotated(words[i], scratch + i, rows->key_dim, dcp_lanes);
    return (dcp_view){scratch, dcp_lanes};
}

static inline dcp_view dcp_load_byte_values(int format, const dcp_attention_rows *rows, const void *panel, int64_t first,
                                            int64_t tokens, int64_t dim, int64_t width, float *scratch) {
    const float *scales = dcp_panel_scales(panel, rows->value_dim, rows->value_tokens) + first;
    const int64_t beside = dcp_format(format).interleaved;
    for (int64_t t = 0; t < tokens; t++) {
        const uint8_t *at = (const uint8_t *)panel
                            + dcp_value_byte(format, rows->value_tokens, rows->value_dim, first + t, dim);
        for (int64_t i = 0; i < width; i++)
            scratch[t * dcp_lanes + i] = dcp_byte_value(format, at[i * beside]) * scales[t];
    }
    return (dcp_view){scratch, dcp_lanes};
}

#endif
