// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A daemon's report of its host and its limits, for `dcpctl doctor`.
///
/// It is not part of the rank status, because it is requested rarely and costs system calls.
public struct HostReport: Hashable, Sendable {
    public var release: String
    public var hostName: String
    /// The same for all daemons on a machine until it reboots, or the machine's; empty if neither can be read.
    public var bootID: String
    /// The host's wall clock, nanoseconds since 1970.
    public var wallNanoseconds: UInt64
    public var processID: UInt32
    public var userID: UInt32
    public var openFiles: UInt64
    /// RLIMIT_NOFILE and RLIMIT_MEMLOCK as they bind the process; `UInt64.max` is no limit.
    public var openFilesMax: UInt64
    public var lockedByteCountMax: UInt64
    /// `always`, `madvise` or `never`; empty when the kernel has no transparent huge pages.
    public var hugePages: String
    public var disk: Disk?
    public var kernels: Kernels?
    /// `NAME=value` of the environment variables that affect the kernels.
    public var variables: [String]
    /// From a rank: the other ranks of its head group.
    public var peers: [Peer]

    /// The disk under the store.
    public struct Disk: Hashable, Sendable {
        public var directory: String
        /// As the kernel names it: `ext4`, `tmpfs`, `nfs4`.
        public var fileSystem: String
        /// Bytes that this process may still write.
        public var freeByteCount: UInt64
        public var byteCount: UInt64

        public init(directory: String, fileSystem: String, freeByteCount: UInt64, byteCount: UInt64) {
            self.directory = directory
            self.fileSystem = fileSystem
            self.freeByteCount = freeByteCount
            self.byteCount = byteCount
        }
    }

    public struct Kernels: Hashable, Sendable {
        /// `scalar`, `avx2`, `avx512`, `avx512bf16` or `neon`.
        public var instructionSet: String
        /// The fastest of those that this machine supports.
        public var fastest: String
        public var openBLASCore: String
        public var openBLASCoreIsForcedOlder: Bool

        public init(instructionSet: String, fastest: String, openBLASCore: String, openBLASCoreIsForcedOlder: Bool) {
            self.instructionSet = instructionSet
            self.fastest = fastest
            self.openBLASCore = openBLASCore
            self.openBLASCoreIsForcedOlder = openBLASCoreIsForcedOlder
        }
    }

    public struct Peer: Hashable, Sendable {
        public var rank: RankIndex
        public var isReached: Bool
        /// Whether tensors are exchanged through shared memory.
        public var sharesMemory: Bool

        public init(rank: RankIndex, isReached: Bool, sharesMemory: Bool = false) {
            self.rank = rank
            self.isReached = isReached
            self.sharesMemory = sharesMemory
        }
    }

    /// A report with only the sender's identity.
    public init(release: String = Release.current, processID: UInt32 = 0, userID: UInt32 = 0) {
        self.release = release
        self.processID = processID
        self.userID = userID
        (hostName, bootID, hugePages) = ("", "", "")
        (wallNanoseconds, openFiles, openFilesMax, lockedByteCountMax) = (0, 0, 0, 0)
        (variables, peers) = ([], [])
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init(release: try reader.readString("release"))
        hostName = try reader.readString("host name")
        bootID = try reader.readString("boot id")
        wallNanoseconds = try reader.read("wall clock")
        processID = try reader.read("process")
        userID = try reader.read("user")
        openFiles = try reader.read("open files")
        openFilesMax = try reader.read("limit of open files")
        lockedByteCountMax = try reader.read("limit of locked memory")
        hugePages = try reader.readString("huge pages")
        if try reader.readBool("has disk") {
            disk = Disk(
                directory: try reader.readString("directory"), fileSystem: try reader.readString("file system"),
                freeByteCount: try reader.read("free bytes"), byteCount: try reader.read("bytes of the disk"))
        }
        if try reader.readBool("has kernels") {
            kernels = Kernels(
                instructionSet: try reader.readString("instruction set"), fastest: try reader.readString("fastest"),
                openBLASCore: try reader.readString("OpenBLAS core"),
                openBLASCoreIsForcedOlder: try reader.readBool("forced older"))
        }
        variables = try reader.readArray("variables", byteCountMin: 2) {
            r throws(ServiceError) in try r.readString("variable")
        }
        peers = try reader.readArray("peers", byteCountMin: 4) { r throws(ServiceError) in
            Peer(
                rank: RankIndex(try r.read("rank")), isReached: try r.readBool("reached"),
                sharesMemory: try r.readBool("shares memory"))
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(release)
        writer.write(hostName)
        writer.write(bootID)
        writer.write(wallNanoseconds)
        writer.write(processID)
        writer.write(userID)
        writer.write(openFiles)
        writer.write(openFilesMax)
        writer.write(lockedByteCountMax)
        writer.write(hugePages)
        writer.write(disk != nil)
        if let disk {
            writer.write(disk.directory)
            writer.write(disk.fileSystem)
            writer.write(disk.freeByteCount)
            writer.write(disk.byteCount)
        }
        writer.write(kernels != nil)
        if let kernels {
            writer.write(kernels.instructionSet)
            writer.write(kernels.fastest)
            writer.write(kernels.openBLASCore)
            writer.write(kernels.openBLASCoreIsForcedOlder)
        }
        writer.write(variables) { $0.write($1) }
        writer.write(peers) {
            $0.write($1.rank.value)
            $0.write($1.isReached)
            $0.write($1.sharesMemory)
        }
    }
}
