// SPDX-License-Identifier: Apache-2.0
// Where the values of a V panel are. It is in strips of 64 dimensions, one after the other, each with all tokens: so what a
// register tile of the attention kernels reads over some tokens is one stream of addresses, and whole lines of it. The last
// strip has the dimensions that are left.
#ifndef DCP_STRIPS_H
#define DCP_STRIPS_H

#include "panels.h"

// The first dimension of the strip that has one.
static inline int64_t dcp_strip_of(int64_t dim) { return dim / dcp_strip_dims * dcp_strip_dims; }

// The dimensions of the strip that begins with one.
static inline int64_t dcp_strip_width(int64_t strip, int64_t value_dim) {
    const int64_t left = value_dim - strip;
    return left < dcp_strip_dims ? left : dcp_strip_dims;
}

#endif
