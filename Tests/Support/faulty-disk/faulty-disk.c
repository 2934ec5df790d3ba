// SPDX-License-Identifier: Apache-2.0
// Loaded into a daemon before its libraries (LD_PRELOAD): a disk whose syncs fail.
//
// While the file named by DCP_FAULTY_DISK exists, fdatasync of a file whose path begins with that file's content fails with
// EIO, as Linux does after an error of writing back: on every descriptor of the file. Nothing is written then.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int descriptor) {
    const char *control = getenv("DCP_FAULTY_DISK");
    if (control == NULL) return 0;
    int file = open(control, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    char prefix[PATH_MAX] = "";
    ssize_t length = read(file, prefix, sizeof prefix - 1);
    close(file);
    if (length <= 0) return 0;
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) < 0) return 0;
    return strncmp(path, prefix, (size_t)length) == 0;
}

int fdatasync(int descriptor) {
    if (fails(descriptor)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, descriptor);
}
