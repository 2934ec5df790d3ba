// SPDX-License-Identifier: Apache-2.0
// The softmax of one group of tokens for all rows, which turns scores into weights. Included by attend_vector.h.
//
// It runs in passes over all rows and not row by row: one row's computation is a chain of dependent instructions, and rows
// beside each other hide each other's latency. The factors of what was accumulated before come last, since nothing waits
// for them.
#ifndef DCP_ATTEND_WEIGHTS_H
#define DCP_ATTEND_WEIGHTS_H

#include "attend_bytes.h"

// Computes the maximum of a row including this group. Scores of tokens that the row does not see become -inf.
DCP_INLINE void dcp_raise_maximum(int is_ranged, dcp_group *group, int64_t row) {
    const float soft_cap = group->rows->soft_cap;
    const int64_t end = dcp_end(is_ranged, group, row), padded = dcp_padded(end);
    float *scores = group->scores[row];
    if (soft_cap > 0.0f) {
        for (int64_t t = 0; t < padded; t++) scores[t] = soft_cap * dcp_tanh(scores[t] / soft_cap);
    }
    if (is_ranged) {
        for (int64_t t = 0; t < group->begin[row]; t++) scores[t] = -INFINITY;
    }
    for (int64_t t = end; t < padded; t++) scores[t] = -INFINITY;
    dcp_vec best = vec_set1(-INFINITY);
    for (int64_t t = 0; t < padded; t += dcp_width) best = vec_max(vec_load(scores + t), best);
    const float here = vec_max_lanes(best), before = group->maximum[row];
    group->highest[row] = here > before ? here : before;
}

// Computes the weights of a row and their sum; `padded` tokens are scored.
DCP_INLINE void dcp_weigh_tokens(dcp_group *group, int64_t row, int64_t padded) {
    float *scores = group->scores[row];
    const dcp_vec shift = vec_set1(group->highest[row]);
    dcp_vec sum = vec_zero();
    for (int64_t t = 0; t < padded; t += dcp_width) {
        const dcp_vec weight = vec_shifted_exp(vec_sub(vec_load(scores + t), shift), dcp_weight_shift);
        sum = vec_add(sum, weight);
        vec_store(scores + t, weight);
    }
    group->added[row] = vec_sum_lanes(sum);
}

// Weights times the scales of their values. Weights of tokens that the row does not see stay 0, whatever the scale.
DCP_INLINE dcp_vec dcp_scaled(int type, const dcp_group *group, int64_t t, dcp_vec weights) {
    return dcp_has_scales(type) ? vec_mul_nonzero(weights, vec_load(group->value_scales + t)) : weights;
}

#ifdef DCP_DOT
// The thresholds that are added to the bits of light tokens' weights before the lower half is cut off. If they were rounded
// to nearest, equal weights would all have the same error, and thousands of them together would be off by as much as one:
// 2^-8 of what they share. With thresholds, the nearer a weight is to the number above, the more tokens round up: among 64
// tokens, and among every second, fourth or eighth of them. A token's place in its group determines its threshold, so the
// bits of a layout are always the same.
#define DCP_THRESHOLD(token) (39 * (token) % 64 * 1024 + 512)
#define DCP_THRESHOLDS(token)                                                                                          \
    DCP_THRESHOLD(token), DCP_THRESHOLD(token + 1), DCP_THRESHOLD(token + 2), DCP_THRESHOLD(token + 3),                \
        DCP_THRESHOLD(token + 4), DCP_THRESHOLD(token + 5), DCP_THRESHOLD(token + 6), DCP_THRESHOLD(token + 7)
static const uint32_t dcp_thresholds[dcp_group_tokens] = {
    DCP_THRESHOLDS(0),  DCP_THRESHOLDS(8),  DCP_THRESHOLDS(16), DCP_THRESHOLDS(24),
    DCP_THRESHOLDS(32), DCP_THRESHOLDS(40), DCP_THRESHOLDS(48), DCP_THRESHOLDS(56),
};

// Computes the first terms of a row's weights, and the second terms of all of them or of heavy tokens only.
DCP_INLINE void dcp_split_weights(int type, dcp_group *group, int64_t row, int64_t padded) {
    const float share = group->rows->light_share;
    if (share == 0.0f) {
        for (int64_t t = 0; t < padded; t += dcp_width) {
            const dcp_vec weight = dcp_scaled(type, group, t, vec_load(group->scores[row] + t));
            vec_store_bf16(&group->weights[0][row][t / 2], weight);
            vec_store_bf16(&group->weights[1][row][t / 2], vec_sub(weight, vec_nearest_bf16(weight)));
        }
        return;
    }
    // The sum before the group counts only if it needs no factor. If the maximum rose, it is left out, and more tokens are
    // heavy.
    const float before = group->highest[row] == group->maximum[row] ? group->sum[row] : 0.0f;
    const dcp_vec light = vec_set1(share * (before + group->added[row]));
    uint64_t heavy = 0;
    for (int64_t t = 0; t < padded; t += dcp_width) {
        const dcp_vec weight = vec_load(group->scores[row] + t);
        const uint64_t lanes = vec_above(weight, light);
        const dcp_vec scaled = dcp_scaled(type, group, t, weight);
        const dcp_words first = vec_round_bf16(scaled, lanes, words_load(dcp_thresholds + t));
        words_store_high(&group->weights[0][row][t / 2], first);
        // Second terms of light tokens are 0, so they change no bit of this row where a row beside it has a heavy token.
        vec_store_bf16(&group->weights[1][row][t / 2], vec_residue(scaled, lanes, words_high(first)));
        heavy |= lanes << t;
    }
    group->heavy[row / dcp_tile_rows] |= heavy;
}
#endif

// Updates the rows' factors, sums and maxima. Rows lie along the lanes here; lanes beyond the last row do not matter.
DCP_INLINE void dcp_update_sums(dcp_group *group) {
    for (int64_t row = 0; row < group->rows->rows; row += dcp_width) {
        const dcp_vec before = vec_load(group->maximum + row), highest = vec_load(group->highest + row);
        // For a row that has seen nothing yet, -inf - (-inf) is NaN. vec_max makes it -inf, and the factor of 0 keeps the
        // sum 0.
        const dcp_vec factor = vec_shifted_exp(vec_max(vec_sub(before, highest), vec_set1(-INFINITY)), 0);
        vec_store(group->factor + row, factor);
        vec_store(group->sum + row, vec_fma(vec_load(group->sum + row), factor, vec_load(group->added + row)));
        vec_store(group->maximum + row, highest);
    }
}

DCP_INLINE void dcp_weigh_group(int type, int is_ranged, dcp_group *group) {
    const int64_t rows = group->rows->rows;
    dcp_prefetching prefetching = dcp_begin_prefetching(group);
    for (int64_t r = 0; r < rows; r++) dcp_raise_maximum(is_ranged, group, r);
    for (int64_t r = 0; r < rows; r++) {
        dcp_prefetch_share(group, &prefetching, group->weight_bytes);
        // With a constant count, the compiler keeps the whole row in registers.
        if (dcp_end(is_ranged, group, r) == dcp_group_tokens) {
            dcp_weigh_tokens(group, r, dcp_group_tokens);
        } else {
            dcp_weigh_tokens(group, r, dcp_padded(dcp_end(is_ranged, group, r)));
        }
    }
    dcp_end_prefetching(group, prefetching);
    if (dcp_is_byte_dot(type)) {
#ifdef DCP_BYTE_DOT
        for (int64_t r = 0; r < rows; r++) dcp_split_byte_weights(group, r, dcp_padded(dcp_end(is_ranged, group, r)));
#endif
    } else if (dcp_is_dot(type)) {
#ifdef DCP_DOT
        for (int64_t r = 0; r < rows; r += dcp_tile_rows) group->heavy[r / dcp_tile_rows] = 0;
        for (int64_t r = 0; r < rows; r++) {
            if (dcp_end(is_ranged, group, r) == dcp_group_tokens) {
                dcp_split_weights(type, group, r, dcp_group_tokens);
            } else {
                dcp_split_weights(type, group, r, dcp_padded(dcp_end(is_ranged, group, r)));
            }
        }
#endif
    } else if (dcp_has_scales(type)) {
        for (int64_t r = 0; r < rows; r++) {
            float *weights = group->scores[r];
            for (int64_t t = 0; t < dcp_padded(dcp_end(is_ranged, group, r)); t += dcp_width)
                vec_store(weights + t, dcp_scaled(type, group, t, vec_load(weights + t)));
        }
    }
    dcp_update_sums(group);
}

#endif
