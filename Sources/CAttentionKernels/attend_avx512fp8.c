// SPDX-License-Identifier: Apache-2.0
// Attention over fp8 panels with AVX512-BF16 and VBMI: an e4m3 has 4 significant bits, so it is exact as a bf16.
//
// Built on VPERMI2B, which looks up 64 bytes among 128, once for each of the two bytes of a bf16, and on VDPBF16PS.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx512.h"
#include "vector_avx512bf16.h"

// The bf16 of an e4m3 without its sign. NaN, which no panel holds, would be 480.
#define DCP_E4M3(code)                                                                                                 \
    ((code) > 7   ? ((code) << 4) + (120 << 7)                                                                         \
     : (code) > 3 ? (120 << 7) + ((code) - 4) * 32                                                                   \
     : (code) > 1 ? (119 << 7) + ((code) - 2) * 64                                                                   \
     : (code) > 0 ? 118 << 7                                                                                           \
                  : 0)
#define DCP_BYTES_8(of, code)                                                                                          \
    of(code), of((code) + 1), of((code) + 2), of((code) + 3), of((code) + 4), of((code) + 5), of((code) + 6), of((code) + 7)
#define DCP_BYTES_32(of, code)                                                                                         \
    DCP_BYTES_8(of, code), DCP_BYTES_8(of, (code) + 8), DCP_BYTES_8(of, (code) + 16), DCP_BYTES_8(of, (code) + 24)
#define DCP_LOW(code) (uint8_t)(DCP_E4M3(code) & 0xFF)
#define DCP_HIGH(code) (uint8_t)(DCP_E4M3(code) >> 8)
static const _Alignas(64) uint8_t low_bytes[128] = {DCP_BYTES_32(DCP_LOW, 0), DCP_BYTES_32(DCP_LOW, 32),
                                                    DCP_BYTES_32(DCP_LOW, 64), DCP_BYTES_32(DCP_LOW, 96)};
static const _Alignas(64) uint8_t high_bytes[128] = {DCP_BYTES_32(DCP_HIGH, 0), DCP_BYTES_32(DCP_HIGH, 32),
                                                     DCP_BYTES_32(DCP_HIGH, 64), DCP_BYTES_32(DCP_HIGH, 96)};

// Looks up the low and the high bytes of the bf16 of 32 pairs. In each 128 bits, pairs of the first 16 lie beside pairs of
// the last 16: they are in order again once low and high bytes are interleaved.
static inline __attribute__((always_inline)) void halve_e4m3(__m512i bytes, __m512i *low, __m512i *high) {
    const __m512i codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), bytes);
    *low = _mm512_permutex2var_epi8(_mm512_load_si512(low_bytes), codes, _mm512_load_si512(low_bytes + 64));
    const __m512i rest = _mm512_permutex2var_epi8(_mm512_load_si512(high_bytes), codes, _mm512_load_si512(high_bytes + 64));
    // The sign: rest | codes & 0x80.
    *high = _mm512_ternarylogic_epi32(rest, codes, _mm512_set1_epi8((char)0x80), 0xF8);
}

static inline __attribute__((always_inline)) void words_pair_from_e4m3(const char *at, __m512i *words) {
    __m512i low, high;
    halve_e4m3(_mm512_loadu_si512(at), &low, &high);
    words[0] = _mm512_unpacklo_epi8(low, high);
    words[1] = _mm512_unpackhi_epi8(low, high);
}

static inline __attribute__((always_inline)) __m512i half_from_e4m3(__m256i bytes) {
    __m512i low, high;
    halve_e4m3(_mm512_castsi256_si512(bytes), &low, &high);
    return _mm512_unpacklo_epi8(low, high);
}

#define words_from_e4m3(at) half_from_e4m3(halves_load(at))
#define words_from_e4m3_some(at, n) half_from_e4m3(halves_load_some(at, n))

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_fp8_avx512bf16, dcp_fp8)

#pragma clang attribute pop

#endif
