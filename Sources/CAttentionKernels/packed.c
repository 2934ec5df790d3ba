// SPDX-License-Identifier: Apache-2.0
// Packed tokens of formats with scales, and the rotation and rounding of rows.
#include <string.h>

#include "panels.h"
#include "panels_bytes.h"

int64_t dcp_packed_bytes(const dcp_panel_shape *shape) {
    const int64_t scales = shape->value_dim > 0 ? 8 : 4, words = dcp_has_words(shape->format) ? 4 : 0;
    return shape->kv_heads * (shape->key_dim + shape->value_dim + scales + words);
}

// The places of the bytes, of the scale and of the word of one head's row in a packed token; -1 if it has no word.
typedef struct {
    int64_t bytes, scale, word;
} place;

static place place_of(const dcp_panel_shape *s, int64_t head, int is_value) {
    const int64_t heads = s->kv_heads, scales = heads * (s->key_dim + s->value_dim);
    if (is_value) return (place){heads * s->key_dim + head * s->value_dim, scales + 4 * (heads + head), -1};
    const int64_t words = scales + (s->value_dim > 0 ? 8 : 4) * heads;
    return (place){head * s->key_dim, scales + 4 * head, dcp_has_words(s->format) ? words + 4 * head : -1};
}

void dcp_packed_read(const dcp_panel_shape *s, const void *payload, int64_t token, void *packed) {
    for (int64_t head = 0; head < s->kv_heads; head++) {
        const uint8_t *panel = (const uint8_t *)payload + head * dcp_head_bytes(s);
        for (int is_value = 0; is_value <= (s->value_dim > 0); is_value++) {
            const int64_t dim = is_value ? s->value_dim : s->key_dim;
            const place at = place_of(s, head, is_value);
            dcp_take_bytes(s->format, is_value, panel, dim, s->block_tokens, token, (uint8_t *)packed + at.bytes);
            memcpy((char *)packed + at.scale, dcp_panel_scales(panel, dim, s->block_tokens) + token, 4);
            if (at.word >= 0) memcpy((char *)packed + at.word, dcp_panel_words(panel, dim, s->block_tokens) + token, 4);
            panel += dcp_key_panel_bytes(s);
        }
    }
}

void dcp_packed_write(const dcp_panel_shape *s, const void *packed, void *payload, int64_t token) {
    for (int64_t head = 0; head < s->kv_heads; head++) {
        uint8_t *panel = (uint8_t *)payload + head * dcp_head_bytes(s);
        for (int is_value = 0; is_value <= (s->value_dim > 0); is_value++) {
            const int64_t dim = is_value ? s->value_dim : s->key_dim;
            const place at = place_of(s, head, is_value);
            uint8_t row[1][dcp_rotated_max];
            memcpy(row[0], (const uint8_t *)packed + at.bytes, (size_t)dim);
            if (is_value) {
                dcp_put_values(s->format, (const uint8_t(*)[dcp_rotated_max])row, 1, dim, s->block_tokens, panel, token);
            } else {
                dcp_put_keys(s->format, (const uint8_t(*)[dcp_rotated_max])row, 1, dim, s->block_tokens, panel, token);
            }
            memcpy(dcp_scales_of(panel, dim, s->block_tokens) + token, (const char *)packed + at.scale, 4);
            if (at.word >= 0)
                memcpy(dcp_words_of_keys(panel, dim, s->block_tokens) + token, (const char *)packed + at.word, 4);
            panel += dcp_key_panel_bytes(s);
        }
    }
}

void dcp_rotate_rows(float *rows, int64_t count, int64_t dim) {
    for (int64_t r = 0; r < count; r++) dcp_rotate(rows + r * dim, dim);
}

int dcp_round_row(int32_t format, int is_key, float *row, int64_t dim) {
    uint8_t bytes[dcp_rotated_max];
    uint32_t word;
    const float scale = dcp_to_bytes(format, is_key, row, dim, bytes, &word);
    if (!(scale < INFINITY)) return -1;
    dcp_from_bytes(format, is_key, bytes, dim, scale, word, row);
    return 0;
}
