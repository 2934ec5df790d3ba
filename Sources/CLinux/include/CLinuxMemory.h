// SPDX-License-Identifier: Apache-2.0
// Memory of the process.
#pragma once

/// Makes malloc keep up to 64 MiB of freed memory in each arena, instead of returning it to the system at once. Allocations
/// of 32 MiB or more are still returned. In C because Swift's Glibc has no malloc.h.
void dcp_keep_freed_memory(void);
