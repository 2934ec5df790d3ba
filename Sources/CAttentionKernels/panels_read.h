// SPDX-License-Identifier: Apache-2.0
// The panel reader of an instruction set, over the operations that panels_words.h lists: it undoes the writer's transpose.
// Tokens and words that do not fill a tile are covered by a tile that overlaps the one before, and repeats its results.
#ifndef DCP_PANELS_READ_H
#define DCP_PANELS_READ_H

#include "panels_bytes.h"
#include "panels_words.h"

// Loads word `word` of a K panel for dcp_width tokens from `token` on. For f16 a word is two dimensions, which lie in
// separate lines.
DCP_PANEL_INLINE dcp_words dcp_key_words(int type, const char *panel, int64_t block_tokens, int64_t token,
                                         int64_t word) {
    if (type != dcp_f16) return words_load(panel + 4 * (word * block_tokens + token));
    const char *at = panel + 2 * (2 * word * block_tokens + token);
    return words_pair_high(words_from_bf16(at), words_from_bf16(at + 2 * block_tokens));
}

DCP_PANEL_INLINE uint32_t dcp_key_word(int type, const char *panel, int64_t block_tokens, int64_t token,
                                       int64_t word) {
    uint32_t bits;
    if (type != dcp_f16) {
        memcpy(&bits, panel + 4 * (word * block_tokens + token), 4);
        return bits;
    }
    uint16_t low, high;
    memcpy(&low, panel + 2 * (2 * word * block_tokens + token), 2);
    memcpy(&high, panel + 2 * ((2 * word + 1) * block_tokens + token), 2);
    return low | (uint32_t)high << 16;
}

// Reads the keys of one head; the rows of successive tokens are `stride` bytes apart. Each line of a row is written whole:
// all words of some tokens are written before those of the next tokens. Meanwhile what is read next is prefetched, since a
// panel's lines are read in an order that hardware prefetch does not follow.
DCP_PANEL_INLINE void dcp_read_keys(int type, const char *panel, int64_t block_tokens, int64_t dim, int64_t first,
                                    int64_t count, char *out, int64_t stride, const char *next, int64_t next_bytes) {
    const int64_t words = dcp_words_of(type, dim);
    if (count < dcp_width || words < dcp_width) {
        for (int64_t t = 0; t < count; t++) {
            for (int64_t w = 0; w < words; w++) {
                const uint32_t bits = dcp_key_word(type, panel, block_tokens, first + t, w);
                memcpy(out + t * stride + 4 * w, &bits, 4);
            }
        }
        return;
    }
    const int64_t share = next_bytes * dcp_width / count / 64 * 64;
    for (int64_t t = 0; t < count; t += dcp_width, next += share) {
        for (int64_t byte = 0; byte < share; byte += 64) __builtin_prefetch(next + byte, 0, 2);
        const int64_t token = t + dcp_width <= count ? t : count - dcp_width;
        for (int64_t w = 0; w < words; w += dcp_width) {
            const int64_t word = w + dcp_width <= words ? w : words - dcp_width;
            dcp_words tile[dcp_width];
            DCP_PANEL_UNROLL
            for (int i = 0; i < dcp_width; i++) {
                tile[i] = dcp_key_words(type, panel, block_tokens, first + token, word + i);
            }
            words_transpose(tile);
            DCP_PANEL_UNROLL
            for (int i = 0; i < dcp_width; i++) words_store(out + (token + i) * stride + 4 * word, tile[i]);
        }
    }
}

// Reads one token of a bf16 pair, whose other token may be written meanwhile.
DCP_PANEL_INLINE void dcp_read_value_half(const char *strip, int64_t dim, int64_t token, char *out) {
    const char *at = strip + (token / 2 * 2 * dim + token % 2) * 2;
    for (int64_t d = 0; d < dim; d++) memcpy(out + 2 * d, at + 4 * d, 2);
}

// Reads a strip of a token's values, and of the next token's if there is a row for it.
DCP_PANEL_INLINE void dcp_read_value_strip(int type, const char *strip, int64_t dim, int64_t token, char *row,
                                           char *next_row) {
    const char *at = strip + token * dim * dcp_element_bytes(type);
    if (type != dcp_bf16) {
        memcpy(row, at, (size_t)(dim * dcp_element_bytes(type)));
    } else if (next_row != NULL && dim >= dcp_width) {
        for (int64_t d = 0; d < dim; d += dcp_width) {
            const int64_t here = d + dcp_width <= dim ? d : dim - dcp_width;
            const dcp_words words = words_load(at + 4 * here);
            words_store_low(row + 2 * here, words);
            words_store_high(next_row + 2 * here, words);
        }
    } else {
        dcp_read_value_half(strip, dim, token, row);
        if (next_row != NULL) dcp_read_value_half(strip, dim, token + 1, next_row);
    }
}

// Reads the values of one head.
DCP_PANEL_INLINE void dcp_read_values(int type, const char *panel, int64_t block_tokens, int64_t dim, int64_t first,
                                      int64_t count, char *out, int64_t stride) {
    for (int64_t t = 0; t < count;) {
        const int64_t token = first + t;
        const int64_t taken = type == dcp_bf16 && token % 2 == 0 && t + 1 < count ? 2 : 1;
        for (int64_t strip = 0; strip < dim; strip += dcp_strip_dims) {
            char *row = out + t * stride + strip * dcp_element_bytes(type);
            dcp_read_value_strip(type, panel + strip * block_tokens * dcp_element_bytes(type), dcp_strip_width(strip, dim),
                                 token, row, taken == 2 ? row + stride : NULL);
        }
        t += taken;
    }
}

DCP_PANEL_INLINE void dcp_read_panels(int type, const dcp_panel_shape *shape, const char *payload, int64_t first,
                                      int64_t count, char *keys, char *values) {
    const int64_t size = dcp_element_bytes(type);
    const int64_t key_bytes = shape->key_dim * size, value_bytes = shape->value_dim * size;
    for (int64_t head = 0; head < shape->kv_heads; head++) {
        const char *panel = payload + head * shape->block_tokens * (key_bytes + value_bytes);
        const int64_t head_bytes = shape->block_tokens * (key_bytes + value_bytes);
        dcp_read_keys(type, panel, shape->block_tokens, shape->key_dim, first, count, keys + head * key_bytes,
                      shape->kv_heads * key_bytes, panel + head_bytes, head + 1 < shape->kv_heads ? head_bytes : 0);
        dcp_read_values(type, panel + shape->block_tokens * key_bytes, shape->block_tokens, shape->value_dim, first,
                        count, values + head * value_bytes, shape->kv_heads * value_bytes);
    }
}

// The reader of an instruction set, with a case for each format.
#define DCP_READ_CASE(name, number, ...)                                                                               \
    case number:                                                                                                       \
        if (dcp_has_scales(number)) {                                                                                  \
            dcp_read_bytes(number, shape, payload, first, count, keys, values);                                        \
        } else {                                                                                                       \
            dcp_read_panels(number, shape, payload, first, count, keys, values);                                       \
        }                                                                                                              \
        break;

#define DCP_PANEL_READER(set)                                                                                          \
    void dcp_panel_read_##set(const dcp_panel_shape *shape, const void *payload, int64_t first, int64_t count,         \
                              void *keys, void *values) {                                                              \
        switch (shape->format) {                                                                                       \
            DCP_CACHE_FORMATS(DCP_READ_CASE, )                                                                         \
        default: __builtin_trap();                                                                                     \
        }                                                                                                              \
    }

#endif
