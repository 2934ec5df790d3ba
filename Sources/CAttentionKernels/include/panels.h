// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_PANELS_H
#define DCP_PANELS_H

#include <stddef.h>
#include <stdint.h>

#include "formats.h"

// Dimensions of one strip of a V panel: see DCPAttention.PanelLayout.
enum { dcp_strip_dims = 64 };

// The shape of one block's payload; see DCPAttention.PanelLayout for the layout and its reason.
typedef struct {
    int32_t format;
    int32_t kv_heads;
    int32_t key_dim;
    int32_t value_dim; // of the V panel; 0 if there is none
    int32_t block_tokens;
} dcp_panel_shape;

// Sizes in bytes of a panel with its scales, of one KV head's K panel, and of its K and V panels together, and the places of a
// panel's scales and words. The scales of a panel's tokens follow the panel, and the words of its keys, where the format has
// them, follow the scales.
static inline int64_t dcp_panel_bytes(int format, int64_t dim, int64_t block_tokens) {
    const int64_t scales = dcp_has_scales(format) && dim > 0 ? 4 : 0;
    return block_tokens * (dim * dcp_element_bytes(format) + scales);
}
static inline int64_t dcp_key_panel_bytes(const dcp_panel_shape *shape) {
    const int64_t words = dcp_has_words(shape->format) ? 4 * (int64_t)shape->block_tokens : 0;
    return dcp_panel_bytes(shape->format, shape->key_dim, shape->block_tokens) + words;
}
static inline int64_t dcp_head_bytes(const dcp_panel_shape *shape) {
    return dcp_key_panel_bytes(shape) + dcp_panel_bytes(shape->format, shape->value_dim, shape->block_tokens);
}
static inline const float *dcp_panel_scales(const void *panel, int64_t dim, int64_t block_tokens) {
    return (const float *)((const char *)panel + dim * block_tokens);
}
static inline const uint32_t *dcp_panel_words(const void *panel, int64_t dim, int64_t block_tokens) {
    return (const uint32_t *)((const char *)panel + (dim + 4) * block_tokens);
}

// Writes tokens of row-major K and V into the panels of a block, rounding to nearest, ties to even.
//
//   keys   [kv_heads][row_tokens][key_dim],   values [kv_heads][row_tokens][value_dim], of the dtype row_type, unaligned
//   source [count]: which row token becomes the block's token first + i
//   payload 4-byte aligned; fastest when 64-byte aligned
//   streams whether whole cache lines may bypass the caches, which saves reading them first: for many tokens that are
//           not read soon. They are visible to any thread that synchronises with this one afterwards.
//
// Writes the bytes of tokens first..<first + count and no others. It does not even write other bytes back unchanged, so
// other threads may read the block's other tokens meanwhile. Reads only the rows that source names.
//
// Returns 0, or -1 if a value is not finite in the panel's format (it was NaN or infinite, or too large for the format).
// Tokens first..<first + count are written in either case.
typedef int dcp_panel_writer(const dcp_panel_shape *shape, int32_t row_type, const void *keys, const void *values,
                             int64_t row_tokens, const uint32_t *source, int64_t count, void *payload, int64_t first,
                             int streams);

// Reads tokens first..<first + count out of a block, in the format's row type: what the writer was given, rounded. Formats
// with scales are read as Float32, with the rotation of keys undone and their words added; when these rows are written
// again, they become the same bytes.
//
//   keys [count][kv_heads][key_dim], values [count][kv_heads][value_dim]
//
// Other threads may write the block's other tokens meanwhile.
typedef void dcp_panel_reader(const dcp_panel_shape *shape, const void *payload, int64_t first, int64_t count,
                              void *keys, void *values);

// A packed token of a format with scales: the bytes of its keys [kv_heads][key_dim] and of its values
// [kv_heads][value_dim], then the scales of the keys [kv_heads] and of the values [kv_heads], then the words of the keys
// [kv_heads] if the format has them. Unaligned. For int8, all bytes are signed.
int64_t dcp_packed_bytes(const dcp_panel_shape *shape);
void dcp_packed_read(const dcp_panel_shape *shape, const void *payload, int64_t token, void *packed);
void dcp_packed_write(const dcp_panel_shape *shape, const void *packed, void *payload, int64_t token);

// Rotates rows of keys or queries in place, as int8 panels keep keys. Dot products of two rows stay the same.
void dcp_rotate_rows(float *rows, int64_t count, int64_t dim);

// Converts a row to what a panel with scales keeps, and back to Float32, in place. Returns 0, or -1 if it is not finite.
int dcp_round_row(int32_t format, int is_key, float *row, int64_t dim);

// Converts count numbers of row_type, unaligned, to Float32. Exact. Returns 0, or -1 if one is NaN or infinite.
typedef int dcp_rows_converter(int32_t row_type, const void *rows, int64_t count, float *out);

// Makes values of the first dimensions of keys, and writes them as the first tokens of a V panel.
//
//   keys   the K panel of a block of block_tokens tokens, at the first of the tokens to take
//   tokens a multiple of 16
//   values a V panel of value_tokens tokens
typedef void dcp_value_maker(int32_t format, const void *keys, int64_t block_tokens, int64_t value_dim,
                             int64_t tokens, void *values, int64_t value_tokens);

// The scalar twins. The others give the same bits, those of a NaN included.
dcp_panel_writer dcp_panel_write_scalar;
dcp_panel_reader dcp_panel_read_scalar;
dcp_value_maker dcp_values_of_keys_scalar;
dcp_rows_converter dcp_rows_to_f32_scalar;
#if defined(__x86_64__)
dcp_panel_writer dcp_panel_write_avx2, dcp_panel_write_avx512;
dcp_panel_reader dcp_panel_read_avx2, dcp_panel_read_avx512;
dcp_rows_converter dcp_rows_to_f32_avx2, dcp_rows_to_f32_avx512;
dcp_value_maker dcp_values_of_keys_avx2, dcp_values_of_keys_avx512;
#elif defined(__aarch64__)
dcp_panel_writer dcp_panel_write_neon;
dcp_panel_reader dcp_panel_read_neon;
dcp_rows_converter dcp_rows_to_f32_neon;
dcp_value_maker dcp_values_of_keys_neon;
#endif

#endif
