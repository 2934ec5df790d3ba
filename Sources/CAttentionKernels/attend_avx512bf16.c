// Attention over bf16 panels with AVX512-BF16; f16 and f32 panels have no use for it.
//
// Built on VDPBF16PS: 32 products of bf16 added to 16 Float32 sums, two a cycle on Zen 5, one on Intel. It treats
// denormals as zero, in products and in sums: below 1.2e-38, far below what an output of Float32 keeps.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx512.h"

#define DCP_DOT
#define words_set1(word) _mm512_set1_epi32((int)(word))
#define words_and(a, b) _mm512_and_si512(a, b)
#define vec_dot(a, b, c) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
#define vec_bf16(vec) ((__m256i)_mm512_cvtneps_pbh(vec))
#define vec_store_bf16(at, vec) _mm256_storeu_si256((__m256i *)(at), vec_bf16(vec))
#define vec_nearest_bf16(vec)                                                                                          \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(vec_bf16(vec)), 16))
#define vec_above(vec, limit) ((uint64_t)_cvtmask16_u32(_mm512_cmp_ps_mask(vec, limit, _CMP_GT_OQ)))
#define vec_round_bf16(vec, lanes, thresholds)                                                                         \
    _mm512_add_epi32(_mm512_castps_si512(vec),                                                                         \
                     _mm512_mask_mov_epi32(thresholds, _cvtu32_mask16((uint32_t)(lanes)), _mm512_set1_epi32(0x8000)))
#define words_store_high(at, words)                                                                                    \
    _mm256_storeu_si256((__m256i *)(at), _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)))
#define vec_residue(vec, lanes, rounded) _mm512_maskz_sub_ps(_cvtu32_mask16((uint32_t)(lanes)), vec, rounded)

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_bf16_avx512bf16, dcp_bf16)

#pragma clang attribute pop

#endif
