// SPDX-License-Identifier: Apache-2.0
// Memory that two processes share, and how its descriptor gets from one to the other. Every function returns a negative errno
// on failure. In C because memfd_create, seals and control messages are macros, or need _GNU_SOURCE.
#pragma once

#include <stdint.h>
#include <sys/types.h>

/// Creates memory without a name, and returns its descriptor. Nobody can change its size any more, not even its creator.
/// Close-on-exec.
int dcp_shared_memory_create(size_t byte_count);

/// The size of a descriptor's memory if it is sealed like that of dcp_shared_memory_create; otherwise -EINVAL.
///
/// Memory that passes can be mapped and read whatever its creator does: it cannot shrink under the map. Huge pages are
/// refused, since none may be left when one is touched, which raises SIGBUS as well.
ssize_t dcp_shared_memory_check(int descriptor);

/// Opens a socket that receives datagrams at a path, which the caller unlinks. Non-blocking, close-on-exec.
int dcp_passage_open(const char *path);

/// Sends a token and a descriptor to the socket at a path; never waits.
int dcp_passage_send(const char *path, const uint8_t token[16], int descriptor);

/// Returns the descriptor that came with the token, close-on-exec, or -EAGAIN if none has come. Descriptors that came with
/// other tokens are closed.
int dcp_passage_receive(int socket, const uint8_t token[16]);

/// Loads a counter that another process writes; what that process wrote before the counter is then visible.
static inline uint64_t dcp_shared_load(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

static inline void dcp_shared_store(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
}
