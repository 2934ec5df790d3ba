// SPDX-License-Identifier: Apache-2.0
// Panels with AVX-512 F, BW, VL and DQ.
//
// bf16 is rounded by integer arithmetic: VCVTNE2PS2BF16 flushes denormals and would differ from the scalar twin.
// Built on VPUNPCK and VSHUFI32X4 for the transpose (64 shuffles for a tile of 1 KiB), VPERMT2W to pack high halves,
// VCVTPS2PH and VCVTPH2PS for f16, which ignore the denormal modes of MXCSR.
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))),              \
                             apply_to = function)

typedef __m512i dcp_words;

enum { dcp_width = 16 };

#define words_zero() _mm512_setzero_si512()
#define words_set1(bits) _mm512_set1_epi32((int)(bits))
#define words_and(a, b) _mm512_and_si512(a, b)
#define words_load(at) _mm512_loadu_si512(at)
#define words_store(at, words) _mm512_storeu_si512(at, words)
#define words_stream(at, words) _mm512_stream_si512((__m512i *)(at), words)
#define words_fence() _mm_sfence()
#define words_max16(a, b) _mm512_max_epu16(a, b)
#define words_load_half(at) _mm256_loadu_si256((const __m256i *)(at))
#define words_from_bf16(at) _mm512_slli_epi32(_mm512_cvtepu16_epi32(words_load_half(at)), 16)
#define words_from_f16(at) _mm512_castps_si512(_mm512_cvtph_ps(words_load_half(at)))
#define words_store_low(at, words) _mm256_storeu_si256((__m256i *)(at), _mm512_cvtepi32_epi16(words))
#define words_store_high(at, words) words_store_low(at, _mm512_srli_epi32(words, 16))

static inline __m512i words_round_bf16(__m512i bits) {
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
    // A NaN is made quiet and not rounded, which could make it infinite.
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7F800000));
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
}

// VPTERNLOG: b's bit where the mask is 1, else a's.
static inline __m512i words_pair_high(__m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), b, _mm512_set1_epi32((int)0xFFFF0000u), 0xD8);
}

static inline __m512i words_pack_bf16(__m512i a, __m512i b) {
    const __m512i odd_halves = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                                27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(a, odd_halves, b);
}

static inline __m512i words_pack_f16(__m512i a, __m512i b) {
    const __m256i low = _mm512_cvtps_ph(_mm512_castsi512_ps(a), _MM_FROUND_TO_NEAREST_INT);
    const __m256i high = _mm512_cvtps_ph(_mm512_castsi512_ps(b), _MM_FROUND_TO_NEAREST_INT);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline __attribute__((always_inline)) void words_transpose(__m512i *t) {
    __m512i u[16];
    // Interleave 32-bit words of rows 2i and 2i + 1, then pairs of those: a transpose of 4 by 4 words inside each 128-bit
    // lane.
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i += 2) {
        u[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
        u[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i += 4) {
        t[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
        t[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
        t[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
        t[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    // Lane l of t[4g + j] has word 4l + j of rows 4g..<4g + 4. So the lanes are a 4 by 4 matrix themselves, still to
    // transpose.
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(t[j], t[j + 4], 0x88), odd = _mm512_shuffle_i32x4(t[j], t[j + 4], 0xDD);
        const __m512i even2 = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0x88);
        const __m512i odd2 = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0xDD);
        u[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
        u[j + 4] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        u[j + 8] = _mm512_shuffle_i32x4(even, even2, 0xDD);
        u[j + 12] = _mm512_shuffle_i32x4(odd, odd2, 0xDD);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++) t[i] = u[i];
}

#define words_raise(words) _mm512_slli_epi32(words, 16)

#include "panels_vector.h"
#include "panels_read.h"
#include "values_vector.h"

DCP_PANEL_KERNELS(avx512)
DCP_PANEL_READER(avx512)
DCP_VALUES_OF_KEYS(avx512)

#pragma clang attribute pop

#endif
