// SPDX-License-Identifier: Apache-2.0
// Scores and weighted values of int8 panels by integer products of bytes: the tiles of attend_tiles.h for an instruction
// set that defines DCP_BYTE_DOT. Included by attend_tiles.h and attend_weights.h.
//
// Queries and weights are 16-bit numbers of two bytes, with a unit for each row. The high bytes are multiplied first, the
// sums are multiplied by 256, and the products of the low bytes are added. K is unsigned, the number plus 128, and a
// constant for each row takes the 128 back. Integers wrap around on the way and are exact in the end, in any order. So the
// bits of a row depend neither on tiles nor on the rows beside it. Tokens that a row does not see have a weight of 0.
//
// DCP_BYTES_ALIKE is for instructions that multiply bytes that are both signed or both unsigned. With it, the highest bit
// of a panel's bytes is flipped as they are loaded: keys are then signed, and values are the number plus 128, which a
// constant for each row takes back. The resulting integers are the same.
#ifndef DCP_ATTEND_BYTES_H
#define DCP_ATTEND_BYTES_H

#include "attend_loads.h"

#ifdef DCP_BYTE_DOT

#ifdef DCP_BYTES_ALIKE
enum { dcp_bytes_alike = 1 };
#define dcp_add_key_bytes(c, keys, query) words_add_signed(c, keys, query)
#define dcp_add_value_bytes(c, weights, values) words_add_unsigned(c, weights, values)
#else
enum { dcp_bytes_alike = 0 };
#define dcp_add_key_bytes(c, keys, query) words_add_bytes(c, keys, query)
#define dcp_add_value_bytes(c, weights, values) words_add_bytes(c, weights, values)
#endif

// Bytes of a panel in the form in which they are multiplied.
DCP_INLINE dcp_words dcp_multiplied(dcp_words bytes) { return dcp_bytes_alike ? words_flip_signs(bytes) : bytes; }

// One row of what dcp_byte_queries makes.
DCP_INLINE const char *dcp_byte_query(const dcp_attention_rows *rows, int64_t row) {
    return (const char *)rows->query_terms + row * dcp_byte_query_bytes(rows->key_dim);
}

DCP_INLINE void dcp_score_bytes(int count, int vectors, dcp_group *group, int64_t row, int64_t token) {
    const dcp_attention_rows *rows = group->rows;
    const int64_t dim = rows->key_dim, word_bytes = 4 * (int64_t)rows->block_tokens;
    dcp_prefetching prefetching = dcp_begin_prefetching(group);
    dcp_words total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = words_set1(0);
    }
    for (int term = 0; term < 2; term++) {
        const char *keys = group->keys + 4 * token, *query = dcp_byte_query(rows, row) + term * dim;
        if (term == 1) {
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) total[r][v] = words_raise_byte(total[r][v]);
            }
        }
        for (int64_t d = 0; d < dim; d += 4, keys += word_bytes) {
            dcp_prefetch_share(group, &prefetching, group->key_bytes);
            dcp_words words[4];
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) words[v] = dcp_multiplied(words_load((const uint32_t *)keys + v * dcp_width));
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                uint32_t bytes;
                memcpy(&bytes, query + r * dcp_byte_query_bytes(dim) + d, 4);
                const dcp_words both = words_set1(bytes);
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) total[r][v] = dcp_add_key_bytes(total[r][v], words[v], both);
            }
        }
    }
    dcp_end_prefetching(group, prefetching);
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const dcp_byte_unit unit = *(const dcp_byte_unit *)(dcp_byte_query(rows, row + r) + 2 * dim);
        const dcp_words offset = words_set1((uint32_t)(dcp_bytes_alike ? 0 : unit.offset));
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) {
            const int64_t at = token + v * dcp_width;
            const dcp_vec number = words_to_float(words_sum(total[r][v], offset));
            vec_store(&group->scores[row + r][at],
                      vec_mul(number, vec_mul(vec_set1(unit.unit), vec_load(group->key_scales + at))));
        }
    }
}

// Makes 16-bit numbers, of which the largest is 65535, of a row's weights times the scales of their values.
DCP_INLINE void dcp_split_byte_weights(dcp_group *group, int64_t row, int64_t padded) {
    float *weights = group->scores[row];
    dcp_vec most = vec_zero();
    for (int64_t t = 0; t < padded; t += dcp_width) {
        const dcp_vec scaled = vec_mul_nonzero(vec_load(weights + t), vec_load(group->value_scales + t));
        most = vec_max(scaled, most);
        vec_store(weights + t, scaled);
    }
    const float highest = vec_max_lanes(most);
    // Weights below this would leave nothing of an output, and their inverse could be infinite.
    const int is_some = highest > 0x1p-100f;
    const dcp_vec inverse = vec_set1(is_some ? 65535.0f / highest : 0.0f);
    group->weight_units[row] = is_some ? highest / 65535.0f : 0.0f;
    for (int64_t t = 0; t < dcp_group_tokens; t += dcp_width) {
        const dcp_vec number = t < padded ? vec_mul(vec_load(weights + t), inverse) : vec_zero();
        vec_store_halves(group->byte_weights[0][row] + t, group->byte_weights[1][row] + t, number);
    }
    if (dcp_bytes_alike) {
        const uint8_t *high = group->byte_weights[0][row], *low = group->byte_weights[1][row];
        int32_t sum = 0;
        for (int64_t t = 0; t < dcp_group_tokens; t++) sum += 256 * high[t] + low[t];
        group->weight_offsets[row] = -128 * sum;
    }
}

// `values` points to the group's first token; `quads` is the number of groups of four tokens.
DCP_INLINE void dcp_value_bytes(int count, int vectors, int some, dcp_group *group, int64_t row, const char *values,
                                int64_t quads, int64_t quad_bytes, dcp_vec result[][4]) {
    dcp_prefetching prefetching = dcp_begin_prefetching(group);
    dcp_words total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = words_set1(0);
    }
    for (int term = 0; term < 2; term++) {
        const char *at = values;
        if (term == 1) {
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) total[r][v] = words_raise_byte(total[r][v]);
            }
        }
        for (int64_t quad = 0; quad < quads; quad++, at += quad_bytes) {
            dcp_prefetch_share(group, &prefetching, group->value_bytes);
            dcp_words words[4];
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) {
                const uint32_t *vector = (const uint32_t *)at + v * dcp_width;
                words[v] = dcp_multiplied(some ? words_load_some(vector, some) : words_load(vector));
            }
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                uint32_t bytes;
                memcpy(&bytes, group->byte_weights[term][row + r] + 4 * quad, 4);
                const dcp_words both = words_set1(bytes);
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) total[r][v] = dcp_add_value_bytes(total[r][v], both, words[v]);
            }
        }
    }
    dcp_end_prefetching(group, prefetching);
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const dcp_vec unit = vec_set1(group->weight_units[row + r]);
        const dcp_words offset = words_set1((uint32_t)(dcp_bytes_alike ? group->weight_offsets[row + r] : 0));
        DCP_UNROLL
        for (int v = 0; v < vectors; v++)
            result[r][v] = vec_mul(words_to_float(words_sum(total[r][v], offset)), unit);
    }
}

#endif

#endif
