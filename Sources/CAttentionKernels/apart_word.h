// SPDX-License-Identifier: Apache-2.0
// The word in which a key of int8 keeps the number of a dimension that stands out: see apart.h.
//
// A word of 0 is none. Otherwise it is the number as a Float32, in whose lowest bits the dimension stands.
#ifndef DCP_APART_WORD_H
#define DCP_APART_WORD_H

#include "convert.h"

enum { dcp_apart_dim_mask = 0x3FF };

static inline uint32_t dcp_apart_word(float value, int64_t dim) { return dcp_bits(value) | (uint32_t)dim; }
static inline float dcp_apart_value(uint32_t word) { return dcp_float(word & ~(uint32_t)dcp_apart_dim_mask); }
static inline int64_t dcp_apart_dim(uint32_t word) { return word & dcp_apart_dim_mask; }

#endif
