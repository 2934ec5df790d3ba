// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import Foundation
internal import Glibc

/// The machine that figures are of.
public struct Machine: Encodable, Hashable, Sendable {
    /// As /proc/cpuinfo names it.
    public var cpu: String
    /// Online, as the system counts them.
    public var cores: Int
    /// `Linux 6.1.0-13-amd64 x86_64`
    public var system: String
    public var memoryBytes: Int

    public static let current: Machine = {
        var names = utsname()
        uname(&names)
        func text<Value>(_ field: Value) -> String {
            withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        }
        let information = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        return Machine(
            cpu: ProcessorInformation(information)["model name"] ?? text(names.machine),
            cores: Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))),
            system: "\(text(names.sysname)) \(text(names.release)) \(text(names.machine))",
            memoryBytes: Int(sysconf(Int32(_SC_PHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE))))
    }()
}

/// The kernels that were measured.
public struct MeasuredKernels: Encodable, Hashable, Sendable {
    public var instructionSet: String
    public var openblasCore: String
    /// Whether the environment forces narrower vectors on OpenBLAS than this CPU has.
    public var openblasCoreIsForcedOlder: Bool
    /// How this process's prefetch, for each cache format and number of rows: `bf16, 4 rows: second:32`. nil where daemons
    /// attend, each of which finds out for itself.
    public var prefetch: [String]?

    public static var current: MeasuredKernels {
        let selection = KernelSelection.current
        return MeasuredKernels(
            instructionSet: selection.instructionSet, openblasCore: selection.openBLASCore,
            openblasCoreIsForcedOlder: selection.openBLASCoreIsForcedOlder, prefetch: PrefetchTable.current.lines)
    }
}
