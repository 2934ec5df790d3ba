// SPDX-License-Identifier: Apache-2.0
// Files. Every function returns a negative errno on failure.
#pragma once

#include <sys/types.h>

/// fallocate(2) with mode 0, which needs _GNU_SOURCE. It is not posix_fallocate, which writes the whole range if the file
/// system cannot reserve it.
int dcp_reserve(int descriptor, off_t byte_count);
