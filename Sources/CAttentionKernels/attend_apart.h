// SPDX-License-Identifier: Apache-2.0
// Adds to scores what keys of int8 keep apart: the query's number in a dimension, times the token's word. Included by
// attend_vector.h.
//
// It is a pass over a group's scores when they are complete, so it serves every loop that computes them. A token's score is
// changed only if the token has a word: so whether a group is passed over, because none of its tokens has one, changes no
// bit. Mostly one dimension stands out in all tokens, and the query's number is then the same for all; the look-up for
// different ones gives the same bits.
#ifndef DCP_ATTEND_APART_H
#define DCP_ATTEND_APART_H

#include "attend_ahead.h"

enum { dcp_no_words, dcp_words_of_one_dim, dcp_words_of_some_dims };

// Loads the words of a group's tokens. Those of tokens that a row does not see may be anything, so their dimensions are
// clamped to those that exist.
DCP_INLINE void dcp_load_words_apart(dcp_group *group, const void *keys) {
    const dcp_attention_rows *rows = group->rows;
    const uint32_t *words = dcp_panel_words(keys, rows->key_dim, rows->block_tokens) + group->first;
    const int64_t padded = dcp_padded(group->tokens);
    uint32_t any = 0;
    for (int64_t t = 0; t < padded; t++) any |= words[t];
    group->apart = dcp_no_words;
    if (any == 0) return;
    const int32_t last = rows->key_dim - 1;
    int32_t least = last, most = 0;
    for (int64_t t = 0; t < padded; t++) {
        const int32_t named = (int32_t)dcp_apart_dim(words[t]), dim = named < last ? named : last;
        group->apart_dims[t] = dim;
        group->apart_values[t] = dcp_apart_value(words[t]) * rows->scale;
        const int32_t low = words[t] != 0 ? dim : last, high = words[t] != 0 ? dim : 0;
        least = low < least ? low : least;
        most = high > most ? high : most;
    }
    group->apart = least == most ? dcp_words_of_one_dim : dcp_words_of_some_dims;
    group->apart_dim = least;
}

DCP_INLINE void dcp_add_words_apart(dcp_group *group) {
    if (group->apart == dcp_no_words) return;
    const dcp_attention_rows *rows = group->rows;
    const int64_t padded = dcp_padded(group->tokens);
    for (int64_t r = 0; r < rows->rows; r++) {
        const float *query = rows->plain_queries + r * rows->key_dim;
        float *scores = group->scores[r];
        if (group->apart == dcp_words_of_one_dim) {
            const dcp_vec number = vec_set1(query[group->apart_dim]);
            for (int64_t t = 0; t < padded; t += dcp_width)
                vec_store(scores + t, vec_fma_nonzero(vec_load(group->apart_values + t), number, vec_load(scores + t)));
        } else {
            for (int64_t t = 0; t < padded; t += dcp_width) {
                const dcp_vec numbers = vec_look_up(query, rows->key_dim, group->apart_dims + t);
                vec_store(scores + t, vec_fma_nonzero(vec_load(group->apart_values + t), numbers, vec_load(scores + t)));
            }
        }
    }
}

#endif
