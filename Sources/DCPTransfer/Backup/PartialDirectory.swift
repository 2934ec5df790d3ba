// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPFiles
internal import Glibc

/// A directory that is filled under a hidden name, and removed unless it is published.
///
/// It is locked while its writer exists, so that another writer can tell it from the remains of a killed one, which it
/// removes. Its files are reached through its descriptor and not through its path: a user who owns the parent directory
/// can put a link in its place while root fills it.
package final class PartialDirectory: Sendable {
    package let path: String
    private let descriptor: OwnedDescriptor
    /// How often others may remove it between two calls of this process.
    private static let attempts = 100

    /// - Throws: `.conflict` if another process is writing it; `.invalidRequest` if it cannot be made.
    package init(_ path: String) throws(ServiceError) {
        // Made before anything is stored: a class whose initializer fails when it is complete still runs its deinit.
        descriptor = try Self.make(path)
        self.path = path
    }

    deinit {
        // After it was published nothing is there of its name, or something of another process.
        guard Self.stands(descriptor, at: path) else { return }
        Self.empty(descriptor)
        rmdir(path)
    }

    /// Another path of the same directory, which stays its own wherever it is moved.
    var heldPath: String { Self.heldPath(descriptor) }

    /// Whether this user made it.
    var isOwn: Bool {
        var status = stat()
        return fstat(descriptor.value, &status) == 0 && status.st_uid == geteuid()
    }

    func makeFile(_ name: String) throws(ServiceError) -> StoreFileWriter {
        try StoreFileWriter("\(heldPath)/\(name)", shown: "\(path)/\(name)")
    }

    /// Gives it with some of its files to another user. The directory is last: until then nobody else can enter it.
    func give(_ names: [String], to owner: (user: uid_t, group: gid_t)) throws(ServiceError) {
        for name in names where lchown("\(heldPath)/\(name)", owner.user, owner.group) != 0 {
            throw cannotGive("\(path)/\(name)")
        }
        guard fchown(descriptor.value, owner.user, owner.group) == 0 else { throw cannotGive(path) }
    }

    private func cannotGive(_ path: String) -> ServiceError {
        ServiceError(.invalidRequest, "\(path) cannot be given to its owner: \(systemMessage(errno)).")
    }

    /// Makes the names of its files durable.
    func sync() throws(ServiceError) { try syncDirectory(heldPath, shown: path) }

    /// Renames it: it stays.
    /// - Returns: 0, or the system's error number.
    package func publish(as target: String) -> Int32 {
        guard Self.stands(descriptor, at: path) else { return ENOENT }
        return rename(path, target) == 0 ? 0 : errno
    }
}

extension PartialDirectory {
    private static func make(_ path: String) throws(ServiceError) -> OwnedDescriptor {
        for _ in 0..<attempts {
            let isNew = mkdir(path, 0o700) == 0
            let failure = errno
            guard isNew || failure == EEXIST else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path) cannot be made: \(systemMessage(failure)). Choose a place that this user may write to.")
            }
            let opened = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
            let reason = errno
            guard opened >= 0 else {
                // Another process took it for remains, or has ended.
                if reason == ENOENT { continue }
                throw isInTheWay(path, systemMessage(reason))
            }
            let descriptor = OwnedDescriptor(opened)
            try lock(descriptor, path, isNew: isNew)
            guard stands(descriptor, at: path) else { continue }
            if isNew { return descriptor }
            empty(descriptor)
            guard rmdir(path) == 0 || errno == ENOENT else { throw isInTheWay(path, systemMessage(errno)) }
        }
        throw isInTheWay(path, "other processes keep replacing it")
    }

    private static func isInTheWay(_ path: String, _ reason: String) -> ServiceError {
        ServiceError(.conflict, "\(path) is in the way (\(reason)); remove it.")
    }

    private static func lock(_ descriptor: OwnedDescriptor, _ path: String, isNew: Bool) throws(ServiceError) {
        guard flock(descriptor.value, LOCK_EX | LOCK_NB) != 0 else { return }
        let reason = errno
        guard reason != EWOULDBLOCK else {
            throw ServiceError(.conflict, "Another process is writing \(path); wait until it has ended.")
        }
        // NFS locks no directories. A new one is this process's without a lock; an old one need not be remains.
        guard isNew else {
            throw ServiceError(
                .conflict,
                "\(path) exists: another process is writing it, or was killed (it cannot be locked: "
                    + "\(systemMessage(reason))). Wait for that process, or remove the directory.")
        }
    }

    /// Whether a directory is the one of that name.
    private static func stands(_ descriptor: OwnedDescriptor, at path: String) -> Bool {
        var (held, named) = (stat(), stat())
        return fstat(descriptor.value, &held) == 0 && lstat(path, &named) == 0 && held.st_dev == named.st_dev
            && held.st_ino == named.st_ino
    }

    private static func heldPath(_ descriptor: OwnedDescriptor) -> String { "/proc/self/fd/\(descriptor.value)" }

    /// Removes the files in a directory: backups and stores have no others.
    private static func empty(_ descriptor: OwnedDescriptor) {
        for name in fileNames(in: heldPath(descriptor)) ?? [] { unlinkat(descriptor.value, name, 0) }
    }
}
