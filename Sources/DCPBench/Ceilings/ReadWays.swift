// SPDX-License-Identifier: Apache-2.0

internal import CBenchmarkKernels

/// The ways of reading memory that this machine supports; see CBenchmarkKernels.
package enum ReadWays {
    package static let count = Int(dcp_read_ways())

    package static func name(_ way: Int) -> String { String(cString: dcp_read_way_name(Int32(way))) }

    /// Reads a buffer once.
    /// - Parameters:
    ///   - bytes: 64-byte aligned.
    ///   - byteCount: a multiple of 64.
    /// - Returns: the exclusive or of its 64-bit words.
    package static func read(_ way: Int, _ bytes: UnsafeRawPointer, byteCount: Int) -> UInt64 {
        precondition((0..<count).contains(way) && UInt(bitPattern: bytes) % 64 == 0 && byteCount % 64 == 0)
        return dcp_read_stream(Int32(way), bytes, byteCount)
    }
}
