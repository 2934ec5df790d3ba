// SPDX-License-Identifier: Apache-2.0

internal import COpenBLAS

/// OpenBLAS's product of two large square matrices: the ceiling of a prefill that consists of sgemm.
///
/// Each measuring thread needs its own object.
///
/// `@unchecked Sendable`: only `multiply` changes the matrices, and one call runs at a time.
package final class SgemmCeiling: @unchecked Sendable {
    /// Rows and columns of the matrices.
    package let size: Int
    private let a: UnsafeMutablePointer<Float>
    private let b: UnsafeMutablePointer<Float>
    private let product: UnsafeMutablePointer<Float>

    package init(size: Int = 2048) {
        self.size = size
        func matrix(_ value: (Int) -> Float) -> UnsafeMutablePointer<Float> {
            let memory = UnsafeMutablePointer<Float>.allocate(capacity: size * size)
            for index in 0..<size * size { (memory + index).initialize(to: value(index)) }
            return memory
        }
        a = matrix { Float($0 % 17) / 17 }
        b = matrix { Float($0 % 13) / 13 }
        product = matrix { _ in 0 }
    }

    /// Multiplies once, on the calling thread.
    /// - Returns: the number of floating point operations.
    @discardableResult
    package func multiply() -> UInt64 {
        KernelSelection.useOneBLASThread
        let n = Int32(size)
        cblas_sgemm(
            Int32(dcpBlasRowMajor), Int32(dcpBlasNoTrans), Int32(dcpBlasNoTrans), n, n, n, 1, a, n, b, n, 0, product, n)
        return 2 * UInt64(size) * UInt64(size) * UInt64(size)
    }

    deinit {
        a.deallocate()
        b.deallocate()
        product.deallocate()
    }
}
