// SPDX-License-Identifier: Apache-2.0
// Scores and weighted values in tiles of registers: up to four rows by up to four vectors. Included by attend_vector.h.
#ifndef DCP_ATTEND_TILES_H
#define DCP_ATTEND_TILES_H

#include "attend_bytes.h"
#include "attend_sums.h"
#include "attend_widened.h"

// Computes a share of the scores of `vectors` vectors of tokens from `token`, for `count` rows from `row`.
DCP_INLINE void dcp_score_tile(int type, int count, int vectors, dcp_group *group, int64_t row, int64_t token,
                               dcp_share share) {
#ifdef DCP_BYTE_DOT
    if (dcp_is_byte_dot(type)) {
        dcp_score_bytes(count, vectors, group, row, token);
        return;
    }
#endif
    const dcp_attention_rows *rows = group->rows;
    const int64_t dim = rows->key_dim, stride = rows->block_tokens;
    const int64_t pair_bytes = 2 * stride * dcp_element_bytes(type);
    const char *keys = group->keys + token * dcp_format(type).interleaved * dcp_element_bytes(type) + share.from / 2 * pair_bytes;
    dcp_prefetching prefetching = dcp_begin_prefetching(group);
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) {
            total[r][v] = share.begins ? vec_zero() : vec_load(&group->scores[row + r][token + v * dcp_width]);
        }
    }
    if (dcp_is_dot(type)) {
#ifdef DCP_DOT
        // The smallest terms come first: their sums round at their own magnitude, not at that of the score.
        for (int64_t term = share.end_term; term-- > share.term;) {
            const uint32_t *query = rows->query_terms + (term * rows->rows + row) * (dim / 2) + share.from / 2;
            for (int64_t d = 0; d < (share.to - share.from) / 2; d++) {
                dcp_prefetch_share(group, &prefetching, group->key_bytes);
                dcp_words words[4];
                dcp_load_words(type, vectors, 0, keys + d * pair_bytes, words);
                DCP_UNROLL
                for (int r = 0; r < count; r++) dcp_add_dot(vectors, query[r * (dim / 2) + d], words, total[r]);
            }
        }
#endif
    } else {
        const float *query = rows->queries + row * dim;
        const int from = share.is_widened ? dcp_f32 : type;
        const int64_t step = dcp_step(from), step_bytes = share.is_widened ? 8 * dcp_group_tokens : step / 2 * pair_bytes;
        const int64_t beside = share.is_widened ? dcp_group_tokens : stride;
        if (share.is_widened) keys = (const char *)(group->widened + token);
        for (int64_t d = share.from; d < share.to; d += step, keys += step_bytes) {
            DCP_UNROLL
            for (int half = 0; half < step / 2; half++) {
                dcp_prefetch_share(group, &prefetching, group->key_bytes);
                dcp_vec even[4], odd[4];
                dcp_load_pair(from, 1, half, vectors, 0, keys, beside, even, odd);
                const float *pair = query + d + 2 * half;
                DCP_UNROLL
                for (int r = 0; r < count; r++) {
                    dcp_add_pair(vectors, pair[r * dim], pair[r * dim + 1], even, odd, total[r]);
                }
            }
        }
    }
    dcp_end_prefetching(group, prefetching);
    const dcp_vec scale = vec_set1(share.ends ? rows->scale : 1.0f);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const int64_t at = token + v * dcp_width;
        const dcp_vec factor =
            dcp_has_scales(type) && share.ends ? vec_load(group->key_scales + at) : scale;
        DCP_UNROLL
        for (int r = 0; r < count; r++) vec_store(&group->scores[row + r][at], vec_mul(total[r][v], factor));
    }
}

// Adds the weighted values of `vectors` vectors of dimensions from `dim`, or of `some` dimensions, to `count` rows.
DCP_INLINE void dcp_value_tile(int type, dcp_share share, int count, int vectors, int some, dcp_group *group, int64_t row,
                               int64_t dim) {
    const int is_ranged = share.is_ranged;
    const dcp_attention_rows *rows = group->rows;
    const int64_t strip = dcp_strip_of(dim), size = dcp_element_bytes(type);
    // This is a constant if a tile is as wide as a strip.
    const int64_t width =
        vectors * dcp_width == dcp_strip_dims ? dcp_strip_dims : dcp_strip_width(strip, rows->value_dim);
    const int64_t pair_bytes = 2 * width * size;
    const char *values = group->values + (strip * rows->value_tokens + group->first * width) * size
                         + (dim - strip) * dcp_format(type).interleaved * size;
    const dcp_visible_range visible =
        is_ranged ? group->visible[row / dcp_tile_rows] : (dcp_visible_range){group->tokens, group->tokens};
    dcp_vec total[dcp_tile_rows][4];
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) total[r][v] = vec_zero();
    }
    if (dcp_is_byte_dot(type)) {
#ifdef DCP_BYTE_DOT
        dcp_value_bytes(count, vectors, some, group, row, values, (visible.most + 3) / 4, 2 * pair_bytes, total);
#endif
    } else if (dcp_is_dot(type)) {
#ifdef DCP_DOT
        dcp_prefetching prefetching = dcp_begin_prefetching(group);
        if (dcp_sums_both_terms(type, group->rows)) {
            dcp_sum_exact_dots(type, is_ranged, count, vectors, some, group, row, visible, values, pair_bytes,
                               &prefetching, total);
        } else {
            dcp_sum_dots(type, is_ranged, count, vectors, some, group, row, visible, values, pair_bytes,
                         &prefetching, total);
        }
        dcp_end_prefetching(group, prefetching);
#endif
    } else {
        dcp_prefetching prefetching = dcp_begin_prefetching(group);
        if (share.is_widened) {
            dcp_sum_products(dcp_f32, is_ranged, count, vectors, some, group, row, visible,
                             (const char *)(group->widened + dim - strip), 8 * dcp_strip_dims, &prefetching, total);
        } else {
            dcp_sum_products(type, is_ranged, count, vectors, some, group, row, visible, values, pair_bytes,
                             &prefetching, total);
        }
        dcp_end_prefetching(group, prefetching);
    }
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        if (is_ranged && group->end[row + r] == 0) continue;
        float *out = rows->output + (row + r) * rows->value_dim + dim;
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

// Scores and values of one tile's rows: as many vectors at once as the registers hold, then the tail.
DCP_INLINE void dcp_score_rows(int type, int count, dcp_group *group, int64_t row, dcp_share share) {
    const int64_t tokens = dcp_padded(group->tokens);
    for (int64_t token = 0; token < tokens;) {
        const int64_t vectors = (tokens - token) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_score_tile(type, count, 4, group, row, token, share);
            token += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_score_tile(type, count, 2, group, row, token, share);
            token += 2 * dcp_width;
        } else {
            dcp_score_tile(type, count, 1, group, row, token, share);
            token += dcp_width;
        }
    }
}

DCP_INLINE void dcp_value_rows(int type, int count, dcp_group *group, int64_t row, dcp_share share) {
    const int64_t dims = share.to;
    for (int64_t dim = share.from; dim < dims;) {
        const int64_t vectors = (dims - dim) / dcp_width;
        if (vectors >= 4 && dcp_vectors_max(count) >= 4) {
            dcp_value_tile(type, share, count, 4, 0, group, row, dim);
            dim += 4 * dcp_width;
        } else if (vectors >= 2) {
            dcp_value_tile(type, share, count, 2, 0, group, row, dim);
            dim += 2 * dcp_width;
        } else if (vectors == 1) {
            dcp_value_tile(type, share, count, 1, 0, group, row, dim);
            dim += dcp_width;
        } else {
            dcp_value_tile(type, share, count, 1, (int)(dims - dim), group, row, dim);
            dim = dims;
        }
    }
}

#endif
