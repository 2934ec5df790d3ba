// SPDX-License-Identifier: Apache-2.0
// Attention over bf16 panels with AVX512-BF16; f16 and f32 panels have no use for it.
//
// Built on VDPBF16PS, which adds 32 products of bf16 to 16 Float32 sums: two a cycle on Zen 5, one in 2.3 cycles on Emerald
// Rapids. It treats denormals, numbers below 1.2e-38, as zero in products and in sums; an output in Float32 keeps nothing
// that small.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx512.h"
#include "vector_avx512bf16.h"

#include "attend_vector.h"

DCP_ATTENTION_KERNEL(dcp_attend_bf16_avx512bf16, dcp_bf16)

#pragma clang attribute pop

#endif
