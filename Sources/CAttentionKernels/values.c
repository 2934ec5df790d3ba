// SPDX-License-Identifier: Apache-2.0
// Values made of keys in scalar C: the twin of values_vector.h.
#include "strips.h"

// `keys` and `values` point to the strip's first dimension.
static void make_strip(int32_t format, const void *keys, int64_t block_tokens, int64_t dim, int64_t tokens,
                       void *values) {
    switch (format) {
    case dcp_bf16:
        for (int64_t pair = 0; pair < dim / 2; pair++) {
            const uint32_t *words = (const uint32_t *)keys + pair * block_tokens;
            uint32_t *out = (uint32_t *)values + 2 * pair;
            for (int64_t t = 0; t < tokens; t += 2, out += dim) {
                out[0] = (words[t] & 0xFFFFu) | words[t + 1] << 16;
                out[1] = words[t] >> 16 | (words[t + 1] & 0xFFFF0000u);
            }
        }
        break;
    case dcp_f16:
        for (int64_t d = 0; d < dim; d++) {
            const uint16_t *halves = (const uint16_t *)keys + d * block_tokens;
            for (int64_t t = 0; t < tokens; t++) ((uint16_t *)values)[t * dim + d] = halves[t];
        }
        break;
    case dcp_f32:
        for (int64_t d = 0; d < dim; d++) {
            const uint32_t *words = (const uint32_t *)keys + d * block_tokens;
            for (int64_t t = 0; t < tokens; t++) ((uint32_t *)values)[t * dim + d] = words[t];
        }
        break;
    default: __builtin_trap();
    }
}

void dcp_values_of_keys_scalar(int32_t format, const void *keys, int64_t block_tokens, int64_t value_dim,
                               int64_t tokens, void *values, int64_t value_tokens) {
    const int64_t size = dcp_element_bytes(format);
    for (int64_t strip = 0; strip < value_dim; strip += dcp_strip_dims) {
        make_strip(format, (const char *)keys + strip * block_tokens * size, block_tokens,
                   dcp_strip_width(strip, value_dim), tokens, (char *)values + strip * value_tokens * size);
    }
}
