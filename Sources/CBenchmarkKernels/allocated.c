// SPDX-License-Identifier: Apache-2.0
// The memory that a data structure takes. In C because Swift's Glibc lacks `mallinfo2`.
#include "CBenchmarkKernels.h"

#include <malloc.h>

size_t dcp_allocated_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}
