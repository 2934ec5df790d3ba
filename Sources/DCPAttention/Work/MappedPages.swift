// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Queries and advises the kernel about the pages of a mapped file. Any thread may call it.
package enum MappedPages {
    private static let byteCount = UInt(sysconf(Int32(_SC_PAGESIZE)))

    private static func page(of address: UnsafeRawPointer) -> UInt {
        UInt(bitPattern: address) / byteCount * byteCount
    }

    /// Whether the page of an address is in memory; also true if the kernel does not answer.
    package static func isResident(_ address: UnsafeRawPointer) -> Bool {
        var state: UInt8 = 1
        _ = mincore(UnsafeMutableRawPointer(bitPattern: page(of: address)), Int(byteCount), &state)
        return state & 1 == 1
    }

    /// Starts to read exactly these pages before their first use, which is twice as fast for a block as the read-ahead
    /// of page faults. It is advice: if the kernel refuses it, reading is slower but correct.
    package static func willNeed(_ address: UnsafeRawPointer, byteCount: Int) {
        let start = page(of: address)
        let end = UInt(bitPattern: address) + UInt(byteCount)
        _ = madvise(UnsafeMutableRawPointer(bitPattern: start), Int(end - start), MADV_WILLNEED)
    }
}
