// SPDX-License-Identifier: Apache-2.0
#include "CLinuxFile.h"

#include <errno.h>
#include <fcntl.h>

int dcp_reserve(int descriptor, off_t byte_count)
{
    int result;
    do {
        result = fallocate(descriptor, 0, 0, byte_count);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}
