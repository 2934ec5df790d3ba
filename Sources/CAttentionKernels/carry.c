// SPDX-License-Identifier: Apache-2.0
// The second level of long sums, in Float64, to which a state is added every few thousand tokens.
#include <math.h>

#include "attention.h"

#pragma STDC FP_CONTRACT OFF

static void carry_row(const dcp_attention_rows *rows, dcp_carried_rows carried, int64_t row) {
    float *restrict output = rows->output + row * rows->value_dim;
    double *restrict total = carried.output + row * rows->value_dim;
    const double sum = rows->sum[row];
    // The row saw no token since the last time, so its maximum is the same.
    if (sum == 0.0) return;
    // -inf - (-inf) does not arise: a row with a sum has a maximum, or its sum is NaN.
    const double factor = carried.sum[row] == 0.0 ? 0.0 : exp((double)carried.maximum[row] - (double)rows->maximum[row]);
    carried.maximum[row] = rows->maximum[row];
    carried.sum[row] = carried.sum[row] * factor + sum;
    for (int64_t d = 0; d < rows->value_dim; d++) total[d] = total[d] * factor + (double)output[d];
}

void dcp_carry_rows(const dcp_attention_rows *rows, dcp_carried_rows carried) {
    for (int64_t row = 0; row < rows->rows; row++) {
        carry_row(rows, carried, row);
        rows->sum[row] = 0.0f;
        for (int64_t d = 0; d < rows->value_dim; d++) rows->output[row * rows->value_dim + d] = 0.0f;
    }
}

void dcp_settle_rows(const dcp_attention_rows *rows, dcp_carried_rows carried, int32_t shift) {
    const double unit = ldexp(1.0, -shift);
    for (int64_t row = 0; row < rows->rows; row++) {
        carry_row(rows, carried, row);
        rows->sum[row] = (float)(carried.sum[row] * unit);
        const double *restrict total = carried.output + row * rows->value_dim;
        float *restrict output = rows->output + row * rows->value_dim;
        for (int64_t d = 0; d < rows->value_dim; d++) output[d] = (float)(total[d] * unit);
    }
}
