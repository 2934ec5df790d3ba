// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_ATTENTION_H
#define DCP_ATTENTION_H

#include <stdint.h>

#include "formats.h"

// Query rows against the tokens of one block: one row in decode, as many as there are in prefill.

enum {
    dcp_attention_rows_max = 64,
    // A state takes so many tokens, the most a block has; then dcp_carry_rows. Long sums of Float32 drift: that of 25
    // million weights was off by 1.4e-4.
    dcp_state_tokens_max = 4096,
    // A weight is e^(score - maximum) times 2 to the power of minus this: those of a state sum up to at most 1/2, so that
    // sums of finite values stay finite. It is taken from the exponent, so it changes no bit of a mantissa and costs
    // nothing.
    dcp_weight_shift = 13,
};

// The query rows that read one KV head, and their running state. Before the first block: maximum -inf, sum 0, output 0.
// Afterwards the attention of row r is output[r] / sum[r], its log-sum-exp
// maximum[r] + log(sum[r]) + dcp_weight_shift * log(2).
//
// A score is soft_cap * tanh(scale * (q . k) / soft_cap). The scale is applied to scores and not to queries, so that
// queries that are bf16 stay bf16.
typedef struct {
    int32_t rows;         // 1...dcp_attention_rows_max
    int32_t key_dim;      // even, 8...576
    int32_t value_dim;    // even, 8...512
    int32_t block_tokens; // of the K panel, a multiple of 16
    int32_t value_tokens; // of the V panel: as many, or, where it is made of keys, as it was made for
    int32_t terms;        // of query_terms, 1...3
    float scale;
    float soft_cap;       // 0 for none
    // Where kernels read query_terms: weights of at most this share of the row's sum so far are rounded to bf16; heavier
    // ones keep 16 bits. 0: all keep them.
    float light_share;
    const float *queries; // [rows][key_dim]
    // [terms][rows][key_dim / 2] pairs of bf16 whose sum over terms is the queries; see dcp_split_queries. Of int8
    // what dcp_byte_queries makes. Only for kernels that say so, otherwise NULL.
    const uint32_t *query_terms;
    float *maximum;       // [rows]
    float *sum;           // [rows]
    float *output;        // [rows][value_dim]
} dcp_attention_rows;

// Where states of the same rows add up that are longer than dcp_state_tokens_max. Before the first: maximum -inf, sum 0,
// output 0.
typedef struct {
    float *maximum; // [rows]
    double *sum;    // [rows]
    double *output; // [rows][value_dim]
} dcp_carried_rows;

// For each row the tokens first[row]..<end[row] of a block, or of what is said, numbered from its start. Where first and end
// are NULL, 0..<all for every row.
typedef struct {
    const int32_t *first, *end;
    int32_t all;
} dcp_token_ranges;

// Memory that the caller will read next: at..<end, and then then..<then_end. NULL where there is none.
typedef struct {
    const char *at, *end, *then, *then_end;
    int32_t level; // of the cache that it is prefetched into: 2, or any other number for the first
} dcp_ahead;

// Takes one block of one KV head into the rows' state.
//
//   keys, values  the head's panels, 4-byte aligned; those of int8 take queries that are rotated as its keys are
//                 (dcp_rotate_rows)
//   visible       the block's tokens that each row sees; a row that sees none (first == end) keeps its state untouched
//   ahead         prefetched in address order while the block is computed, evenly spread; never read
//
// Tokens that a row does not see may hold anything, NaN included. Nothing outside the panels is read. What a row
// becomes depends on no other row. Thread-safe.
typedef void dcp_attention_kernel(const dcp_attention_rows *rows, const void *keys, const void *values,
                                  dcp_token_ranges visible, dcp_ahead ahead);

// Splits queries into a sum of bf16: exactly, with three terms, since 24 bits are 8 + 8 + 8. Fewer are enough for
// queries that came as bf16 (1) or f16 (2), and give the same results: terms that are left out are 0.
//
//   queries [count]   terms [3][count], bf16, term k at terms + k * stride
//
// Returns how many of the three are needed: the others are all 0.
int32_t dcp_split_queries(const float *queries, int64_t count, uint16_t *terms, int64_t stride);

// Queries as kernels of int8 take them in query_terms that multiply bytes: for each row the high bytes of 16-bit numbers
// [key_dim], the low ones, both signed, and the unit; rows follow each other at dcp_byte_query_bytes.
typedef struct {
    float unit;
    int32_t offset; // -128 times the sum of the row's numbers
} dcp_byte_unit;

static inline int64_t dcp_byte_query_bytes(int64_t key_dim) { return 6 * key_dim; }

// Rotates queries, as keys of int8 are, and makes 16-bit numbers of them: off by at most half of 1/32639 of a row's largest.
//
//   queries [rows][key_dim], out [rows] of dcp_byte_query_bytes, 4-byte aligned
void dcp_byte_queries(const float *queries, int64_t rows, int64_t key_dim, void *out);

// Adds the rows' sums and outputs to the carried ones, and begins them anew; maxima stay.
void dcp_carry_rows(const dcp_attention_rows *rows, dcp_carried_rows carried);
// Adds the rows' sums and outputs to the carried ones, and takes these back as the rows' state, with weights that are
// 2^-shift as large: small enough that their sum is at most 1/2 again.
void dcp_settle_rows(const dcp_attention_rows *rows, dcp_carried_rows carried, int32_t shift);

// The kernels of an instruction set, one for each format.
#define DCP_DECLARE_ATTENTION(name, number, bytes, interleaved, set) extern dcp_attention_kernel dcp_attend_##name##_##set;

// In C that a compiler vectorises for any machine: the twins that the others are tested against.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, scalar)
#if defined(__x86_64__)
// AVX2, FMA and F16C.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, avx2)
// AVX-512 F, BW, VL and DQ.
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, avx512)
// With AVX512-BF16, for fp8 with VBMI as well: read query_terms.
dcp_attention_kernel dcp_attend_bf16_avx512bf16, dcp_attend_fp8_avx512bf16;
// With GFNI: the bits of avx512.
dcp_attention_kernel dcp_attend_fp8_avx512gfni;
// With AVX-VNNI, and with AVX512-VNNI: read query_terms.
dcp_attention_kernel dcp_attend_int8_avx2vnni, dcp_attend_int8_avx512vnni;
#elif defined(__aarch64__)
DCP_CACHE_FORMATS(DCP_DECLARE_ATTENTION, neon)
// With products of bytes (ARMv8.2 dotprod): reads query_terms.
dcp_attention_kernel dcp_attend_int8_neondot;
#endif

#endif
