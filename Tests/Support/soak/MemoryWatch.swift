// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPHost
import DCPLocalCluster

/// The memory of ranks, while a soak lasts: what they need with the same contents must not grow.
struct MemoryWatch: Sendable {
    /// The most that a rank has had in each third of the time, in bytes that no file has.
    private(set) var most = [0, 0, 0]
    private let start = ContinuousClock.now
    private let length: Duration

    init(length: Duration) { self.length = length }

    mutating func look(at running: [(role: DaemonRole, process: DaemonProcess)]) {
        let third = min(Int((ContinuousClock.now - start) / length * 3), 2)
        for (role, process) in running where role != .coordinator {
            most[third] = max(most[third], ProcessCounts.anonymousByteCount(of: Int(process.pid)) ?? 0)
        }
    }

    /// What is wrong; nil when nothing is.
    var failure: String? {
        guard most[2] > most[0] + most[0] / 4 + 64 << 20 else { return nil }
        return "A rank had \(most[2] >> 20) MiB in the last third of the time, \(most[0] >> 20) MiB in the first"
    }
}
