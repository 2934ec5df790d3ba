// SPDX-License-Identifier: Apache-2.0
// Shared by the checks of kernels: a seeded generator, guarded memory, and the count of cases.
#ifndef DCP_KERNEL_CHECK_H
#define DCP_KERNEL_CHECK_H

#include <stdint.h>

#include "dispatch.h"

// SplitMix64.
uint64_t next_random(void);
// Uniform in -1...1.
float next_float(void);

// Memory whose last byte is the last of a page. Neither the page after it nor the page before its first can be accessed.
typedef struct {
    void *base, *map;
    uint64_t byte_count, map_byte_count;
} guarded;

guarded guarded_make(uint64_t byte_count);
void guarded_free(guarded memory);

extern long cases, failures;

// Counts a case, and prints the message if it does not hold.
void check(int holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

// `dims`, or for formats with scales, whose dimensions are multiples of four, the next multiple.
static inline int dims_of(int format, int dims) { return dcp_has_scales(format) ? (dims + 3) / 4 * 4 : dims; }

void check_attention(const dcp_kernel_table *kernels);
void check_panels(const dcp_kernel_table *kernels);
void check_bytes(const dcp_kernel_table *kernels);

#endif
