internal import CAttentionKernels
internal import COpenBLAS

/// The kernels this process computes with, for `dcpctl` and the journal.
public struct KernelSelection: Hashable, Sendable, CustomStringConvertible {
    /// The instruction set of the decode kernels: `portable`.
    public let decode: String
    /// The core type whose sgemm OpenBLAS chose, after `OPENBLAS_CORETYPE`: `Haswell`, `Cooperlake`.
    public let openBLASCore: String

    public static let current = KernelSelection()

    private init() {
        Self.useOneBLASThread
        decode = String(cString: dcp_kernels_name())
        openBLASCore = String(cString: openblas_get_corename())
    }

    public var description: String { "decode \(decode), sgemm OpenBLAS \(openBLASCore)" }

    /// OpenBLAS would start threads of its own beside the rank's; touched before the first sgemm.
    static let useOneBLASThread: Void = openblas_set_num_threads(1)
}
