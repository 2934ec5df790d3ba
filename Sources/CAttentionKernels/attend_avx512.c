// SPDX-License-Identifier: Apache-2.0
// Attention with AVX-512 F, BW, VL and DQ.
//
// Built on VFMADD231PS (two 512-bit FMAs a cycle, latency 4: four rows by four vectors are 16 independent sums),
// VBROADCASTSS from memory for query elements and weights (which take only a load port), VPSLLD and VPANDD to split bf16 pairs,
// VCVTPH2PS for f16, and masked loads and stores for dimensions that do not fill a vector.
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))),              \
                             apply_to = function)

#include "softmax_row.h"

#include "vector_avx512.h"


#include "attend_vector.h"

DCP_ATTENTION_KERNELS(avx512)

#pragma clang attribute pop

#endif
