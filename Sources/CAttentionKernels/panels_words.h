// SPDX-License-Identifier: Apache-2.0
// Rows as vectors of 32-bit words, written once over a few vector operations. A file for an instruction set opens its
// target bracket, defines these operations, and includes panels_vector.h:
//
//   dcp_words                      16, 8 or 4 32-bit words
//   dcp_width                      that number
//   words_zero, words_set1, words_and
//   words_load, words_store        unaligned
//   words_stream                   stores a whole vector to aligned memory, and bypasses the caches if the set can
//   words_fence                    orders those stores before later ones
//   words_max16                    the larger of each two unsigned 16-bit halves
//   words_from_bf16, words_from_f16
//                                  loads as many 16-bit elements, unaligned, as Float32 bits
//   words_round_bf16               Float32 bits rounded to bf16 in the high half; the low half is undefined
//   words_pair_high(a, b)          in each word the high half of a's word, and above it the high half of b's
//   words_pack_bf16(a, b)          the high halves of a's words and then of b's, packed
//   words_pack_f16(a, b)           the Float32 of a and then of b as f16, packed
//   words_store_low, words_store_high
//                                  stores the low or the high halves, as many 16-bit elements
//   words_transpose(words)         [dcp_width] vectors, in place
//
// A word is a Float32 number or a pair of 16-bit ones. Dimensions that do not fill the last vector are covered by a vector
// that overlaps the one before, and repeats its results.
#ifndef DCP_PANELS_WORDS_H
#define DCP_PANELS_WORDS_H

#include "strips.h"

enum { dcp_row_words_max = 576 };

#define DCP_PANEL_INLINE static inline __attribute__((always_inline))
#define DCP_PANEL_UNROLL _Pragma("clang loop unroll(full)")

DCP_PANEL_INLINE int64_t dcp_words_of(int type, int64_t dim) { return type == dcp_f32 ? dim : dim / 2; }

// The exponent bits of the elements of a word, all ones in a number that is not finite. The low half of a Float32 has none.
DCP_PANEL_INLINE uint32_t dcp_exponents(int type) {
    return type == dcp_f32 ? 0x7F800000u : type == dcp_bf16 ? 0x7F807F80u : 0x7C007C00u;
}

// Updates the highest exponents of each lane, and returns the words.
DCP_PANEL_INLINE dcp_words dcp_checked(int type, dcp_words words, dcp_words *highest) {
    *highest = words_max16(*highest, words_and(words, words_set1(dcp_exponents(type))));
    return words;
}

DCP_PANEL_INLINE int dcp_all_finite(int type, dcp_words highest) {
    uint32_t words[dcp_width];
    words_store(words, highest);
    const uint32_t all = dcp_exponents(type), high = all & 0xFFFF0000u, low = all & 0xFFFFu;
    int finite = 1;
    for (int i = 0; i < dcp_width; i++) {
        finite &= (words[i] & 0xFFFF0000u) != high && (low == 0 || (words[i] & 0xFFFFu) != low);
    }
    return finite;
}

// Elements of a row as Float32 bits.
DCP_PANEL_INLINE dcp_words dcp_as_f32(int from, const char *at) {
    return from == dcp_f32 ? words_load(at) : from == dcp_bf16 ? words_from_bf16(at) : words_from_f16(at);
}

// Loads words `word`..<word + dcp_width of a row, in the panel's format.
DCP_PANEL_INLINE dcp_words dcp_row_load(int from, int to, const char *row, int64_t word, dcp_words *highest) {
    if (to == dcp_f32) return dcp_checked(to, dcp_as_f32(from, row + word * dcp_element_bytes(from)), highest);
    const char *at = row + 2 * word * dcp_element_bytes(from);
    if (from == to) return dcp_checked(to, words_load(at), highest);
    const dcp_words low = dcp_as_f32(from, at), high = dcp_as_f32(from, at + dcp_width * dcp_element_bytes(from));
    if (to == dcp_f16) return dcp_checked(to, words_pack_f16(low, high), highest);
    return dcp_checked(to, words_pack_bf16(words_round_bf16(low), words_round_bf16(high)), highest);
}

// A copy of a row of fewer than dcp_width words, followed by zeros. `scratch` has 8 * dcp_width bytes, which are a vector
// of pairs in f32.
DCP_PANEL_INLINE const char *dcp_row_padded(int from, const char *row, int64_t dim, char *scratch) {
    memset(scratch, 0, 8 * dcp_width);
    return memcpy(scratch, row, (size_t)(dim * dcp_element_bytes(from)));
}

DCP_PANEL_INLINE void dcp_put(int streams, char *at, dcp_words words) {
    if (streams) {
        words_stream(at, words);
    } else {
        words_store(at, words);
    }
}

// Converts a whole row to `out`, which is written up to its last element and no further.
DCP_PANEL_INLINE void dcp_row_convert(int from, int to, int streams, const char *row, int64_t dim, char *out,
                                      dcp_words *highest) {
    const int64_t words = dcp_words_of(to, dim);
    if (words < dcp_width) {
        char scratch[8 * dcp_width], whole[4 * dcp_width];
        words_store(whole, dcp_row_load(from, to, dcp_row_padded(from, row, dim, scratch), 0, highest));
        memcpy(out, whole, (size_t)(4 * words));
        return;
    }
    for (int64_t word = 0; word < words; word += dcp_width) {
        const int64_t here = word + dcp_width <= words ? word : words - dcp_width;
        dcp_put(streams, out + 4 * here, dcp_row_load(from, to, row, here, highest));
    }
}

#endif
