// SPDX-License-Identifier: Apache-2.0
// Memory of the process.
#pragma once

/// Has malloc keep up to 64 MiB of freed memory, of each arena, instead of giving it back to the system at once; allocations of
/// 32 MiB or more are given back all the same. In C because Swift's Glibc has no malloc.h.
void dcp_keep_freed_memory(void);
