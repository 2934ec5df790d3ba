// SPDX-License-Identifier: Apache-2.0
// Attention with NEON, which every arm64 machine has, fused multiply-adds included.
//
// Built on FMLA (four rows by four vectors are 16 independent sums), LD1R for query elements and weights, SHL and AND to
// split bf16 pairs, and FCVTL for f16. bf16 is widened and not fed to BFDOT, which would round the weights to bf16.
#if defined(__aarch64__)

#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention.h"
#include "panels.h"
#include "softmax_row.h"

#include "vector_neon.h"

#include "attend_vector.h"

DCP_ATTENTION_KERNELS(neon)

#endif
