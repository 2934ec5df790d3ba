// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_DISPATCH_H
#define DCP_DISPATCH_H

#include "attention.h"
#include "panels.h"

// The kernels of one instruction set.
typedef struct {
    const char *name; // "scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "avx512bf16", "neon", "neondot"
    dcp_attention_kernel *attend[dcp_formats_end]; // by the number of a format
    uint32_t reads_terms; // bit 1 << number is set if that format's kernel takes queries from query_terms
    int32_t lanes;            // Float32 numbers in a vector
    dcp_panel_writer *write_panels;
    dcp_panel_reader *read_panels;
    dcp_rows_converter *rows_to_f32;
    dcp_value_maker *values_of_keys;
} dcp_kernel_table;

// Whether a format's kernel takes its queries from query_terms.
static inline int dcp_reads_terms(const dcp_kernel_table *kernels, int32_t format) {
    return kernels->reads_terms >> dcp_checked_format(format) & 1;
}

// The instruction sets that CPU and operating system support, slowest first; probed once, before main.
// dcp_kernels(0) is always "scalar".
int dcp_kernels_count(void);
// NULL if the index is out of range.
const dcp_kernel_table *dcp_kernels(int index);

// Adds one block to the rows' state with a table's kernel for a format.
void dcp_attend_block(const dcp_kernel_table *kernels, int32_t format, const dcp_attention_rows *rows,
                      const void *keys, const void *values, dcp_token_ranges visible, dcp_ahead ahead);

// How many bytes before their use these rows' keys and values are best prefetched (`ahead` of the kernels). With few
// multiplications for each cache line it is 12 KiB; with more it is 8 KiB plus half of head_bytes, and at most 20 KiB.
//
//   head_bytes   keys and values of one KV head in a block
int64_t dcp_ahead_bytes(const dcp_kernel_table *kernels, int32_t format, const dcp_attention_rows *rows,
                        int64_t head_bytes);

// Write tokens into a block, read them out of it, convert rows to Float32, and make values of keys, with a table's kernels:
// see panels.h.
int dcp_panel_write(const dcp_kernel_table *kernels, const dcp_panel_shape *shape, int32_t row_type, const void *keys,
                    const void *values, int64_t row_tokens, const uint32_t *source, int64_t count, void *payload,
                    int64_t first, int streams);
void dcp_panel_read(const dcp_kernel_table *kernels, const dcp_panel_shape *shape, const void *payload, int64_t first,
                    int64_t count, void *keys, void *values);
int dcp_rows_to_f32(const dcp_kernel_table *kernels, int32_t row_type, const void *rows, int64_t count, float *out);
void dcp_values_of_keys(const dcp_kernel_table *kernels, int32_t format, const void *keys, int64_t block_tokens,
                        int64_t value_dim, int64_t tokens, void *values, int64_t value_tokens);

#endif
