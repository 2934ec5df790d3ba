// SPDX-License-Identifier: Apache-2.0
// One row's step of the online softmax (Milakov and Gimelshein, arXiv 1805.02867), shared by attend_block.h and
// softmax_tile.c.
#ifndef DCP_SOFTMAX_ROW_H
#define DCP_SOFTMAX_ROW_H

#include <math.h>

#include "attention.h"
#include "pointwise.h"

#pragma STDC FP_CONTRACT OFF

enum { dcp_lanes = 16 };

typedef struct {
    int32_t first, end;
} dcp_seen_tokens;

static inline dcp_seen_tokens dcp_seen_by(int64_t row, dcp_token_ranges visible) {
    if (visible.first == NULL) return (dcp_seen_tokens){0, visible.all};
    return (dcp_seen_tokens){visible.first[row], visible.end[row]};
}

// The range of a block's tokens that any row sees; there are none if end is 0.
static inline dcp_seen_tokens dcp_seen_by_some(int64_t rows, dcp_token_ranges visible) {
    if (visible.first == NULL) return (dcp_seen_tokens){0, visible.all};
    dcp_seen_tokens seen = {INT32_MAX, 0};
    // There are no branches, so that the loop over rows vectorises.
    for (int64_t r = 0; r < rows; r++) {
        const int32_t first = visible.first[r], end = visible.first[r] < visible.end[r] ? visible.end[r] : 0;
        const int32_t begin = end > 0 ? first : INT32_MAX;
        seen.first = begin < seen.first ? begin : seen.first;
        seen.end = end > seen.end ? end : seen.end;
    }
    return seen;
}

// A number clamped to 0...most.
static inline int32_t dcp_clamped(int32_t number, int32_t most) {
    const int32_t positive = number > 0 ? number : 0;
    return positive < most ? positive : most;
}

static inline int64_t dcp_padded(int64_t count) { return (count + dcp_lanes - 1) / dcp_lanes * dcp_lanes; }

// Turns the scores of the visible tokens first..<end, at least one, into weights (dcp_weight_shift) relative to the new
// maximum, and updates the running maximum and sum. Returns the factor for what was accumulated before.
//
//   scores [dcp_padded(end)], not yet scaled, replaced in place; whatever is before first, or from end on, becomes a
//          weight of 0
//
// The caller skips a row without visible tokens, so the new maximum is never the -inf of an empty row and no (-inf) -
// (-inf) arises. A score that is NaN or +inf, or a maximum of -inf, makes the sum NaN: the fault stays visible.
static inline float dcp_softmax_row(float *restrict scores, int64_t first, int64_t end, float scale, float soft_cap,
                                    float *maximum, float *sum) {
    const int64_t padded = dcp_padded(end);
    for (int64_t t = 0; t < padded; t++) scores[t] *= scale;
    if (soft_cap > 0.0f) {
        for (int64_t t = 0; t < padded; t++) scores[t] = soft_cap * dcp_tanh(scores[t] / soft_cap);
    }
    for (int64_t t = 0; t < first; t++) scores[t] = -INFINITY;
    for (int64_t t = end; t < padded; t++) scores[t] = -INFINITY;

    float best[dcp_lanes];
    for (int i = 0; i < dcp_lanes; i++) best[i] = scores[i];
    for (int64_t t = dcp_lanes; t < padded; t += dcp_lanes) {
        for (int i = 0; i < dcp_lanes; i++) best[i] = scores[t + i] > best[i] ? scores[t + i] : best[i];
    }
    float highest = *maximum;
    for (int i = 0; i < dcp_lanes; i++) highest = best[i] > highest ? best[i] : highest;

    float partial[dcp_lanes] = {0};
    for (int64_t t = 0; t < padded; t += dcp_lanes) {
        for (int i = 0; i < dcp_lanes; i++) {
            const float weight = dcp_shifted_exp(scores[t + i] - highest, dcp_weight_shift);
            scores[t + i] = weight;
            partial[i] += weight;
        }
    }
    for (int width = dcp_lanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) partial[i] += partial[i + width];
    }
    const float factor = dcp_exp(*maximum - highest);
    *sum = *sum * factor + partial[0];
    *maximum = highest;
    return factor;
}

#endif
