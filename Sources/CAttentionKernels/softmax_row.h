// One row's step of the online softmax (Milakov and Gimelshein, arXiv 1805.02867): what both paths share.
#ifndef DCP_SOFTMAX_ROW_H
#define DCP_SOFTMAX_ROW_H

#include <math.h>

#include "attention.h"
#include "pointwise.h"

#pragma STDC FP_CONTRACT OFF

enum { dcp_lanes = 16 };

static inline int64_t dcp_padded(int64_t count) { return (count + dcp_lanes - 1) / dcp_lanes * dcp_lanes; }

// Turns the scores of 1 or more visible tokens into weights (dcp_weight_shift) relative to the new maximum and takes them
// into the running maximum and sum. Returns the factor for what was accumulated before.
//
//   scores [dcp_padded(visible)], in place, not yet scaled; whatever stands at visible and beyond is replaced by a
//          weight of 0
//
// The caller skips a row without visible tokens, so the new maximum is never the -inf of an empty row and no
// (-inf) - (-inf) arises. A score that is NaN or +inf, or a maximum of -inf, makes the sum NaN: the fault stays
// visible.
static inline float dcp_softmax_row(float *restrict scores, int64_t visible, float scale, float soft_cap,
                                    float *maximum, float *sum) {
    const int64_t padded = dcp_padded(visible);
    for (int64_t t = 0; t < padded; t++) scores[t] *= scale;
    if (soft_cap > 0.0f) {
        for (int64_t t = 0; t < padded; t++) scores[t] = soft_cap * dcp_tanh(scores[t] / soft_cap);
    }
    for (int64_t t = visible; t < padded; t++) scores[t] = -INFINITY;

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
