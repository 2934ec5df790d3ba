// SPDX-License-Identifier: Apache-2.0
// Attention with AVX2, FMA and F16C.
//
// Built on VFMADD231PS (two 256-bit FMAs a cycle, latency 4 to 5: four rows by two vectors are 8 independent sums),
// VBROADCASTSS from memory for query elements and weights (which take only a load port), VPSLLD and VPAND to split bf16 pairs,
// VCVTPH2PS for f16, and VPMASKMOVD and VMASKMOVPS for dimensions that do not fill a vector.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

#include "softmax_row.h"
#include "vector_avx2.h"

#include "attend_vector.h"

DCP_ATTENTION_KERNELS(avx2)

#pragma clang attribute pop

#endif
