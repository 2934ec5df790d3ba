internal import CLinux
internal import Glibc

/// How this process comes to memory and gives it back. A fault for each page costs a microsecond or two in a virtual machine, as
/// much as moving the page's bytes through a socket.
public enum ProcessMemory {
    /// Keeps some freed memory for the next frames. For programs: a library leaves malloc as it is.
    public static func keepFreed() { dcp_keep_freed_memory() }

    /// Advises the system to take huge pages for memory that is about to be written. Advice: without them it is slower, not
    /// wrong.
    static func adviseHugePages(_ memory: UnsafeMutableRawBufferPointer) {
        let page = UInt(2 << 20)
        let base = UInt(bitPattern: memory.baseAddress)
        let start = (base + page - 1) / page * page
        let end = (base + UInt(memory.count)) / page * page
        guard start < end else { return }
        _ = madvise(UnsafeMutableRawPointer(bitPattern: start), Int(end - start), MADV_HUGEPAGE)
    }
}
