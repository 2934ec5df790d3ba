// SPDX-License-Identifier: Apache-2.0
// The softmax between the two matrix products, and the final result of a row.
#include "softmax_row.h"
#include "tiles.h"

#include <float.h>

#pragma STDC FP_CONTRACT OFF

void dcp_softmax_tile(int64_t rows, int64_t columns, float *scores, int64_t stride, dcp_token_ranges visible,
                      float scale, float soft_cap, float *maximum, float *sum, float *output, int64_t value_dim) {
    for (int64_t r = 0; r < rows; r++) {
        float *restrict row = scores + r * stride;
        float factor = 1.0f;
        const dcp_seen_tokens seen = dcp_seen_by(r, visible);
        const int64_t first = seen.first, end = seen.end, start = first / dcp_lanes * dcp_lanes;
        if (first < end) {
            factor = dcp_softmax_row(row + start, first - start, end - start, scale, soft_cap, &maximum[r], &sum[r]);
        }
        for (int64_t t = 0; t < first; t++) row[t] = 0.0f;
        for (int64_t t = end; t < columns; t++) row[t] = 0.0f;
        if (factor == 1.0f) continue;
        float *restrict out = output + r * value_dim;
        for (int64_t d = 0; d < value_dim; d++) out[d] *= factor;
    }
}

// Adds `dims` dimensions of up to finish_pieces_max pieces to those of a row, in registers.
enum { finish_pieces_max = 64, finish_dims = 16 };

static inline void add_pieces(int64_t pieces, const float *weights, const float *output, int64_t stride, int64_t next,
                              int64_t dims, float *restrict result) {
    float row[finish_dims] = {0};
    for (int64_t p = 0; p < pieces; p++) {
        const float *part = output + p * stride;
        // Hardware does not predict the jumps from piece to piece, and what was written has long left the caches.
        __builtin_prefetch(part + next);
        // If the row sees no token of a piece, its output there may hold anything.
        if (weights[p] == 0.0f) continue;
        for (int64_t d = 0; d < dims; d++) row[d] += weights[p] * part[d];
    }
    for (int64_t d = 0; d < dims; d++) result[d] += row[d];
}

// A mean of the largest finite numbers may round to infinity. If the sum was finite, the mean is clamped to finite numbers.
static inline float divided(float sum, float divisor) {
    const float mean = sum / divisor;
    const float largest = mean > FLT_MAX ? FLT_MAX : mean < -FLT_MAX ? -FLT_MAX : mean;
    return sum <= FLT_MAX && sum >= -FLT_MAX ? largest : mean;
}

// The end of a row: `sums` and `total` are of weights 2^shift times as small as e^(score - highest). `result` may be `sums`.
static inline void end_row(int64_t value_dim, const float *sums, double total, float highest, int shift, float *result,
                           double *lse) {
    if (total == 0.0) {
        for (int64_t d = 0; d < value_dim; d++) result[d] = 0.0f;
        *lse = -INFINITY;
        return;
    }
    const float divisor = (float)total;
    for (int64_t d = 0; d < value_dim; d++) result[d] = divided(sums[d], divisor);
    *lse = (double)highest + log(ldexp(total, shift));
}

void dcp_finish_row(int64_t pieces, int64_t row_stride, int64_t output_stride, int64_t value_dim, int32_t shift,
                    const float *maximum, const float *sum, const float *output, float *restrict result, double *lse) {
    // As most entries of a batch have it: there is nothing to weigh.
    if (pieces == 1) {
        end_row(value_dim, output, *sum, *maximum, shift, result, lse);
        return;
    }
    float highest = -INFINITY;
    for (int64_t p = 0; p < pieces; p++) {
        const float value = maximum[p * row_stride];
        highest = value > highest ? value : highest;
    }
    for (int64_t d = 0; d < value_dim; d++) result[d] = 0.0f;
    // Each piece's sum is at most 1/2. So that the total is, too, all weights are divided by a power of two above the
    // number of pieces.
    int halvings = 0;
    while (pieces >> halvings > 1) halvings++;
    halvings++;
    const float unit = ldexpf(1.0f, -halvings);
    double total = 0.0;
    for (int64_t first = 0; first < pieces; first += finish_pieces_max) {
        const int64_t count = pieces - first < finish_pieces_max ? pieces - first : finish_pieces_max;
        float weights[finish_pieces_max];
        for (int64_t p = 0; p < count; p++) {
            const float part_sum = sum[(first + p) * row_stride];
            // A sum of 0 means that the row sees no token of the piece: otherwise its heaviest token adds 2^-shift, or NaN.
            weights[p] = part_sum == 0.0f ? 0.0f : unit * expf(maximum[(first + p) * row_stride] - highest);
            if (part_sum != 0.0f) total += (double)weights[p] * (double)part_sum;
        }
        const float *part = output + first * output_stride;
        int64_t d = 0;
        for (; d + finish_dims <= value_dim; d += finish_dims)
            add_pieces(count, weights, part + d, output_stride, value_dim, finish_dims, result + d);
        if (d < value_dim) add_pieces(count, weights, part + d, output_stride, value_dim, value_dim - d, result + d);
    }
    end_row(value_dim, result, total, highest, shift + halvings, result, lse);
}

void dcp_exp_values(const float *restrict values, int64_t count, float *restrict out) {
    for (int64_t i = 0; i < count; i++) out[i] = dcp_exp(values[i]);
}

void dcp_tanh_values(const float *restrict values, int64_t count, float *restrict out) {
    for (int64_t i = 0; i < count; i++) out[i] = dcp_tanh(values[i]);
}
