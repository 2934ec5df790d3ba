// SPDX-License-Identifier: Apache-2.0
// The strips of a V panel. A strip has 64 dimensions of all tokens, and the strips follow each other. So what a register
// tile of the attention kernels reads over some tokens is one stream of addresses, in whole cache lines. The last strip has
// the dimensions that are left.
#ifndef DCP_STRIPS_H
#define DCP_STRIPS_H

#include "panels.h"

// The first dimension of the strip that contains dimension `dim`.
static inline int64_t dcp_strip_of(int64_t dim) { return dim / dcp_strip_dims * dcp_strip_dims; }

// The number of dimensions of the strip that begins at dimension `strip`.
static inline int64_t dcp_strip_width(int64_t strip, int64_t value_dim) {
    const int64_t left = value_dim - strip;
    return left < dcp_strip_dims ? left : dcp_strip_dims;
}

#endif
