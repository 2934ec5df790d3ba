// SPDX-License-Identifier: Apache-2.0
#include "CLinuxMemory.h"

#include <malloc.h>

void dcp_keep_freed_memory(void) {
    // 32 MiB is the most that malloc accepts for the first. Setting either one stops malloc from adjusting both itself.
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
}
