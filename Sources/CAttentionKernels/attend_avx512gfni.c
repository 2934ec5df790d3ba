// SPDX-License-Identifier: Apache-2.0
// Attention over fp8 panels with AVX-512 and GFNI, in Float32: the bits of dcp_attend_fp8_avx512.
//
// Built on GF2P8AFFINEQB, which makes each bit of a byte a sum of any bits of another. It makes the two upper bytes of the
// Float32 of an e4m3, for 64 at once: 21 operations for 128 numbers, where shifts and VCVTPH2PS take 36. It cannot make a
// number of exponent 0, a zero or a denormal. If there is one among the 128, shifts and VCVTPH2PS widen them all.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,gfni"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx512.h"
#include "attend_ahead.h"

// Byte i of a matrix, counted from the lowest, selects the source bits of bit 7 - i of the result. The high byte gets the
// sign and the three upper bits of the exponent, with the bias between them; the low byte gets the lowest bit of the
// exponent and the mantissa.
#define DCP_HIGH_BYTE 0x1020400000000080
#define DCP_LOW_BYTE 0x0000000001020408
// The bias for a Float32 of 2^-8 of the number, which is what vector_avx512.h makes of an e4m3.
#define DCP_BIAS (112 >> 1)

// Widens 32 pairs to two vectors of their first numbers and two of their second ones. None has an exponent of 0.
DCP_INLINE void pairs_from_normal_e4m3(__m512i codes, __m512 *first, __m512 *second) {
    const __m512i high = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(DCP_HIGH_BYTE), DCP_BIAS);
    const __m512i low = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(DCP_LOW_BYTE), 0);
    const __m512i words[2] = {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    DCP_UNROLL
    for (int v = 0; v < 2; v++) {
        first[v] = words_low(words[v]);
        second[v] = words_high(words[v]);
    }
}

// Widens any pairs, to two or four vectors of each.
DCP_INLINE void pairs_from_e4m3(int vectors, const char *at, __m512 *first, __m512 *second) {
    // Puts pairs of the first 16 and of the last 16 side by side in each 128 bits: they are in order again once bytes are
    // interleaved.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), exponent = _mm512_set1_epi8(0x78);
    __m512i codes[2];
    __mmask64 denormal = 0;
    DCP_UNROLL
    for (int i = 0; i < vectors / 2; i++) {
        codes[i] = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(at + 64 * i));
        denormal = _kor_mask64(denormal, _mm512_testn_epi8_mask(codes[i], exponent));
    }
    if (__builtin_expect(_kortestz_mask64_u8(denormal, denormal), 1)) {
        DCP_UNROLL
        for (int i = 0; i < vectors / 2; i++) pairs_from_normal_e4m3(codes[i], first + 2 * i, second + 2 * i);
    } else {
        DCP_UNROLL
        for (int v = 0; v < vectors; v++) {
            const dcp_halves halves = halves_load(at + 2 * v * dcp_width);
            first[v] = halves_low_e4m3(halves);
            second[v] = halves_high_e4m3(halves);
        }
    }
}

#define vec_pairs_from_e4m3 pairs_from_e4m3

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_fp8_avx512gfni, dcp_fp8)

#pragma clang attribute pop

#endif
