// SPDX-License-Identifier: Apache-2.0
// Attention of a token to only itself.
#include "convert.h"
#include "softmax_row.h"
#include "tiles.h"

#pragma STDC FP_CONTRACT OFF

enum { own_dim_max = 576 };

// Widens a row, rounded as the panel's format holds it. Returns 0, or -1 if it is not finite in that format.
static int rounded(const dcp_kernel_table *kernels, const dcp_own_token *token, const void *row, int is_key,
                   int64_t count, float *restrict out) {
    if (dcp_rows_to_f32(kernels, token->row_type, row, count, out) != 0) return -1;
    if (token->row_type == token->format) return 0;
    if (dcp_has_scales(token->format)) return dcp_round_row(token->format, is_key, out, count);
    int finite = 1;
    switch (token->format) {
    case dcp_bf16:
        for (int64_t i = 0; i < count; i++) out[i] = dcp_bf16_to_f32(dcp_f32_to_bf16(out[i]));
        break;
    case dcp_f16:
        for (int64_t i = 0; i < count; i++) out[i] = dcp_f16_to_f32(dcp_f32_to_f16(out[i]));
        break;
    case dcp_f32: break;
    default: __builtin_trap();
    }
    for (int64_t i = 0; i < count; i++) finite &= dcp_f32_is_finite(out[i]);
    return finite ? 0 : -1;
}

// The dot product, in as many sums as there are lanes: short sums lose less than one long one, and run side by side.
static float product(const float *restrict a, const float *restrict b, int64_t count) {
    float total[dcp_lanes] = {0};
    int64_t d = 0;
    for (; d + dcp_lanes <= count; d += dcp_lanes)
        for (int i = 0; i < dcp_lanes; i++) total[i] += a[d + i] * b[d + i];
    for (; d < count; d++) total[d % dcp_lanes] += a[d] * b[d];
    for (int half = dcp_lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

int dcp_attend_own_token(const dcp_kernel_table *kernels, const dcp_own_token *token, int64_t rows,
                         const float *queries, int64_t query_stride, float *output, int64_t output_stride, double *lse,
                         int64_t lse_stride) {
    float key[own_dim_max], value[own_dim_max];
    if (rounded(kernels, token, token->key, 1, token->key_dim, key) != 0) return -1;
    if (token->value && rounded(kernels, token, token->value, 0, token->value_dim, value) != 0) return -1;
    const float *seen = token->value ? value : key;
    for (int64_t row = 0; row < rows; row++) {
        float score = product(queries + row * query_stride, key, token->key_dim) * token->scale;
        if (token->soft_cap > 0) score = token->soft_cap * dcp_tanh(score / token->soft_cap);
        lse[row * lse_stride] = (double)score;
        memcpy(output + row * output_stride, seen, sizeof *seen * (size_t)token->value_dim);
    }
    return 0;
}
