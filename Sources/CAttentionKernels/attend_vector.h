// The attention kernel of an instruction set, written once over a few vector operations. A file for an instruction set
// defines these, opens its target bracket, and includes this header for what follows from them:
//
//   dcp_vec, dcp_words               16, 8 or 4 Float32; as many 32-bit words, each a bf16 pair
//   dcp_width                        that number
//   vec_zero, vec_set1, vec_load, vec_store, vec_add, vec_sub, vec_mul, vec_fma (a * b + c, one rounding)
//   vec_max (the second where the first is NaN), vec_sum_lanes, vec_max_lanes
//   vec_shifted_exp (e^x / 2^shift for x <= 0: at most 2 ulp, exact at 0, 0 where it is below 2^-126, NaN for NaN; the shift
//   is a constant)
//   vec_load_some, vec_store_some    the first n lanes only, the others are neither read nor written
//   vec_from_f16, vec_from_f16_some  the same many f16 elements, widened
//   words_load, words_load_some, words_low, words_high
//   dcp_vectors_max(R)               how many vectors per row fit the registers beside each other for R rows: 4 or 2
//
// and, where bf16 pairs are multiplied and added as they are, DCP_DOT and
//
//   words_set1, words_and            a word in all lanes; the bits that are in both
//   vec_dot (c + a.first * b.first + a.second * b.second)
//   vec_store_bf16                   rounds to bf16, the nearest, and stores half as many words
//   vec_nearest_bf16                 what that stores, widened
//   vec_round_bf16                   bf16 in the high halves of words: the nearest in some lanes; in the others the number
//                                    above where the low half with the lane's threshold added carries. The low is anything
//   words_store_high                 the high halves, as half as many words
//   vec_residue                      the difference of two vectors in some lanes, and 0 in the others
//   vec_above                        the lanes that are above a vector's, as bits
//
// As in attend_block.h tokens lie along SIMD lanes and a group of 64 tokens is scored, weighted and added. Here up to
// four rows share a register tile: a vector of keys or values is loaded and widened once for all of them. A row's sum
// takes its terms one after the other, in the order of dimensions and tokens, whatever tile it is in: its bits depend
// neither on the rows beside it nor on how many tokens those see.
//
// With DCP_DOT the products of bf16 are exact and sums are Float32, as without. Queries are a sum of up to three bf16
// (dcp_split_queries) and weights one of two, which keeps 16 of their 24 bits: results differ from Float32 arithmetic by
// 2^-17 of the values, not by the 2^-8 of weights that are simply rounded. From memory it costs nothing: the second
// term of the weights waits for no load. Many rows have a second term only of tokens that weigh much (light_share).
#ifndef DCP_ATTEND_VECTOR_H
#define DCP_ATTEND_VECTOR_H

#include "attend_tiles.h"
#include "attend_weights.h"

// Calls a step with the number of rows of each tile as a constant.
#define DCP_FOR_TILES(step, type, group)                                                                               \
    do {                                                                                                               \
        for (int64_t row = 0; row < (group)->rows->rows; row += dcp_tile_rows) {                                       \
            switch ((group)->rows->rows - row) {                                                                       \
            case 1: step(type, 1, group, row); break;                                                                  \
            case 2: step(type, 2, group, row); break;                                                                  \
            case 3: step(type, 3, group, row); break;                                                                  \
            default: step(type, 4, group, row);                                                                        \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

// Keys and values of many dimensions do not fit the first-level cache beside what else a group's loops touch. So many rows
// take some dimensions at a time, and find them there. It changes no sum's order.
enum { dcp_wide_dim = 256, dcp_key_share = 144, dcp_value_share = 64 };

DCP_INLINE void dcp_score_group(int type, dcp_group *group) {
    const int64_t dim = group->rows->key_dim, terms = dcp_dot && type == dcp_bf16 ? group->rows->terms : 1;
    const int is_wide = dim > dcp_wide_dim && group->rows->rows > dcp_tile_rows;
    const int64_t share = is_wide ? dcp_key_share : dim, term_share = is_wide ? 1 : terms;
    for (group->end_term = terms; group->end_term > 0; group->end_term = group->term) {
        group->term = group->end_term - term_share;
        for (group->key_dim = 0; group->key_dim < dim; group->key_dim = group->end_key_dim) {
            group->end_key_dim = dcp_min(group->key_dim + share, dim);
            group->begins_scores = group->key_dim == 0 && group->end_term == terms;
            group->ends_scores = group->end_key_dim == dim && group->term == 0;
            DCP_FOR_TILES(dcp_score_rows, type, group);
        }
    }
}

DCP_INLINE void dcp_value_group(int type, dcp_group *group) {
    const int64_t dim = group->rows->value_dim;
    const int is_wide = dim > dcp_wide_dim && group->rows->rows > dcp_tile_rows;
    const int64_t share = is_wide ? dcp_value_share : dim;
    for (group->value_dim = 0; group->value_dim < dim; group->value_dim = group->end_value_dim) {
        group->end_value_dim = dcp_min(group->value_dim + share, dim);
        DCP_FOR_TILES(dcp_value_rows, type, group);
    }
}

DCP_INLINE void dcp_attend_panel(int type, const dcp_attention_rows *rows, const void *keys, const void *values,
                                 dcp_token_ranges visible, dcp_ahead ahead) {
    const int64_t size = dcp_element_bytes(type), pair = type == dcp_bf16 ? 2 : 1;
    const dcp_seen_tokens seen = dcp_seen_by_some(rows->rows, visible);
    if (seen.end == 0) return;
    // Groups begin at multiples of their size, wherever rows begin: what a row becomes depends on no other row.
    const int64_t start = seen.first / dcp_group_tokens * dcp_group_tokens;
    dcp_group group;
    group.rows = rows;
    group.ahead = group.ahead_due = (uintptr_t)ahead.at;
    group.ahead_end = (uintptr_t)ahead.end;
    group.then = (uintptr_t)ahead.then;
    group.then_end = (uintptr_t)ahead.then_end;
    dcp_deal_ahead(type, &group, seen.end - start, &ahead);
    DCP_NO_CALL
    for (int64_t r = 0; r < rows->rows; r++) group.maximum[r] = rows->maximum[r], group.sum[r] = rows->sum[r];
    for (int64_t first = start; first < seen.end; first += dcp_group_tokens) {
        group.keys = (const char *)keys + first * pair * size;
        group.values = (const char *)values + first * rows->value_dim * size;
        group.tokens = dcp_min(seen.end - first, dcp_group_tokens);
        // Tokens beside the visible ones are scored as well: inside the panel, and replaced before they are read.
        for (int64_t r = 0; r < rows->rows; r++) {
            const int32_t end = dcp_clamped(visible.end[r] - (int32_t)first, (int32_t)group.tokens);
            const int32_t begin = dcp_clamped(visible.first[r] - (int32_t)first, end);
            group.end[r] = begin < end ? end : 0;
            group.begin[r] = begin < end ? begin : 0;
            group.plain[r] = begin == 0 ? end : 0;
        }
        dcp_score_group(type, &group);
        dcp_weigh_group(type, &group);
        dcp_value_group(type, &group);
    }
    DCP_NO_CALL
    for (int64_t r = 0; r < rows->rows; r++) rows->maximum[r] = group.maximum[r], rows->sum[r] = group.sum[r];
}

// The three kernels of an instruction set.
#define DCP_ATTENTION_KERNEL(name, type)                                                                                  \
    void name(const dcp_attention_rows *rows, const void *keys, const void *values, dcp_token_ranges visible,               \
              dcp_ahead ahead) {                                                                                       \
        dcp_attend_panel(type, rows, keys, values, visible, ahead);                                                    \
    }

#endif
