// SPDX-License-Identifier: Apache-2.0
// Copies panels of any cache format into Float32 tiles.
#include "tiles.h"

#include "convert.h"
#include "panels_bytes.h"

void dcp_keys_to_tile(const dcp_panel_shape *shape, const void *keys, int64_t first, int64_t count,
                      float *restrict tile, int64_t stride) {
    switch (shape->format) {
    case dcp_bf16:
        for (int64_t pair = 0; pair < shape->key_dim / 2; pair++) {
            const uint32_t *words = (const uint32_t *)keys + pair * shape->block_tokens + first;
            float *even = tile + 2 * pair * stride, *odd = even + stride;
            for (int64_t t = 0; t < count; t++) even[t] = dcp_float(words[t] << 16);
            for (int64_t t = 0; t < count; t++) odd[t] = dcp_float(words[t] & 0xFFFF0000u);
        }
        break;
    case dcp_f16:
        for (int64_t d = 0; d < shape->key_dim; d++) {
            const uint16_t *halves = (const uint16_t *)keys + d * shape->block_tokens + first;
            for (int64_t t = 0; t < count; t++) tile[d * stride + t] = dcp_f16_to_f32(halves[t]);
        }
        break;
    case dcp_f32:
        for (int64_t d = 0; d < shape->key_dim; d++)
            memcpy(tile + d * stride, (const float *)keys + d * shape->block_tokens + first, 4 * (size_t)count);
        break;
    case dcp_int8:
    case dcp_fp8: {
        const float *scales = dcp_panel_scales(keys, shape->key_dim, shape->block_tokens) + first;
        const uint32_t *words = dcp_panel_words(keys, shape->key_dim, shape->block_tokens) + first;
        for (int64_t t = 0; t < count; t++) {
            uint8_t bytes[dcp_rotated_max];
            dcp_take_bytes(shape->format, 0, keys, shape->key_dim, shape->block_tokens, first + t, bytes);
            for (int64_t d = 0; d < shape->key_dim; d++)
                tile[d * stride + t] = dcp_byte_value(shape->format, bytes[d]) * scales[t];
            if (dcp_has_words(shape->format)) dcp_add_apart_rotated(words[t], tile + t, shape->key_dim, stride);
        }
        break;
    }
    default: __builtin_trap();
    }
}

// Copies a strip of `dim` dimensions into rows that are `stride` apart.
static void strip_to_tile(int32_t format, const void *strip, int64_t dim, int64_t first, int64_t count,
                          float *restrict tile, int64_t stride) {
    for (int64_t t = 0; t < count; t++, tile += stride) {
        const int64_t token = first + t;
        switch (format) {
        case dcp_bf16: {
            const uint32_t *words = (const uint32_t *)strip + token / 2 * dim;
            if (token % 2 == 0) {
                for (int64_t d = 0; d < dim; d++) tile[d] = dcp_float(words[d] << 16);
            } else {
                for (int64_t d = 0; d < dim; d++) tile[d] = dcp_float(words[d] & 0xFFFF0000u);
            }
            break;
        }
        case dcp_f16: {
            const uint16_t *halves = (const uint16_t *)strip + token * dim;
            for (int64_t d = 0; d < dim; d++) tile[d] = dcp_f16_to_f32(halves[d]);
            break;
        }
        case dcp_f32: memcpy(tile, (const float *)strip + token * dim, 4 * (size_t)dim); break;
        default: __builtin_trap();
        }
    }
}

void dcp_values_to_tile(const dcp_panel_shape *shape, const void *values, int64_t first, int64_t count,
                        float *restrict tile) {
    const int64_t dim = shape->value_dim, size = dcp_element_bytes(shape->format);
    if (dcp_has_scales(shape->format)) {
        const float *scales = dcp_panel_scales(values, dim, shape->block_tokens) + first;
        for (int64_t t = 0; t < count; t++) {
            uint8_t bytes[dcp_rotated_max];
            dcp_take_bytes(shape->format, 1, values, dim, shape->block_tokens, first + t, bytes);
            for (int64_t d = 0; d < dim; d++)
                tile[t * dim + d] = dcp_byte_value(shape->format, bytes[d]) * scales[t];
        }
        return;
    }
    for (int64_t strip = 0; strip < dim; strip += dcp_strip_dims) {
        strip_to_tile(shape->format, (const char *)values + strip * shape->block_tokens * size,
                      dcp_strip_width(strip, dim), first, count, tile + strip, dim);
    }
}
