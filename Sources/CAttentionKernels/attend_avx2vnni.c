// SPDX-License-Identifier: Apache-2.0
// Attention over int8 panels with AVX-VNNI, which some machines without AVX-512 have.
//
// Built on VPDPBUSD in 256 bits, which adds 32 products of an unsigned and a signed byte to 8 integers.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx2.h"

#define DCP_BYTE_DOT
#define words_set1(word) _mm256_set1_epi32((int)(word))
#define words_sum(a, b) _mm256_add_epi32(a, b)
#define words_to_float(words) _mm256_cvtepi32_ps(words)
#define words_raise_byte(words) _mm256_slli_epi32(words, 8)
#define words_add_bytes(c, a, b) _mm256_dpbusd_avx_epi32(c, a, b)

static inline __attribute__((always_inline)) void vec_store_halves(uint8_t *high, uint8_t *low, __m256 vec) {
    const __m256i numbers = _mm256_cvtps_epi32(vec);
    // In each half, the high bytes of four numbers and then their low bytes.
    const __m256i order = _mm256_setr_epi8(1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, 1, 5, 9, 13, 0, 4, 8,
                                           12, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(numbers, order),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 3, 6, 7));
    const __m128i both = _mm256_castsi256_si128(bytes);
    _mm_storel_epi64((__m128i *)high, both);
    _mm_storel_epi64((__m128i *)low, _mm_unpackhi_epi64(both, both));
}

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_int8_avx2vnni, dcp_int8)

#pragma clang attribute pop

#endif
