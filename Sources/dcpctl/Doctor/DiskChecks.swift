// SPDX-License-Identifier: Apache-2.0

internal import DCPConsole
internal import DCPWire

/// Where a store lies, and how much room it has.
enum DiskChecks {
    /// Below this share, or this many bytes, a disk is nearly full. A rank's own watermark is at 95 %.
    static let freeShareMin = 0.05
    static let freeByteCountMin: UInt64 = 256 << 20

    /// Gone with the next start of the machine.
    static let volatileFileSystems: Set = ["tmpfs", "ramfs", "devtmpfs", "hugetlbfs"]

    /// LMDB's lock is in shared memory and its pages are mapped: two hosts would not see each other, and a page that cannot
    /// be fetched ends the process.
    static let networkFileSystems: Set = [
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "gpfs", "beegfs",
        "glusterfs", "orangefs", "virtiofs",
    ]

    static func check(_ disk: HostReport.Disk, of subject: String) -> Check {
        let free = ByteFormat.format(Int(clamping: disk.freeByteCount))
        let whole = ByteFormat.format(Int(clamping: disk.byteCount))
        let value =
            "\(disk.fileSystem.isEmpty ? "unknown" : disk.fileSystem), \(free) free of \(whole) at \(disk.directory)"
        let least = min(freeByteCountMin, disk.byteCount / 2)
        let limit = "a local disk, \(Int(freeShareMin * 100)) % and \(ByteFormat.format(Int(clamping: least))) free"
        if networkFileSystems.contains(disk.fileSystem) || disk.fileSystem.hasPrefix("fuse.") {
            return .failed(
                "disk", subject, value, limit: limit,
                remedy: "A network file system can damage a store; put it on a local disk with --store.")
        }
        // A page is the least that LMDB writes.
        if disk.freeByteCount < 4096 {
            return .failed(
                "disk", subject, value, limit: limit,
                remedy: "The disk is full, and new tokens are refused; free space on it, or close sequences.")
        }
        if volatileFileSystems.contains(disk.fileSystem) {
            return .warning(
                "disk", subject, value, limit: limit,
                remedy:
                    "\(disk.fileSystem) is in memory and lost at a reboot; put the store on a disk with --store, "
                    + "unless this is intended.")
        }
        if disk.freeByteCount < least || Double(disk.freeByteCount) < freeShareMin * Double(disk.byteCount) {
            return .warning(
                "disk", subject, value, limit: limit,
                remedy:
                    "Free space on the disk, or limit the store with --disk-limit and start the coordinator with "
                    + "--evict lru.")
        }
        return .ok("disk", subject, value, limit: limit)
    }
}
