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

    /// What `AttentionWork` computes with: what `DCP_KERNELS` names, else the fastest.
    ///
    /// With a value that `KernelSelection.check` refuses, the fastest: programs call that first and end.
    public static let chosen: AttentionKernels = {
        do throws(ServiceError) { return try named(KernelSelection.forced) } catch { return fastest }
    }()

    static var fastest: AttentionKernels { available[available.count - 1] }

    /// - Parameter name: nil for the fastest.
    /// - Throws: `.invalidConfiguration` when the name is unknown, or this machine does not support it.
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

    /// Whether many rows are left to OpenBLAS: where there are no vector kernels.
    var usesSgemm: Bool { name == "scalar" }

    /// Up to so many rows the scalar kernels beat packing matrices for sgemm.
    static let rowsMaxBesideSgemm = 15

    /// Rows of one tile.
    var rowsMax: Int { usesSgemm ? WorkSplit.rowsMax : Int(dcp_attention_rows_max) }

    /// Whether queries are given as terms.
    func readsTerms(of format: CacheFormat) -> Bool { dcp_reads_terms(table, Int32(format.rawValue)) != 0 }

    public var description: String { name }
}
