// SPDX-License-Identifier: Apache-2.0
// Panels in scalar C: the twins of the vector writers, readers and converters.
#include "panels.h"

#include <string.h>

#include "convert.h"
#include "panels_bytes.h"
#include "strips.h"

static float row_element(int32_t row_type, const void *rows, int64_t index) {
    float value;
    uint16_t bits;
    switch (row_type) {
    case dcp_f32: memcpy(&value, (const char *)rows + 4 * index, 4); return value;
    case dcp_bf16: memcpy(&bits, (const char *)rows + 2 * index, 2); return dcp_bf16_to_f32(bits);
    case dcp_f16: memcpy(&bits, (const char *)rows + 2 * index, 2); return dcp_f16_to_f32(bits);
    default: __builtin_trap();
    }
}

// The bits of an element in the panel's format. If that is the row's dtype they are copied, so a signalling NaN stays one.
static uint32_t converted(int32_t row_type, const void *rows, int64_t index, int32_t format) {
    if (row_type == format && format != dcp_f32) {
        uint16_t bits;
        memcpy(&bits, (const char *)rows + 2 * index, 2);
        return bits;
    }
    const float value = row_element(row_type, rows, index);
    switch (format) {
    case dcp_bf16: return dcp_f32_to_bf16(value);
    case dcp_f16: return dcp_f32_to_f16(value);
    case dcp_f32: return dcp_bits(value);
    default: __builtin_trap();
    }
}

static int write_element(int32_t format, void *panel, int64_t index, uint32_t bits) {
    if (format == dcp_f32) {
        ((uint32_t *)panel)[index] = bits;
        return (bits & 0x7F800000u) != 0x7F800000u;
    }
    ((uint16_t *)panel)[index] = (uint16_t)bits;
    const uint32_t exponent = format == dcp_bf16 ? 0x7F80 : 0x7C00;
    return (bits & exponent) != exponent;
}

// Element offsets inside one KV head's K panel and V panel.
static int64_t key_index(const dcp_panel_shape *s, int64_t token, int64_t dim) {
    if (s->format == dcp_bf16) return ((dim / 2) * s->block_tokens + token) * 2 + dim % 2;
    return dim * s->block_tokens + token;
}
static int64_t value_index(const dcp_panel_shape *s, int64_t token, int64_t dim) {
    const int64_t strip = dcp_strip_of(dim), width = dcp_strip_width(strip, s->value_dim);
    const int64_t start = strip * s->block_tokens, place = dim - strip;
    if (s->format == dcp_bf16) return start + (token / 2 * width + place) * 2 + token % 2;
    return start + token * width + place;
}

int dcp_panel_write_scalar(const dcp_panel_shape *s, int32_t row_type, const void *keys, const void *values,
                           int64_t row_tokens, const uint32_t *source, int64_t count, void *payload, int64_t first,
                           int streams) {
    (void)streams;
    if (dcp_has_scales(s->format)) {
        // The formats are constants, as in the functions of an instruction set.
        return s->format == dcp_int8
                   ? dcp_write_bytes(dcp_rows_to_f32_scalar, row_type, dcp_int8, s, keys, values, row_tokens, source,
                                     count, payload, first)
                   : dcp_write_bytes(dcp_rows_to_f32_scalar, row_type, dcp_fp8, s, keys, values, row_tokens, source,
                                     count, payload, first);
    }
    const int64_t size = dcp_element_bytes(s->format);
    const int64_t head_bytes = (int64_t)s->block_tokens * (s->key_dim + s->value_dim) * size;
    int finite = 1;
    for (int64_t head = 0; head < s->kv_heads; head++) {
        char *k = (char *)payload + head * head_bytes;
        char *v = k + (int64_t)s->block_tokens * s->key_dim * size;
        for (int64_t i = 0; i < count; i++) {
            const int64_t row = head * row_tokens + source[i];
            for (int64_t d = 0; d < s->key_dim; d++)
                finite &= write_element(s->format, k, key_index(s, first + i, d),
                                        converted(row_type, keys, row * s->key_dim + d, s->format));
            for (int64_t d = 0; d < s->value_dim; d++)
                finite &= write_element(s->format, v, value_index(s, first + i, d),
                                        converted(row_type, values, row * s->value_dim + d, s->format));
        }
    }
    return finite ? 0 : -1;
}

static void read_token(const dcp_panel_shape *s, const void *payload, int64_t token, char *keys, char *values) {
    const int64_t size = dcp_element_bytes(s->format);
    const int64_t head_bytes = (int64_t)s->block_tokens * (s->key_dim + s->value_dim) * size;
    for (int64_t head = 0; head < s->kv_heads; head++) {
        const char *k = (const char *)payload + head * head_bytes;
        const char *v = k + (int64_t)s->block_tokens * s->key_dim * size;
        char *key = keys + head * s->key_dim * size;
        char *value = values + head * s->value_dim * size;
        for (int64_t d = 0; d < s->key_dim; d++) memcpy(key + size * d, k + size * key_index(s, token, d), (size_t)size);
        for (int64_t d = 0; d < s->value_dim; d++) {
            memcpy(value + size * d, v + size * value_index(s, token, d), (size_t)size);
        }
    }
}

void dcp_panel_read_scalar(const dcp_panel_shape *s, const void *payload, int64_t first, int64_t count, void *keys,
                           void *values) {
    if (s->format == dcp_int8) return dcp_read_bytes(dcp_int8, s, payload, first, count, keys, values);
    if (s->format == dcp_fp8) return dcp_read_bytes(dcp_fp8, s, payload, first, count, keys, values);
    const int64_t size = dcp_element_bytes(s->format);
    for (int64_t t = 0; t < count; t++) {
        read_token(s, payload, first + t, (char *)keys + t * s->kv_heads * s->key_dim * size,
                   (char *)values + t * s->kv_heads * s->value_dim * size);
    }
}

int dcp_rows_to_f32_scalar(int32_t row_type, const void *rows, int64_t count, float *out) {
    int finite = 1;
    for (int64_t i = 0; i < count; i++) {
        out[i] = row_element(row_type, rows, i);
        finite &= dcp_f32_is_finite(out[i]);
    }
    return finite ? 0 : -1;
}
