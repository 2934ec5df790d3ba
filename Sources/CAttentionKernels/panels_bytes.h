// SPDX-License-Identifier: Apache-2.0
// Panels of formats with scales: bytes as K [Dk/i][blockTokens][i] and V [Dv/64][blockTokens/i][64][i], i of them
// interleaved. The scales of its tokens follow each panel, and behind those of int8 keys stand their words. A file for an instruction set includes this inside its target
// bracket and passes its function that widens rows. The compiler vectorises the loops, whose bits are the same for all
// sets.
//
// Bytes of int8 keys are the number plus 128, since VPDPBUSD multiplies unsigned bytes by signed ones.
#ifndef DCP_PANELS_BYTES_H
#define DCP_PANELS_BYTES_H

#include <math.h>

#include "apart.h"
#include "bytes.h"
#include "strips.h"

enum { dcp_byte_run = 16 };

#define DCP_BYTES_INLINE static inline __attribute__((always_inline))

DCP_BYTES_INLINE uint8_t dcp_key_offset(int format) { return format == dcp_int8 ? 0x80 : 0; }

DCP_BYTES_INLINE float *dcp_scales_of(void *panel, int64_t dim, int64_t block_tokens) {
    return (float *)((char *)panel + dim * block_tokens);
}
DCP_BYTES_INLINE uint32_t *dcp_words_of_keys(void *panel, int64_t dim, int64_t block_tokens) {
    return (uint32_t *)((char *)panel + (dim + 4) * block_tokens);
}

// Converts a row, which is lost, to bytes and, if it is a key of a format that has words, a word; otherwise that is 0. Returns
// the scale, or infinity if a number is not finite; the bytes are then 0.
DCP_BYTES_INLINE float dcp_to_bytes(int format, int is_key, float *row, int64_t dim, uint8_t *bytes, uint32_t *word) {
    if (dcp_has_words(format) && is_key) return dcp_key_to_int8(row, dim, bytes, word);
    *word = 0;
    const float most = dcp_row_magnitude(row, dim);
    if (most < INFINITY) {
        return format == dcp_fp8 ? dcp_fp8_row(row, dim, most, bytes) : dcp_int8_row(row, dim, most, bytes);
    }
    memset(bytes, 0, (size_t)dim);
    return INFINITY;
}

DCP_BYTES_INLINE void dcp_from_bytes(int format, int is_key, const uint8_t *restrict bytes, int64_t dim, float scale,
                                     uint32_t word, float *restrict row) {
    if (dcp_has_words(format) && is_key) {
        dcp_key_from_int8(bytes, dim, scale, word, row);
    } else {
        for (int64_t d = 0; d < dim; d++) row[d] = dcp_byte_value(format, bytes[d]) * scale;
    }
}

// The place of dimension `dim` of a token in a panel.
DCP_BYTES_INLINE int64_t dcp_key_byte(int format, int64_t block_tokens, int64_t token, int64_t dim) {
    const int64_t beside = dcp_format(format).interleaved;
    return (dim / beside * block_tokens + token) * beside + dim % beside;
}
DCP_BYTES_INLINE int64_t dcp_value_byte(int format, int64_t block_tokens, int64_t value_dim, int64_t token,
                                        int64_t dim) {
    const int64_t beside = dcp_format(format).interleaved, strip = dcp_strip_of(dim);
    const int64_t width = dcp_strip_width(strip, value_dim);
    return strip * block_tokens + (token / beside * width + dim - strip) * beside + token % beside;
}

// Writes the bytes of some tokens' rows into a K panel, in which a token's interleaved dimensions lie beside each other.
DCP_BYTES_INLINE void dcp_put_keys(int format, const uint8_t (*rows)[dcp_rotated_max], int64_t count, int64_t dim,
                                   int64_t block_tokens, uint8_t *panel, int64_t token) {
    const int64_t beside = dcp_format(format).interleaved;
    for (int64_t d = 0; d < dim; d += beside) {
        uint8_t *at = panel + dcp_key_byte(format, block_tokens, token, d);
        for (int64_t t = 0; t < count; t++, at += beside)
            for (int64_t i = 0; i < beside; i++) at[i] = rows[t][d + i] ^ dcp_key_offset(format);
    }
}

// Writes them into a V panel: interleaved tokens at once if all of them are there, others byte by byte.
DCP_BYTES_INLINE void dcp_put_values(int format, const uint8_t (*rows)[dcp_rotated_max], int64_t count, int64_t dim,
                                     int64_t block_tokens, uint8_t *panel, int64_t token) {
    const int64_t beside = dcp_format(format).interleaved;
    for (int64_t t = 0; t < count;) {
        const int is_whole = (token + t) % beside == 0 && t + beside <= count;
        for (int64_t strip = 0; strip < dim; strip += dcp_strip_dims) {
            const int64_t width = dcp_strip_width(strip, dim);
            uint8_t *at = panel + dcp_value_byte(format, block_tokens, dim, token + t, strip);
            if (is_whole) {
                for (int64_t d = 0; d < width; d++)
                    for (int64_t i = 0; i < beside; i++) at[d * beside + i] = rows[t + i][strip + d];
            } else {
                for (int64_t d = 0; d < width; d++) at[d * beside] = rows[t][strip + d];
            }
        }
        t += is_whole ? beside : 1;
    }
}

// Writes some rows of one head into one of its panels. Returns whether all were finite.
DCP_BYTES_INLINE int dcp_write_byte_rows(dcp_rows_converter *widen, int from, int to, int is_value, const char *rows,
                                         const uint32_t *source, int64_t count, int64_t dim, int64_t block_tokens,
                                         uint8_t *panel, int64_t first) {
    const int64_t row_bytes = dim * dcp_element_bytes(from);
    float *scales = dcp_scales_of(panel, dim, block_tokens);
    int finite = 1;
    for (int64_t done = 0; done < count; done += dcp_byte_run) {
        const int64_t some = count - done < dcp_byte_run ? count - done : dcp_byte_run;
        uint8_t bytes[dcp_byte_run][dcp_rotated_max];
        for (int64_t t = 0; t < some; t++) {
            float row[dcp_rotated_max];
            widen(from, rows + source[done + t] * row_bytes, dim, row);
            uint32_t word;
            const float scale = dcp_to_bytes(to, !is_value, row, dim, bytes[t], &word);
            finite &= scale < INFINITY;
            scales[first + done + t] = scale;
            if (dcp_has_words(to) && !is_value) dcp_words_of_keys(panel, dim, block_tokens)[first + done + t] = word;
        }
        if (is_value) {
            dcp_put_values(to, (const uint8_t(*)[dcp_rotated_max])bytes, some, dim, block_tokens, panel, first + done);
        } else {
            dcp_put_keys(to, (const uint8_t(*)[dcp_rotated_max])bytes, some, dim, block_tokens, panel, first + done);
        }
    }
    return finite;
}

DCP_BYTES_INLINE int dcp_write_bytes(dcp_rows_converter *widen, int from, int to, const dcp_panel_shape *shape,
                                     const char *keys, const char *values, int64_t row_tokens, const uint32_t *source,
                                     int64_t count, char *payload, int64_t first) {
    const int64_t key_bytes = dcp_key_panel_bytes(shape), size = row_tokens * dcp_element_bytes(from);
    int finite = 1;
    for (int64_t head = 0; head < shape->kv_heads; head++) {
        uint8_t *panel = (uint8_t *)payload + head * dcp_head_bytes(shape);
        finite &= dcp_write_byte_rows(widen, from, to, 0, keys + head * size * shape->key_dim, source, count,
                                      shape->key_dim, shape->block_tokens, panel, first);
        if (shape->value_dim == 0) continue;
        finite &= dcp_write_byte_rows(widen, from, to, 1, values + head * size * shape->value_dim, source, count,
                                      shape->value_dim, shape->block_tokens, panel + key_bytes, first);
    }
    return finite ? 0 : -1;
}

// Reads the bytes of one token, as dcp_to_bytes made them.
DCP_BYTES_INLINE void dcp_take_bytes(int format, int is_value, const uint8_t *panel, int64_t dim, int64_t block_tokens,
                                     int64_t token, uint8_t *restrict bytes) {
    if (is_value) {
        for (int64_t d = 0; d < dim; d++) bytes[d] = panel[dcp_value_byte(format, block_tokens, dim, token, d)];
    } else {
        for (int64_t d = 0; d < dim; d++)
            bytes[d] = panel[dcp_key_byte(format, block_tokens, token, d)] ^ dcp_key_offset(format);
    }
}

// Reads rows of one panel as Float32; the rows of successive tokens are `stride` bytes apart.
DCP_BYTES_INLINE void dcp_read_byte_rows(int format, int is_value, const uint8_t *panel, int64_t dim,
                                         int64_t block_tokens, int64_t first, int64_t count, char *out,
                                         int64_t stride) {
    const float *scales = dcp_panel_scales(panel, dim, block_tokens);
    const uint32_t *words = dcp_panel_words(panel, dim, block_tokens);
    const int has_words = dcp_has_words(format) && !is_value;
    for (int64_t t = 0; t < count; t++, out += stride) {
        uint8_t bytes[dcp_rotated_max];
        float row[dcp_rotated_max];
        dcp_take_bytes(format, is_value, panel, dim, block_tokens, first + t, bytes);
        dcp_from_bytes(format, !is_value, bytes, dim, scales[first + t], has_words ? words[first + t] : 0, row);
        memcpy(out, row, 4 * (size_t)dim);
    }
}

DCP_BYTES_INLINE void dcp_read_bytes(int format, const dcp_panel_shape *shape, const char *payload, int64_t first,
                                     int64_t count, char *keys, char *values) {
    const int64_t size = dcp_element_bytes(dcp_row_type_of(format)), heads = shape->kv_heads;
    const int64_t key_row = shape->key_dim * size, value_row = shape->value_dim * size;
    for (int64_t head = 0; head < heads; head++) {
        const uint8_t *panel = (const uint8_t *)payload + head * dcp_head_bytes(shape);
        dcp_read_byte_rows(format, 0, panel, shape->key_dim, shape->block_tokens, first, count, keys + head * key_row,
                           heads * key_row);
        if (shape->value_dim == 0) continue;
        dcp_read_byte_rows(format, 1, panel + dcp_key_panel_bytes(shape), shape->value_dim, shape->block_tokens, first,
                           count, values + head * value_row, heads * value_row);
    }
}

#endif
