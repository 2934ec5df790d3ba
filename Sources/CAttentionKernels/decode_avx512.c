// Decode with AVX-512 F, BW, VL and DQ.
//
// Built on VFMADD231PS (two 512-bit FMAs a cycle, latency 4: four rows by four vectors are 16 independent sums),
// VBROADCASTSS from memory for query elements and weights (a load port only), VPSLLD and VPANDD to split bf16 pairs,
// VCVTPH2PS for f16, and masked loads and stores for dimensions that do not fill a vector. bf16 is widened, not fed to
// VDPBF16PS: that would round the weights to bf16.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "decode.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))),              \
                             apply_to = function)

#include "softmax_row.h"

typedef __m512 dcp_vec;
typedef __m512i dcp_words;

enum { dcp_width = 16 };

// 16 sums, 8 vectors of K or V and a broadcast: 25 of 32 registers.
#define dcp_vectors_max(rows) 4

#define vec_zero() _mm512_setzero_ps()
#define vec_set1(value) _mm512_set1_ps(value)
#define vec_load(at) _mm512_loadu_ps(at)
#define vec_store(at, vec) _mm512_storeu_ps(at, vec)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vec_add(a, b) _mm512_add_ps(a, b)
#define vec_sub(a, b) _mm512_sub_ps(a, b)
#define vec_mul(a, b) _mm512_mul_ps(a, b)
#define vec_max(a, b) _mm512_max_ps(a, b)
#define vec_sum_lanes(vec) _mm512_reduce_add_ps(vec)
#define vec_max_lanes(vec) _mm512_reduce_max_ps(vec)
#define vec_power(n)                                                                                                   \
    _mm512_castsi512_ps(                                                                                               \
        _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(n), 23), _mm512_set1_epi32((127 + 32) << 23)))
#define vec_zero_below(x, limit, vec)                                                                                  \
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), vec)
#define lanes_mask(n) ((__mmask16)((1u << (n)) - 1))
#define vec_load_some(at, n) _mm512_maskz_loadu_ps(lanes_mask(n), at)
#define vec_store_some(at, n, vec) _mm512_mask_storeu_ps(at, lanes_mask(n), vec)
#define vec_from_f16(at) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at)))
#define vec_from_f16_some(at, n) _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_mask(n), at))
#define words_load(at) _mm512_loadu_si512(at)
#define words_load_some(at, n) _mm512_maskz_loadu_epi32(lanes_mask(n), at)
#define words_low(words) _mm512_castsi512_ps(_mm512_slli_epi32(words, 16))
#define words_high(words) _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xFFFF0000u)))

#include "decode_vector.h"

DCP_DECODE_KERNEL(dcp_decode_bf16_avx512, dcp_bf16)
DCP_DECODE_KERNEL(dcp_decode_f16_avx512, dcp_f16)
DCP_DECODE_KERNEL(dcp_decode_f32_avx512, dcp_f32)

#pragma clang attribute pop

#endif
