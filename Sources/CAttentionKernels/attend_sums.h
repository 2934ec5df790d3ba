// SPDX-License-Identifier: Apache-2.0
// The sums of a tile's weighted values, over `vectors` vectors of dimensions from `values`, or `some` dimensions, for
// `count` rows. Included by attend_tiles.h.
//
// Each sum first takes the tokens that all rows see, in pairs; there are none if a row begins inside the group. Then it
// takes the tokens that only some rows see. A row adds only those that it sees, since a weight of 0 times a value of NaN is
// NaN. Panels hold tokens in pairs, so the second token of the last pair is inside the panel even if it is not part of the
// group.
#ifndef DCP_ATTEND_SUMS_H
#define DCP_ATTEND_SUMS_H

#include "attend_loads.h"

// Two bits: whether a row sees token t, and whether it sees token t + 1. For pairs that not all rows see as a whole.
DCP_INLINE uint32_t dcp_seen_pair(int is_ranged, const dcp_group *group, int64_t row, int64_t t) {
    return is_ranged ? (uint32_t)(group->seen[row] >> t) & 3 : t + 1 < group->tokens ? 3 : 1;
}

#ifdef DCP_DOT
// Adds one term of a pair of tokens that not all rows see.
DCP_INLINE void dcp_add_seen_dots(int is_ranged, int count, int vectors, const dcp_group *group, int64_t row, int64_t t,
                                  int term, const dcp_words *words, dcp_vec total[][4]) {
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const uint32_t seen = dcp_seen_pair(is_ranged, group, row + r, t);
        if (seen == 0) continue;
        const uint32_t mask = (seen & 1) * 0x0000FFFFu + (seen >> 1) * 0xFFFF0000u;
        dcp_words visible[4];
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) visible[v] = words_and(words[v], words_set1(mask));
        dcp_add_dot(vectors, group->weights[term][row + r][t / 2], visible, total[r]);
    }
}

// Adds both terms of all tokens in one loop, which loads values once.
//
// The two lines that add a term to all rows are repeated here and in dcp_sum_dots. As a function of their own they are
// unrolled later, and 4 rows from memory were 8 % slower (measured alternately, in one process).
DCP_INLINE void dcp_sum_exact_dots(int type, int is_ranged, int count, int vectors, int some, dcp_group *group, int64_t row,
                                   dcp_visible_range visible, const char *values, int64_t pair_bytes,
                                   dcp_prefetching *prefetching,
                                   dcp_vec total[][4]) {
    dcp_words words[4];
    int64_t t = 0;
    for (; t + 1 < visible.all; t += 2, values += pair_bytes) {
        dcp_prefetch_share(group, prefetching, group->value_bytes);
        dcp_load_words(type, vectors, some, values, words);
        DCP_UNROLL
        for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
        DCP_UNROLL
        for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[1][row + r][t / 2], words, total[r]);
    }
    for (; t < visible.most; t += 2, values += pair_bytes) {
        dcp_load_words(type, vectors, some, values, words);
        for (int term = 0; term < 2; term++)
            dcp_add_seen_dots(is_ranged, count, vectors, group, row, t, term, words, total);
    }
}

// Adds second terms only where a row of the tile has a heavy token. Each follows its first term, so that a row's sum has
// the order of the loop above, whatever rows are beside it. To add all of them at the end was as fast, but is another
// order.
DCP_INLINE void dcp_sum_dots(int type, int is_ranged, int count, int vectors, int some, dcp_group *group, int64_t row,
                             dcp_visible_range visible, const char *values, int64_t pair_bytes,
                             dcp_prefetching *prefetching,
                             dcp_vec total[][4]) {
    dcp_words words[4];
    const int64_t shared = visible.all / 2 * 2;
    uint64_t heavy = group->heavy[row / dcp_tile_rows];
    int64_t t = 0;
    while (t < shared) {
        const int64_t next = heavy == 0 ? shared : dcp_min(__builtin_ctzll(heavy) / 2 * 2, shared);
        for (; t < next; t += 2, values += pair_bytes) {
            dcp_prefetch_share(group, prefetching, group->value_bytes);
            dcp_load_words(type, vectors, some, values, words);
            DCP_UNROLL
            for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
        }
        if (t == shared) break;
        dcp_prefetch_share(group, prefetching, group->value_bytes);
        dcp_load_words(type, vectors, some, values, words);
        DCP_UNROLL
        for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[0][row + r][t / 2], words, total[r]);
        DCP_UNROLL
        for (int r = 0; r < count; r++) dcp_add_dot(vectors, group->weights[1][row + r][t / 2], words, total[r]);
        heavy &= ~(3ull << t);
        t += 2, values += pair_bytes;
    }
    for (; t < visible.most; t += 2, values += pair_bytes) {
        dcp_load_words(type, vectors, some, values, words);
        for (int term = 0; term < 2; term++)
            dcp_add_seen_dots(is_ranged, count, vectors, group, row, t, term, words, total);
    }
}
#endif

// Adds the two tokens of a pair that not all rows see.
DCP_INLINE void dcp_add_seen_pair(int is_ranged, int count, int vectors, const dcp_group *group, int64_t row, int64_t t,
                                  const dcp_vec *even, const dcp_vec *odd, dcp_vec total[][4]) {
    DCP_UNROLL
    for (int r = 0; r < count; r++) {
        const float *weight = group->scores[row + r] + t;
        const uint32_t seen = dcp_seen_pair(is_ranged, group, row + r, t);
        if (seen & 1) {
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[0]), even[v], total[r][v]);
        }
        if (seen & 2) {
            DCP_UNROLL
            for (int v = 0; v < vectors; v++) total[r][v] = vec_fma(vec_set1(weight[1]), odd[v], total[r][v]);
        }
    }
}

// Adds products in Float32. If four tokens are interleaved, `values` points to all four while their two pairs are added.
DCP_INLINE void dcp_sum_products(int type, int is_ranged, int count, int vectors, int some, dcp_group *group,
                                 int64_t row, dcp_visible_range visible, const char *values, int64_t pair_bytes,
                                 dcp_prefetching *prefetching,
                                 dcp_vec total[][4]) {
    const float *weights = group->scores[row];
    const int64_t stride = pair_bytes / 2 / dcp_element_bytes(type), step = dcp_step(type);
    dcp_vec even[4], odd[4];
    int64_t t = 0;
    for (; t + step <= visible.all; t += step, values += step / 2 * pair_bytes) {
        DCP_UNROLL
        for (int half = 0; half < step / 2; half++) {
            dcp_prefetch_share(group, prefetching, group->value_bytes);
            dcp_load_pair(type, 0, half, vectors, some, values, stride, even, odd);
            DCP_UNROLL
            for (int r = 0; r < count; r++) {
                const float *weight = weights + r * dcp_group_tokens + t + 2 * half;
                dcp_add_pair(vectors, weight[0], weight[1], even, odd, total[r]);
            }
        }
    }
    for (; t < visible.most; t += step, values += step / 2 * pair_bytes) {
        DCP_UNROLL
        for (int half = 0; half < step / 2; half++) {
            if (t + 2 * half >= visible.most) break;
            dcp_load_pair(type, 0, half, vectors, some, values, stride, even, odd);
            dcp_add_seen_pair(is_ranged, count, vectors, group, row, t + 2 * half, even, odd, total);
        }
    }
}

#endif
