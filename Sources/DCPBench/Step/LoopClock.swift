// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation

/// Processor time of the event loops of daemons, which the kernel counts: other work on the machine changes it little.
struct LoopClock {
    /// By daemon, what the kernel has of its loops' threads.
    private let paths: [[String]]

    init(processes: [UInt32]) throws(ServiceError) {
        var paths: [[String]] = []
        for process in processes {
            let tasks = "/proc/\(process)/task"
            let loops = ((try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? []).filter {
                (try? String(contentsOfFile: "\(tasks)/\($0)/comm", encoding: .utf8))?.hasPrefix("NIO-") ?? false
            }
            guard !loops.isEmpty else {
                throw ServiceError(.internal, "Process \(process) has no thread of an event loop; report this.")
            }
            paths.append(loops.map { "\(tasks)/\($0)/schedstat" })
        }
        self.paths = paths
    }

    /// Since each began, seconds.
    func read() -> [Double] {
        paths.map { paths in
            paths.reduce(0) { sum, path in
                // Nanoseconds on a processor, nanoseconds of waiting for one, turns.
                let fields = (try? String(contentsOfFile: path, encoding: .utf8))?.split(separator: " ")
                return sum + (fields?.first.flatMap { Double($0) } ?? 0) / 1e9
            }
        }
    }
}
