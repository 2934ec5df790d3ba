// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import DCPStore
internal import Glibc

/// Stores created by a restore, each in a hidden directory beside its final place until all are complete.
final class PartialStores {
    private let place: String
    private let owner: (user: uid_t, group: gid_t)
    private var begun: [String: PartialDirectory] = [:]
    private static let dataName = "data.mdb"

    /// - Parameters:
    ///   - place: the parent directory of the stores.
    ///   - owner: the user who will own them, for root; nil for the owner of `place`.
    init(in place: String, owner: String?) throws(ServiceError) {
        self.place = place
        self.owner = try Self.owner(owner, of: place)
    }

    private func path(_ file: BackupManifest.File) -> String { "\(place)/\(file.store)" }

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
    /// - Throws: `.conflict` if another restore is writing the store.
    func begin(_ file: BackupManifest.File) throws(ServiceError) -> StoreFileWriter {
        let partial = try PartialDirectory("\(place)/.\(file.store).partial")
        guard partial.isOwn else {
            throw ServiceError(
                .conflict, "\(partial.path) was replaced by another user while it was made; restore in another place.")
        }
        begun[file.name] = partial
        return try partial.makeFile(Self.dataName)
    }

    /// Renames the stores: all are complete, verified and on the disk.
    func publish(_ files: [BackupManifest.File]) throws(ServiceError) -> [RestoredStore] {
        for file in files { try complete(begun[file.name]!) }
        // What came meanwhile is told before the first is in place.
        for file in files { try checkIsFree(file) }
        var published: [RestoredStore] = []
        for file in files {
            let number = begun[file.name]!.publish(as: path(file))
            guard number == 0 else { throw cannotPublish(file, systemMessage(number), after: published) }
            published.append(RestoredStore(store: file.owner!, path: path(file), bytes: file.bytes))
        }
        try syncDirectory(place)
        return published
    }

    private func cannotPublish(
        _ file: BackupManifest.File, _ reason: String, after published: [RestoredStore]
    ) -> ServiceError {
        let inPlace = published.map(\.path).joined(separator: ", ")
        return ServiceError(
            .invalidRequest,
            "\(path(file)) cannot be put in place: \(reason). "
                + (published.isEmpty
                    ? "Nothing was restored."
                    : "In place are only \(inPlace): move them away, or restore the others with --only."))
    }

    private func complete(_ partial: PartialDirectory) throws(ServiceError) {
        do throws(StoreError) {
            try Environment.markCreated(in: partial.heldPath)
        } catch {
            throw ServiceError(.invalidRequest, "\(partial.path) cannot be completed: \(error.message)")
        }
        guard geteuid() == 0 else { return }
        try partial.give([Self.dataName, Environment.createdMarkName], to: owner)
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
