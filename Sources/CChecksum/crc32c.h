// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_CRC32C_H
#define DCP_CRC32C_H

#include "CChecksum.h"

// What `crc32c.c` chooses among, besides the scalar twin. Each `prepare` says whether this machine has the instructions, and
// is called before its function.
int dcp_crc32c_sse42_prepare(void);
uint32_t dcp_crc32c_sse42(uint32_t crc, const void *bytes, size_t count);

// Uses the one before for what is short, which has to be prepared as well.
int dcp_crc32c_vpclmul_prepare(void);
uint32_t dcp_crc32c_vpclmul(uint32_t crc, const void *bytes, size_t count);

#endif
