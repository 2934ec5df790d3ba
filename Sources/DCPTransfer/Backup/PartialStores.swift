// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import DCPStore
internal import Glibc

/// Stores created by a restore, each in a hidden directory beside its final place until all are complete.
final class PartialStores {
    private let place: String
    private let owner: (user: uid_t, group: gid_t)
    private var begun: [BackupManifest.File] = []
    private var isWhole = false

    /// - Parameters:
    ///   - place: the parent directory of the stores.
    ///   - owner: the user who will own them, for root; nil for the owner of `place`.
    init(in place: String, owner: String?) throws(ServiceError) {
        self.place = place
        self.owner = try Self.owner(owner, of: place)
    }

    deinit {
        if !isWhole { for file in begun { removeStoreDirectory(partialPath(file)) } }
    }

    private func path(_ file: BackupManifest.File) -> String { "\(place)/\(file.store)" }
    private func partialPath(_ file: BackupManifest.File) -> String { "\(place)/.\(file.store).partial" }

    /// - Throws: `.conflict` if the place of a store is taken.
    func checkIsFree(_ file: BackupManifest.File) throws(ServiceError) {
        let path = path(file)
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        // What rename takes the place of.
        guard status.st_mode & S_IFMT == S_IFDIR, let names = fileNames(in: path) else {
            throw ServiceError(.conflict, "\(path) exists and is not a directory; move it away.")
        }
        guard let name = names.first else { return }
        throw ServiceError(
            .conflict,
            "\(path) already holds a store or other files (\(name)), and a restore does not overwrite them. Stop its "
                + "daemon and move the directory away: mv \(path) \(path).old")
    }

    /// The data file of a store that begins.
    func begin(_ file: BackupManifest.File) throws(ServiceError) -> StoreFileWriter {
        let partial = partialPath(file)
        // The remains of a killed restore are useless.
        removeStoreDirectory(partial)
        guard mkdir(partial, 0o700) == 0 else {
            throw ServiceError(.invalidRequest, "\(partial) cannot be made: \(systemMessage(errno)).")
        }
        begun.append(file)
        return try StoreFileWriter(partial + "/data.mdb")
    }

    /// Renames the stores: all are complete, verified and on the disk.
    func publish(_ files: [BackupManifest.File]) throws(ServiceError) -> [RestoredStore] {
        for file in files { try complete(partialPath(file)) }
        for file in files {
            guard rename(partialPath(file), path(file)) == 0 else {
                throw ServiceError(
                    .invalidRequest, "\(path(file)) cannot be put in place: \(systemMessage(errno)).")
            }
        }
        isWhole = true
        try syncDirectory(place)
        return files.map { RestoredStore(store: $0.owner!, path: path($0), bytes: $0.bytes) }
    }

    private func complete(_ partial: String) throws(ServiceError) {
        do throws(StoreError) {
            try Environment.markCreated(in: partial)
        } catch {
            throw ServiceError(.invalidRequest, error.message)
        }
        guard geteuid() == 0 else { return }
        for path in [partial, partial + "/data.mdb", partial + "/" + Environment.createdMarkName] {
            guard chown(path, owner.user, owner.group) == 0 else {
                throw ServiceError(.invalidRequest, "\(path) cannot be given to its owner: \(systemMessage(errno)).")
            }
        }
    }

    private static func owner(
        _ name: String?, of place: String
    ) throws(ServiceError) -> (user: uid_t, group: gid_t) {
        var status = stat()
        guard stat(place, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw ServiceError(
                .invalidRequest,
                "\(place) is not a directory; give the parent directory of the stores, for example /var/lib/dcp."
            )
        }
        guard let name else { return (status.st_uid, status.st_gid) }
        guard let user = getpwnam(name)?.pointee else {
            throw ServiceError(.invalidRequest, "There is no user `\(name)`; give the user that the daemons run as.")
        }
        guard geteuid() == 0 || geteuid() == user.pw_uid else {
            throw ServiceError(
                .invalidRequest,
                "Only root can give stores to another user, `\(name)`; run this as root, or as \(name).")
        }
        return (user.pw_uid, user.pw_gid)
    }
}
