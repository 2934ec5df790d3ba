// SPDX-License-Identifier: Apache-2.0
#include "crc32c.h"

// Set once, before main.
static uint32_t (*chosen)(uint32_t, const void *, size_t) = dcp_crc32c_scalar;
static const char *chosen_name = "scalar";

__attribute__((constructor)) static void choose(void) {
    if (!dcp_crc32c_sse42_prepare()) return;
    chosen = dcp_crc32c_sse42;
    chosen_name = "sse4.2";
    if (!dcp_crc32c_vpclmul_prepare()) return;
    chosen = dcp_crc32c_vpclmul;
    chosen_name = "vpclmulqdq";
}

uint32_t dcp_crc32c(uint32_t crc, const void *bytes, size_t count) { return chosen(crc, bytes, count); }

const char *dcp_crc32c_implementation(void) { return chosen_name; }
