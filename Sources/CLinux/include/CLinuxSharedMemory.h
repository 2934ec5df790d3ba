// SPDX-License-Identifier: Apache-2.0
// Memory that two processes share, and how its descriptor gets from one to the other. Every function returns a negative errno
// on failure. In C because memfd_create, seals and control messages are macros, or need _GNU_SOURCE.
#pragma once

#include <stdint.h>
#include <sys/types.h>

/// Memory without a name, of a size that nobody can change any more, not even who made it. Close-on-exec.
int dcp_shared_memory_create(size_t byte_count);

/// The size of a descriptor's memory, when that is such as dcp_shared_memory_create makes; else -EINVAL.
///
/// What passes can be mapped and read whatever its maker does: it cannot shrink under the map. Huge pages are refused, since
/// there may be none left when one is touched, which is SIGBUS too.
ssize_t dcp_shared_memory_check(int descriptor);

/// A socket that takes datagrams at a path, which is the caller's to unlink. Non-blocking, close-on-exec.
int dcp_passage_open(const char *path);

/// Sends a token and a descriptor to the socket at a path; never waits.
int dcp_passage_send(const char *path, const uint8_t token[16], int descriptor);

/// The descriptor that came with a token, close-on-exec; -EAGAIN when none has. What came with other tokens is closed.
int dcp_passage_receive(int socket, const uint8_t token[16]);

/// A counter that another process writes, and what it wrote before it.
static inline uint64_t dcp_shared_load(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

static inline void dcp_shared_store(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
}
