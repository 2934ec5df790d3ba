// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import DCPCore
internal import DCPFiles
internal import Foundation
internal import Glibc

/// Waits for the end of processes by their pidfds, without polling or signal handlers.
enum DaemonWatch {
    /// The first of the processes that has ended; nil when the deadline has passed or the task was cancelled.
    ///
    /// It waits on a separate thread: poll() must not hold one of the few threads that tasks share.
    /// - Throws: `.internal` when the system gives no descriptor.
    static func firstExit(
        of daemons: [DaemonProcess], until deadline: ContinuousClock.Instant? = nil
    ) async throws(ServiceError) -> DaemonProcess? {
        let event = dcp_event_open()
        guard event >= 0 else {
            throw ServiceError(
                .internal,
                "No file descriptor is available to wait for a process: \(systemMessage(-event)). Raise "
                    + "the limit of open files.")
        }
        let wake = OwnedDescriptor(event)
        let index = await withTaskCancellationHandler {
            await onOwnThread {
                pollUntilReadable(daemons.map(\.pollDescriptor) + [wake.value], deadline: deadline)
            }
        } onCancel: {
            var one: UInt64 = 1
            _ = write(wake.value, &one, MemoryLayout<UInt64>.size)
        }
        guard let index, index < daemons.count else { return nil }
        return daemons[index]
    }

    /// Runs a call that blocks on a thread of its own and suspends until it returns. Cancellation does not end it.
    static func onOwnThread<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
        await withCheckedContinuation { continuation in
            Thread.detachNewThread { continuation.resume(returning: body()) }
        }
    }

    /// Whether a pidfd's process has ended.
    static func hasEnded(_ descriptor: Int32) -> Bool { pollUntilReadable([descriptor], deadline: .now) == 0 }

    /// Blocks until one of the descriptors is readable and returns its index, or nil when the deadline has passed.
    static func pollUntilReadable(_ descriptors: [Int32], deadline: ContinuousClock.Instant?) -> Int? {
        var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        while true {
            var milliseconds: Int32 = -1
            if let deadline {
                let left = max(deadline - .now, .zero).components
                // Rounded up: poll must not return a moment before the deadline, again and again.
                let rounded = left.attoseconds / 1_000_000_000_000_000 + 1
                milliseconds = left.seconds > 2_000_000 ? Int32.max : Int32(left.seconds * 1000 + rounded)
                if left == (0, 0) { milliseconds = 0 }
            }
            let count = poll(&entries, nfds_t(entries.count), milliseconds)
            if count > 0 { return entries.firstIndex { $0.revents != 0 } }
            if count == 0, let deadline, deadline <= .now { return nil }
            precondition(count >= 0 || errno == EINTR || errno == ENOMEM, "poll refused its arguments")
        }
    }
}
