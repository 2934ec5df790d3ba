// SPDX-License-Identifier: Apache-2.0
#include "CLinuxSharedMemory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
// Added in Linux 6.3, which is newer than the headers of Debian 12.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#define TOKEN_BYTES 16

static int closed(int descriptor, int error)
{
    close(descriptor);
    return -error;
}

int dcp_shared_memory_create(size_t byte_count)
{
    const char *name = "dcp-rings";
    int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL) descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -errno;
    // All of it now: a page that the system cannot give later, as where it does not overcommit, would be SIGBUS.
    int error;
    while ((error = fallocate(descriptor, 0, 0, (off_t)byte_count) < 0 ? errno : 0) == EINTR) {}
    if (error) return closed(descriptor, error);
    if (fcntl(descriptor, F_ADD_SEALS, SEALS) < 0) return closed(descriptor, errno);
    return descriptor;
}

ssize_t dcp_shared_memory_check(int descriptor)
{
    struct stat status;
    struct statfs files;
    int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS) return -EINVAL;
    if (fstatfs(descriptor, &files) < 0 || files.f_type != TMPFS_MAGIC) return -EINVAL;
    if (fstat(descriptor, &status) < 0) return -errno;
    return status.st_size;
}

static int address_of(const char *path, struct sockaddr_un *address)
{
    size_t length = strlen(path);
    // The kernel would bind an empty path to a name of its choice.
    if (length == 0 || length >= sizeof address->sun_path) return -ENAMETOOLONG;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    return 0;
}

static int datagram_socket(void) { return socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

int dcp_passage_open(const char *path)
{
    struct sockaddr_un address;
    int error = address_of(path, &address);
    if (error) return error;
    int passage = datagram_socket();
    if (passage < 0) return -errno;
    if (bind(passage, (struct sockaddr *)&address, sizeof address) < 0) return closed(passage, errno);
    return passage;
}

// The union aligns the bytes, which the kernel reads and writes as headers.
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

int dcp_passage_send(const char *path, const uint8_t token[TOKEN_BYTES], int descriptor)
{
    struct sockaddr_un address;
    int error = address_of(path, &address);
    if (error) return error;
    struct iovec part = {.iov_base = (void *)token, .iov_len = TOKEN_BYTES};
    union control control = {{0}};
    struct msghdr message = {
        .msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    int sender = datagram_socket();
    if (sender < 0) return -errno;
    ssize_t sent = sendmsg(sender, &message, MSG_NOSIGNAL);
    return closed(sender, sent < 0 ? errno : 0);
}

// Closes all descriptors of a message. With `keep`, keeps the first one open and returns it; otherwise returns -1.
static int first_descriptor(struct msghdr *message, int keep)
{
    int first = -1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof descriptor);
            if (keep && first < 0)
                first = descriptor;
            else
                close(descriptor);
        }
    }
    return first;
}

int dcp_passage_receive(int passage, const uint8_t token[TOKEN_BYTES])
{
    // The number is limited, so that somebody who keeps sending cannot keep the caller here.
    for (int tries = 0; tries < 32; tries++) {
        uint8_t bytes[TOKEN_BYTES + 1];
        struct iovec part = {.iov_base = bytes, .iov_len = sizeof bytes};
        union control control = {{0}};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
        ssize_t count = recvmsg(passage, &message, MSG_CMSG_CLOEXEC);
        if (count < 0) return -errno;
        int is_ours = count == TOKEN_BYTES && memcmp(bytes, token, TOKEN_BYTES) == 0;
        int descriptor = first_descriptor(&message, is_ours);
        if (descriptor >= 0) return descriptor;
    }
    return -EAGAIN;
}
