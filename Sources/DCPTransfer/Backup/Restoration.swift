// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Glibc

/// A restored store.
public struct RestoredStore: Hashable, Sendable {
    public var store: DaemonRole
    public var path: String
    public var bytes: Int
}

extension BackupManifest {
    /// Puts stores of a backup in place: `TO/coordinator`, `TO/rank-0`. All of them are verified and on the disk before
    /// the first is renamed.
    /// - Parameters:
    ///   - stores: only these; nil for all that the backup has.
    ///   - owner: the user who will own them, for root; nil for the owner of `to`.
    ///   - progress: called with the bytes done of all.
    /// - Throws: `.conflict` where something is in the place of a store, or another restore is writing it;
    ///   `.invalidRequest` for a backup that is not whole or damaged.
    public func restore(
        from directory: String, _ stores: [DaemonRole]? = nil, to place: String, owner: String? = nil,
        progress: (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) throws(ServiceError) -> [RestoredStore] {
        let files = try files(of: stores, in: directory)
        let partial = try PartialStores(in: place, owner: owner)
        for file in files { try partial.checkIsFree(file) }
        let total = files.reduce(0) { $0 + $1.bytes }
        var done = 0
        for file in files {
            try file.copy(from: directory, to: try partial.begin(file)) { progress(done + $0, total) }
            done += file.bytes
        }
        return try partial.publish(files)
    }

    /// Those of some stores.
    /// - Parameter backup: what the error names.
    func files(of stores: [DaemonRole]?, in backup: String) throws(ServiceError) -> [File] {
        guard let stores else { return files }
        let there = files.map(\.owner)
        if let missing = stores.first(where: { !there.contains($0) }) {
            throw ServiceError(
                .invalidRequest,
                "The backup \(backup) has no store `\(missing.fileName)`; its stores are "
                    + "\(files.map(\.store).joined(separator: ", ")).")
        }
        return files.filter { file in file.owner.map { stores.contains($0) } ?? false }
    }
}

extension BackupManifest.File {
    private static let chunkByteCount = 1 << 20

    fileprivate func copy(
        from directory: String, to target: StoreFileWriter, progress: (Int) -> Void
    ) throws(ServiceError) {
        let source = try openDescriptor("\(directory)/\(name)", O_RDONLY)
        var chunk = [UInt8](repeating: 0, count: Self.chunkByteCount)
        var offset = 0
        while offset < bytes {
            let count = pread(source.value, &chunk, min(chunk.count, bytes - offset), off_t(offset))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw damaged(in: directory, count < 0 ? systemMessage(errno) : "it ends at byte \(offset) of \(bytes)")
            }
            try target.writeLeavingHoles(chunk[..<count], at: offset)
            offset += count
            progress(offset)
        }
        try check(try target.finish(byteCount: bytes), in: directory)
    }

    /// - Throws: `.invalidRequest` for another checksum than the backup's.
    func check(_ checksum: UInt32, in backup: String) throws(ServiceError) {
        guard checksum.hexadecimal != crc32c else { return }
        throw damaged(
            in: backup, "its checksum is \(checksum.hexadecimal), but was \(crc32c) when it was written")
    }

    func damaged(in backup: String, _ what: String) -> ServiceError {
        ServiceError(
            .invalidRequest, "\(backup)/\(name) is damaged: \(what). Nothing was restored; use another backup.")
    }
}
