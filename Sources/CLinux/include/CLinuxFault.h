// SPDX-License-Identifier: Apache-2.0
// A read under a map that the kernel cannot satisfy is a signal, not an error.
#pragma once

#include <stddef.h>

/// Maps that can be watched at once.
#define DCP_MAPS_MAX 16

/// Has SIGBUS in a watched map reported by one line on standard error, and the process end of the signal as it would have
/// without. In C because a signal handler may call next to nothing, and no Swift.
///
/// `prefix` opens the line; it is copied, at most 15 bytes. Call it once, before threads that read maps. Returns 0, or a
/// negative errno.
///
/// No alternate stack: what faults is a map and not the thread's stack, and it would have to be given to each thread.
int dcp_fault_report(const char *prefix);

/// Watches a map of a file until `dcp_map_forget`. `path` is copied. Any thread.
///
/// Returns a slot, or -ENOSPC when all are taken and -ENAMETOOLONG for a path of over 1023 bytes: then it is not watched.
int dcp_map_watch(const void *address, size_t byte_count, const char *path);

void dcp_map_forget(int slot);
