// SPDX-License-Identifier: Apache-2.0
// Keys of int8: rotated, with a scale, and with the number of a dimension that stands out kept apart in a word of its own.
//
// The rotation alone spreads such a number over all dimensions, where it makes the scale larger: with one that is 100 times
// as large as the others, results were off by 2.7 %. The word has the number's first 6 bits, and what is left of it stays in
// the row. So a kept key is its bytes, rotated back, plus the word. The whole number in the word, and 0 in its place, was as
// exact. But a number that is read back is then the word plus what bytes made of that 0, and does not say which is which.
//
// A row that was read back becomes the same bytes and the same word again, which export and import rely on:
//
// - A row without a word that was read back lies on a grid of the scale, to a rounding of Float32. Such a row gets no word.
// - A row gets a word only if the result, read back, becomes the same result. A few in a hundred do not, because what is
//   left is near half a unit of the word. Each becomes another result, and mostly that becomes itself; where it goes on,
//   in one row of a thousand, there is no word.
//
// The second needs the first: without it, the row that stayed without a word might get one at the second attempt.
#ifndef DCP_APART_H
#define DCP_APART_H

#include "apart_word.h"
#include "bytes.h"

#pragma STDC FP_CONTRACT OFF

// Of 5 to 8 bits these served best: with fewer, more of a large number stays in the row; with more, fewer rows become
// themselves.
enum { dcp_apart_bits = 6, dcp_apart_attempts = 8 };
_Static_assert(dcp_rotated_max <= dcp_apart_dim_mask, "a dimension has 10 bits");

// Adds what a word keeps to a row that is not rotated. A word that names no dimension of the row adds nothing.
static inline void dcp_add_apart(uint32_t word, float *row, int64_t dim) {
    if (word != 0 && dcp_apart_dim(word) < dim) row[dcp_apart_dim(word)] += dcp_apart_value(word);
}

// Adds it to a rotated row, whose dimensions are `stride` apart.
static inline void dcp_add_apart_rotated(uint32_t word, float *row, int64_t dim, int64_t stride) {
    if (word == 0) return;
    float apart[dcp_rotated_max] = {0};
    dcp_add_apart(word, apart, dim);
    dcp_rotate(apart, dim);
    for (int64_t d = 0; d < dim; d++) row[d * stride] += apart[d];
}

// Whether a rotated row is what its bytes say, to the rounding of scales to 12 bits, as a row that was read back is.
static inline int dcp_is_on_grid(const float *row, int64_t dim, float scale, const uint8_t *bytes) {
    const float inverse = 1.0f / scale;
    uint32_t most = 0;
    for (int64_t d = 0; d < dim; d++) {
        const uint32_t off = dcp_bits(row[d] * inverse - (float)(int8_t)bytes[d]) & 0x7FFFFFFFu;
        most = off > most ? off : most;
    }
    return dcp_float(most) < 0x1p-6f;
}

// The part of a number that its word keeps: the number rounded to dcp_apart_bits bits.
static inline float dcp_apart_part(float number) {
    const int dropped = 24 - dcp_apart_bits;
    return dcp_float((dcp_bits(number) + (1u << (dropped - 1))) & ~0u << dropped);
}

// Converts a key as if it were not to be read back: with a word if that makes the largest rotated number less than 3/4 of
// what it was. Returns the scale, or infinity if a number is not finite; the bytes are then 0.
static inline float dcp_key_to_word(const float *row, int64_t dim, uint8_t *bytes, uint32_t *word) {
    float rotated[dcp_rotated_max];
    *word = 0;
    memcpy(rotated, row, sizeof *row * (size_t)dim);
    dcp_rotate(rotated, dim);
    const float most = dcp_row_magnitude(rotated, dim);
    if (!(most < INFINITY)) {
        memset(bytes, 0, (size_t)dim);
        return INFINITY;
    }
    const float scale = dcp_int8_row(rotated, dim, most, bytes);
    // With a single transform, what a number adds to the rotated ones tells at once that it does not stand out. Otherwise
    // all rows would be rotated twice, as those of two transforms are.
    const float largest = dcp_row_magnitude(row, dim);
    const int64_t size = dcp_rotation_size(dim);
    if (size == dim && !(largest * dcp_rotation_unit(size) > 0.25f * most)) return scale;
    if (scale <= 2 * DCP_SCALE_MIN || dcp_is_on_grid(rotated, dim, scale, bytes)) return scale;
    int64_t place = 0;
    while ((dcp_bits(row[place]) & 0x7FFFFFFFu) != dcp_bits(largest)) place++;
    memcpy(rotated, row, sizeof *row * (size_t)dim);
    const float part = dcp_apart_part(row[place]);
    rotated[place] = row[place] - part;
    dcp_rotate(rotated, dim);
    const float left = dcp_row_magnitude(rotated, dim);
    if (!(left < 0.75f * most)) return scale;
    *word = dcp_apart_word(part, place);
    return dcp_int8_row(rotated, dim, left, bytes);
}

static inline void dcp_key_from_int8(const uint8_t *restrict bytes, int64_t dim, float scale, uint32_t word,
                                     float *restrict row) {
    for (int64_t d = 0; d < dim; d++) row[d] = (float)(int8_t)bytes[d] * scale;
    dcp_rotate_back(row, dim);
    dcp_add_apart(word, row, dim);
}

// Converts a key, which is lost. Returns the scale, or infinity if a number is not finite; the bytes are then 0.
static inline float dcp_key_to_int8(float *row, int64_t dim, uint8_t *bytes, uint32_t *word) {
    float scale = dcp_key_to_word(row, dim, bytes, word);
    if (*word == 0) return scale;
    // What does not become itself is replaced by what it becomes.
    for (int attempt = 0; attempt < dcp_apart_attempts && *word != 0; attempt++) {
        float back[dcp_rotated_max];
        uint8_t again[dcp_rotated_max];
        uint32_t word_again;
        dcp_key_from_int8(bytes, dim, scale, *word, back);
        const float scale_again = dcp_key_to_word(back, dim, again, &word_again);
        if (scale_again == scale && word_again == *word && memcmp(again, bytes, (size_t)dim) == 0) return scale;
        memcpy(bytes, again, (size_t)dim);
        scale = scale_again, *word = word_again;
    }
    // It had a word, so its numbers are finite.
    *word = 0;
    dcp_rotate(row, dim);
    return dcp_int8_row(row, dim, dcp_row_magnitude(row, dim), bytes);
}

#endif
