// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Testing

/// A small store of models whose blocks differ in size, and what its sequences should hold.
///
/// @unchecked Sendable: used by one thread but for `rig.cache`, whose methods any thread may call.
final class MixedStore: @unchecked Sendable {
    struct Reference {
        var model: Int
        var tags: [UInt32] = []
        var committed = 0

        var committedTags: [UInt32] { Array(tags[..<committed]) }
    }

    let rig: Rig
    let shapes: [ModelDescription]
    var sequences: [UInt64: Reference] = [:]
    var nextID: UInt64 = 1

    /// - Parameter shapes: layers, KV heads and the dim of keys and values, of each model.
    init(diskByteCountMax: Int, _ shapes: [(layers: Int, heads: Int, dim: Int)], assembled: Int = 256 << 20) throws {
        var settings = ShardCache.Settings(
            mapByteCountMax: ShardCache.Settings.mapByteCountMax(diskByteCountMax: diskByteCountMax),
            durability: .never)
        settings.assembledByteCountMax = assembled
        let rig = try Rig(layers: 1, kvHeads: 1, settings: settings)
        self.rig = rig
        self.shapes = try shapes.map {
            try ModelDescription(
                layers: $0.layers, queryHeads: $0.heads, kvHeads: $0.heads, keyDim: $0.dim, valueDim: $0.dim, scale: 1,
                softcap: nil, kvFormat: .float32)
        }
        for (index, shape) in self.shapes.enumerated() {
            try finish {
                rig.cache.putModel(id: Self.model(index), name: "m\(index)", description: shape, completion: $0)
            }
        }
    }

    var cache: ShardCache { rig.cache }

    static func model(_ index: Int) -> ModelID { ModelID(UInt32(20 + index)) }

    /// Pages of one block in all layers.
    func blockPages(_ model: Int) -> Int {
        let shape = shapes[model]
        return ((shape.kvHeads * shape.keyDim * 2 * 4 * 16 + 48 + 15) / 4096 + 1) * shape.layers
    }

    var lowByteCount: Int {
        rig.settings.watermarks.lowByteCount(capacity: cache.health.capacityByteCount)
    }

    // MARK: Operations

    func open(_ model: Int) throws -> UInt64 {
        let id = nextID
        try finish { cache.openSequence(id: SequenceID(id), model: Self.model(model), completion: $0) }
        nextID += 1
        sequences[id] = Reference(model: model)
        return id
    }

    func append(_ id: UInt64, _ count: Int) throws {
        guard let reference = sequences[id] else { return }
        let start = reference.tags.count
        let tags = (start..<start + count).map { UInt32($0) &* 31 &+ UInt32(id) &* 1009 }
        let shape = shapes[reference.model]
        for layer in 0..<shape.layers {
            try StepRows(tags: tags, layer: layer, shape: shape, cluster: rig.cluster).withRows {
                try cache.append(
                    sequence: SequenceID(id), layer: layer, position: Position(start), rows: $0, tokens: 0..<count)
            }
        }
        sequences[id]?.tags += tags
    }

    func commit(_ ids: [UInt64]) throws {
        let lengths = ids.map { (SequenceID($0), sequences[$0]?.tags.count ?? 0) }
        try finish { cache.commit(lengths.map { ($0, Position($1)) }, completion: $0) }
        for (id, length) in lengths { sequences[id.value]?.committed = length }
    }

    func fork(_ id: UInt64, _ length: Int) throws -> UInt64 {
        try rig.fork(id, nextID, length)
        guard let reference = sequences[id] else { return nextID }
        let child = nextID
        sequences[child] = Reference(
            model: reference.model, tags: Array(reference.tags[..<length]), committed: length)
        nextID += 1
        return child
    }

    func truncate(_ id: UInt64, _ length: Int) throws {
        try rig.truncate(id, length)
        guard let reference = sequences[id] else { return }
        sequences[id] = Reference(model: reference.model, tags: Array(reference.tags[..<length]), committed: length)
    }

    func close(_ id: UInt64) throws {
        try rig.close(id)
        sequences[id] = nil
    }

    /// What is not committed is gone.
    func reopen() throws {
        try rig.reopen()
        for (id, reference) in sequences { sequences[id]?.tags = reference.committedTags }
    }

    /// Fills the store with blocks of one model, of two sequences by turns, until it refuses more, and closes one of them.
    /// - Returns: the one that is left.
    func fillWithHoles(_ model: Int = 0) throws -> UInt64 {
        let ids = try [open(model), open(model)]
        while cache.refusal == nil {
            for id in ids { try append(id, 16) }
            try commit(ids)
        }
        try close(ids[1])
        try rig.settle()
        return ids[0]
    }

    // MARK: What is there

    func matches(_ context: ContextReader, _ tags: [UInt32], model: Int, layer: Int) -> Bool {
        guard context.tokens == tags.count else { return false }
        var row = [UInt8](repeating: 0, count: context.layout.rowByteCount)
        return tags.enumerated().allSatisfy { index, tag in
            row.withUnsafeMutableBytes {
                guard let base = $0.baseAddress else { return }
                context.layout.read(token: index % 16, of: context.blocks[index / 16], into: base)
            }
            return row == StepRows.stored(tag: tag, layer: layer, shape: shapes[model], cluster: rig.cluster)
        }
    }

    /// Whether all committed tokens of all sequences come back bit by bit.
    func holdsAll() throws -> Bool {
        for (id, reference) in sequences {
            guard cache.state(of: SequenceID(id))?.committedLength == Position(reference.committed) else {
                return false
            }
            for layer in 0..<shapes[reference.model].layers {
                let context = try cache.context(
                    sequence: SequenceID(id), layer: layer, length: Position(reference.committed))
                guard matches(context, reference.committedTags, model: reference.model, layer: layer) else {
                    return false
                }
            }
        }
        return true
    }

    var piecedBlocks: Int { get throws { try cache.statistics().piecedBlocks } }
}
