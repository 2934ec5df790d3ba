// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import DCPCore
internal import DCPFiles
internal import Glibc
internal import SystemPackage

/// A file that is being written, in the directory of its final name, under a hidden name until it is complete.
///
/// It holds a lock while its writer exists. A file left by a killed process is detected by its free lock, and the next
/// writer of the same name removes it.
final class PartialFile: Sendable {
    /// The final path of the file.
    let path: String
    private let partialPath: String
    private let descriptor: OwnedDescriptor
    private let byteCount: Int

    /// Creates the file and reserves its space.
    /// - Throws: `.invalidRequest` if the path is not valid for a file or the disk has no room for it.
    init(for path: String, byteCount: Int) throws(ServiceError) {
        try Self.checkTarget(path)
        let (directory, name) = Self.split(path)
        Self.removeAbandoned(directory, name)
        self.path = path
        self.byteCount = byteCount
        (partialPath, descriptor) = try Self.create(directory, name, for: path)
        let reserved = dcp_reserve(descriptor.value, off_t(byteCount))
        // A file system that cannot reserve tells later, in a write.
        guard reserved == 0 || byteCount == 0 || reserved == -EOPNOTSUPP || reserved == -ENOSYS else {
            throw failure(-reserved)
        }
    }

    deinit {
        // Nothing is there of this name once it has been renamed; before, whatever was written is worth nothing.
        unlink(partialPath)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(ServiceError) {
        let number = descriptor.write(bytes, at: offset)
        guard number == 0 else { throw failure(number) }
    }

    /// Syncs the file and renames it, replacing an existing one.
    func publish() throws(ServiceError) {
        guard fsync(descriptor.value) == 0, rename(partialPath, path) == 0 else { throw failure(errno) }
        // The name is durable once the directory is; some file systems cannot sync one, and the file is whole anyway.
        if let directory = try? openDescriptor(Self.split(path).directory, O_RDONLY | O_DIRECTORY) {
            fsync(directory.value)
        }
    }

    /// Targets at which a rename would fail after everything is computed, or which it would destroy: a directory, a
    /// device, a pipe.
    private static func checkTarget(_ path: String) throws(ServiceError) {
        guard !path.isEmpty, !path.utf8.contains(0) else {
            throw ServiceError(.invalidRequest, "\(path.debugDescription) is not a path of a file; give another path.")
        }
        var status = stat()
        let isThere = stat(path, &status) == 0
        guard isThere || path.utf8.last == UInt8(ascii: "/") else { return }
        guard isThere, status.st_mode & S_IFMT != S_IFDIR else {
            throw ServiceError(
                .invalidRequest, "\(path) is a directory; give the path of a file in it.")
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw ServiceError(
                .invalidRequest, "\(path) is not a regular file, and writing would replace it; choose another path.")
        }
    }

    private static func create(
        _ directory: String, _ name: String, for target: String
    ) throws(ServiceError) -> (path: String, descriptor: OwnedDescriptor) {
        while true {
            let token = String(UInt64.random(in: 0...UInt64.max), radix: 36)
            let path = "\(directory)/\(prefix(name))\(getpid())-\(token)\(suffix)"
            let descriptor = try openDescriptor(path, O_WRONLY | O_CREAT | O_EXCL, shown: target)
            let locked = dcp_lock_exclusive(descriptor.value)
            guard locked == 0 || locked == -EWOULDBLOCK else {
                unlink(path)
                throw ServiceError(
                    .invalidRequest,
                    "\(target) cannot be written: files in \(directory) cannot be locked (\(systemMessage(-locked))). Choose "
                        + "a path on another file system.")
            }
            // Between the two calls another writer of the name may have found the file without a lock and removed it.
            var status = stat()
            if locked == 0, fstat(descriptor.value, &status) == 0, status.st_nlink > 0 { return (path, descriptor) }
        }
    }

    private static func prefix(_ name: String) -> String { ".\(name)." }
    private static let suffix = ".partial"

    /// Files of killed writers of the same name. What cannot be looked at or removed stays: it harms nothing but the room.
    private static func removeAbandoned(_ directory: String, _ name: String) {
        guard let listing = opendir(directory) else { return }
        defer { closedir(listing) }
        while let entry = readdir(listing) {
            let found = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(validating: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard let found, isPartial(found, of: name),
                let descriptor = try? openDescriptor("\(directory)/\(found)", O_RDONLY | O_NOFOLLOW | O_NONBLOCK),
                dcp_lock_exclusive(descriptor.value) == 0
            else { continue }
            unlink("\(directory)/\(found)")
        }
    }

    /// Whether a name is one that `create` gives: a process and a token, and not what somebody else called so.
    private static func isPartial(_ found: String, of name: String) -> Bool {
        let (prefix, found) = (Array(prefix(name).utf8), Array(found.utf8))
        guard found.count > prefix.count + suffix.utf8.count, found.starts(with: prefix),
            found.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
        else { return false }
        let parts = found.dropFirst(prefix.count).dropLast(suffix.utf8.count).split(
            separator: UInt8(ascii: "-"), omittingEmptySubsequences: false)
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9"), letters = UInt8(ascii: "a")...UInt8(ascii: "z")
        return parts.count == 2 && parts.allSatisfy { !$0.isEmpty } && parts[0].allSatisfy { digits.contains($0) }
            && parts[1].allSatisfy { digits.contains($0) || letters.contains($0) }
    }

    private func failure(_ number: Int32) -> ServiceError {
        var message = "\(path) cannot be written: \(systemMessage(number)). "
        var room = statvfs()
        // EIO: what some file systems say at a sync of what they have no room for.
        if [ENOSPC, EDQUOT, EIO].contains(number), fstatvfs(descriptor.value, &room) == 0 {
            let free = UInt64(room.f_bavail) * UInt64(room.f_frsize)
            message +=
                "The file needs \(byteCount) bytes, but the disk of \(Self.split(path).directory) has only \(free) "
                + "free. "
        }
        return ServiceError(
            .invalidRequest,
            message + "Free space or choose another path; the existing file is unchanged.")
    }

    private static func split(_ path: String) -> (directory: String, name: String) {
        let path = FilePath(path)
        return (path.directory.string, path.lastComponent?.string ?? "")
    }
}
