// SPDX-License-Identifier: Apache-2.0
// Processes, descriptors that refer to them, and locks. Every function returns a negative errno on failure.
#pragma once

#include <sys/types.h>

/// Starts a program in a session of its own, with default signal handling, an empty signal mask and no descriptors but
/// 0, 1 and 2. In C because POSIX_SPAWN_SETSID and addclosefrom need _GNU_SOURCE, which Swift's Glibc does not define.
///
/// `output` becomes both 1 and 2. Returns the pid. If the executable cannot be run, the error is returned here and is not
/// an exit status.
pid_t dcp_spawn(const char *path, char *const argv[], char *const envp[], int input, int output);

/// A descriptor that polls as readable once the process has ended, even before it is reaped. Close-on-exec.
/// In C because Glibc 2.36 declares it in a header that Swift's module map does not have.
int dcp_pidfd_open(pid_t pid);

/// Signals exactly the process of the descriptor, and never a later one that was given the same pid.
int dcp_pidfd_signal(int pidfd, int signal);

/// How a process ended.
enum dcp_exit_kind { DCP_EXIT_RUNNING = 0, DCP_EXIT_STATUS = 1, DCP_EXIT_SIGNAL = 2, DCP_EXIT_NOT_A_CHILD = 3 };

/// Reaps the process if it is a child of ours that has ended; never waits. `value` is the exit status or the signal.
/// In C because the fields of siginfo_t are macros.
int dcp_pidfd_reap(int pidfd, int *value);

/// A pipe with both ends close-on-exec, which pipe() cannot give without a race against another thread's spawn.
int dcp_pipe(int *read_end, int *write_end);

/// An eventfd, non-blocking and close-on-exec, with which another thread ends a poll().
int dcp_event_open(void);

/// flock(LOCK_EX | LOCK_NB): Swift sees the struct of that name, not the function. The lock ends with the process.
int dcp_lock_exclusive(int descriptor);
