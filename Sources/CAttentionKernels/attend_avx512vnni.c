// SPDX-License-Identifier: Apache-2.0
// Attention over int8 panels with AVX512-VNNI.
//
// Built on VPDPBUSD, which adds 64 products of an unsigned and a signed byte to 16 integers, one or two a cycle.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))),              \
                             apply_to = function)

#include "softmax_row.h"

#include "vector_avx512.h"

#define DCP_BYTE_DOT
#define words_set1(word) _mm512_set1_epi32((int)(word))
#define words_sum(a, b) _mm512_add_epi32(a, b)
#define words_to_float(words) _mm512_cvtepi32_ps(words)
#define words_raise_byte(words) _mm512_slli_epi32(words, 8)
#define words_add_bytes(c, a, b) _mm512_dpbusd_epi32(c, a, b)

static inline __attribute__((always_inline)) void vec_store_halves(uint8_t *high, uint8_t *low, __m512 vec) {
    const __m512i numbers = _mm512_cvtps_epi32(vec);
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32(numbers, 8)));
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8(numbers));
}

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_int8_avx512vnni, dcp_int8)

#pragma clang attribute pop

#endif
