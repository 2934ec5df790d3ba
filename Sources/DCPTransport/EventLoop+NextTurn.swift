// SPDX-License-Identifier: Apache-2.0

package import NIOCore

extension EventLoop {
    /// Runs a body after the loop has looked at its sockets once more: for the next piece of long work.
    ///
    /// `execute` does not do that. NIO runs tasks until there are none before it reads, also those that the tasks add: a
    /// chain of pieces is then one long turn, in which leases end.
    package func nextTurn(_ body: @escaping @Sendable () -> Void) {
        // Not zero: such a timer would be due in the same turn. Pieces take milliseconds.
        scheduleTask(in: .microseconds(50), body)
    }
}
