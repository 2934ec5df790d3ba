// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// Whose store this is: value of the key `superblock` in the table `meta`.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic, `DCPS` |
/// | 4 | 4 | format, `LayoutFingerprint.storeFormat` |
/// | 8 | 8 | store id, high half |
/// | 16 | 8 | store id, low half |
/// | 24 | 4 | rank |
/// | 28 | 4 | W, ranks |
/// | 32 | 4 | G, head groups |
/// | 36 | 4 | C, context ranks |
/// | 40 | 4 | I, interleave |
/// | 44 | 4 | B, block tokens |
/// | 48 | 4 | CRC-32C of key and bytes 0..<48 |
struct Superblock: Equatable {
    static let key = Array("superblock".utf8)
    static let magic: UInt32 = 0x5350_4344  // "DCPS" in memory

    var format: UInt32
    var storeID: StoreID
    var rank: UInt32
    var ranks: UInt32
    var headGroups: UInt32
    var contextRanks: UInt32
    var interleave: UInt32
    var blockTokens: UInt32

    init(rank: RankIndex, cluster: ClusterShape, storeID: StoreID) {
        format = UInt32(LayoutFingerprint.storeFormat)
        self.storeID = storeID
        self.rank = UInt32(rank.value)
        ranks = UInt32(cluster.ranks)
        headGroups = UInt32(cluster.headGroups)
        contextRanks = UInt32(cluster.contextRanks)
        interleave = UInt32(cluster.layout.interleave)
        blockTokens = UInt32(cluster.layout.blockTokens)
    }

    func encoded() -> [UInt8] {
        var record = RecordBytes()
        record.append(Self.magic)
        record.append(format)
        record.append(storeID.high)
        record.append(storeID.low)
        for field in [rank, ranks, headGroups, contextRanks, interleave, blockTokens] { record.append(field) }
        return record.sealed(key: Self.key)
    }

    init?(_ value: UnsafeRawBufferPointer) {
        guard var reader = RecordReader(key: Self.key, value), reader.next(UInt32.self) == Self.magic,
            let format = reader.next(UInt32.self), let high = reader.next(UInt64.self),
            let low = reader.next(UInt64.self), let rank = reader.next(UInt32.self),
            let ranks = reader.next(UInt32.self), let headGroups = reader.next(UInt32.self),
            let contextRanks = reader.next(UInt32.self), let interleave = reader.next(UInt32.self),
            let blockTokens = reader.next(UInt32.self)
        else { return nil }
        self.format = format
        storeID = StoreID(high: high, low: low)
        self.rank = rank
        self.ranks = ranks
        self.headGroups = headGroups
        self.contextRanks = contextRanks
        self.interleave = interleave
        self.blockTokens = blockTokens
    }

    /// Why this store, found in `directory`, cannot serve as `wanted`; nil when it can. Store ids are not compared.
    func refusal(wanted: Superblock, directory: String) -> String? {
        let remedy = "Give this rank its own directory, or move the store away to start empty."
        if format != wanted.format {
            return "The store \(directory) has format \(format), but this build reads format \(wanted.format). "
                + "Use the build that wrote it, or move the store away to start empty."
        }
        if rank != wanted.rank {
            return "The store \(directory) belongs to rank \(rank), not to rank \(wanted.rank). \(remedy)"
        }
        if shapeText != wanted.shapeText {
            return "The store \(directory) was written for a cluster of \(shapeText), not of \(wanted.shapeText). "
                + "Use that cluster shape, or move the store away to start empty."
        }
        return nil
    }

    private var shapeText: String {
        "W=\(ranks) G=\(headGroups) C=\(contextRanks) I=\(interleave) B=\(blockTokens)"
    }
}

/// The numbers of the table `meta`. Bytes 0..<8 the value, 8..<12 the CRC-32C of key and value.
enum Counter {
    /// The highest membership epoch seen.
    static let epoch = Array("epoch".utf8)
    /// The next writer number to give out.
    static let writer = Array("writer".utf8)
    /// The place of the last closing in the order of changes: those of the sequences there are stand in their records.
    static let change = Array("change".utf8)
    /// The highest numbers of models and sequences that were ever in the store: they are never given again, also by a
    /// coordinator that has lost its state.
    static let model = Array("model".utf8)
    static let sequence = Array("sequence".utf8)
    /// The cluster that it belongs to; 0 before its first join.
    static let cluster = Array("cluster".utf8)
    /// How far the coordinator's directory has come in that epoch, as far as the rank knows.
    static let directory = Array("directory".utf8)
    static let all = [epoch, writer, change, model, sequence, cluster, directory]

    static func encoded(_ value: UInt64, key: [UInt8]) -> [UInt8] {
        var record = RecordBytes()
        record.append(value)
        return record.sealed(key: key)
    }

    static func decoded(_ value: UnsafeRawBufferPointer, key: [UInt8]) -> UInt64? {
        guard var reader = RecordReader(key: key, value) else { return nil }
        return reader.next(UInt64.self)
    }
}

extension ReadTransaction {
    /// nil when it is missing or fails its checksum.
    borrowing func number(_ key: [UInt8], _ meta: Table) throws(StoreError) -> UInt64? {
        try get(meta, key).flatMap { Counter.decoded($0, key: key) }
    }
}

extension WriteTransaction {
    borrowing func number(_ key: [UInt8], _ meta: Table) throws(StoreError) -> UInt64? {
        try get(meta, key).flatMap { Counter.decoded($0, key: key) }
    }

    mutating func put(_ number: UInt64, _ key: [UInt8], _ meta: Table) throws(StoreError) {
        try put(meta, key, Counter.encoded(number, key: key))
    }

    /// Notes a number that is never to be given again.
    mutating func raise(_ key: [UInt8], to number: UInt64, _ meta: Table) throws(StoreError) {
        if number > (try self.number(key, meta)) ?? 0 { try put(number, key, meta) }
    }
}
