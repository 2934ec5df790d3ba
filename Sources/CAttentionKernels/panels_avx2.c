// SPDX-License-Identifier: Apache-2.0
// Panels with AVX2 and F16C.
//
// Built on VPUNPCK and VPERM2I128 for the transpose (24 shuffles for a tile of 256 bytes), VPACKUSDW with VPERMQ to pack
// halves, VCVTPS2PH and VCVTPH2PS for f16, which ignore the denormal modes of MXCSR.
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

typedef __m256i dcp_words;

enum { dcp_width = 8 };

#define words_zero() _mm256_setzero_si256()
#define words_set1(bits) _mm256_set1_epi32((int)(bits))
#define words_and(a, b) _mm256_and_si256(a, b)
#define words_load(at) _mm256_loadu_si256((const __m256i *)(at))
#define words_store(at, words) _mm256_storeu_si256((__m256i *)(at), words)
#define words_stream(at, words) _mm256_stream_si256((__m256i *)(at), words)
#define words_fence() _mm_sfence()
#define words_max16(a, b) _mm256_max_epu16(a, b)
#define words_load_half(at) _mm_loadu_si128((const __m128i *)(at))
#define words_from_bf16(at) _mm256_slli_epi32(_mm256_cvtepu16_epi32(words_load_half(at)), 16)
#define words_from_f16(at) _mm256_castps_si256(_mm256_cvtph_ps(words_load_half(at)))
#define words_pair_high(a, b) _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xAA)
#define words_pack_bf16(a, b) words_pack_low(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16))
#define words_store_low(at, words) store_low(at, _mm256_and_si256(words, _mm256_set1_epi32(0xFFFF)))
#define words_store_high(at, words) store_low(at, _mm256_srli_epi32(words, 16))

static inline __m256i words_round_bf16(__m256i bits) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
    // A NaN is made quiet and not rounded, which could make it infinite.
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)), nan);
}

// Packs words below 65536 as 16-bit elements, first a's and then b's.
static inline __m256i words_pack_low(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
}

static inline void store_low(void *at, __m256i words) {
    _mm_storeu_si128(at, _mm256_castsi256_si128(words_pack_low(words, words)));
}

static inline __m256i words_pack_f16(__m256i a, __m256i b) {
    const __m128i low = _mm256_cvtps_ph(_mm256_castsi256_ps(a), _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph(_mm256_castsi256_ps(b), _MM_FROUND_TO_NEAREST_INT);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

static inline __attribute__((always_inline)) void words_transpose(__m256i *t) {
    __m256i u[8];
    // Transpose 4 by 4 words inside each 128-bit lane, then the lanes.
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i += 2) {
        u[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
        u[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i += 4) {
        t[i] = _mm256_unpacklo_epi64(u[i], u[i + 2]);
        t[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 2]);
        t[i + 2] = _mm256_unpacklo_epi64(u[i + 1], u[i + 3]);
        t[i + 3] = _mm256_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
        u[j] = _mm256_permute2x128_si256(t[j], t[j + 4], 0x20);
        u[j + 4] = _mm256_permute2x128_si256(t[j], t[j + 4], 0x31);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) t[i] = u[i];
}

#define words_raise(words) _mm256_slli_epi32(words, 16)

#include "panels_vector.h"
#include "panels_read.h"
#include "values_vector.h"

DCP_PANEL_KERNELS(avx2)
DCP_PANEL_READER(avx2)
DCP_VALUES_OF_KEYS(avx2)

#pragma clang attribute pop

#endif
