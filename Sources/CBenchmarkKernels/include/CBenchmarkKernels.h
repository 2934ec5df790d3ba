// SPDX-License-Identifier: Apache-2.0
// What one thread of this machine can do at most: the ceilings that measurements are printed beside.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// Ways of reading memory once, in address order. Which is the fastest differs between machines, and between memory and
/// caches: a ceiling is the fastest of them, found by trying all. Probed once, before main; there is always one.
int dcp_read_ways(void);
/// `512-bit, prefetch to L2 4096 bytes ahead`. NULL outside 0..<dcp_read_ways().
const char *dcp_read_way_name(int way);
/// Reads every byte of a buffer once. 64-byte aligned; bytes beyond the last whole 64 are not read, and prefetches may
/// go beyond the end.
/// Returns the exclusive or of all 64-bit words that were read, so that no load can be left out.
uint64_t dcp_read_stream(int way, const void *bytes, size_t count);

/// Float32 multiply-adds on registers alone, on the widest vectors that CPU and system support.
/// Returns the floating point operations done, two for a multiply-add and lane.
uint64_t dcp_multiply_add_f32(uint64_t iterations);

/// VDPBF16PS on 512-bit registers alone: bf16 pairs multiplied and added to Float32.
/// Returns the floating point operations done, four for a lane; 0 where the instruction does not exist.
uint64_t dcp_multiply_add_bf16(uint64_t iterations);

/// The vectors of dcp_multiply_add_f32: `512-bit`, `256-bit` or `portable`.
const char *dcp_multiply_add_width(void);

/// Bytes that this process has allocated and not freed.
size_t dcp_allocated_bytes(void);
