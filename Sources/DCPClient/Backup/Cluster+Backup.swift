public import DCPCore
internal import DCPWire
internal import Foundation
internal import Synchronization

extension Cluster {
    /// Copies the stores of the coordinator and of all ranks, as they are at one moment, into a new directory, which appears
    /// under its name complete or not at all. Steps and commits go on.
    /// - Parameters:
    ///   - stores: only these; nil for all.
    ///   - progress: called with the bytes done of those there are, as far as that is known.
    /// - Throws: `.notReady`; `.conflict` when a daemon was restarted meanwhile; `.invalidRequest` when the directory is there
    ///   or cannot be written.
    public func backup(
        to path: String, of stores: [DaemonRole]? = nil,
        progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
    ) async throws(ServiceError) -> BackupManifest {
        let topology = try await readyTopology()
        let all = [.coordinator] + topology.shape.allRanks.map { DaemonRole.rank($0) }
        if let strange = stores?.first(where: { !all.contains($0) }) {
            throw ServiceError(
                .invalidRequest,
                "This cluster has no store `\(strange.fileName)`; it has \(all.map(\.fileName).joined(separator: ", "))."
            )
        }
        let directory = try BackupDirectory(for: path)
        let begun = try await ask(one: BeginCopy(waitMilliseconds: 10_000))
        let takenAt = Date()
        do throws(ServiceError) {
            let list = try await ask(ListSequences())
            let files = try await copy(stores ?? all, begun.number, topology, into: directory, progress)
            let manifest = BackupManifest(
                takenAt: takenAt, topology: (topology.cluster, topology.shape), epoch: begun.epoch,
                release: Release.current, files: files, models: list.models.map(\.name),
                sequences: list.sequences.map(\.record.name))
            try directory.publish(manifest)
            await endCopy(begun.number, topology)
            return manifest
        } catch {
            await endCopy(begun.number, topology)
            throw error
        }
    }

    /// All at once: a copy that nobody reads is let go.
    private func copy(
        _ stores: [DaemonRole], _ number: UInt64, _ topology: Topology, into directory: BackupDirectory,
        _ progress: @escaping @Sendable (Int, Int) -> Void
    ) async throws(ServiceError) -> [BackupManifest.File] {
        let standing = BackupStanding(progress)
        let tasks = stores.map { store in
            Task { () async -> Result<BackupManifest.File, ServiceError> in
                let result = await copied(store, number, topology, into: directory, standing)
                if case .failure(let error) = result { standing.fail(error) }
                return result
            }
        }
        return try await withTaskCancellationHandler { () async -> Result<[BackupManifest.File], ServiceError> in
            var files: [BackupManifest.File] = []
            // One that has failed ends the others at their next part.
            for task in tasks { if case .success(let file) = await task.value { files.append(file) } }
            return standing.failure.map { .failure($0) } ?? .success(files)
        } onCancel: {
            for task in tasks { task.cancel() }
        }.get()
    }

    private func copied(
        _ store: DaemonRole, _ number: UInt64, _ topology: Topology, into directory: BackupDirectory,
        _ standing: BackupStanding
    ) async -> Result<BackupManifest.File, ServiceError> {
        do throws(ServiceError) {
            return .success(try await copy(store, number, topology, into: directory, standing))
        } catch {
            return .failure(error)
        }
    }

    private func copy(
        _ store: DaemonRole, _ number: UInt64, _ topology: Topology, into directory: BackupDirectory,
        _ standing: BackupStanding
    ) async throws(ServiceError) -> BackupManifest.File {
        let file = try StoreFileWriter(directory.partialPath + "/" + BackupManifest.File.name(of: store))
        var (page, used) = (0, 0)
        while true {
            try checkNotCancelled()
            if let failure = standing.failure { throw failure }
            let part = try await read(ReadCopy(number: number, page: page), of: store, topology).pages
            guard part.next > page || part.next == part.pages else {
                throw Self.unexpected("pages that do not go on from \(page)", from: store.fileName)
            }
            var start = 0
            for run in part.runs {
                let end = start + run.count * part.pageByteCount
                try file.write(part.bytes[start..<end], at: run.lowerBound * part.pageByteCount)
                start = end
            }
            page = part.next
            used += part.bytes.count
            standing.note(store, done: page * part.pageByteCount, of: part.pages * part.pageByteCount)
            guard page == part.pages else { continue }
            let byteCount = part.pages * part.pageByteCount
            return BackupManifest.File(
                name: BackupManifest.File.name(of: store), bytes: byteCount, usedBytes: used,
                crc32c: try file.finish(byteCount: byteCount).hexadecimal)
        }
    }

    private func read(
        _ request: ReadCopy, of store: DaemonRole, _ topology: Topology
    ) async throws(ServiceError) -> CopiedPages {
        switch store {
        case .coordinator: try await ask(request)
        case .rank(let rank): try await ask(request, of: rank, in: topology)
        }
    }

    /// What is not told lets go by itself.
    private func endCopy(_ number: UInt64, _ topology: Topology) async {
        _ = try? await ask(EndCopy(number: number))
        _ = try? await askRanks(EndCopy(number: number), topology: topology)
    }
}

/// How far the copies of a backup's stores have come, and the first failure of any.
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
