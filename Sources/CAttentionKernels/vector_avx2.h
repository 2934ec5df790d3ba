// SPDX-License-Identifier: Apache-2.0
// The vector operations of attend_vector.h in AVX2, FMA and F16C. Included inside a target bracket.
#ifndef DCP_VECTOR_AVX2_H
#define DCP_VECTOR_AVX2_H

typedef __m256 dcp_vec;
typedef __m256i dcp_words;

enum { dcp_width = 8 };

// 8 sums, up to 4 vectors of K or V and a broadcast: 13 of 16 registers.
#define dcp_vectors_max(rows) ((rows) <= 2 ? 4 : 2)

// -1 in the first n lanes.
static inline __m256i lanes_mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Loads an even number of f16 elements, below 8, as pairs: there is no masked load of 16-bit elements.
static inline __m256 vec_from_f16_some(const uint16_t *at, int n) {
    const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(n / 2), _mm_setr_epi32(0, 1, 2, 3));
    return _mm256_cvtph_ps(_mm_maskload_epi32((const int *)at, mask));
}

static inline float vec_sum_lanes(__m256 vec) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(vec), _mm256_extractf128_ps(vec, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float vec_max_lanes(__m256 vec) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(vec), _mm256_extractf128_ps(vec, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// e^x / 2^shift as dcp_shifted_exp computes it, but with fused multiply-adds.
static inline __attribute__((always_inline)) __m256 vec_shifted_exp(__m256 x, int shift) {
    const __m256 round = _mm256_set1_ps(0x1.8p23f);
    const __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504088896341f), round);
    const __m256 n = _mm256_sub_ps(shifted, round);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(1.9875691500e-4f), r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    // 2^n is made from the integer in the low bits of `shifted`. Below 2^-126 that would fail, and the result is 0.
    const __m256i bias = _mm256_set1_epi32(127 - shift);
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(shifted), bias), 23);
    const __m256 limit = _mm256_set1_ps(-87.33654f + 0.69314718f * (float)shift);
    return _mm256_andnot_ps(
        _mm256_cmp_ps(x, limit, _CMP_LT_OQ), _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

#define vec_zero() _mm256_setzero_ps()
#define vec_set1(value) _mm256_set1_ps(value)
#define vec_load(at) _mm256_loadu_ps(at)
#define vec_store(at, vec) _mm256_storeu_ps(at, vec)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vec_add(a, b) _mm256_add_ps(a, b)
#define vec_sub(a, b) _mm256_sub_ps(a, b)
#define vec_mul(a, b) _mm256_mul_ps(a, b)
#define vec_mul_nonzero(a, b)                                                                                          \
    _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ), _mm256_mul_ps(a, b))
#define vec_fma_nonzero(a, b, c)                                                                                       \
    _mm256_blendv_ps(c, _mm256_fmadd_ps(a, b, c), _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ))
#define vec_look_up(table, count, at)                                                                                  \
    ((void)(count), _mm256_i32gather_ps(table, _mm256_loadu_si256((const __m256i *)(at)), 4))
#define vec_max(a, b) _mm256_max_ps(a, b)
#define vec_load_some(at, n) _mm256_maskload_ps(at, lanes_mask(n))
#define vec_store_some(at, n, vec) _mm256_maskstore_ps(at, lanes_mask(n), vec)
#define vec_from_f16(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
typedef __m128i dcp_halves;
#define halves_load(at) _mm_loadu_si128((const __m128i *)(at))
#define halves_load_some(at, n)                                                                                        \
    _mm_maskload_epi32((const int *)(at), _mm_cmpgt_epi32(_mm_set1_epi32((n) / 2), _mm_setr_epi32(0, 1, 2, 3)))
// Moves sign, exponent and mantissa to their places in f16. The shift doubles the sign, and the mask cuts off the copy.
#define halves_f16(halves) _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(halves, 1), _mm_set1_epi16((short)0xBF80)))
#define halves_low_e4m3(halves) halves_f16(_mm_slli_epi16(halves, 8))
#define halves_high_e4m3(halves) halves_f16(halves)
#define words_flip_signs(words) _mm256_xor_si256(words, _mm256_set1_epi8((char)0x80))
#define words_byte(words, i) _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24 - 8 * (i)), 24))
#define words_load(at) _mm256_loadu_si256((const __m256i *)(at))
#define words_load_some(at, n) _mm256_maskload_epi32((const int *)(at), lanes_mask(n))
#define words_low(words) _mm256_castsi256_ps(_mm256_slli_epi32(words, 16))
#define words_high(words) _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xFFFF0000u)))

#endif
