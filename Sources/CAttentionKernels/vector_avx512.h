// SPDX-License-Identifier: Apache-2.0
// The vector operations of attend_vector.h in AVX-512 F, BW, VL and DQ. Included inside a target bracket.
#ifndef DCP_VECTOR_AVX512_H
#define DCP_VECTOR_AVX512_H

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
#define vec_mul_nonzero(a, b)                                                                                          \
    _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), a, b)
#define vec_fma_nonzero(a, b, c)                                                                                       \
    _mm512_mask3_fmadd_ps(a, b, c, _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ))
// VPERMI2PS takes one of 32 numbers. A gather was faster on an Emerald Rapids: rows of which every token looks up another
// number took 0 to 12 % longer with it than without words, and 4 to 27 % with this. But Zen 4 has it in microcode.
static inline __attribute__((always_inline)) __m512 vec_look_up(const float *table, int64_t count, const int32_t *at) {
    const __m512i index = _mm512_loadu_si512(at), share = _mm512_srli_epi32(index, 5);
    __m512 found = _mm512_setzero_ps();
    for (int64_t first = 0; first < count; first += 32) {
        const int64_t left = count - first, high = left > 16 ? left - 16 : 0;
        const __m512 a = _mm512_maskz_loadu_ps((__mmask16)(left < 16 ? (1u << left) - 1 : 0xFFFF), table + first);
        const __m512 b = _mm512_maskz_loadu_ps((__mmask16)(high < 16 ? (1u << high) - 1 : 0xFFFF), table + first + 16);
        const __mmask16 here = _mm512_cmpeq_epi32_mask(share, _mm512_set1_epi32((int)(first / 32)));
        found = _mm512_mask_mov_ps(found, here, _mm512_permutex2var_ps(a, index, b));
    }
    return found;
}
#define vec_max(a, b) _mm512_max_ps(a, b)
#define vec_sum_lanes(vec) _mm512_reduce_add_ps(vec)
#define vec_max_lanes(vec) _mm512_reduce_max_ps(vec)
// e^x / 2^shift for x <= 0 as dcp_shifted_exp promises it, but 0 below 2^-126, in 12 instructions. 2 to the power of the
// fraction is the polynomial with the least relative error (3e-9) among those of degree 6 that are 1 at 0; VSCALEFPS then
// applies the integer part. The shift is in the polynomial's constants, since VSCALEFPS has no room for it.
static inline __attribute__((always_inline)) __m512 vec_shifted_exp(__m512 x, int shift) {
    const float unit = 1.0f / (float)(1 << shift);
    const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_fmsub_ps(x, _mm512_set1_ps(1.44269504088896341f), n);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(1.5594678e-4f * unit), _mm512_set1_ps(1.3406644e-3f * unit));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6176930e-3f * unit));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5503106e-2f * unit));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022653e-1f * unit));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314721e-1f * unit));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(unit));
    const __m512 limit = _mm512_set1_ps(-126.0f + (float)shift);
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(t, limit, _CMP_NLT_UQ), p, n);
}
#define lanes_mask(n) ((__mmask16)((1u << (n)) - 1))
#define vec_load_some(at, n) _mm512_maskz_loadu_ps(lanes_mask(n), at)
#define vec_store_some(at, n, vec) _mm512_mask_storeu_ps(at, lanes_mask(n), vec)
#define vec_from_f16(at) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at)))
#define vec_from_f16_some(at, n) _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_mask(n), at))
typedef __m256i dcp_halves;
#define halves_load(at) _mm256_loadu_si256((const __m256i *)(at))
#define halves_load_some(at, n) _mm256_maskz_loadu_epi16(lanes_mask(n), at)
// Moves sign, exponent and mantissa to their places in f16. The shift doubles the sign, and the mask cuts off the copy.
#define halves_f16(halves) _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(halves, 1), _mm256_set1_epi16((short)0xBF80)))
#define halves_low_e4m3(halves) halves_f16(_mm256_slli_epi16(halves, 8))
#define halves_high_e4m3(halves) halves_f16(halves)
#define words_flip_signs(words) _mm512_xor_si512(words, _mm512_set1_epi8((char)0x80))
#define words_byte(words, i) _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24 - 8 * (i)), 24))
#define words_load(at) _mm512_loadu_si512(at)
#define words_load_some(at, n) _mm512_maskz_loadu_epi32(lanes_mask(n), at)
#define words_low(words) _mm512_castsi512_ps(_mm512_slli_epi32(words, 16))
#define words_high(words) _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xFFFF0000u)))

#endif
