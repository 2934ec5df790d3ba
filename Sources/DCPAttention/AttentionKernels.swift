// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore

/// The kernels of one instruction set that this machine supports.
///
/// `@unchecked Sendable`: the table is written before `main` and constant afterwards.
public struct AttentionKernels: Hashable, @unchecked Sendable, CustomStringConvertible {
    /// `scalar`, `avx2`, `avx2vnni`, `avx512`, `avx512vnni`, `avx512bf16`, `neon` or `neondot`.
    public let name: String
    let table: UnsafePointer<dcp_kernel_table>

    /// Slowest first; `scalar` is always there.
    public static let available: [AttentionKernels] = (0..<dcp_kernels_count()).compactMap { index in
        dcp_kernels(index).map { AttentionKernels(name: String(cString: $0.pointee.name), table: $0) }
    }

    /// The kernels of `AttentionWork`: those that `DCP_KERNELS` names, otherwise the fastest.
    ///
    /// The fastest also if `KernelSelection.check` refuses the value: programs call that first, and exit.
    public static let chosen: AttentionKernels = {
        do throws(ServiceError) { return try named(KernelSelection.forced) } catch { return fastest }
    }()

    static var fastest: AttentionKernels { available[available.count - 1] }

    /// - Parameter name: nil for the fastest.
    /// - Throws: `.invalidConfiguration` if the name is unknown, or this machine does not support it.
    public static func named(_ name: String?) throws(ServiceError) -> AttentionKernels {
        guard let name else { return fastest }
        guard let kernels = available.first(where: { $0.name == name }) else {
            let names = available.map(\.name).joined(separator: ", ")
            let reason =
                ["avx2", "avx2vnni", "avx512", "avx512vnni", "avx512bf16", "neon", "neondot"].contains(name)
                ? "are not supported by this machine" : "do not exist"
            throw ServiceError(
                .invalidConfiguration,
                "Kernels `\(name)` \(reason); set \(KernelSelection.variable) to one of \(names), or unset it.")
        }
        return kernels
    }

    /// Whether OpenBLAS computes many rows, because there are no vector kernels.
    var usesSgemm: Bool { name == "scalar" }

    /// Up to this many rows the scalar kernels are faster than packing matrices for sgemm.
    static let rowsMaxBesideSgemm = 15

    /// The most rows of a tile.
    var rowsMax: Int { usesSgemm ? WorkSplit.rowsMax : Int(dcp_attention_rows_max) }

    /// Whether the kernels read queries as terms.
    func readsTerms(of format: CacheFormat) -> Bool { dcp_reads_terms(table, Int32(format.rawValue)) != 0 }

    public var description: String { name }
}
