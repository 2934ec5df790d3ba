// Scores and weighted values in tiles of registers: up to four rows by up to four vectors. Included by attend_vector.h.
#ifndef DCP_ATTEND_TILES_H
#define DCP_ATTEND_TILES_H

#include "attend_ahead.h"

// Two rows of `vectors` vectors: keys of two dimensions, values of two tokens. `pair` is where the first row's vector 0
// is, `stride` the elements between the two rows; bf16 has them interleaved. Of the last vector only `some` lanes are
// read when `some` is not 0.
DCP_INLINE void dcp_load_pair(int type, int vectors, int some, const char *pair, int64_t stride, dcp_vec *first,
                              dcp_vec *second) {
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        if (type == dcp_bf16) {
            const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
            const dcp_words words = some ? words_load_some(at, some) : words_load(at);
            first[v] = words_low(words);
            second[v] = words_high(words);
        } else if (type == dcp_f16) {
            const uint16_t *at = (const uint16_t *)pair + v * dcp_width;
            first[v] = some ? vec_from_f16_some(at, some) : vec_from_f16(at);
            second[v] = some ? vec_from_f16_some(at + stride, some) : vec_from_f16(at + stride);
        } else {
            const float *at = (const float *)pair + v * dcp_width;
            first[v] = some ? vec_load_some(at, some) : vec_load(at);
            second[v] = some ? vec_load_some(at + stride, some) : vec_load(at + stride);
        }
    }
}

// Adds two dimensions, or two tokens, of one row to its sums.
DCP_INLINE void dcp_add_pair(int vectors, float first, float second, const dcp_vec *even, const dcp_vec *odd,
                             dcp_vec *total) {
    const dcp_vec a = vec_set1(first), b = vec_set1(second);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(a, even[v], total[v]);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(b, odd[v], total[v]);
}

#ifdef DCP_DOT
DCP_INLINE void dcp_load_words(int vectors, int some, const char *pair, dcp_words *words) {
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
        words[v] = some ? words_load_some(at, some) : words_load(at);
    }
}

DCP_INLINE void dcp_add_dot(int vectors, uint32_t pair, const dcp_words *words, dcp_vec *total) {
    const dcp_words both = words_set1(pair);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_dot(both, words[v], total[v]);
}
#endif

// Scores of `vectors` vectors of tokens from `token`, for `count` rows from `row`.
DCP_INLINE void dcp_score_tile(int type, int count, int vectors, dcp_group *group, int64_t row, int64_t token) {
    const dcp_attention_rows *rows = group->rows;
    const int64_t dim = rows->key_dim, stride = rows->block_tokens;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *keys = group->keys + token * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    dcp_asking asking = dcp_begin_asking(group);
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    if (dcp_dot && type == dcp_bf16) {
#ifdef DCP_DOT
        // The smallest first: their sums round at their own magnitude, not at that of the score.
        for (int64_t term = rows->terms; term-- > 0;) {
            const uint32_t *query = rows->query_terms + (term * rows->rows + row) * (dim / 2);
            for (int64_t d = 0; d < dim / 2; d++) {
                dcp_ask(group, &asking, group->key_bytes);
                dcp_words words[4];
                dcp_load_words(vectors, 0, keys + d * pair_bytes, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++) dcp_add_dot(vectors, query[r * (dim / 2) + d], words, total[r]);
            }
        }
#endif
    } else {
        const float *query = rows->queries + row * dim;
        for (int64_t d = 0; d < dim; d += 2, keys += pair_bytes) {
            dcp_ask(group, &asking, group->key_bytes);
            dcp_vec even[4], odd[4];
            dcp_load_pair(type, vectors, 0, keys, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                dcp_add_pair(vectors, query[r * dim + d], query[r * dim + d + 1], even, odd, total[r]);
            }
        }
    }
    dcp_end_asking(group, asking);
    const dcp_vec scale = vec_set1(rows->scale);
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) {
            vec_store(&group->scores[row + r][token + v * dcp_width], vec_mul(total[r][v], scale));
        }
    }
}

// Adds the weighted values of `vectors` vectors of dimensions from `dim`, or of `some` dimensions, to `count` rows.
DCP_INLINE void dcp_value_tile(int type, int count, int vectors, int some, dcp_group *group, int64_t row,
                               int64_t dim) {
    const int64_t stride = group->rows->value_dim;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *values = group->values + dim * (type == dcp_bf16 ? 4 : dcp_element_bytes(type));
    int64_t all = group->tokens, most = 0;
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const int64_t seen = group->seen[row + r];
        all = seen < all ? seen : all;
        most = seen > most ? seen : most;
    }
    dcp_asking asking = dcp_begin_asking(group);
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    // Tokens that all rows see, in pairs. Then those that some see: rows that see fewer drop out, since a weight of 0
    // would take in a value that is NaN. Panels hold tokens in pairs, so the token after an odd last one is inside.
    int64_t t = 0;
    if (dcp_dot && type == dcp_bf16) {
#ifdef DCP_DOT
        dcp_words words[4];
        // Second terms in the same loop if all tokens have them, afterwards for those that do.
        const int always = group->rows->light_share == 0.0f;
        if (!always) {
            for (; t + 1 < all; t += 2, values += pair_bytes) {
                dcp_ask(group, &asking, group->value_bytes);
                dcp_load_words(vectors, some, values, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++)
                    dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
            }
            uint64_t heavy = group->heavy[row / dcp_tile_rows] & (t < 64 ? (1ull << t) - 1 : ~0ull);
            while (heavy) {
                const int64_t pair = __builtin_ctzll(heavy) / 2;
                heavy &= ~(3ull << 2 * pair);
                dcp_load_words(vectors, some, values + (pair - t / 2) * pair_bytes, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[1][row + r][pair], words, total[r]);
            }
        }
        for (; t + 1 < all; t += 2, values += pair_bytes) {
            dcp_ask(group, &asking, group->value_bytes);
            dcp_load_words(vectors, some, values, words);
            DCP_UNROLL
            for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
            DCP_UNROLL
            for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[1][row + r][t / 2], words, total[r]);
        }
        for (; t < most; t += 2, values += pair_bytes) {
            dcp_load_words(vectors, some, values, words);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const int64_t seen = group->seen[row + r];
                if (t >= seen) continue;
                dcp_words visible[4];
                DCP_UNROLL
                for (int v = 0; v < vectors; v++) visible[v] = t + 1 < seen ? words[v] : words_even(words[v]);
                for (int term = 0; term < 2; term++)
                    dcp_add_dot(vectors, group->weights[term][row + r][t / 2], visible, total[r]);
            }
        }
#endif
    } else {
        const float *weights = group->scores[row];
        dcp_vec even[4], odd[4];
        for (; t + 1 < all; t += 2, values += pair_bytes) {
            dcp_ask(group, &asking, group->value_bytes);
            dcp_load_pair(type, vectors, some, values, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const float *weight = weights + r * dcp_group_tokens + t;
                dcp_add_pair(vectors, weight[0], weight[1], even, odd, total[r]);
            }
        }
        for (; t < most; t += 2, values += pair_bytes) {
            dcp_load_pair(type, vectors, some, values, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const float *weight = weights + r * dcp_group_tokens + t;
                if (t < group->seen[row + r]) {
                    DCP_UNROLL
                    for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[0]), even[v], total[r][v]);
                }
                if (t + 1 < group->seen[row + r]) {
                    DCP_UNROLL
                    for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[1]), odd[v], total[r][v]);
                }
            }
        }
    }
    dcp_end_asking(group, asking);
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        if (group->seen[row + r] == 0) continue;
        float *out = group->rows->output + (row + r) * stride + dim;
        const dcp_vec factor = vec_set1(group->factor[row + r]);
        DCP_UNROLL
        for (int v = 0; v < vectors; v++, out += dcp_width) {
            if (some) {
                vec_store_some(out, some, vec_fma(vec_load_some(out, some), factor, total[r][v]));
            } else {
                vec_store(out, vec_fma(vec_load(out), factor, total[r][v]));
            }
        }
    }
}

// Scores and values of one tile's rows: as many vectors at once as the registers hold, then what is left.
DCP_INLINE void dcp_score_rows(int type, int count, dcp_group *group, int64_t row) {
    const int64_t tokens = dcp_padded(group->tokens);
    for (int64_t token = 0; token < tokens;) {
        const int64_t vectors = (tokens - token) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_score_tile(type, count, 4, group, row, token);
            token += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_score_tile(type, count, 2, group, row, token);
            token += 2 * dcp_width;
        } else {
            dcp_score_tile(type, count, 1, group, row, token);
            token += dcp_width;
        }
    }
}

DCP_INLINE void dcp_value_rows(int type, int count, dcp_group *group, int64_t row) {
    const int64_t dims = group->rows->value_dim;
    for (int64_t dim = 0; dim < dims;) {
        const int64_t vectors = (dims - dim) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_value_tile(type, count, 4, 0, group, row, dim);
            dim += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_value_tile(type, count, 2, 0, group, row, dim);
            dim += 2 * dcp_width;
        } else if (vectors == 1) {
            dcp_value_tile(type, count, 1, 0, group, row, dim);
            dim += dcp_width;
        } else {
            dcp_value_tile(type, count, 1, (int)(dims - dim), group, row, dim);
            dim = dims;
        }
    }
}

#endif
