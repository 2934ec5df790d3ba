// SPDX-License-Identifier: Apache-2.0

internal import DCPObservability
internal import DCPWire
internal import Foundation
internal import Glibc

/// Metrics of the process, for both daemons.
struct ProcessFigures: Sendable {
    private let start = Date().timeIntervalSince1970
    private let began = ContinuousClock.now
    /// Empty for a daemon without kernels.
    let kernels: String

    var age: Duration { ContinuousClock.now - began }

    func add(to exposition: inout Exposition) {
        exposition.add(.buildInfo, [([Release.current, kernels], 1)])
        exposition.add(.startTime, start)
        if let residentByteCount { exposition.add(.residentBytes, residentByteCount) }
    }

    /// proc(5): the second field of /proc/self/statm is the resident set in pages.
    private var residentByteCount: Int? {
        guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return nil }
        return text.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map {
            $0 * Int(sysconf(Int32(_SC_PAGESIZE)))
        }
    }
}
