// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation
internal import Glibc

/// A process, distinguished from every other that had or will have its pid.
///
/// Start times count from boot, so an identity is written to a file only next to the boot it belongs to.
public struct ProcessIdentity: Codable, Hashable, Sendable {
    public let pid: Int32
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    public let startTime: UInt64

    public init(pid: Int32, startTime: UInt64) {
        self.pid = pid
        self.startTime = startTime
    }

    /// The process that has a pid now; nil when none has, or it has ended and only waits to be reaped.
    public init?(pid: Int32) {
        guard let status = Self.status(ofPID: pid), !status.hasEnded else { return nil }
        self.init(pid: pid, startTime: status.startTime)
    }

    /// Whether this very process still runs.
    public var isRunning: Bool {
        guard let status = Self.status(ofPID: pid) else { return false }
        return status.startTime == startTime && !status.hasEnded
    }

    /// This boot of the machine, as the kernel names it; start times of another boot mean nothing.
    static var bootID: String {
        let text = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        return (text ?? "").trimmingCharacters(in: .whitespacesAndNewlines)
    }

    static func status(ofPID pid: Int32) -> (startTime: UInt64, hasEnded: Bool)? {
        guard pid > 0, let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8) else { return nil }
        // proc(5): the second field is the name in parentheses, which may itself hold spaces and parentheses.
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ")
        guard fields.count > 19, let startTime = UInt64(fields[19]) else { return nil }
        return (startTime, fields[0] == "Z" || fields[0] == "X")
    }
}

/// How a process ended.
public enum ProcessExit: Hashable, Sendable, CustomStringConvertible {
    case status(Int32)
    case signal(Int32)
    /// It was not a child of this process: the kernel reports that it ended, but not how.
    case unknown

    public var description: String {
        switch self {
        case .status(let status): "exited with status \(status)"
        case .signal(let number): "was ended by signal \(number) (\(String(cString: strsignal(number))))"
        case .unknown: "ended"
        }
    }
}
