// SPDX-License-Identifier: Apache-2.0
// Files. Every function returns a negative errno on failure.
#pragma once

#include <sys/types.h>

/// fallocate(2) without a mode, which needs _GNU_SOURCE. Not posix_fallocate: where a file system cannot reserve, that one
/// writes the whole range instead.
int dcp_reserve(int descriptor, off_t byte_count);
