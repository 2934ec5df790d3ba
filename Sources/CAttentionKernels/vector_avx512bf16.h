// SPDX-License-Identifier: Apache-2.0
// The vector operations of attend_vector.h for pairs of bf16 in AVX512-BF16. Included inside a target bracket.
#ifndef DCP_VECTOR_AVX512BF16_H
#define DCP_VECTOR_AVX512BF16_H

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

#endif
