// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_CCHECKSUM_H
#define DCP_CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected), as in RFC 3720 section 12.1 and ext4.
// Start with 0; feed the result back in to continue over a second buffer.
uint32_t dcp_crc32c(uint32_t crc, const void *bytes, size_t count);

// The scalar twin, by table. Same result on every input; exported for the tests.
uint32_t dcp_crc32c_scalar(uint32_t crc, const void *bytes, size_t count);

// The name of the implementation that dcp_crc32c uses: "vpclmulqdq", "sse4.2" or "scalar".
const char *dcp_crc32c_implementation(void);

#endif
