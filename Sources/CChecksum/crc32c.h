// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_CRC32C_H
#define DCP_CRC32C_H

#include "CChecksum.h"

// The implementations among which `crc32c.c` chooses, besides the scalar twin. Each `prepare` returns whether this machine
// has the instructions, and must be called before its function.
int dcp_crc32c_sse42_prepare(void);
uint32_t dcp_crc32c_sse42(uint32_t crc, const void *bytes, size_t count);

// Uses dcp_crc32c_sse42 for short inputs and tails, so that must be prepared as well.
int dcp_crc32c_vpclmul_prepare(void);
uint32_t dcp_crc32c_vpclmul(uint32_t crc, const void *bytes, size_t count);

#endif
