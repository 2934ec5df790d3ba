// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore
internal import Synchronization

/// The contents of a store at its start.
struct StoreContent {
    var storeID: StoreID
    var epoch: Epoch
    var clusterID: ClusterID
    var directoryMark: DirectoryMark
    /// The highest that were ever in the store.
    var modelNumber: UInt64
    var sequenceNumber: UInt64
    /// The last place in the order of changes.
    var change: UInt64
    var models: [ModelID: ModelEntry] = [:]
    var sequences: [SequenceID: SequenceCache] = [:]
    var damagedRecords: [SequenceID: String] = [:]
    var lineages = LineageTable()
    var rowLineages = LineageTable()
    var doomed = Doomed()
    var tokens = TokenTable()
    var pieced: [PiecedBlocks.Block] = []
}

/// Rebuilds the index by one scan over records and block keys. No payload page is touched: a cursor gives a large
/// value's address from its leaf page.
struct StoreLoader {
    let rank: RankIndex
    let cluster: ClusterShape
    private let shard: Shard
    let environment: Environment
    let tables: CacheTables
    let progress: LoadProgress?

    private var blocks: [UInt64: [Int: BlockScan.LayerBlocks]] = [:]

    init(
        rank: RankIndex, cluster: ClusterShape, environment: Environment, tables: CacheTables, progress: LoadProgress?
    ) {
        self.rank = rank
        self.cluster = cluster
        shard = Shard(cluster.layout, contextRank: cluster.contextRank(of: rank))
        self.environment = environment
        self.tables = tables
        self.progress = progress
    }

    mutating func load() throws -> StoreContent {
        let read = try environment.beginRead()
        guard let superblock = try read.get(tables.meta, Superblock.key).flatMap({ Superblock($0) }),
            let epoch = try read.number(Counter.epoch, tables.meta),
            let change = try read.number(Counter.change, tables.meta),
            let modelNumber = try read.number(Counter.model, tables.meta),
            let clusterNumber = try read.number(Counter.cluster, tables.meta),
            let directoryNumber = try read.number(Counter.directory, tables.meta),
            let sequenceNumber = try read.number(Counter.sequence, tables.meta)
        else { throw damaged("The superblock or a counter") }
        var content = StoreContent(
            storeID: superblock.storeID, epoch: Epoch(epoch), clusterID: ClusterID(clusterNumber),
            directoryMark: DirectoryMark(directoryNumber), modelNumber: modelNumber,
            sequenceNumber: sequenceNumber, change: change)
        content.models = try models(read)
        let records = try records(read, &content)
        for (id, record) in records {
            content.lineages[id] = record.lineage
            content.rowLineages[id] = record.rows
        }
        // If a record is unreadable, the blocks that it shares are unknown, so no block counts as an orphan.
        var scan = BlockScan(
            models: content.models, lineages: content.lineages, pageByteCount: environment.pageByteCount)
        try read.scan(tables.blocks) { key, value in
            if scan.take(key, value) { progress?.indexedBlock() }
            return true
        }
        scan.end()
        blocks = scan.blocks
        content.pieced = scan.pieced
        content.tokens = try tokenTable(records.map { ($0, TokenTable.Entry($1)) })
        for (id, record) in records where scan.ends[record.lineage.writer] ?? 0 > record.lineage.sealedBlocks {
            content.lineages[id]?.isWriterSpent = true
        }
        if content.damagedRecords.isEmpty {
            content.doomed = Doomed(blocks: scan.orphans, rows: try strayRows(read, content.rowLineages))
            content.doomed += try strayTokens(read, content.tokens)
        }
        for (id, record) in records {
            content.sequences[id] = try sequence(id, record, content.models)
            progress?.indexedSequence()
            content.change = max(content.change, record.lastChange)
        }
        // An unreadable record may have had the highest. The order continues well above it.
        if !content.damagedRecords.isEmpty { content.change += 1 << 32 }
        return content
    }

    private func damaged(_ what: String) -> ServiceError {
        ServiceError(
            .storeDamaged,
            "\(what) of the store \(environment.directory) is damaged; restore the store, or move it away and "
                + "restart the rank, which then starts empty.", rank: rank)
    }

    private func models(_ read: borrowing ReadTransaction) throws -> [ModelID: ModelEntry] {
        var models: [ModelID: ModelEntry] = [:]
        var failure: ServiceError?
        try read.scan(tables.models) { key, value in
            guard key.count == 4 else {
                failure = damaged("The table of models")
                return false
            }
            let id = ModelID(RecordReader.key(key, at: 0))
            guard let record = StoredModel(id, value),
                record.fingerprint == LayoutFingerprint(record.description, in: cluster).value
            else {
                failure = damaged("The record of \(id)")
                return false
            }
            models[id] = ModelEntry(
                id: id, name: record.name, description: record.description, cluster: cluster,
                pageByteCount: environment.pageByteCount)
            return true
        }
        if let failure { throw failure }
        return models
    }

    private func records(
        _ read: borrowing ReadTransaction, _ content: inout StoreContent
    ) throws -> [(SequenceID, StoredSequence)] {
        var records: [(SequenceID, StoredSequence)] = []
        var damaged: [SequenceID: String] = [:]
        let models = content.models
        try read.scan(tables.sequences) { key, value in
            guard key.count == 8 else { return true }
            let id = SequenceID(RecordReader.key(key, at: 0))
            if let record = StoredSequence(id, value), models[record.model] != nil,
                record.agrees(with: shard)
            {
                records.append((id, record))
            } else {
                damaged[id] = "The record of \(id) in the store of \(rank) is damaged; close it and prefill it again."
            }
            return true
        }
        content.damagedRecords = damaged
        return records
    }

    private func sequence(
        _ id: SequenceID, _ record: StoredSequence, _ models: [ModelID: ModelEntry]
    ) throws -> SequenceCache {
        guard let model = models[record.model] else { throw damaged("The record of \(id)") }
        var missing: (layer: Int, block: Int)?
        for layer in 0..<model.layers {
            let found = blocksFound(of: record.lineage, layer: layer)
            if found < record.lineage.sealedBlocks, found < missing?.block ?? .max { missing = (layer, found) }
        }
        let sequence = SequenceCache(
            id: id, model: model, scope: record.scope, name: record.name, origin: record.origin,
            committed: record.committed, lastChange: record.lastChange, claim: record.claim,
            retention: record.retention, residence: nil)
        if let missing {
            sequence.core.withLock {
                $0.markMissing(
                    block: missing.block, layer: missing.layer, of: id, in: shard, on: rank)
            }
        }
        return sequence
    }

    /// Number of a lineage's blocks up to the first missing one.
    private func blocksFound(of lineage: Lineage, layer: Int) -> Int {
        for (writer, range) in lineage.ranges {
            let stored = blocks[writer]?[layer] ?? []
            guard let first = stored.first?.index, first <= range.lowerBound else { return range.lowerBound }
            for index in range {
                // Contiguous unless a block is missing, so the position follows from the index.
                let position = index - first
                guard position < stored.count, stored[position].index == index, stored[position].isGood else {
                    return index
                }
            }
        }
        return lineage.sealedBlocks
    }
}
