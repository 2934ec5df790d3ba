// SPDX-License-Identifier: Apache-2.0

public import DCPClient
public import DCPCore
internal import DCPWire
internal import Foundation

extension Cluster {
    /// The interval of empty requests for stores that wait for their turn: a daemon drops a snapshot that is not read
    /// for a minute.
    private static let touchPeriod = Duration.seconds(20)
    private static let beyondAllPages = WireReader.lengthMax
    /// What is written of unused pages between two looks at the clock.
    private static let zerosByteCount = 4 << 20

    /// Writes a snapshot of the stores of the coordinator and of all ranks from the same moment as a tar archive of the
    /// files that ``backup(to:of:progress:)`` makes: one store after the other, the manifest last. Steps and commits
    /// continue.
    /// - Parameters:
    ///   - stores: only these; nil for all.
    ///   - progress: called with the bytes done of those there are.
    /// - Throws: `.notReady`; `.conflict` when a daemon was restarted meanwhile, or whoever reads stood still for a minute;
    ///   `.invalidRequest` when nobody reads any more. What was written is no whole backup then, which a restore tells.
    public func backup(
        into output: PipeEnd, of stores: [DaemonRole]? = nil,
        progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) async throws(ServiceError) -> BackupManifest {
        let (topology, stores) = try await chosen(stores)
        return try await withCopies(topology) { copies async throws(ServiceError) in
            let archive = TarWriter(to: output, modified: Int(copies.heldAt.timeIntervalSince1970))
            let total = try await touch(stores[...], copies)
            var files: [BackupManifest.File] = []
            for index in stores.indices {
                let done = files.reduce(0) { $0 + $1.bytes }
                files.append(
                    try await writeFirst(of: stores[index...], copies, to: archive) { progress(done + $0, total) })
            }
            let manifest = copies.manifest(files)
            let bytes = try manifest.encoded()
            try archive.begin(BackupManifest.fileName, byteCount: bytes.count)
            try archive.write(bytes[...], at: 0)
            _ = try archive.finish()
            try archive.close()
            return manifest
        }
    }

    /// Writes the first of some stores.
    ///
    /// Its unused pages are written as zeros, of which there may be more than a reader takes in a minute: the snapshots
    /// are touched between these, too.
    private func writeFirst(
        of stores: ArraySlice<DaemonRole>, _ copies: HeldCopies, to archive: TarWriter, progress: (Int) -> Void
    ) async throws(ServiceError) -> BackupManifest.File {
        let store = stores[stores.startIndex]
        let name = BackupManifest.File.name(of: store)
        var (page, used) = (0, 0)
        var touched = ContinuousClock.now
        while true {
            let part = try await read(copies, of: store, from: page)
            if page == 0 { try archive.begin(name, byteCount: part.byteCount) }
            page = part.next
            used += part.bytes.count
            var runs = part.contents
            // The unused pages behind the last run.
            runs.append((offset: page * part.pageByteCount, bytes: []))
            for (offset, bytes) in runs {
                repeat {
                    try checkNotCancelled()
                    try archive.skip(to: min(archive.end + Self.zerosByteCount, offset))
                    progress(archive.end)
                    if .now - touched > Self.touchPeriod {
                        _ = try await touch(stores, copies)
                        touched = .now
                    }
                } while archive.end < offset
                try archive.write(bytes, at: offset)
            }
            guard page == part.pages else { continue }
            return BackupManifest.File(
                name: name, bytes: part.byteCount, usedBytes: used, crc32c: try archive.finish().hexadecimal)
        }
    }

    /// Asks for no page of some stores.
    /// - Returns: the bytes of all of them.
    private func touch(_ stores: ArraySlice<DaemonRole>, _ copies: HeldCopies) async throws(ServiceError) -> Int {
        var byteCount = 0
        for store in stores { byteCount += try await read(copies, of: store, from: Self.beyondAllPages).byteCount }
        return byteCount
    }
}
