// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Names the seed when the process dies of a trap: a precondition of the daemons that failed.
enum Crash {
    /// Written by the one thread that runs seeds, read by a signal handler on it.
    nonisolated(unsafe) static var seed: UInt64 = 0 {
        didSet { _ = install }
    }

    private static let install: Void = {
        for number in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT] {
            signal(number) { number in
                // A string is not meant for signal handlers; the process is about to end, and the seed is all that matters.
                complain("seed \(Crash.seed) ended the simulator by signal \(number)\n")
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }()
}
