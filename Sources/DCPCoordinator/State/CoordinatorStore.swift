// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPStore
internal import DCPWire
internal import Synchronization

/// The coordinator's state on disk: one LMDB environment with the table `directory` (see `StateCoding`).
///
/// Every change is synced before it counts as persisted: there are few, and each is acknowledged to a client or rank.
public final class CoordinatorStore: Sendable {
    private let environment: Environment
    private let writer: Writer
    private let table: Table
    /// The state on disk when it was opened.
    public let initialState: CoordinatorState
    /// There was nothing before.
    public let isNew: Bool
    /// What every state begins with, if there is none yet. Written with each change until it is on the disk.
    private let base: [StateCoding.Record]
    private let hasBase = Atomic(false)

    /// Address space only: the file grows as it is filled. A million sequences with long names take 0.8 GB, and an
    /// adoption rewrites them in one transaction, which frees no page of the old ones before it commits.
    package static let mapByteCountMax = 8 << 30
    private static let queueDepthMax = 1024

    /// - Parameters:
    ///   - directory: created when it is missing.
    ///   - shape: the configured shape. A new state records it; an old one must have it.
    ///   - newClusterID: the identity of a new cluster; random by default.
    ///   - writerHost: runs the writer's jobs instead of a thread, for simulations.
    /// - Throws: `.storeRefused` for another shape, `.storeDamaged`.
    public init(
        directory: String, shape: ClusterShape, newClusterID: ClusterID = .random(),
        writerHost: (any WriterHost)? = nil
    ) throws(ServiceError) {
        do {
            environment = try Environment(
                directory: directory, mapByteCountMax: Self.mapByteCountMax, tablesMax: 4, durability: .always)
            var setup = try environment.beginSetup()
            table = try setup.openTable("directory")
            try setup.commit()
            let records = try Self.load(environment, table)
            isNew = records.isEmpty
            writer = try Writer(
                environment: environment, durability: .always, queueDepthMax: Self.queueDepthMax,
                host: writerHost)
            var state = try Self.state(of: records, shape: shape, directory: directory)
            if state.cluster == .none { state.apply(.cluster(newClusterID)) }
            initialState = state
            base =
                state.epoch == .none
                ? [StateCoding.superblock(), StateCoding.encode(shape), StateCoding.encode(.cluster(state.cluster))]
                : []
        } catch {
            throw ServiceError(any: error, rank: nil)
        }
        do throws(StoreError) {
            // Every record has just been read from the disk and verified.
            if environment.isSuspect { try environment.mark(suspect: false) }
            guard initialState.epoch == .none else { return }
            try environment.markCreated()
        } catch {
            throw ServiceError(error, rank: nil)
        }
        persist([]) { _ in }
    }

    /// As `Writer.busySince`.
    public var writerBusySince: UInt64? { writer.busySince }

    /// Whether the disk refused the last change, as a full one does: nothing of it is there, and it can be tried again.
    /// To be asked in its completion. Not only for ENOSPC: LMDB calls a write that found room for a part of it EIO.
    package var isRefused: Bool {
        if case .refused = writer.health.condition { true } else { false }
    }

    /// Makes changes durable, all or none. The completion is called on the writer's thread.
    public func persist(
        _ changes: [StateChange], completion: @escaping @Sendable (Result<Void, ServiceError>) -> Void
    ) {
        let records = (hasBase.load(ordering: .relaxed) ? [] : base) + changes.map { StateCoding.encode($0) }
        writer.submit(
            WriteJob(
                body: { [table] transaction in
                    for (key, value) in records {
                        if let value {
                            try transaction.put(table, key, value)
                        } else {
                            _ = try transaction.delete(table, key)
                        }
                    }
                },
                completion: { [weak self] result in
                    if case .success = result, let self { self.hasBase.store(true, ordering: .relaxed) }
                    completion(result.mapError { ServiceError(any: $0, rank: nil) })
                }))
    }

    /// Holds the state as it is on the disk, for a backup.
    package func copy() throws(ServiceError) -> StoredPagesReader {
        do throws(StoreError) {
            let copy = try StoreCopy(of: environment)
            return { page in
                Result { () throws(StoreError) in try copy.read(from: page) }.mapError { ServiceError($0, rank: nil) }
                    .map {
                        StoredPages(
                            pageByteCount: copy.pageByteCount, pages: copy.pages,
                            runs: $0.runs, bytes: $0.bytes, next: $0.next)
                    }
            }
        } catch {
            throw ServiceError(error, rank: nil)
        }
    }

    /// Writes what waits, then closes.
    public func close() {
        writer.close()
        environment.close()
    }

    /// Releases the state like the death of the process. Only with a writer's host.
    package func abandon() {
        writer.abandon()
        environment.close()
    }

    private static func load(
        _ environment: Environment, _ table: Table
    ) throws(StoreError) -> [(key: [UInt8], value: [UInt8])] {
        let transaction = try environment.beginRead()
        var records: [(key: [UInt8], value: [UInt8])] = []
        try transaction.scan(table) { key, value in
            records.append((Array(key), Array(value)))
            return true
        }
        return records
    }

    private static func state(
        of records: [(key: [UInt8], value: [UInt8])], shape: ClusterShape, directory: String
    ) throws(ServiceError) -> CoordinatorState {
        var state = CoordinatorState(shape: shape)
        try checkFormat(of: records, directory: directory)
        for (key, value) in records where key != StateCoding.superblockKey {
            if key == StateCoding.shapeKey {
                let stored = try StateCoding.decodeShape(value)
                guard LayoutFingerprint(stored) == LayoutFingerprint(shape) else {
                    throw ServiceError(
                        .storeRefused,
                        "The state in \(directory) belongs to a cluster `\(LayoutFingerprint(stored))`, but the "
                            + "daemon was started for `\(LayoutFingerprint(shape))`; start it with the old shape, or "
                            + "with another --state."
                    )
                }
            } else {
                state.apply(try StateCoding.decode(key: key, value: value))
            }
        }
        return state
    }

    /// Before any other record: another format gives them another meaning.
    private static func checkFormat(
        of records: [(key: [UInt8], value: [UInt8])], directory: String
    ) throws(ServiceError) {
        guard !records.isEmpty else { return }
        guard let superblock = records.first(where: { $0.key == StateCoding.superblockKey }) else {
            throw ServiceError(
                .storeRefused,
                "The state in \(directory) has no format number, but this program reads format "
                    + "\(StateCoding.format): it was written by another release or is damaged. Start that release on "
                    + "it, or start with another --state.")
        }
        let format = try StateCoding.decodeFormat(superblock.value)
        guard format == StateCoding.format else {
            throw ServiceError(
                .storeRefused,
                "The state in \(directory) has format \(format), but this program reads \(StateCoding.format). Start "
                    + "the release that wrote it, or start with another --state.")
        }
    }
}
