// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Memory allocation of this process. A fault for each page costs a microsecond or two in a virtual machine, as much as
/// moving the page's bytes through a socket.
public enum ProcessMemory {
    /// Keeps some freed memory for the next frames. Only for programs: a library does not change malloc.
    public static func keepFreed() { dcp_keep_freed_memory() }

    /// Advises the system to use huge pages for memory that is about to be written. Only advice: without them it is
    /// slower but correct.
    static func adviseHugePages(_ memory: UnsafeMutableRawBufferPointer) {
        let page = UInt(2 << 20)
        let base = UInt(bitPattern: memory.baseAddress)
        let start = (base + page - 1) / page * page
        let end = (base + UInt(memory.count)) / page * page
        guard start < end else { return }
        _ = madvise(UnsafeMutableRawPointer(bitPattern: start), Int(end - start), MADV_HUGEPAGE)
    }
}
