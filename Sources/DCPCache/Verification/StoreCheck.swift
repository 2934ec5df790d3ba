// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore

/// A finding, and where in the index it is: what a serving rank needs to stop serving it.
struct Suspect: Sendable {
    var finding: StoreFinding
    /// The first token that is not good; nil where no token is concerned.
    var start: LocalIndex?
    /// The writer of the damaged block; nil for a tail row.
    var writer: UInt64?
}

/// The state of a verification between two batches.
///
/// `catalogue < sequences < blocks < rows < tokens < done`: superblock, counters and models; then each sequence with its
/// blocks, rows, ids and annotation; then, unless one sequence is verified, what no sequence refers to.
struct StoreCheck: Sendable {
    enum Phase: Sendable {
        case catalogue
        /// The sequence of this index is next.
        case sequences(Int)
        /// From this key on.
        case blocks([UInt8])
        case rows([UInt8])
        case tokens
        case done
    }

    /// Payload bytes of one batch. 4 MiB take some milliseconds, too short for the writer to miss the pages held back.
    static let batchByteCountDefault = 4 << 20

    let rank: RankIndex
    let cluster: ClusterShape
    let shard: Shard
    let environment: Environment
    let tables: CacheTables
    /// The only sequence to verify, or all.
    let only: SequenceID?
    let batchByteCount: Int
    /// Whether a rank that serves has a use for a block that no record names; nil for a store that is only read.
    let isInUse: (@Sendable (BlockKey) -> Bool)?
    /// Entries of a key scan in one batch: an entry costs about as much as 64 bytes of payload.
    var batchEntries: Int { max(batchByteCount / 64, 1) }

    var phase = Phase.catalogue
    var progress = VerificationProgress()
    /// The contents of the store at the start.
    var sequences: [SequenceID] = []
    /// Where the sequence of the phase has been checked up to.
    var place = SequencePlace()
    /// Of the records that have been found good.
    private var goodModels: [ModelID: ModelEntry] = [:]
    /// Blocks that have been checked, by writer.
    var writers: [UInt64: WriterCheck] = [:]
    var hasDamagedRecord = false
    /// The records, for the batches that find leftovers.
    var references: References?
    /// Rows that belong to no open block, of the writer that the scan is in.
    var strays: (writer: UInt64, rows: [LocalIndex])?

    init(
        rank: RankIndex, cluster: ClusterShape, environment: Environment, tables: CacheTables,
        sequence: SequenceID? = nil, batchByteCount: Int = batchByteCountDefault,
        isInUse: (@Sendable (BlockKey) -> Bool)? = nil
    ) {
        self.rank = rank
        self.cluster = cluster
        shard = Shard(cluster.layout, contextRank: cluster.contextRank(of: rank))
        self.environment = environment
        self.tables = tables
        only = sequence
        self.batchByteCount = batchByteCount
        self.isInUse = isInUse
    }

    var isDone: Bool {
        if case .done = phase { return true }
        return false
    }

    /// One batch, in one read transaction.
    mutating func advance() throws -> [Suspect] {
        let read = try environment.beginRead()
        switch phase {
        case .catalogue: return try checkCatalogue(read)
        case .sequences(let index): return try checkSequences(from: index, read)
        case .blocks(let start): return try checkReferences(from: start, read)
        case .rows(let start): return try checkStrays(from: start, read)
        case .tokens: return try checkStrayTokens(read)
        case .done: return []
        }
    }

    // MARK: Superblock, counters, models

    private mutating func checkCatalogue(_ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        try listSequences(read, &found)
        phase = .sequences(0)
        guard only == nil else { return found }
        var damaged: [String] = []
        if try read.get(tables.meta, Superblock.key).flatMap({ Superblock($0) }) == nil {
            damaged.append("The superblock")
        }
        for key in Counter.all where try read.number(key, tables.meta) == nil {
            damaged.append("The counter `\(String(decoding: key, as: UTF8.self))`")
        }
        for what in damaged {
            let message = "\(what) of \(rank) is missing or fails its checksum; restore the store."
            found.append(Suspect(finding: StoreFinding(.superblock, message)))
        }
        var models: [ModelID] = []
        try scan(tables.models, read, &found) { key, value in
            guard key.count == 4 else { return false }
            let id = ModelID(RecordReader.key(key, at: 0))
            if model(id, value) == nil { models.append(id) }
            return true
        }
        for id in models {
            let message =
                "The record of \(id) on \(rank) fails its checksum or has another cluster shape; restore the store, "
                + "or move it away and start with an empty one: dcpctl store replace RANK."
            found.append(Suspect(finding: StoreFinding(.model, message)))
        }
        return found
    }

    /// The sequences there are, and how many bytes of them there will be to read.
    private mutating func listSequences(_ read: borrowing ReadTransaction, _ found: inout [Suspect]) throws {
        var ids: [SequenceID] = []
        var total = 0
        var counted: [UInt64: Int] = [:]
        if let only {
            ids = [only]
            guard try read.get(tables.sequences, StoredSequence.key(only)) != nil else {
                throw ServiceError(.unknownSequence, "\(only) is not in the store of \(rank).", rank: rank)
            }
        } else {
            try scan(tables.sequences, read, &found) { key, _ in
                guard key.count == 8 else { return false }
                ids.append(SequenceID(RecordReader.key(key, at: 0)))
                return true
            }
        }
        for id in ids {
            guard let (record, model) = try record(of: id, read) else { continue }
            for (writer, range) in record.lineage.ranges {
                let new = max(range.upperBound - max(counted[writer] ?? 0, range.lowerBound), 0)
                counted[writer] = max(counted[writer] ?? 0, range.upperBound)
                total += new * model.blockByteCount
            }
            let rows = shard.block(of: shard.end(of: record.committed)).offset
            total += rows * model.rowByteCount
            total += record.tokens.count * 4 + (record.tokens.annotation?.byteCount ?? 0)
        }
        sequences = ids
        progress.byteCountTotal = total
    }

    // MARK: Records

    /// A model's layout, when its record is good.
    func model(_ id: ModelID, _ value: UnsafeRawBufferPointer) -> ModelEntry? {
        guard let record = StoredModel(id, value), cluster.accepts(record.description),
            record.fingerprint == LayoutFingerprint(record.description, in: cluster).value
        else { return nil }
        return ModelEntry(
            id: id, name: record.name, description: record.description, cluster: cluster,
            pageByteCount: environment.pageByteCount)
    }

    /// A sequence's record with its model, when both are good and agree with the sequence's length.
    mutating func record(
        of id: SequenceID, _ read: borrowing ReadTransaction
    ) throws -> (record: StoredSequence, model: ModelEntry)? {
        guard let value = try read.get(tables.sequences, StoredSequence.key(id)),
            let record = StoredSequence(id, value),
            record.agrees(with: shard),
            let model = try model(record.model, read)
        else { return nil }
        return (record, model)
    }

    /// A model's layout, when its record is good. A good one is remembered: it never changes, and sequences are many.
    private mutating func model(_ id: ModelID, _ read: borrowing ReadTransaction) throws -> ModelEntry? {
        if let known = goodModels[id] { return known }
        guard let stored = try read.get(tables.models, StoredModel.key(id)), let model = model(id, stored) else {
            return nil
        }
        goodModels[id] = model
        return model
    }

    /// Those of all sequences that can be read.
    func readableRecords(_ read: borrowing ReadTransaction) throws -> [(SequenceID, StoredSequence)] {
        var records: [(SequenceID, StoredSequence)] = []
        var ignored: [Suspect] = []
        try scan(tables.sequences, read, &ignored) { key, value in
            guard key.count == 8 else { return true }
            let id = SequenceID(RecordReader.key(key, at: 0))
            if let record = StoredSequence(id, value) { records.append((id, record)) }
            return true
        }
        return records
    }

    // MARK: Scanning

    /// Scans a table in key order. A key that is not above the one before, or that `body` does not know, and a table that
    /// cannot be read to its end, are findings.
    /// - Parameter body: false for a key of a wrong size.
    func scan(
        _ table: Table, _ read: borrowing ReadTransaction, _ found: inout [Suspect],
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws {
        _ = try scan(table, from: [], entriesMax: .max, read, &found, body)
    }

    /// - Returns: where the next scan continues; nil at the table's end.
    func scan(
        _ table: Table, from start: [UInt8], entriesMax: Int, _ read: borrowing ReadTransaction,
        _ found: inout [Suspect], _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws -> [UInt8]? {
        var last: [UInt8] = []
        var entries = 0
        var isWhole = true
        var wrong = 0
        do throws(StoreError) {
            try read.scan(table, from: start) { key, value in
                guard entries < entriesMax else {
                    isWhole = false
                    return false
                }
                entries += 1
                let isAscending = last.isEmpty || last.lexicographicallyPrecedes(key)
                if !isAscending || !body(key, value) { wrong += 1 }
                last = Array(key)
                // A loop in a damaged tree would never end.
                return isAscending
            }
        } catch {
            guard error.code == .damaged || error.code == .unexpected else { throw error }
            found.append(Suspect(finding: StoreFinding(.table, "The table `\(table.name)` is damaged: \(error)")))
        }
        if wrong > 0 {
            let message = "The table `\(table.name)` has \(wrong) keys of a wrong size or order; restore the store."
            found.append(Suspect(finding: StoreFinding(.table, message)))
        }
        // The smallest key above the last.
        return isWhole ? nil : last + [0]
    }
}

extension ClusterShape {
    fileprivate func accepts(_ model: ModelDescription) -> Bool { (try? check(model)) != nil }
}
