// The softmax between the two matrix products, and the end of a row.
#include "softmax_row.h"
#include "tiles.h"

#pragma STDC FP_CONTRACT OFF

void dcp_softmax_tile(int64_t rows, int64_t columns, float *scores, int64_t stride, const int32_t *visible,
                      float scale, float soft_cap, float *maximum, float *sum, float *output, int64_t value_dim) {
    for (int64_t r = 0; r < rows; r++) {
        float *restrict row = scores + r * stride;
        float factor = 1.0f;
        if (visible[r] > 0) factor = dcp_softmax_row(row, visible[r], scale, soft_cap, &maximum[r], &sum[r]);
        for (int64_t t = visible[r]; t < columns; t++) row[t] = 0.0f;
        if (factor == 1.0f) continue;
        float *restrict out = output + r * value_dim;
        for (int64_t d = 0; d < value_dim; d++) out[d] *= factor;
    }
}

void dcp_finish_row(int64_t pieces, int64_t row_stride, int64_t value_dim, const float *maximum, const float *sum,
                    const float *output, float *restrict result, float *lse) {
    float highest = -INFINITY;
    for (int64_t p = 0; p < pieces; p++) {
        const float value = maximum[p * row_stride];
        highest = value > highest ? value : highest;
    }
    for (int64_t d = 0; d < value_dim; d++) result[d] = 0.0f;
    double total = 0.0;
    for (int64_t p = 0; p < pieces; p++) {
        // A sum of 0 is a piece in which the row sees no token. Any token that is seen adds a weight of 1, or NaN.
        if (sum[p * row_stride] == 0.0f) continue;
        const float weight = expf(maximum[p * row_stride] - highest);
        total += (double)weight * (double)sum[p * row_stride];
        const float *restrict part = output + p * row_stride * value_dim;
        for (int64_t d = 0; d < value_dim; d++) result[d] += weight * part[d];
    }
    if (total == 0.0) {
        *lse = -INFINITY;
        return;
    }
    const float divisor = (float)total;
    for (int64_t d = 0; d < value_dim; d++) result[d] /= divisor;
    *lse = (float)((double)highest + log(total));
}

void dcp_exp_values(const float *restrict values, int64_t count, float *restrict out) {
    for (int64_t i = 0; i < count; i++) out[i] = dcp_exp(values[i]);
}

void dcp_tanh_values(const float *restrict values, int64_t count, float *restrict out) {
    for (int64_t i = 0; i < count; i++) out[i] = dcp_tanh(values[i]);
}
