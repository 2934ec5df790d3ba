// SPDX-License-Identifier: Apache-2.0
// The most that one thread of this machine can do: the ceilings beside which measurements are printed.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// The number of ways to read memory once, as one stream of addresses or as four. Which way is the fastest differs between
/// machines, and between memory and caches. So a ceiling is the fastest of them, found by trying all. Probed once, before
/// main; there is always one.
int dcp_read_ways(void);
/// For example `512-bit, prefetch to L2 4 KiB ahead`. NULL outside 0..<dcp_read_ways().
const char *dcp_read_way_name(int way);
/// Reads every byte of a buffer once. The buffer is 64-byte aligned. Bytes beyond the last whole 64 are not read, and
/// prefetches may go beyond the end. Returns the exclusive or of all 64-bit words that were read, so that the compiler
/// cannot omit a load.
uint64_t dcp_read_stream(int way, const void *bytes, size_t count);

/// Float32 multiply-adds on registers alone, with the widest vectors that CPU and system support. Returns the number of
/// floating point operations, two for each lane of a multiply-add.
uint64_t dcp_multiply_add_f32(uint64_t iterations);

/// VDPBF16PS on 512-bit registers alone: bf16 pairs multiplied and added to Float32. Returns the number of floating point
/// operations, four for each lane, or 0 if the instruction does not exist.
uint64_t dcp_multiply_add_bf16(uint64_t iterations);

/// The vector width of dcp_multiply_add_f32: `512-bit`, `256-bit` or `portable`.
const char *dcp_multiply_add_width(void);

/// Bytes that this process has allocated and not freed.
size_t dcp_allocated_bytes(void);
