// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_ATTENTION_H
#define DCP_ATTENTION_H

#include <stdint.h>

#include "formats.h"

// Attention of query rows to the tokens of one block. In decode the rows are the query heads of a KV head, and in prefill
// those of many tokens.

enum {
    dcp_attention_rows_max = 64,
    // The most tokens that a state takes before dcp_carry_rows, and the most that a block has. Long sums of Float32 drift:
    // the log-sum-exp of 25 million tokens was off by 1.4e-4.
    dcp_state_tokens_max = 4096,
    // A weight is e^(score - maximum) / 2^dcp_weight_shift. So the weights of a state sum up to at most 1/2, and sums of
    // finite values stay finite. The shift is in the constants of the exponential or in its exponent: it changes no bit of
    // a mantissa and costs nothing.
    dcp_weight_shift = 13,
};

// The query rows that share one KV head, and their running state. Before the first block, maximum is -inf, sum 0 and output
// 0. Afterwards the attention of row r is output[r] / sum[r], and its log-sum-exp is maximum[r] + log(sum[r]) +
// dcp_weight_shift * log(2).
//
// A score is soft_cap * tanh(scale * (q . k) / soft_cap). The scale multiplies scores and not queries, so that bf16 queries
// stay bf16.
typedef struct {
    int32_t rows;         // 1...dcp_attention_rows_max
    int32_t key_dim;      // even, 8...576
    int32_t value_dim;    // even, 8...512
    int32_t block_tokens; // of the K panel, a multiple of 16
    int32_t value_tokens; // of the V panel: block_tokens, or the value_tokens of dcp_value_maker
    int32_t terms;        // of query_terms, 1...3
    float scale;
    float soft_cap;       // 0 for none
    // For kernels that multiply bf16: weights of at most this share of the row's sum so far are rounded to bf16, and
    // heavier ones keep 16 bits. If it is 0, all weights keep 16 bits.
    float light_share;
    const float *queries; // [rows][key_dim]
    // [rows][key_dim], for int8 the queries as they were before their rotation; other formats do not read it.
    const float *plain_queries;
    // [terms][rows][key_dim / 2] pairs of bf16, which summed over the terms are the queries; see dcp_split_queries. For
    // int8, the output of dcp_byte_queries. NULL unless the kernel reads it (dcp_reads_terms).
    const uint32_t *query_terms;
    float *maximum;       // [rows]
    float *sum;           // [rows]
    float *output;        // [rows][value_dim]
} dcp_attention_rows;

// The sums to which states of the same rows are added when there are more than dcp_state_tokens_max tokens. Before the
// first state, maximum is -inf, sum 0 and output 0.
typedef struct {
    float *maximum; // [rows]
    double *sum;    // [rows]
    double *output; // [rows][value_dim]
} dcp_carried_rows;

// The range of tokens first[row]..<end[row] for each row, counted from the start of the block or tile. If first and end are
// NULL, it is 0..<all for every row.
typedef struct {
    const int32_t *first, *end;
    int32_t all;
} dcp_token_ranges;

// Memory that the caller will read next: at..<end, and after that then..<then_end. A range that does not exist is NULL.
typedef struct {
    const char *at, *end, *then, *then_end;
    int32_t level; // of the cache to prefetch into: 2 for the second, any other number for the first
} dcp_ahead;

// Adds one block of one KV head to the rows' state.
//
//   keys, values  the head's panels, 4-byte aligned; with those of int8, queries are rotated as the keys are
//                 (dcp_rotate_rows)
//   visible       the block's tokens that each row sees; a row that sees none (first == end) keeps its state
//   ahead         prefetched in address order and at an even rate while the block is computed; never read. The scalar
//                 kernels ignore it.
//
// Tokens that a row does not see may hold anything, NaN included. Nothing outside the panels is read. The result of a row
// does not depend on the other rows. Thread-safe.
typedef void dcp_attention_kernel(const dcp_attention_rows *rows, const void *keys, const void *values,
                                  dcp_token_ranges visible, dcp_ahead ahead);

// Splits each query element into a sum of three bf16. The sum is exact, since 24 bits are 8 + 8 + 8. Queries that came as
// bf16 need only one term, and f16 two, with the same results: the omitted terms are 0.
//
//   queries [count]   terms [3][count], bf16, term k at terms + k * stride
//
// Returns how many of the three terms are needed; the others are all 0.
int32_t dcp_split_queries(const float *queries, int64_t count, uint16_t *terms, int64_t stride);

// The query_terms of int8 kernels that multiply bytes. For each row they have the high bytes [key_dim] of its 16-bit
// numbers, then the low bytes [key_dim], both signed, then this unit. Rows are dcp_byte_query_bytes apart.
typedef struct {
    float unit;
    int32_t offset; // -128 times the sum of the row's numbers
} dcp_byte_unit;

static inline int64_t dcp_byte_query_bytes(int64_t key_dim) { return 6 * key_dim; }

// Rotates queries as keys of int8 are, and makes 16-bit numbers of them. Each is off by at most half of 1/32639 of the
// row's largest number, or of 1/29000 with more than 512 dimensions.
//
//   queries [rows][key_dim], out [rows] of dcp_byte_query_bytes, 4-byte aligned
void dcp_byte_queries(const float *queries, int64_t rows, int64_t key_dim, void *out);

// Adds the rows' sums and outputs to the carried ones, and resets them to 0. Maxima stay.
void dcp_carry_rows(const dcp_attention_rows *rows, dcp_carried_rows carried);
// Adds the rows' sums and outputs to the carried ones, and copies the totals, times 2^-shift, back to the rows' state. The
// caller chooses a shift with which the sum is at most 1/2 again.
void dcp_settle_rows(const dcp_attention_rows *rows, dcp_carried_rows carried, int32_t shift);

// The kernels of an instruction set, one for each format.
#define DCP_DECLARE_ATTENTION(name, number, bytes, interleaved, set) extern dcp_attention_kernel dcp_attend_##name##_##set;

// Portable C that a compiler vectorises for any machine: the twins that the others are tested against.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, scalar)
#if defined(__x86_64__)
// AVX2, FMA and F16C.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, avx2)
// AVX-512 F, BW, VL and DQ.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, avx512)
// With AVX512-BF16, and for fp8 VBMI as well. They read query_terms.
dcp_attention_kernel dcp_attend_bf16_avx512bf16, dcp_attend_fp8_avx512bf16;
// With GFNI. It gives the bits of dcp_attend_fp8_avx512.
dcp_attention_kernel dcp_attend_fp8_avx512gfni;
// With AVX-VNNI and with AVX512-VNNI. They read query_terms.
dcp_attention_kernel dcp_attend_int8_avx2vnni, dcp_attend_int8_avx512vnni;
#elif defined(__aarch64__)
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, neon)
// With products of bytes (ARMv8.2 dotprod). It reads query_terms.
dcp_attention_kernel dcp_attend_int8_neondot;
#endif

#endif
