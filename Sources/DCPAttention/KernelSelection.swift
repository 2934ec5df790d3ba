// SPDX-License-Identifier: Apache-2.0

internal import COpenBLAS
public import DCPCore

/// The kernels that this process uses, for `dcpctl` and the journal.
public struct KernelSelection: Hashable, Sendable, CustomStringConvertible {
    /// The environment variable that forces an instruction set, by a name in `AttentionKernels.available`.
    public static let variable = "DCP_KERNELS"

    /// A name in `AttentionKernels.available`.
    public let instructionSet: String
    /// The fastest that this machine supports.
    public let fastest: String
    /// Whether OpenBLAS's sgemm computes many rows, as it does beside scalar kernels.
    public let prefillUsesSgemm: Bool
    /// The core type whose sgemm OpenBLAS chose, after `OPENBLAS_CORETYPE`: `Haswell`, `Cooperlake`.
    public let openBLASCore: String
    /// Whether `OPENBLAS_CORETYPE` makes OpenBLAS use narrower vectors than this CPU has, so that its sgemm is slower
    /// than it could be.
    public let openBLASCoreIsForcedOlder: Bool

    public static let current = KernelSelection()

    /// Refuses a `DCP_KERNELS` that names no kernels, or kernels that this machine does not support.
    /// - Throws: `.invalidConfiguration`, with the values that are possible.
    public static func check() throws(ServiceError) { _ = try AttentionKernels.named(forced) }

    /// The value of `DCP_KERNELS`; an empty one counts as unset.
    static var forced: String? { EnvironmentVariable.value(variable) }

    private init() {
        Self.useOneBLASThread
        instructionSet = AttentionKernels.chosen.name
        prefillUsesSgemm = AttentionKernels.chosen.usesSgemm
        let core = String(cString: openblas_get_corename())
        openBLASCore = core
        fastest = AttentionKernels.fastest.name
        openBLASCoreIsForcedOlder =
            EnvironmentVariable.value("OPENBLAS_CORETYPE") != nil && Self.isOlder(openBLASCore: core, than: fastest)
    }

    /// Whether the kernels of a core type use narrower vectors than an instruction set.
    package static func isOlder(openBLASCore core: String, than instructionSet: String) -> Bool {
        // OpenBLAS, cpuid_x86.c: the core types with AVX-512 kernels, then those with AVX2; others are older.
        let core = core.lowercased()
        let bits =
            switch core {
            case "skylakex", "cooperlake", "sapphirerapids": 512
            case "haswell", "zen": 256
            default: 128
            }
        if instructionSet.hasPrefix("avx512") { return bits < 512 }
        return instructionSet.hasPrefix("avx2") && bits < 256
    }

    public var description: String {
        "\(instructionSet), \(prefillUsesSgemm ? "prefill by sgemm of " : "")OpenBLAS \(openBLASCore)"
            + (openBLASCoreIsForcedOlder ? " (an older core than this CPU's, by OPENBLAS_CORETYPE)" : "")
    }

    /// Keeps OpenBLAS from starting threads beside the rank's; accessed before the first sgemm.
    static let useOneBLASThread: Void = openblas_set_num_threads(1)
}
