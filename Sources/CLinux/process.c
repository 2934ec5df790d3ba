// SPDX-License-Identifier: Apache-2.0
#include "CLinuxProcess.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int negated(int result) { return result < 0 ? -errno : result; }

// If this program was started with 0, 1 or 2 closed, a file may have one of these numbers, and the child's dup2 would
// overwrite it.
static int above_standard(int descriptor) { return negated(fcntl(descriptor, F_DUPFD_CLOEXEC, 3)); }

static int prepare(posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes, int input, int output)
{
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    int error = posix_spawn_file_actions_adddup2(actions, input, 0);
    if (!error) error = posix_spawn_file_actions_adddup2(actions, output, 1);
    if (!error) error = posix_spawn_file_actions_adddup2(actions, output, 2);
    if (!error) error = posix_spawn_file_actions_addclosefrom_np(actions, 3);
    // If the parent ignores SIGTERM or SIGINT because it handles them in another way, exec would make the child ignore
    // them, too.
    if (!error) error = posix_spawnattr_setsigdefault(attributes, &all);
    if (!error) error = posix_spawnattr_setsigmask(attributes, &none);
    if (!error)
        error = posix_spawnattr_setflags(
            attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    return error;
}

pid_t dcp_spawn(const char *path, char *const argv[], char *const envp[], int input, int output)
{
    int in = above_standard(input);
    if (in < 0) return in;
    int out = above_standard(output);
    if (out < 0) {
        close(in);
        return out;
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    pid_t pid = -1;
    int error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        error = posix_spawnattr_init(&attributes);
        if (!error) {
            error = prepare(&actions, &attributes, in, out);
            if (!error) error = posix_spawn(&pid, path, &actions, &attributes, argv, envp);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    close(in);
    close(out);
    return error ? -error : pid;
}

int dcp_pidfd_open(pid_t pid) { return negated((int)syscall(SYS_pidfd_open, pid, 0)); }

int dcp_pidfd_signal(int pidfd, int signal)
{
    return negated((int)syscall(SYS_pidfd_send_signal, pidfd, signal, (void *)0, 0));
}

int dcp_pidfd_reap(int pidfd, int *value)
{
    siginfo_t info = {0};
    int result;
    do {
        result = waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
    } while (result < 0 && errno == EINTR);
    if (result < 0) return errno == ECHILD ? DCP_EXIT_NOT_A_CHILD : -errno;
    if (info.si_pid == 0) return DCP_EXIT_RUNNING;
    *value = info.si_status;
    return info.si_code == CLD_EXITED ? DCP_EXIT_STATUS : DCP_EXIT_SIGNAL;
}

int dcp_pipe(int *read_end, int *write_end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
    *read_end = ends[0];
    *write_end = ends[1];
    return 0;
}

int dcp_event_open(void) { return negated(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

int dcp_lock_exclusive(int descriptor) { return negated(flock(descriptor, LOCK_EX | LOCK_NB)); }
