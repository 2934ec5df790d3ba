// SPDX-License-Identifier: Apache-2.0

internal import CLinux
public import DCPCore
internal import DCPFiles
internal import Foundation
internal import Glibc
internal import SystemPackage

/// The layout of a local cluster's directory, and the files in it that this module writes.
///
/// ```
/// cluster.json       what the first `up` decided, and the disk options of the last one
/// ports.json         the TCP ports of the last `up --tcp`
/// pids.json          what runs; replaced as a whole
/// lock               held by the `up` that starts or runs the cluster
/// coordinator/       the coordinator's state
/// rank-N/            the store of rank N
/// coordinator.sock, rank-N.sock
/// coordinator.http, rank-N.http
/// logs/coordinator.log, logs/rank-N.log
/// ```
public struct LocalClusterDirectory: Hashable, Sendable {
    /// Absolute.
    public let path: String

    /// sockaddr_un holds 108 bytes with the terminating NUL; Linux unix(7).
    public static let socketPathByteCountMax = 107

    /// - Throws: `.invalidConfiguration` for an empty path or one with a NUL byte.
    public init(path: String) throws(ServiceError) {
        guard !path.isEmpty, !path.utf8.contains(0) else {
            throw ServiceError(
                .invalidConfiguration,
                "\(path.debugDescription) is not a valid path for a cluster directory; give another --dir.")
        }
        self.path =
            FilePath(FileManager.default.currentDirectoryPath).pushing(FilePath(path)).lexicallyNormalized().string
    }

    /// A new directory under TMPDIR (default /tmp), for a temporary cluster.
    /// - Throws: `.invalidConfiguration` when none can be made there.
    public static func ephemeral() throws(ServiceError) -> LocalClusterDirectory {
        let parent = EnvironmentVariable.value("TMPDIR") ?? "/tmp"
        var template = Array("\(parent)/dcp-local-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw ServiceError(
                .invalidConfiguration,
                "No directory can be created in \(parent): \(systemMessage(errno)). Set TMPDIR to a writable "
                    + "directory.")
        }
        return try LocalClusterDirectory(
            path: String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
    }

    public var configurationFile: String { path + "/cluster.json" }
    public var portsFile: String { path + "/ports.json" }
    public var pidsFile: String { path + "/pids.json" }
    public var lockFile: String { path + "/lock" }
    public var logsDirectory: String { path + "/logs" }

    /// The coordinator's state or a rank's store.
    public func data(of role: DaemonRole) -> String { "\(path)/\(role.fileName)" }
    public func socket(of role: DaemonRole) -> String { "\(path)/\(role.fileName).sock" }
    /// A daemon's HTTP address: a socket, or `off` if the path is too long for one, as is possible with TCP.
    public func http(of role: DaemonRole) -> String {
        let path = "\(path)/\(role.fileName).http"
        return path.utf8.count <= Self.socketPathByteCountMax ? "unix:\(path)" : "off"
    }
    public func log(of role: DaemonRole) -> String { "\(logsDirectory)/\(role.fileName).log" }

    /// Whether an `up` has been here.
    public var isCluster: Bool { FileManager.default.fileExists(atPath: configurationFile) }

    /// Creates the directory and its logs, for the owner only: access to a socket is access to the sequences.
    func create() throws(ServiceError) {
        do {
            try FileManager.default.createDirectory(
                atPath: logsDirectory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw ServiceError(
                .invalidConfiguration,
                "\(path) cannot be created: \(systemReason(error)). Choose a writable --dir.")
        }
    }

    /// - Throws: `.invalidConfiguration` when a socket's path does not fit into a Unix address.
    func checkSocketPaths(ranks: Int) throws(ServiceError) {
        let longest = socket(of: ranks > 1000 ? .rank(RankIndex(UInt16(ranks - 1))) : .coordinator)
        guard longest.utf8.count <= Self.socketPathByteCountMax else {
            throw ServiceError(
                .invalidConfiguration,
                "The socket path \(longest) has \(longest.utf8.count) bytes, more than the \(Self.socketPathByteCountMax) "
                    + "of a Unix address; use --tcp, or a shorter --dir (for a temporary cluster, a shorter TMPDIR).")
        }
    }

    /// Removes a socket that a killed daemon left behind. Only under the lock, when the daemon is known not to run.
    func removeStaleSocket(of role: DaemonRole) {
        var status = stat()
        if lstat(socket(of: role), &status) == 0, status.st_mode & S_IFMT == S_IFSOCK { unlink(socket(of: role)) }
    }

    /// Removes the directory with everything in it.
    /// - Throws: `.internal` naming what stayed.
    public func remove() throws(ServiceError) {
        do { try FileManager.default.removeItem(atPath: path) } catch {
            guard FileManager.default.fileExists(atPath: path) else { return }
            throw ServiceError(.internal, "\(path) cannot be removed: \(systemReason(error)). Remove it manually.")
        }
    }
}

/// The right to run a cluster in a directory, held while the object lives; the kernel frees it with the process.
final class DirectoryLock: Sendable {
    private let descriptor: OwnedDescriptor

    /// - Throws: `.conflict` naming the process that holds it.
    init(_ directory: LocalClusterDirectory) throws(ServiceError) {
        // The file stays when the lock is freed: removing it would let two processes lock two files of one name.
        descriptor = try openDescriptor(directory.lockFile, O_RDWR | O_CREAT, mode: 0o600)
        guard dcp_lock_exclusive(descriptor.value) == 0 else {
            let bytes = (try? WholeFile(directory.lockFile, byteCountMax: 64))?.bytes ?? []
            let holder = String(decoding: bytes, as: UTF8.self)
            throw ServiceError(
                .conflict,
                "Another `dcpctl up` is starting or running the cluster in \(directory.path)"
                    + (holder.isEmpty ? "" : " (pid \(holder.trimmingCharacters(in: .whitespacesAndNewlines)))")
                    + "; stop it with `dcpctl down --dir \(directory.path)`, or choose another --dir.")
        }
        let text = Array("\(getpid())\n".utf8)
        ftruncate(descriptor.value, 0)
        pwrite(descriptor.value, text, text.count, 0)
    }

    deinit {
        // Not left to the close: a daemon that another thread is just starting still has a copy of the descriptor, and
        // would keep the directory locked until its exec.
        flock(descriptor.value, LOCK_UN)
    }
}
