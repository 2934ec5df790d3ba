// Values out of keys in scalar C: the twin of the vector ones.
#include "panels.h"

void dcp_values_of_keys_scalar(int32_t data_type, const void *keys, int64_t block_tokens, int64_t value_dim,
                               int64_t tokens, void *values) {
    switch (data_type) {
    case dcp_bf16:
        for (int64_t pair = 0; pair < value_dim / 2; pair++) {
            const uint32_t *words = (const uint32_t *)keys + pair * block_tokens;
            uint32_t *out = (uint32_t *)values + 2 * pair;
            for (int64_t t = 0; t < tokens; t += 2, out += value_dim) {
                out[0] = (words[t] & 0xFFFFu) | words[t + 1] << 16;
                out[1] = words[t] >> 16 | (words[t + 1] & 0xFFFF0000u);
            }
        }
        break;
    case dcp_f16:
        for (int64_t d = 0; d < value_dim; d++) {
            const uint16_t *halves = (const uint16_t *)keys + d * block_tokens;
            for (int64_t t = 0; t < tokens; t++) ((uint16_t *)values)[t * value_dim + d] = halves[t];
        }
        break;
    default:
        for (int64_t d = 0; d < value_dim; d++) {
            const uint32_t *words = (const uint32_t *)keys + d * block_tokens;
            for (int64_t t = 0; t < tokens; t++) ((uint32_t *)values)[t * value_dim + d] = words[t];
        }
    }
}
