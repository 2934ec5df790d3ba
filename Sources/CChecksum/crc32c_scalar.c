// SPDX-License-Identifier: Apache-2.0
#include "CChecksum.h"

// One byte a step through a table made at load time. This is the twin that the other implementations are tested against.
static uint32_t table[256];

__attribute__((constructor)) static void fill_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0);
        table[i] = value;
    }
}

uint32_t dcp_crc32c_scalar(uint32_t crc, const void *bytes, size_t count) {
    const unsigned char *at = bytes;
    uint32_t value = ~crc;
    for (size_t i = 0; i < count; i++) value = (value >> 8) ^ table[(value ^ at[i]) & 0xFF];
    return ~value;
}
