// SPDX-License-Identifier: Apache-2.0
// If the kernel cannot satisfy a read from a memory map, the process gets a signal and not an error.
#pragma once

#include <stddef.h>

/// The number of maps that can be watched at once.
#define DCP_MAPS_MAX 16

/// Reports SIGBUS in a watched map with one line on standard error; then the signal ends the process as it would without
/// this. In C because a signal handler may call next to nothing, and no Swift.
///
/// `prefix` begins the line; at most 15 bytes of it are copied. Call this once, before there are threads that read maps.
/// Returns 0, or a negative errno.
///
/// There is no alternate stack: a map faults and not the thread's stack, and each thread would have to be given one.
int dcp_fault_report(const char *prefix);

/// Watches a map of a file until `dcp_map_forget`. Copies `path`. Any thread may call it.
///
/// Returns a slot. Returns -ENOSPC if all are taken, or -ENAMETOOLONG if the path is over 1023 bytes; the map is then not
/// watched.
int dcp_map_watch(const void *address, size_t byte_count, const char *path);

void dcp_map_forget(int slot);
