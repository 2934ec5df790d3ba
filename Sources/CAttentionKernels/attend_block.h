// SPDX-License-Identifier: Apache-2.0
// The scalar attention kernel, written once over the two functions that a cache format supplies.
//
// Tokens lie along SIMD lanes: the scores of 16 tokens accumulate side by side and need no horizontal sum. A group of 64
// tokens is scored for all rows and weighted, and its values are accumulated. So K and V are widened once for all rows, and
// the scratch memory (57 KiB of stack, of which keys of 256 dimensions use 37) stays in a near cache. Sums are over 16
// dimensions or 64 tokens, and are then added up: several short sums lose less than one long one.
#ifndef DCP_ATTEND_BLOCK_H
#define DCP_ATTEND_BLOCK_H

#include "attention.h"
#include "softmax_row.h"
#include "strips.h"

#pragma STDC FP_CONTRACT OFF

enum { dcp_group_tokens = 64, dcp_key_dim_max = 576 };

// A view of Float32 rows: element [row][i] is at[row * stride + i].
typedef struct {
    const float *at;
    int64_t stride;
} dcp_view;

// Loads the keys of 16 tokens from `first`, as [key_dim][16]; `scratch` has room for them.
typedef dcp_view dcp_load_keys(const dcp_attention_rows *rows, const void *panel, int64_t first, float *scratch);
// Loads the values of `tokens` tokens from `first`, dimensions dim..<dim + width, as [tokens][width], width <= 16;
// `scratch` has room for tokens rounded up to even. A token beyond `tokens` may be loaded but is never used.
typedef dcp_view dcp_load_values(const dcp_attention_rows *rows, const void *panel, int64_t first, int64_t tokens,
                                 int64_t dim, int64_t width, float *scratch);

static inline void dcp_prefetch(const char *from, const char *end) {
    for (; from < end; from += 64) __builtin_prefetch(from, 0, 3);
}

// Keys are read 16 tokens at a time, with a stride that hardware does not predict. So a group's keys are prefetched in
// address order before the first of them is used, and its values while the keys are being scored. Measured from memory
// (bf16, 4 rows): 4.1 GB/s without, 5.2 with both prefetched at the start, 6.8 like this; from a cache 7.7.
static inline void dcp_prefetch_keys(const dcp_attention_rows *rows, dcp_cache_format format, const void *keys,
                                     int64_t first, int64_t tokens) {
    const int64_t token_bytes = format.element_bytes * format.interleaved;
    for (int64_t d = 0; d < rows->key_dim / format.interleaved; d++) {
        const char *row = (const char *)keys + (d * rows->block_tokens + first) * token_bytes;
        dcp_prefetch(row, row + tokens * token_bytes);
    }
}

// Prefetches one of `shares` shares of the values of 16 tokens.
static inline void dcp_prefetch_values(const dcp_attention_rows *rows, dcp_cache_format format, const void *values,
                                       int64_t first, int64_t share, int64_t shares) {
    for (int64_t strip = 0; strip < rows->value_dim; strip += dcp_strip_dims) {
        const int64_t width = dcp_strip_width(strip, rows->value_dim), bytes = dcp_lanes * width * format.element_bytes;
        const char *at = (const char *)values + (strip * rows->value_tokens + first * width) * format.element_bytes;
        dcp_prefetch(at + bytes * share / shares, at + bytes * (share + 1) / shares);
    }
}

static inline void dcp_score_lanes(const float *restrict query, dcp_view keys, int64_t key_dim, float *restrict out) {
    float total[dcp_lanes] = {0};
    for (int64_t run = 0; run < key_dim; run += 16) {
        const int64_t end = run + 16 < key_dim ? run + 16 : key_dim;
        float even[dcp_lanes] = {0}, odd[dcp_lanes] = {0};
        for (int64_t d = run; d < end; d += 2) {
            const float q0 = query[d], q1 = query[d + 1];
            const float *k0 = keys.at + d * keys.stride, *k1 = k0 + keys.stride;
            for (int i = 0; i < dcp_lanes; i++) even[i] += q0 * k0[i];
            for (int i = 0; i < dcp_lanes; i++) odd[i] += q1 * k1[i];
        }
        for (int i = 0; i < dcp_lanes; i++) total[i] += even[i] + odd[i];
    }
    for (int i = 0; i < dcp_lanes; i++) out[i] = total[i];
}

// out = out * factor + weights . values, over `width` dimensions.
static inline __attribute__((always_inline)) void dcp_add_values(const float *restrict weights, dcp_view values,
                                                                 int64_t tokens, int64_t width, float factor,
                                                                 float *restrict out) {
    float even[dcp_lanes] = {0}, odd[dcp_lanes] = {0};
    int64_t t = 0;
    for (; t + 1 < tokens; t += 2) {
        const float w0 = weights[t], w1 = weights[t + 1];
        const float *v0 = values.at + t * values.stride, *v1 = v0 + values.stride;
        for (int64_t i = 0; i < width; i++) even[i] += w0 * v0[i];
        for (int64_t i = 0; i < width; i++) odd[i] += w1 * v1[i];
    }
    if (t < tokens) {
        for (int64_t i = 0; i < width; i++) even[i] += weights[t] * values.at[t * values.stride + i];
    }
    for (int64_t i = 0; i < width; i++) out[i] = out[i] * factor + (even[i] + odd[i]);
}

static inline __attribute__((always_inline)) void dcp_attend_group(const dcp_attention_rows *rows, const void *keys,
                                                                   const void *values,
                                                                   dcp_token_ranges visible, int64_t first,
                                                                   int64_t tokens, dcp_cache_format format,
                                                                   dcp_load_keys *load_keys,
                                                                   dcp_load_values *load_values) {
    float scores[dcp_attention_rows_max][dcp_group_tokens];
    float factor[dcp_attention_rows_max];
    // The tokens begin..<end of the group that each row sees; none if begin == end.
    int32_t begin[dcp_attention_rows_max], end[dcp_attention_rows_max];
    for (int64_t r = 0; r < rows->rows; r++) {
        const dcp_seen_tokens seen = dcp_seen_by(r, visible);
        end[r] = dcp_clamped(seen.end - (int32_t)first, (int32_t)tokens);
        begin[r] = dcp_clamped(seen.first - (int32_t)first, end[r]);
    }
    // Up to 15 tokens beside the visible ones are scored as well. They are inside the panel, and their scores are replaced
    // before they are read.
    float key_scratch[dcp_key_dim_max * dcp_lanes];
    dcp_prefetch_keys(rows, format, keys, first, dcp_padded(tokens));
    for (int64_t t = 0; t < tokens; t += dcp_lanes) {
        const dcp_view lanes = load_keys(rows, keys, first + t, key_scratch);
        for (int64_t r = 0; r < rows->rows; r++) {
            dcp_prefetch_values(rows, format, values, first + t, r, rows->rows);
            if (t < end[r] && t + dcp_lanes > begin[r]) dcp_score_lanes(rows->queries + r * rows->key_dim, lanes, rows->key_dim, &scores[r][t]);
        }
    }
    for (int64_t r = 0; r < rows->rows; r++) {
        if (begin[r] == end[r]) continue;
        const int64_t start = begin[r] / dcp_lanes * dcp_lanes;
        factor[r] = dcp_softmax_row(scores[r] + start, begin[r] - start, end[r] - start, rows->scale, rows->soft_cap,
                                    &rows->maximum[r], &rows->sum[r]);
    }
    float value_scratch[dcp_group_tokens * dcp_lanes];
    for (int64_t dim = 0; dim < rows->value_dim; dim += dcp_lanes) {
        const int64_t width = rows->value_dim - dim < dcp_lanes ? rows->value_dim - dim : dcp_lanes;
        const dcp_view lanes = load_values(rows, values, first, tokens, dim, width, value_scratch);
        for (int64_t r = 0; r < rows->rows; r++) {
            if (begin[r] == end[r]) continue;
            float *out = rows->output + r * rows->value_dim + dim;
            const float *weights = scores[r] + begin[r];
            const dcp_view seen = {lanes.at + begin[r] * lanes.stride, lanes.stride};
            if (width == dcp_lanes) {
                dcp_add_values(weights, seen, end[r] - begin[r], dcp_lanes, factor[r], out);
            } else {
                dcp_add_values(weights, seen, end[r] - begin[r], width, factor[r], out);
            }
        }
    }
}

static inline __attribute__((always_inline)) void dcp_attend_over(const dcp_attention_rows *rows, const void *keys,
                                                                  const void *values, dcp_token_ranges visible,
                                                                  dcp_cache_format format, dcp_load_keys *load_keys,
                                                                  dcp_load_values *load_values) {
    const dcp_seen_tokens seen = dcp_seen_by_some(rows->rows, visible);
    // Groups begin at multiples of their size, wherever rows begin, so that the result of a row depends on no other row.
    const int64_t start = seen.first / dcp_group_tokens * dcp_group_tokens;
    for (int64_t first = start; first < seen.end; first += dcp_group_tokens) {
        const int64_t tokens = seen.end - first < dcp_group_tokens ? seen.end - first : dcp_group_tokens;
        dcp_attend_group(rows, keys, values, visible, first, tokens, format, load_keys, load_values);
    }
}

#endif
