// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation

/// The kind of this machine's processor, from Linux: equal for machines with the same cache behaviour.
package enum ProcessorIdentity {
    /// Of the first processor in /proc/cpuinfo, on x86-64 and on arm64.
    private static let fields = [
        "vendor_id", "cpu family", "model", "stepping", "model name", "cache size", "CPU implementer",
        "CPU architecture", "CPU variant", "CPU part", "CPU revision",
    ]

    package static let current = of((try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? "")

    /// - Parameter information: the text of /proc/cpuinfo.
    package static func of(_ information: String) -> String {
        let processor = ProcessorInformation(information)
        return fields.compactMap { name in processor[name].map { "\(name): \($0)" } }.joined(separator: ", ")
    }
}
