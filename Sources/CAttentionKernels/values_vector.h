// SPDX-License-Identifier: Apache-2.0
// Makes a V panel, as the attention kernels read it, of the first dimensions of keys: a transpose in tiles of registers,
// over the operations of panels_words.h and one more:
//
//   words_raise(words)             moves the low halves to the high halves, and zeroes the low ones
//
// Tokens and dimensions that do not fill a tile are covered by a tile that overlaps the one before, and writes the same
// numbers again.
#ifndef DCP_VALUES_VECTOR_H
#define DCP_VALUES_VECTOR_H

#include "panels_words.h"

// A tile of f32 is a square of words. A tile of bf16 turns pairs of dimensions into pairs of tokens, and has twice as many
// tokens as dimensions. A tile of f16 is twice as large in both directions.
DCP_PANEL_INLINE int64_t dcp_tile_tokens(int type) { return type == dcp_f32 ? dcp_width : 2 * dcp_width; }
DCP_PANEL_INLINE int64_t dcp_tile_dims(int type) { return type == dcp_f16 ? 2 * dcp_width : dcp_width; }

// Transposes a tile of a strip of `width` dimensions, from the strip's dimension `dim` on. `keys` and `values` point to the
// strip's first dimension.
DCP_PANEL_INLINE void dcp_values_tile(int type, const char *keys, int64_t block_tokens, int64_t width, int64_t token,
                                      int64_t dim, char *values) {
    const int64_t size = dcp_element_bytes(type), row_bytes = width * size;
    char *out = values + token * row_bytes + dim * (type == dcp_bf16 ? 4 : size);
    dcp_words tile[dcp_width];
    if (type == dcp_f32) {
        const char *at = keys + (dim * block_tokens + token) * 4;
        DCP_PANEL_UNROLL
        for (int i = 0; i < dcp_width; i++) tile[i] = words_load(at + i * block_tokens * 4);
        words_transpose(tile);
        DCP_PANEL_UNROLL
        for (int i = 0; i < dcp_width; i++) words_store(out + i * row_bytes, tile[i]);
    } else if (type == dcp_bf16) {
        const char *at = keys + (dim / 2 * block_tokens + token) * 4;
        DCP_PANEL_UNROLL
        for (int i = 0; i < dcp_width / 2; i++, at += block_tokens * 4) {
            const dcp_words a = words_load(at), b = words_load(at + 4 * dcp_width);
            tile[2 * i] = words_pack_bf16(words_raise(a), words_raise(b));
            tile[2 * i + 1] = words_pack_bf16(a, b);
        }
        words_transpose(tile);
        DCP_PANEL_UNROLL
        for (int i = 0; i < dcp_width; i++) words_store(out + i * 2 * row_bytes, tile[i]);
    } else {
        const char *at = keys + (dim * block_tokens + token) * 2;
        DCP_PANEL_UNROLL
        for (int odd = 0; odd < 2; odd++) {
            DCP_PANEL_UNROLL
            for (int i = 0; i < dcp_width; i++) {
                const char *pair = at + i * block_tokens * 4;
                const dcp_words a = words_load(pair), b = words_load(pair + block_tokens * 2);
                tile[i] = odd ? words_pair_high(a, b) : words_pair_high(words_raise(a), words_raise(b));
            }
            words_transpose(tile);
            DCP_PANEL_UNROLL
            for (int i = 0; i < dcp_width; i++) words_store(out + (2 * i + odd) * row_bytes, tile[i]);
        }
    }
}

DCP_PANEL_INLINE void dcp_transpose_strip(int type, const char *keys, int64_t block_tokens, int64_t width,
                                          int64_t tokens, char *values) {
    const int64_t tile_tokens = dcp_tile_tokens(type), tile_dims = dcp_tile_dims(type);
    if (tokens < tile_tokens || width < tile_dims) {
        dcp_values_of_keys_scalar(type, keys, block_tokens, width, tokens, values, tokens);
        return;
    }
    for (int64_t d = 0; d < width; d += tile_dims) {
        const int64_t dim = d + tile_dims <= width ? d : width - tile_dims;
        for (int64_t t = 0; t < tokens; t += tile_tokens) {
            const int64_t token = t + tile_tokens <= tokens ? t : tokens - tile_tokens;
            dcp_values_tile(type, keys, block_tokens, width, token, dim, values);
        }
    }
}

DCP_PANEL_INLINE void dcp_transpose_values(int type, const char *keys, int64_t block_tokens, int64_t value_dim,
                                           int64_t tokens, char *values, int64_t value_tokens) {
    // Values of formats with scales are never made of keys.
    if (dcp_has_scales(type)) __builtin_trap();
    const int64_t size = dcp_element_bytes(type);
    for (int64_t strip = 0; strip < value_dim; strip += dcp_strip_dims) {
        dcp_transpose_strip(type, keys + strip * block_tokens * size, block_tokens, dcp_strip_width(strip, value_dim),
                            tokens, values + strip * value_tokens * size);
    }
}

#define DCP_VALUES_CASE(name, number, ...)                                                                             \
    case number: dcp_transpose_values(number, keys, block_tokens, value_dim, tokens, values, value_tokens); break;

#define DCP_VALUES_OF_KEYS(set)                                                                                        \
    void dcp_values_of_keys_##set(int32_t format, const void *keys, int64_t block_tokens, int64_t value_dim,           \
                                  int64_t tokens, void *values, int64_t value_tokens) {                                \
        switch (format) {                                                                                              \
            DCP_CACHE_FORMATS(DCP_VALUES_CASE, )                                                                       \
        default: __builtin_trap();                                                                                     \
        }                                                                                                              \
    }

#endif
