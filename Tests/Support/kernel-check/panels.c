// SPDX-License-Identifier: Apache-2.0
// Panel writers and row conversions give every bit of the scalar twin's, and write no byte of other tokens.
#include <stdlib.h>
#include <string.h>

#include "check.h"

// Random bits: 16-bit types get every pattern, and f32 half of the time gets magnitudes that f16 rounds in all its ways.
static void fill(guarded memory, int type) {
    for (uint64_t at = 0; at + 1 < memory.byte_count; at += 2) {
        const uint16_t bits = (uint16_t)next_random();
        memcpy((char *)memory.base + at, &bits, 2);
    }
    if (type != dcp_f32 || next_random() % 2) return;
    for (uint64_t at = 0; at < memory.byte_count; at += 4) {
        uint32_t bits = (uint32_t)next_random();
        // Exponents from below the smallest f16 denormal to above the largest number, and many ties.
        bits = (bits & 0x807FFFFFu) | (uint32_t)(96 + next_random() % 48) << 23;
        if (next_random() % 2) bits &= next_random() % 2 ? 0xFFFFF000u : 0xFFFF8000u;
        memcpy((char *)memory.base + at, &bits, 4);
    }
}

static int write_with(const dcp_kernel_table *kernels, const dcp_panel_shape *shape, int row_type, guarded keys,
                      guarded values, int64_t row_tokens, const uint32_t *source, int64_t count, int64_t first,
                      guarded payload, int streams) {
    return dcp_panel_write(kernels, shape, row_type, keys.base, values.base, row_tokens, source, count, payload.base,
                           first, streams);
}

static void check_write(const dcp_kernel_table *kernels, int row_type, const dcp_panel_shape *shape, int64_t first,
                        int64_t count) {
    const int64_t stride = 1 + (int64_t)(next_random() % 3), row_tokens = shape->block_tokens * stride;
    uint32_t source[256];
    for (int64_t i = 0; i < count; i++) source[i] = (uint32_t)((first + i) * stride);
    const uint64_t rows = (uint64_t)(shape->kv_heads * row_tokens * dcp_element_bytes(row_type));
    guarded keys = guarded_make(rows * (uint64_t)shape->key_dim);
    guarded values = guarded_make(rows * (uint64_t)shape->value_dim);
    const uint64_t bytes = (uint64_t)(shape->kv_heads * dcp_head_bytes(shape));
    guarded ours = guarded_make(bytes), twin = guarded_make(bytes);
    fill(keys, row_type);
    fill(values, row_type);
    fill(ours, dcp_bf16);
    memcpy(twin.base, ours.base, bytes);
    const int result = write_with(kernels, shape, row_type, keys, values, row_tokens, source, count, first, ours,
                                  next_random() % 2);
    const int expected = write_with(dcp_kernels(0), shape, row_type, keys, values, row_tokens, source, count, first,
                                    twin, 0);
    check(result == expected && memcmp(ours.base, twin.base, bytes) == 0,
          "%s rows to %s panels, dims %d and %d, block %d, tokens %d..<%d", dcp_format(row_type).name, dcp_format(shape->format).name,
          shape->key_dim, shape->value_dim, shape->block_tokens, (int)first, (int)(first + count));
    guarded_free(keys);
    guarded_free(values);
    guarded_free(ours);
    guarded_free(twin);
}

static void check_conversion(const dcp_kernel_table *kernels, int row_type, int64_t count) {
    guarded rows = guarded_make((uint64_t)(count * dcp_element_bytes(row_type)));
    guarded ours = guarded_make((uint64_t)count * 4), twin = guarded_make((uint64_t)count * 4);
    fill(rows, row_type);
    const int result = dcp_rows_to_f32(kernels, row_type, rows.base, count, ours.base);
    const int expected = dcp_rows_to_f32(dcp_kernels(0), row_type, rows.base, count, twin.base);
    check(result == expected && memcmp(ours.base, twin.base, ours.byte_count) == 0, "%d rows of %s as f32", (int)count,
          dcp_format(row_type).name);
    guarded_free(rows);
    guarded_free(ours);
    guarded_free(twin);
}

// Checks values that are the first dimensions of keys.
static void check_values(const dcp_kernel_table *kernels, int type, int dim, int block_tokens, int first, int tokens) {
    const int64_t size = dcp_element_bytes(type);
    guarded keys = guarded_make((uint64_t)(dim * block_tokens * size));
    // The V panel has as many tokens, or 16 more.
    const int64_t value_tokens = tokens + (int64_t)(next_random() % 2) * 16;
    const uint64_t value_bytes = (uint64_t)(dim * value_tokens * size);
    guarded ours = guarded_make(value_bytes), twin = guarded_make(value_bytes);
    fill(keys, type);
    fill(ours, type);
    memcpy(twin.base, ours.base, value_bytes);
    const char *at = (const char *)keys.base + first * (type == dcp_f16 ? 2 : 4);
    dcp_values_of_keys(kernels, type, at, block_tokens, dim, tokens, ours.base, value_tokens);
    dcp_values_of_keys(dcp_kernels(0), type, at, block_tokens, dim, tokens, twin.base, value_tokens);
    check(memcmp(ours.base, twin.base, ours.byte_count) == 0, "values of %s keys, %d dims, block %d, tokens %d..<%d",
          dcp_format(type).name, dim, block_tokens, first, first + tokens);
    guarded_free(keys);
    guarded_free(ours);
    guarded_free(twin);
}

void check_panels(const dcp_kernel_table *kernels) {
    static const int dims[][2] = {{2, 2}, {8, 10}, {18, 34}, {64, 72}, {80, 6}, {128, 128}, {256, 254}, {72, 0}};
    for (int type = dcp_bf16; type < dcp_row_types_end; type++) {
        for (int dim = 2; dim <= 130; dim += 2) {
            for (int block = 16; block <= 144; block += 32) {
                check_values(kernels, type, dim, block, 0, block);
                check_values(kernels, type, dim, block, block - 16, 16);
                check_values(kernels, type, dim, block, block / 32 * 16, block - block / 32 * 16);
            }
        }
    }
    for (int row_type = dcp_bf16; row_type < dcp_row_types_end; row_type++) {
        for (int format = dcp_bf16; format < dcp_formats_end; format++) {
            for (unsigned d = 0; d < sizeof dims / sizeof dims[0]; d++) {
                for (int block = 16; block <= 48; block += 32) {
                    const dcp_panel_shape shape = {format, 1 + (int)(next_random() % 3), dims_of(format, dims[d][0]),
                                                   dims_of(format, dims[d][1]), block};
                    check_write(kernels, row_type, &shape, 0, block);
                    check_write(kernels, row_type, &shape, 1, block - 2);
                    check_write(kernels, row_type, &shape, block - 1, 1);
                    const int64_t first = (int64_t)(next_random() % (unsigned)block);
                    check_write(kernels, row_type, &shape, first, (int64_t)(next_random() % (unsigned)(block - first)));
                }
            }
        }
        for (int64_t count = 1; count < 70; count++) check_conversion(kernels, row_type, count);
    }
}
