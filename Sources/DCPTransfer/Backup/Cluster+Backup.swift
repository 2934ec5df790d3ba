// SPDX-License-Identifier: Apache-2.0

public import DCPClient
public import DCPCore
internal import DCPWire
internal import Foundation
internal import Synchronization

/// The snapshots of all daemons under one number, for a backup.
struct HeldCopies {
    let topology: Topology
    let number: UInt64
    let epoch: Epoch
    let heldAt: Date
    let directory: SequenceList

    func manifest(_ files: [BackupManifest.File]) -> BackupManifest {
        BackupManifest(
            takenAt: heldAt, topology: (topology.cluster, topology.shape), epoch: epoch, release: Release.current,
            files: files, models: directory.models.filter { $0.id != .canary }.map(\.name),
            sequences: directory.sequences.map(\.record).filter { !$0.isCanary }.map(\.name))
    }
}

extension Cluster {
    /// Copies a snapshot of the stores of the coordinator and of all ranks from the same moment into a new directory,
    /// which appears under its name complete or not at all. Steps and commits continue.
    /// - Parameters:
    ///   - stores: only these; nil for all.
    ///   - progress: called with the bytes done of those there are, as far as that is known.
    /// - Throws: `.notReady`; `.conflict` when a daemon was restarted meanwhile, or another backup is writing the
    ///   directory; `.invalidRequest` when the directory is there or cannot be written.
    public func backup(
        to path: String, of stores: [DaemonRole]? = nil,
        progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) async throws(ServiceError) -> BackupManifest {
        let (topology, stores) = try await chosen(stores)
        let directory = try BackupDirectory(for: path)
        return try await withCopies(topology) { copies async throws(ServiceError) in
            let manifest = copies.manifest(try await copy(stores, copies, into: directory, progress))
            try directory.publish(manifest)
            return manifest
        }
    }

    /// The cluster, and the stores to copy.
    func chosen(_ wanted: [DaemonRole]?) async throws(ServiceError) -> (Topology, [DaemonRole]) {
        let topology = try await readyTopology()
        let all = [.coordinator] + topology.shape.allRanks.map { DaemonRole.rank($0) }
        if let strange = wanted?.first(where: { !all.contains($0) }) {
            throw ServiceError(
                .invalidRequest,
                "This cluster has no store `\(strange.fileName)`; its stores are "
                    + "\(all.map(\.fileName).joined(separator: ", "))."
            )
        }
        // In one order, and none twice.
        return (topology, all.filter { wanted?.contains($0) ?? true })
    }

    /// Makes all daemons hold their stores, and drop them at the end.
    func withCopies<Value: Sendable>(
        _ topology: Topology, _ body: (HeldCopies) async throws(ServiceError) -> Value
    ) async throws(ServiceError) -> Value {
        let begun = try await ask(one: BeginCopy(waitMilliseconds: 10_000))
        let heldAt = Date()
        do throws(ServiceError) {
            let copies = HeldCopies(
                topology: topology, number: begun.number, epoch: begun.epoch, heldAt: heldAt,
                directory: try await list())
            let value = try await body(copies)
            await endCopy(begun.number, topology)
            return value
        } catch {
            await endCopy(begun.number, topology)
            throw error
        }
    }

    /// All concurrently: a snapshot that is not read is dropped.
    private func copy(
        _ stores: [DaemonRole], _ copies: HeldCopies, into directory: BackupDirectory,
        _ progress: @escaping @Sendable (Int, Int) -> Void
    ) async throws(ServiceError) -> [BackupManifest.File] {
        let standing = BackupStanding(progress)
        let tasks = stores.map { store in
            Task { () async -> Result<BackupManifest.File, ServiceError> in
                let result = await copied(store, copies, into: directory, standing)
                if case .failure(let error) = result { standing.fail(error) }
                return result
            }
        }
        return try await withTaskCancellationHandler { () async -> Result<[BackupManifest.File], ServiceError> in
            var files: [BackupManifest.File] = []
            // If one fails, the others end at their next part.
            for task in tasks { if case .success(let file) = await task.value { files.append(file) } }
            return standing.failure.map { .failure($0) } ?? .success(files)
        } onCancel: {
            for task in tasks { task.cancel() }
        }.get()
    }

    private func copied(
        _ store: DaemonRole, _ copies: HeldCopies, into directory: BackupDirectory, _ standing: BackupStanding
    ) async -> Result<BackupManifest.File, ServiceError> {
        do throws(ServiceError) {
            return .success(try await copy(store, copies, into: directory, standing))
        } catch {
            return .failure(error)
        }
    }

    private func copy(
        _ store: DaemonRole, _ copies: HeldCopies, into directory: BackupDirectory, _ standing: BackupStanding
    ) async throws(ServiceError) -> BackupManifest.File {
        let file = try directory.makeFile(BackupManifest.File.name(of: store))
        var (page, used) = (0, 0)
        while true {
            try checkNotCancelled()
            if let failure = standing.failure { throw failure }
            let part = try await read(copies, of: store, from: page)
            for (offset, bytes) in part.contents { try file.write(bytes, at: offset) }
            page = part.next
            used += part.bytes.count
            standing.note(store, done: page * part.pageByteCount, of: part.byteCount)
            guard page == part.pages else { continue }
            return BackupManifest.File(
                name: BackupManifest.File.name(of: store), bytes: part.byteCount, usedBytes: used,
                crc32c: try file.finish(byteCount: part.byteCount).hexadecimal)
        }
    }

    /// Some pages of a held store from a page on; none at its end.
    func read(_ copies: HeldCopies, of store: DaemonRole, from page: Int) async throws(ServiceError) -> StoredPages {
        let request = ReadCopy(number: copies.number, page: page)
        let part =
            switch store {
            case .coordinator: try await ask(request).pages
            case .rank(let rank): try await ask(request, of: rank, in: copies.topology).pages
            }
        guard part.next > page || part.next == part.pages else {
            throw Self.unexpected("pages that do not continue from \(page)", from: store.fileName)
        }
        return part
    }

    /// What is not told lets go by itself.
    private func endCopy(_ number: UInt64, _ topology: Topology) async {
        _ = try? await ask(EndCopy(number: number))
        _ = try? await askRanks(EndCopy(number: number), topology: topology)
    }
}

extension StoredPages {
    /// Of the whole file.
    var byteCount: Int { pages * pageByteCount }

    /// Runs of bytes, with their offsets in the file.
    var contents: [(offset: Int, bytes: ArraySlice<UInt8>)] {
        var start = 0
        return runs.map { run in
            let end = start + run.count * pageByteCount
            defer { start = end }
            return (run.lowerBound * pageByteCount, bytes[start..<end])
        }
    }
}
/// The progress of copying a backup's stores, and the first failure of any.
private final class BackupStanding: Sendable {
    private let sums = Mutex<[DaemonRole: (done: Int, total: Int)]>([:])
    private let first = Mutex<ServiceError?>(nil)
    private let progress: @Sendable (Int, Int) -> Void

    init(_ progress: @escaping @Sendable (Int, Int) -> Void) { self.progress = progress }

    var failure: ServiceError? { first.withLock { $0 } }

    func fail(_ error: ServiceError) { first.withLock { $0 = $0 ?? error } }

    func note(_ store: DaemonRole, done: Int, of total: Int) {
        let all = sums.withLock { sums in
            sums[store] = (done, total)
            return sums.values.reduce((0, 0)) { ($0.0 + $1.done, $0.1 + $1.total) }
        }
        progress(all.0, all.1)
    }
}
