// Panels in scalar C: writing rows into them and reading rows back.
#include "panels.h"

#include <string.h>

#include "convert.h"

static int write_element(int32_t data_type, void *at, float value) {
    switch (data_type) {
    case dcp_f32: memcpy(at, &value, 4); return dcp_f32_is_finite(value);
    case dcp_bf16: {
        uint16_t bits = dcp_f32_to_bf16(value);
        memcpy(at, &bits, 2);
        return (bits & 0x7F80) != 0x7F80;
    }
    default: {
        uint16_t bits = dcp_f32_to_f16(value);
        memcpy(at, &bits, 2);
        return (bits & 0x7C00) != 0x7C00;
    }
    }
}

static float row_element(int32_t row_type, const void *rows, int64_t index) {
    if (row_type == dcp_f32) {
        float value;
        memcpy(&value, (const char *)rows + 4 * index, 4);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, (const char *)rows + 2 * index, 2);
    return row_type == dcp_bf16 ? dcp_bf16_to_f32(bits) : dcp_f16_to_f32(bits);
}

static int64_t element_size(int32_t data_type) { return data_type == dcp_f32 ? 4 : 2; }

// Element offsets inside one KV head's K panel and V panel.
static int64_t key_index(const dcp_panel_shape *s, int64_t token, int64_t dim) {
    if (s->data_type == dcp_bf16) return ((dim / 2) * s->block_tokens + token) * 2 + dim % 2;
    return dim * s->block_tokens + token;
}
static int64_t value_index(const dcp_panel_shape *s, int64_t token, int64_t dim) {
    if (s->data_type == dcp_bf16) return ((token / 2) * s->value_dim + dim) * 2 + token % 2;
    return token * s->value_dim + dim;
}

int dcp_panel_write(const dcp_panel_shape *s, int32_t row_type, const void *keys, const void *values,
                    int64_t row_tokens, const uint32_t *source, int64_t count, void *payload, int64_t first) {
    const int64_t size = element_size(s->data_type);
    const int64_t head_bytes = (int64_t)s->block_tokens * (s->key_dim + s->value_dim) * size;
    int finite = 1;
    for (int64_t head = 0; head < s->kv_heads; head++) {
        char *k = (char *)payload + head * head_bytes;
        char *v = k + (int64_t)s->block_tokens * s->key_dim * size;
        for (int64_t i = 0; i < count; i++) {
            const int64_t row = head * row_tokens + source[i];
            for (int64_t d = 0; d < s->key_dim; d++)
                finite &= write_element(s->data_type, k + size * key_index(s, first + i, d),
                                        row_element(row_type, keys, row * s->key_dim + d));
            for (int64_t d = 0; d < s->value_dim; d++)
                finite &= write_element(s->data_type, v + size * value_index(s, first + i, d),
                                        row_element(row_type, values, row * s->value_dim + d));
        }
    }
    return finite ? 0 : -1;
}

void dcp_panel_read(const dcp_panel_shape *s, const void *payload, int64_t token, void *row) {
    const int64_t size = element_size(s->data_type);
    const int64_t head_bytes = (int64_t)s->block_tokens * (s->key_dim + s->value_dim) * size;
    char *out = row;
    for (int64_t head = 0; head < s->kv_heads; head++) {
        const char *k = (const char *)payload + head * head_bytes;
        for (int64_t d = 0; d < s->key_dim; d++, out += size) memcpy(out, k + size * key_index(s, token, d), size);
    }
    for (int64_t head = 0; head < s->kv_heads; head++) {
        const char *v = (const char *)payload + head * head_bytes + (int64_t)s->block_tokens * s->key_dim * size;
        for (int64_t d = 0; d < s->value_dim; d++, out += size) memcpy(out, v + size * value_index(s, token, d), size);
    }
}

int dcp_rows_to_f32(int32_t row_type, const void *rows, int64_t count, float *out) {
    int finite = 1;
    for (int64_t i = 0; i < count; i++) {
        out[i] = row_element(row_type, rows, i);
        finite &= dcp_f32_is_finite(out[i]);
    }
    return finite ? 0 : -1;
}
