// Vectors of keys and values from the panels, and what is added up of them. Included by attend_sums.h.
#ifndef DCP_ATTEND_LOADS_H
#define DCP_ATTEND_LOADS_H

#include "attend_ahead.h"

// Two rows of `vectors` vectors: keys of two dimensions, values of two tokens. `pair` is where the first row's vector 0
// is, `stride` the elements between the two rows; bf16 has them interleaved. Of the last vector only `some` lanes are
// read when `some` is not 0.
DCP_INLINE void dcp_load_pair(int type, int vectors, int some, const char *pair, int64_t stride, dcp_vec *first,
                              dcp_vec *second) {
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) {
        if (type == dcp_bf16) {
            const uint32_t *at = (const uint32_t *)pair + v * dcp_width;
            const dcp_words words = some ? words_load_some(at, some) : words_load(at);
            first[v] = words_low(words);
            second[v] = words_high(words);
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

// Adds two dimensions, or two tokens, of one row to its sums.
DCP_INLINE void dcp_add_pair(int vectors, float first, float second, const dcp_vec *even, const dcp_vec *odd,
                             dcp_vec *total) {
    const dcp_vec a = vec_set1(first), b = vec_set1(second);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(a, even[v], total[v]);
    DCP_UNROLL
    for (int v = 0; v < vectors; v++) total[v] = vec_fma(b, odd[v], total[v]);
}

#ifdef DCP_DOT
DCP_INLINE void dcp_load_words(int vectors, int some, const char *pair, dcp_words *words) {
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
