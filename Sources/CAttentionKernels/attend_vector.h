// SPDX-License-Identifier: Apache-2.0
// The attention kernel of an instruction set, written once over a few vector operations. A file for an instruction set
// opens its target bracket, defines these operations, and includes this header:
//
//   dcp_vec, dcp_words               vectors of 16, 8 or 4 Float32, and of as many 32-bit words, each a bf16 pair
//   dcp_width                        that number
//   vec_zero, vec_set1, vec_load, vec_store, vec_add, vec_sub, vec_mul, vec_fma (a * b + c, one rounding)
//   vec_max (the second where the first is NaN), vec_sum_lanes, vec_max_lanes
//   vec_shifted_exp (e^x / 2^shift for x <= 0: at most 2 ulp, exact at 0, 0 if the result is below 2^-126, NaN for NaN;
//   the shift is a constant)
//   vec_load_some, vec_store_some    the first n lanes only; the others are neither read nor written
//   vec_from_f16, vec_from_f16_some  as many f16 elements, widened
//   words_load, words_load_some, words_low, words_high
//   vec_mul_nonzero(a, b)            the product; 0 where a is 0, whatever b is
//   vec_fma_nonzero(a, b, c)         a * b + c, one rounding; c where a is 0, whatever b is
//   vec_look_up(table, count, at)    of `count` numbers those at as many 32-bit indices, all below `count`
//   dcp_halves                       a vector of as many 16-bit pairs of bytes: halves_load, halves_load_some
//   halves_low_e4m3, halves_high_e4m3
//                                    the low or the high byte of each pair, an e4m3, widened, times 2^-8
//   words_flip_signs                 flips the highest bit of each byte
//   words_byte(words, i)             byte i of each word, a signed number, as Float32
//   dcp_vectors_max(R)               how many vectors for each of R rows fit in the registers: 4 or 2
//
// An instruction set that multiplies and adds bf16 pairs without widening them also defines DCP_DOT and
//
//   words_set1, words_and            a word in all lanes; the bits that are in both
//   vec_dot (c + a.first * b.first + a.second * b.second)
//   vec_store_bf16                   rounds to the nearest bf16, and stores half as many words
//   vec_nearest_bf16                 what vec_store_bf16 stores, widened
//   vec_round_bf16                   bf16 in the high halves of words, whose low halves are undefined: the nearest in the
//                                    given lanes; in the others rounded up if the low half plus the lane's threshold
//                                    carries, and else down
//   words_store_high                 stores the high halves, as half as many words
//   vec_residue                      the difference of two vectors in the given lanes, and 0 in the others
//   vec_above                        a bit for each lane that is greater than that of another vector
//
// One that multiplies and adds bytes without widening them also defines DCP_BYTE_DOT and
//
//   words_set1, words_sum, words_to_float
//                                    for 32-bit integers
//   words_raise_byte                 256 times each integer
//   words_add_bytes(c, a, b)         c + the sum of a's unsigned bytes times b's signed ones; or, with DCP_BYTES_ALIKE,
//   words_add_signed, words_add_unsigned
//                                    the same for bytes that are both signed, or both unsigned
//   vec_store_halves(high, low, vec) rounds to 16-bit integers, and stores their high bytes and their low bytes
//
// For pairs of e4m3 it may define vec_pairs_from_e4m3, which gives an even number of vectors at once with the results of
// halves_low_e4m3 and halves_high_e4m3. To make them pairs of bf16 it may define words_from_e4m3, words_from_e4m3_some, and
// words_pair_from_e4m3 for two vectors.
//
// As in attend_block.h, tokens lie along SIMD lanes, and a group of 64 tokens is scored, weighted and accumulated. Here up
// to four rows share a register tile: a vector of keys or values is loaded and widened once for all of them. A row's sum
// takes its terms one after the other, in the order of dimensions and tokens, in any tile. So its bits depend neither on
// the rows beside it nor on how many tokens those see.
//
// With DCP_DOT the products of bf16 are exact and sums are Float32, as without it. Queries are a sum of up to three bf16
// (dcp_split_queries) and weights a sum of two, which keeps 16 of their 24 bits. So results differ from Float32 arithmetic
// by 2^-17 of the values, and not by 2^-8 as with weights that are rounded to one bf16. From memory this costs nothing: the
// second term of the weights waits for no load. With a light_share only heavy tokens have a second term, and many rows skip
// the second terms of the others.
#ifndef DCP_ATTEND_VECTOR_H
#define DCP_ATTEND_VECTOR_H

#include "attend_apart.h"
#include "attend_tiles.h"
#include "attend_weights.h"

// Calls `step` for each tile, with the tile's number of rows as a constant.
#define DCP_FOR_TILES(step, type, group, share)                                                                        \
    do {                                                                                                               \
        for (int64_t row = 0; row < (group)->rows->rows; row += dcp_tile_rows) {                                       \
            switch ((group)->rows->rows - row) {                                                                       \
            case 1: step(type, 1, group, row, share); break;                                                           \
            case 2: step(type, 2, group, row, share); break;                                                           \
            case 3: step(type, 3, group, row, share); break;                                                           \
            default: step(type, 4, group, row, share);                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

// A bit for each of the first `count` tokens of a group, at most 64.
DCP_INLINE uint64_t dcp_first_tokens(int32_t count) { return count == 64 ? ~0ull : (1ull << count) - 1; }

// Finds the tokens that each row sees of the group that begins at the block's token `first`.
DCP_INLINE void dcp_see_group(dcp_group *group, dcp_token_ranges visible, int32_t first) {
    const int32_t tokens = (int32_t)group->tokens;
    const int64_t rows = group->rows->rows;
    for (int64_t r = 0; r < rows; r++) {
        const dcp_seen_tokens seen = dcp_seen_by(r, visible);
        const int32_t end = dcp_clamped(seen.end - first, tokens), begin = seen.first - first;
        group->end[r] = begin < end ? end : 0;
        group->begin[r] = begin < end ? dcp_clamped(begin, end) : 0;
        group->seen[r] = dcp_first_tokens(group->end[r]) & ~dcp_first_tokens(group->begin[r]);
    }
    for (int64_t row = 0; row < rows; row += dcp_tile_rows) {
        dcp_visible_range visible = {tokens, 0};
        for (int64_t r = row; r < dcp_min(row + dcp_tile_rows, rows); r++) {
            const int64_t end = group->end[r], all = group->begin[r] == 0 ? end : 0;
            visible.all = all < visible.all ? all : visible.all;
            visible.most = end > visible.most ? end : visible.most;
        }
        group->visible[row / dcp_tile_rows] = visible;
    }
}

// Keys and values of many dimensions do not fit in the first-level cache beside the other data of a group's loops. So if
// there is more than one tile of rows, loops take some dimensions at a time, which then stay there. No sum changes its
// order.
enum { dcp_wide_dim = 256, dcp_key_share = 144, dcp_value_share = 64 };

DCP_INLINE int dcp_is_wide(const dcp_attention_rows *rows) {
    return (rows->key_dim > dcp_wide_dim || rows->value_dim > dcp_wide_dim) && rows->rows > dcp_tile_rows;
}

DCP_INLINE void dcp_score_group(int type, int is_wide, int is_widened, dcp_group *group) {
    const int64_t dim = group->rows->key_dim, terms = dcp_is_dot(type) ? group->rows->terms : 1;
    if (is_widened) {
        for (int64_t from = 0; from < dim; from += dcp_widened_dims) {
            const int64_t to = dcp_min(from + dcp_widened_dims, dim);
            const dcp_share share = {from, to, 0, 1, from == 0, to == dim, 0, 1};
            dcp_widen_keys(type, group, from, to);
            DCP_FOR_TILES(dcp_score_rows, type, group, share);
        }
        return;
    }
    if (!is_wide) {
        const dcp_share all = {0, dim, 0, terms, 1, 1, 0, 0};
        DCP_FOR_TILES(dcp_score_rows, type, group, all);
        return;
    }
    for (int64_t term = terms; term-- > 0;) {
        for (int64_t from = 0; from < dim; from += dcp_key_share) {
            const int64_t to = dcp_min(from + dcp_key_share, dim);
            const dcp_share share = {
                from, to, term, term + 1, from == 0 && term == terms - 1, to == dim && term == 0, 0, 0};
            DCP_FOR_TILES(dcp_score_rows, type, group, share);
        }
    }
}

DCP_INLINE void dcp_value_group(int type, int is_wide, int is_widened, int is_ranged, dcp_group *group) {
    const int64_t dim = group->rows->value_dim;
    if (is_widened) {
        for (int64_t from = 0; from < dim; from += dcp_strip_dims) {
            const dcp_share share = {.from = from, .to = dcp_min(from + dcp_strip_dims, dim), .is_ranged = is_ranged,
                                     .is_widened = 1};
            dcp_widen_values(type, group, from);
            DCP_FOR_TILES(dcp_value_rows, type, group, share);
        }
        return;
    }
    if (!is_wide) {
        const dcp_share all = {.to = dim, .is_ranged = is_ranged};
        DCP_FOR_TILES(dcp_value_rows, type, group, all);
        return;
    }
    for (int64_t from = 0; from < dim; from += dcp_value_share) {
        const dcp_share share = {
            .from = from, .to = dcp_min(from + dcp_value_share, dim), .is_ranged = is_ranged};
        DCP_FOR_TILES(dcp_value_rows, type, group, share);
    }
}

// Loads the scales of a group's tokens. Those of tokens that a row does not see may be anything, NaN included.
DCP_INLINE void dcp_load_scales(int type, dcp_group *group, const void *keys) {
    const dcp_attention_rows *rows = group->rows;
    const float *key_scales = dcp_panel_scales(keys, rows->key_dim, rows->block_tokens) + group->first;
    const float *value_scales = dcp_panel_scales(group->values, rows->value_dim, rows->value_tokens) + group->first;
    const int64_t padded = dcp_padded(group->tokens);
    // The unit times a key's scale is exact; times the largest scales of layers it would be infinite.
    const dcp_vec scale = vec_set1(rows->scale), unit = vec_set1(dcp_units(type));
    for (int64_t t = 0; t < padded; t += dcp_width) {
        vec_store(group->key_scales + t, vec_mul(vec_mul(vec_load(key_scales + t), unit), scale));
        vec_store(group->value_scales + t, vec_mul(vec_load(value_scales + t), unit));
    }
}

// `is_wide` and `is_ranged` (whether rows differ in what they see) are constants, so that the loops that need neither
// compile as if the others did not exist, down to the registers. With all of them in one function, reading from memory was
// 5 to 10 % slower. Whether `widened` is NULL is a constant, too. It is NULL, or memory for dcp_widened_dims times a
// group's tokens, into which bytes are widened once for all tiles.
DCP_INLINE void dcp_attend_panel(int type, int is_wide, int is_ranged, float *widened, const dcp_attention_rows *rows,
                                 const void *keys, const void *values, dcp_token_ranges visible, dcp_ahead ahead) {
    const dcp_cache_format format = dcp_format(type);
    const dcp_seen_tokens seen = dcp_seen_by_some(rows->rows, visible);
    if (seen.end == 0) return;
    // Groups begin at multiples of their size, wherever rows begin, so that the result of a row depends on no other row.
    const int64_t start = seen.first / dcp_group_tokens * dcp_group_tokens;
    dcp_group group;
    group.rows = rows;
    group.ahead = group.ahead_due = (uintptr_t)ahead.at;
    group.ahead_end = (uintptr_t)ahead.end;
    group.then = (uintptr_t)ahead.then;
    group.then_end = (uintptr_t)ahead.then_end;
    group.level = ahead.level;
    group.values = values;
    group.widened = widened;
    const int is_widened = widened != NULL;
    dcp_deal_ahead(type, &group, seen.end - start, &ahead);
    DCP_NO_CALL
    for (int64_t r = 0; r < rows->rows; r++) group.maximum[r] = rows->maximum[r], group.sum[r] = rows->sum[r];
    for (int64_t first = start; first < seen.end; first += dcp_group_tokens) {
        group.keys = (const char *)keys + first * format.interleaved * format.element_bytes;
        group.first = first;
        group.tokens = dcp_min(seen.end - first, dcp_group_tokens);
        // Tokens beside the visible ones are scored as well. They are inside the panel, and their scores are replaced
        // before they are read.
        if (is_ranged) dcp_see_group(&group, visible, (int32_t)first);
        if (dcp_has_scales(type)) dcp_load_scales(type, &group, keys);
        if (dcp_has_words(type)) dcp_load_words_apart(&group, keys);
        dcp_score_group(type, is_wide, is_widened, &group);
        if (dcp_has_words(type)) dcp_add_words_apart(&group);
        dcp_weigh_group(type, is_ranged, &group);
        dcp_value_group(type, is_wide, is_widened, is_ranged, &group);
    }
    DCP_NO_CALL
    for (int64_t r = 0; r < rows->rows; r++) rows->maximum[r] = group.maximum[r], rows->sum[r] = group.sum[r];
}

// A kernel of an instruction set, and its variants, which are separate functions.
#define DCP_ATTENTION_PANEL(name, type, is_wide, is_ranged)                                                            \
    static __attribute__((noinline)) void name(const dcp_attention_rows *rows, const void *keys, const void *values,   \
                                               dcp_token_ranges visible, dcp_ahead ahead) {                            \
        dcp_attend_panel(type, is_wide, is_ranged, NULL, rows, keys, values, visible, ahead);                          \
    }

#define DCP_ATTENTION_KERNEL(name, type)                                                                               \
    DCP_ATTENTION_PANEL(name##_wide, type, 1, 1)                                                                       \
    DCP_ATTENTION_PANEL(name##_ranged, type, 0, 1)                                                                     \
    static __attribute__((noinline)) void name##_widened(const dcp_attention_rows *rows, const void *keys,             \
                                                         const void *values, dcp_token_ranges visible,                 \
                                                         dcp_ahead ahead) {                                            \
        _Alignas(64) float widened[dcp_widened_dims * dcp_group_tokens];                                               \
        if (dcp_is_widening(type)) dcp_attend_panel(type, 0, 1, widened, rows, keys, values, visible, ahead);          \
    }                                                                                                                  \
    void name(const dcp_attention_rows *rows, const void *keys, const void *values, dcp_token_ranges visible,          \
              dcp_ahead ahead) {                                                                                       \
        if (dcp_is_widening(type) && rows->rows > 2 * dcp_tile_rows) {                                                 \
            name##_widened(rows, keys, values, visible, ahead);                                                        \
        } else if (dcp_is_wide(rows) && !dcp_is_byte_dot(type)) {                                                      \
            name##_wide(rows, keys, values, visible, ahead);                                                           \
        } else if (visible.first != NULL) {                                                                            \
            name##_ranged(rows, keys, values, visible, ahead);                                                         \
        } else {                                                                                                       \
            dcp_attend_panel(type, 0, 0, NULL, rows, keys, values, visible, ahead);                                    \
        }                                                                                                              \
    }

#define DCP_ATTENTION_KERNEL_OF(name, number, bytes, interleaved, set)                                                 \
    DCP_ATTENTION_KERNEL(dcp_attend_##name##_##set, dcp_##name)
#define DCP_ATTENTION_KERNELS(set) DCP_CACHE_FORMATS(DCP_ATTENTION_KERNEL_OF, set)

#endif
