// SPDX-License-Identifier: Apache-2.0
// Widens the bytes of a group to Float32 once for all tiles, if there are more than two tiles of rows. Included by
// attend_tiles.h.
//
// Numbers and the order of sums are the same as with tiles that each widen for themselves. It takes some dimensions at a
// time, so that they stay in the first-level cache: keys as [dimension][64 tokens], values as [token][64 dimensions].
#ifndef DCP_ATTEND_WIDENED_H
#define DCP_ATTEND_WIDENED_H

#include "attend_loads.h"

enum { dcp_widened_dims = 64 };

// Whether tiles widen bytes to Float32. For 128 numbers of fp8 that is 36 operations with AVX-512, or 21 with GFNI, beside
// the 32 FMAs of four rows.
DCP_INLINE int dcp_is_widening(int type) { return dcp_has_scales(type) && !dcp_is_dot(type) && !dcp_is_byte_dot(type); }

// Widens dimensions from..<to of the keys.
DCP_INLINE void dcp_widen_keys(int type, dcp_group *group, int64_t from, int64_t to) {
    const int64_t stride = group->rows->block_tokens, beside = dcp_format(type).interleaved, step = dcp_step(type);
    const int64_t padded = dcp_padded(group->tokens), vectors = padded == dcp_group_tokens && dcp_width >= 8 ? 2 : 1;
    float *out = group->widened;
    for (int64_t d = from; d < to; d += step) {
        for (int64_t t = 0; t < padded; t += vectors * dcp_width) {
            const char *keys = group->keys + d * stride + t * beside;
            DCP_UNROLL
            for (int half = 0; half < step / 2; half++) {
                float *even = out + (d - from + 2 * half) * dcp_group_tokens + t, *odd = even + dcp_group_tokens;
                dcp_vec first[2], second[2];
                if (vectors == 2) {
                    dcp_load_pair(type, 1, half, 2, 0, keys, stride, first, second);
                    vec_store(even + dcp_width, first[1]);
                    vec_store(odd + dcp_width, second[1]);
                } else {
                    dcp_load_pair(type, 1, half, 1, 0, keys, stride, first, second);
                }
                vec_store(even, first[0]);
                vec_store(odd, second[0]);
            }
        }
    }
}

// Widens the values of the strip that begins at dimension `strip`, for all tokens that any row sees.
DCP_INLINE void dcp_widen_values(int type, dcp_group *group, int64_t strip) {
    const dcp_attention_rows *rows = group->rows;
    const int64_t width = dcp_strip_width(strip, rows->value_dim), beside = dcp_format(type).interleaved;
    const int64_t step = dcp_step(type);
    const char *values = group->values + strip * rows->value_tokens + group->first * width;
    for (int64_t t = 0; t < group->tokens; t += step) {
        for (int64_t d = 0; d < width;) {
            const char *at = values + t * width + d * beside;
            const int64_t left = width - d;
            DCP_UNROLL
            for (int half = 0; half < step / 2; half++) {
                float *even = group->widened + (t + 2 * half) * dcp_strip_dims + d, *odd = even + dcp_strip_dims;
                dcp_vec first[2], second[2];
                if (left >= 2 * dcp_width) {
                    dcp_load_pair(type, 0, half, 2, 0, at, width, first, second);
                    vec_store(even + dcp_width, first[1]);
                    vec_store(odd + dcp_width, second[1]);
                } else {
                    dcp_load_pair(type, 0, half, 1, left < dcp_width ? (int)left : 0, at, width, first, second);
                }
                if (left < dcp_width) {
                    vec_store_some(even, (int)left, first[0]);
                    vec_store_some(odd, (int)left, second[0]);
                } else {
                    vec_store(even, first[0]);
                    vec_store(odd, second[0]);
                }
            }
            d += left >= 2 * dcp_width ? 2 * dcp_width : dcp_width;
        }
    }
}

#endif
