public import DCPCore
internal import DCPStore
internal import Glibc

/// A store that was put in its place.
public struct RestoredStore: Hashable, Sendable {
    public var store: DaemonRole
    public var path: String
    public var bytes: Int
}

extension BackupManifest {
    /// Puts stores of a backup in place: `TO/coordinator`, `TO/rank-0`. All of them are compared with their checksums, and on
    /// the disk, before the first has its name.
    /// - Parameters:
    ///   - stores: only these; nil for all that the backup has.
    ///   - owner: the user whose they are to be, for root; nil for whoever owns `to`.
    ///   - progress: called with the bytes done of all.
    /// - Throws: `.conflict` where something is in the place of a store; `.invalidRequest` for a backup that is not whole or
    ///   damaged.
    public func restore(
        from directory: String, _ stores: [DaemonRole]? = nil, to place: String, owner: String? = nil,
        progress: (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) throws(ServiceError) -> [RestoredStore] {
        let files = try files(of: stores, in: directory)
        let owner = try Self.owner(owner, of: place)
        for file in files { try Self.checkIsFree("\(place)/\(file.store)") }
        let partial = { (file: File) in "\(place)/.\(file.store).partial" }
        var isWhole = false
        defer {
            if !isWhole { for file in files { removeStoreDirectory(partial(file)) } }
        }
        let total = files.reduce(0) { $0 + $1.bytes }
        var done = 0
        for file in files {
            try file.copy(from: directory, to: partial(file), owner) { progress(done + $0, total) }
            done += file.bytes
        }
        for file in files {
            guard rename(partial(file), "\(place)/\(file.store)") == 0 else {
                throw ServiceError(
                    .invalidRequest, "\(place)/\(file.store) cannot be put in place: \(systemMessage(errno)).")
            }
        }
        isWhole = true
        try syncDirectory(place)
        return files.map { RestoredStore(store: $0.owner!, path: "\(place)/\($0.store)", bytes: $0.bytes) }
    }

    private static func owner(
        _ name: String?, of place: String
    ) throws(ServiceError) -> (user: uid_t, group: gid_t) {
        var status = stat()
        guard stat(place, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw ServiceError(
                .invalidRequest, "\(place) is no directory; name the one that the stores are to be in, as /var/lib/dcp."
            )
        }
        guard let name else { return (status.st_uid, status.st_gid) }
        guard let user = getpwnam(name)?.pointee else {
            throw ServiceError(.invalidRequest, "No user is called `\(name)`; name the one that the daemons run as.")
        }
        guard geteuid() == 0 || geteuid() == user.pw_uid else {
            throw ServiceError(
                .invalidRequest,
                "Only root can give stores to another user, `\(name)`; run this as root, or as \(name).")
        }
        return (user.pw_uid, user.pw_gid)
    }

    private func files(of stores: [DaemonRole]?, in directory: String) throws(ServiceError) -> [File] {
        guard let stores else { return files }
        var some: [File] = []
        for store in stores {
            guard let file = files.first(where: { $0.name == File.name(of: store) }) else {
                throw ServiceError(
                    .invalidRequest,
                    "The backup \(directory) has no store `\(store.fileName)`; it has \(files.map(\.store).joined(separator: ", "))."
                )
            }
            some.append(file)
        }
        return some
    }

    private static func checkIsFree(_ path: String) throws(ServiceError) {
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        // What rename takes the place of.
        guard status.st_mode & S_IFMT == S_IFDIR, let names = fileNames(in: path) else {
            throw ServiceError(.conflict, "\(path) is in the way: it is no directory. Move it away.")
        }
        guard let name = names.first else { return }
        throw ServiceError(
            .conflict,
            "\(path) holds a store, or something else (\(name)), and a restore overwrites nothing. Stop its daemon and "
                + "move it away: mv \(path) \(path).old")
    }
}

extension BackupManifest.File {
    private static let chunkByteCount = 1 << 20
    private static let holeByteCount = 64 << 10

    fileprivate func copy(
        from directory: String, to partial: String, _ owner: (user: uid_t, group: gid_t), progress: (Int) -> Void
    ) throws(ServiceError) {
        // What a killed restore has left is worth nothing.
        removeStoreDirectory(partial)
        guard mkdir(partial, 0o700) == 0 else {
            throw ServiceError(.invalidRequest, "\(partial) cannot be made: \(systemMessage(errno)).")
        }
        let source = try openDescriptor("\(directory)/\(name)", O_RDONLY)
        let target = try StoreFileWriter(partial + "/data.mdb")
        var chunk = [UInt8](repeating: 0, count: Self.chunkByteCount)
        var offset = 0
        while offset < bytes {
            let count = pread(source.value, &chunk, min(chunk.count, bytes - offset), off_t(offset))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw damaged(directory, count < 0 ? systemMessage(errno) : "it ends at byte \(offset) of \(bytes)")
            }
            for start in stride(from: 0, to: count, by: Self.holeByteCount) {
                let part = chunk[start..<min(start + Self.holeByteCount, count)]
                if part.contains(where: { $0 != 0 }) { try target.write(part, at: offset + start) }
            }
            offset += count
            progress(offset)
        }
        let checksum = try target.finish(byteCount: bytes).hexadecimal
        guard checksum == crc32c else {
            throw damaged(directory, "its checksum is \(checksum), and was \(crc32c) when it was written")
        }
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

    private func damaged(_ directory: String, _ what: String) -> ServiceError {
        ServiceError(
            .invalidRequest, "\(directory)/\(name) is damaged: \(what). Nothing was restored; use another backup.")
    }
}
