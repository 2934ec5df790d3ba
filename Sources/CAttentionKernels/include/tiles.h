// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_TILES_H
#define DCP_TILES_H

#include <stdint.h>

#include "attention.h"
#include "dispatch.h"
#include "panels.h"

// For many query rows: sgemm computes scores and outputs over Float32 tiles, and the softmax runs between the two products.

// Copies tokens first..<first + count of one head's K panel as Float32 into tile [key_dim][stride]. Exact, but keys of int8
// stay rotated, as their panel holds them, and their words are rotated and added, with the rounding of Float32.
void dcp_keys_to_tile(const dcp_panel_shape *shape, const void *keys, int64_t first, int64_t count, float *tile,
                      int64_t stride);

// Copies tokens first..<first + count of one head's V panel as Float32 into tile [count][value_dim]. Exact.
void dcp_values_to_tile(const dcp_panel_shape *shape, const void *values, int64_t first, int64_t count, float *tile);

// One online softmax step over a tile of scores.
//
//   scores   [rows][stride], stride a multiple of 16. On entry columns 0..<columns are scores, not yet scaled; on return
//            they are weights, 0 for tokens that a row does not see
//   visible  the tile's tokens that each row sees, of 0..<columns; a row that sees none keeps its maximum, sum
//            and output, and its weights are 0
//   maximum, sum [rows], output [rows][value_dim]: the running state; output is rescaled, and the caller adds the
//            product of weights and values to it by sgemm
void dcp_softmax_tile(int64_t rows, int64_t columns, float *scores, int64_t stride, dcp_token_ranges visible,
                      float scale, float soft_cap, float *maximum, float *sum, float *output, int64_t value_dim);

// Computes the attention of one row from its running states in several pieces, in piece order.
//
//   shift  the weights of all pieces are e^(score - maximum) / 2^shift
//   maximum[p * row_stride], sum[p * row_stride], output[p * output_stride ...]: piece p
//   result [value_dim]; lse, a natural logarithm. A row without tokens in any piece gets (0, -inf)
void dcp_finish_row(int64_t pieces, int64_t row_stride, int64_t output_stride, int64_t value_dim, int32_t shift,
                    const float *maximum, const float *sum, const float *output, float *result, double *lse);

// A step's new token that sees only itself.
typedef struct {
    int32_t row_type, format; // the dtype of key and value; the format of their panel
    int32_t key_dim, value_dim;
    float scale, soft_cap;
    const void *key, *value; // unaligned; if value is NULL, it is the first dimensions of the key
} dcp_own_token;

// Attention of rows that share a KV head to one token. Its weight is 1, whatever its score. So the output is its value,
// rounded as a panel holds it, and the log-sum-exp is its score.
//
//   row r: queries + r * query_stride, output + r * output_stride, lse + r * lse_stride
//
// Returns 0, or -1 if the key or the value is not finite in the panel's format.
int dcp_attend_own_token(const dcp_kernel_table *kernels, const dcp_own_token *token, int64_t rows,
                         const float *queries, int64_t query_stride, float *output, int64_t output_stride, double *lse,
                         int64_t lse_stride);

// e^x for count values <= 0, for the tests of the polynomial.
void dcp_exp_values(const float *values, int64_t count, float *out);
// tanh x, likewise.
void dcp_tanh_values(const float *values, int64_t count, float *out);

#endif
