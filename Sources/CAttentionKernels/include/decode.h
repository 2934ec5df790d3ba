#ifndef DCP_DECODE_H
#define DCP_DECODE_H

#include <stdint.h>

// Few query rows against many tokens: decode and speculative verify.

enum { dcp_decode_rows_max = 16 };

// The query rows that read one KV head, and their running state. Before the first block: maximum -inf, sum 0, output 0.
// Afterwards the attention of row r is output[r] / sum[r], its log-sum-exp maximum[r] + log(sum[r]).
typedef struct {
    int32_t rows;         // 1...dcp_decode_rows_max
    int32_t key_dim;      // even, 8...256
    int32_t value_dim;    // even, 8...256
    int32_t block_tokens; // a multiple of 16
    float soft_cap;       // c of c * tanh(score / c); 0 for none
    const float *queries; // [rows][key_dim], already scaled
    float *maximum;       // [rows]
    float *sum;           // [rows]
    float *output;        // [rows][value_dim]
} dcp_decode_rows;

// Takes one block of one KV head into the rows' state.
//
//   keys, values  the head's panels, 4-byte aligned
//   visible       [rows]: how many of the block's first tokens each row sees, 0...block_tokens; a row that sees none
//                 keeps its state untouched
//   next_keys, next_values
//                 the panels of the block that the caller takes after this one, only ever prefetched; NULL when there
//                 is none
//
// Tokens that a row does not see may hold anything, NaN included. Nothing outside the panels is read. What a row
// becomes depends on no other row. Thread-safe.
typedef void dcp_decode_kernel(const dcp_decode_rows *rows, const void *keys, const void *values,
                               const int32_t *visible, const void *next_keys, const void *next_values);

// In C that a compiler vectorises for any machine: the twins that the others are tested against.
dcp_decode_kernel dcp_decode_bf16_scalar, dcp_decode_f16_scalar, dcp_decode_f32_scalar;
#if defined(__x86_64__)
// AVX2, FMA and F16C.
dcp_decode_kernel dcp_decode_bf16_avx2, dcp_decode_f16_avx2, dcp_decode_f32_avx2;
// AVX-512 F, BW, VL and DQ.
dcp_decode_kernel dcp_decode_bf16_avx512, dcp_decode_f16_avx512, dcp_decode_f32_avx512;
#elif defined(__aarch64__)
dcp_decode_kernel dcp_decode_bf16_neon, dcp_decode_f16_neon, dcp_decode_f32_neon;
#endif

#endif
