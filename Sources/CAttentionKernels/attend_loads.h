// SPDX-License-Identifier: Apache-2.0
// Loads vectors of keys and values from the panels, and adds their products to sums. Included by attend_sums.h,
// attend_bytes.h and attend_widened.h.
#ifndef DCP_ATTEND_LOADS_H
#define DCP_ATTEND_LOADS_H

#include "attend_ahead.h"

// Loads two rows of `vectors` vectors: keys of two dimensions, or values of two tokens. `pair` points to vector 0 of the
// first row, and `stride` is the number of elements between the two rows. bf16 and fp8 have the two rows interleaved. int8
// has four interleaved, and `half` selects the first or the second two. If `some` is not 0, only `some` lanes of a vector
// are read. The numbers must still be multiplied by dcp_units.
DCP_INLINE void dcp_load_pair(int type, int is_key, int half, int vectors, int some, const char *pair, int64_t stride,
                              dcp_vec *first, dcp_vec *second) {
#ifdef vec_pairs_from_e4m3
    if (type == dcp_fp8 && vectors % 2 == 0 && !some) {
        vec_pairs_from_e4m3(vectors, pair, first, second);
        return;
    }
#endif
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        if (type == dcp_bf16) {
            const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
            const dcp_words words = some ? words_load_some(at, some) : words_load(at);
            first[v] = words_low(words);
            second[v] = words_high(words);
        } else if (type == dcp_int8) {
            const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
            const dcp_words bytes = some ? words_load_some(at, some) : words_load(at);
            const dcp_words words = is_key ? words_flip_signs(bytes) : bytes;
            first[v] = half ? words_byte(words, 2) : words_byte(words, 0);
            second[v] = half ? words_byte(words, 3) : words_byte(words, 1);
        } else if (type == dcp_fp8) {
            const uint16_t *at = (const uint16_t *)pair + v * dcp_width;
            const dcp_halves bytes = some ? halves_load_some(at, some) : halves_load(at);
            first[v] = halves_low_e4m3(bytes);
            second[v] = halves_high_e4m3(bytes);
        } else if (type == dcp_f16) {
            const uint16_t *at = (const uint16_t *)pair + v * dcp_width;
            first[v] = some ? vec_from_f16_some(at, some) : vec_from_f16(at);
            second[v] = some ? vec_from_f16_some(at + stride, some) : vec_from_f16(at + stride);
        } else {
            const float *at = (const float *)pair + v * dcp_width;
            first[v] = some ? vec_load_some(at, some) : vec_load(at);
            second[v] = some ? vec_load_some(at + stride, some) : vec_load(at + stride);
        }
    }
}

// The factor that a loaded number still needs. Moved into place in f16, an e4m3 is 2^-8 of its number; as bf16 it needs none.
DCP_INLINE float dcp_units(int type) { return type == dcp_fp8 && !dcp_dot ? 0x1p8f : 1.0f; }

// The dimensions of a key, or tokens of a value, that a loop takes at once: those that are interleaved, and at least two.
DCP_INLINE int64_t dcp_step(int type) { return type == dcp_int8 ? 4 : 2; }

// Adds the products of two dimensions, or of two tokens, to the sums of one row.
DCP_INLINE void dcp_add_pair(int vectors, float first, float second, const dcp_vec *even, const dcp_vec *odd,
                             dcp_vec *total) {
    const dcp_vec a = vec_set1(first), b = vec_set1(second);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(a, even[v], total[v]);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(b, odd[v], total[v]);
}

#ifdef DCP_DOT
DCP_INLINE void dcp_load_words(int type, int vectors, int some, const char *pair, dcp_words *words) {
#ifdef words_from_e4m3
    if (type == dcp_fp8) {
        if (vectors == 1) {
            words[0] = some ? words_from_e4m3_some(pair, some) : words_from_e4m3(pair);
        }
        DCP_UNROLL
        for (int v = 0; v + 1 < vectors; v += 2) words_pair_from_e4m3(pair + 2 * v * dcp_width, words + v);
        return;
    }
#endif
    (void)type;
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
        words[v] = some ? words_load_some(at, some) : words_load(at);
    }
}

DCP_INLINE void dcp_add_dot(int vectors, uint32_t pair, const dcp_words *words, dcp_vec *total) {
    const dcp_words both = words_set1(pair);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_dot(both, words[v], total[v]);
}
#endif

#endif
