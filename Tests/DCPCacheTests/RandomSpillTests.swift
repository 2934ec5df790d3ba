// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

/// The cache with next to no room in RAM for uncommitted tokens, against a trivial model in memory.
@Suite("spilling, randomised")
struct RandomSpillTests {
    @Test("append, commit, rewind, fork, truncate, close, crash, in any order, beside readers", arguments: 0..<8)
    func operations(_ variant: Int) throws {
        var generator = SeededGenerator("spilling \(variant)")
        let seed = SeededGenerator.seed
        generator = SeededGenerator(generator, variant)
        let run = try SpillRun(variant, &generator)
        // Some seeds draw small appends for a long time.
        for number in 0..<3000 where number < 300 || run.blocksSpilled == 0 {
            var difference: String?
            do {
                try run.operate(&generator)
                try run.look(&generator)
                difference = try run.difference()
            } catch {
                difference = "\(error)"
            }
            if let difference {
                Issue.record("\(difference); DCP_SEED=\(seed); \(run.log.suffix(40).joined(separator: "; "))")
                return
            }
        }
        #expect(run.blocksSpilled > 0, "nothing was spilled; DCP_SEED=\(seed)")
        try run.end()
        // What a transaction frees is bounded: the rest goes in later ones.
        for _ in 0..<1000 where try run.rig.cache.statistics().sealedBlocks > 0 { try run.rig.settle() }
        let statistics = try run.rig.cache.statistics()
        #expect(statistics.sealedBlocks == 0 && statistics.memoryByteCount == 0, "left behind; DCP_SEED=\(seed)")
        #expect(statistics.uncommittedByteCount == 0 && statistics.spilledByteCount == 0, "DCP_SEED=\(seed)")
    }
}

private final class SpillRun {
    struct Reference {
        var committed = 0
        /// Below it a layer is not rewound alone.
        var shared = 0
        var layers: [[UInt32]]

        var length: Int { layers.map(\.count).min() ?? 0 }

        mutating func cut(to length: Int) {
            layers = layers.map { Array($0.prefix(length)) }
            shared = min(shared, length)
        }
    }

    private(set) var rig: Rig
    private(set) var log: [String] = []
    private var model: [UInt64: Reference] = [:]
    private var nextID: UInt64 = 1
    private var readers: [(reader: ContextReader, tags: [UInt32], layer: Int)] = []
    private var spilledBefore: UInt64 = 0
    private let variant: Int

    init(_ variant: Int, _ generator: inout SeededGenerator) throws {
        self.variant = variant
        let row = 18 * 4
        let rows = [32, 150, 500].randomElement(using: &generator) ?? 32
        rig = try Self.rig(variant, uncommittedByteCountMax: rows * row)
    }

    private static func rig(_ variant: Int, uncommittedByteCountMax: Int) throws -> Rig {
        let ranks = 1 + variant % 3
        var settings = ShardCache.Settings(
            mapByteCountMax: 1 << 30, durability: .never, uncommittedByteCountMax: uncommittedByteCountMax)
        // None stays in RAM that is not used.
        if variant % 2 == 1 { settings.memoryByteCountMax = 1 }
        return try Rig(
            rank: UInt16(variant % ranks), ranks: ranks, interleave: [1, 4, 16][variant % 3], layers: 3,
            format: .float32, kvHeads: 1, settings: settings)
    }

    var blocksSpilled: UInt64 { spilledBefore + ((try? rig.cache.statistics().blocksSpilled) ?? 0) }

    func operate(_ generator: inout SeededGenerator) throws {
        guard let id = model.keys.sorted().randomElement(using: &generator), var reference = model[id],
            model.count > 6 || Int.random(in: 0..<25, using: &generator) > 0
        else {
            try rig.open(nextID)
            model[nextID] = Reference(layers: [[], [], []])
            log.append("open \(nextID)")
            nextID += 1
            return
        }
        switch Int.random(in: 0..<100, using: &generator) {
        case ..<50: try append(id, &reference, &generator)
        case ..<62:
            reference.committed = Int.random(in: reference.committed...reference.length, using: &generator)
            log.append("commit \(id) to \(reference.committed)")
            try rig.commit(id, reference.committed)
        case ..<68:
            let layer = Int.random(in: 0..<3, using: &generator)
            let floor = max(reference.committed, reference.shared)
            guard floor <= reference.layers[layer].count else { return }
            let length = Int.random(in: floor...reference.layers[layer].count, using: &generator)
            log.append("rewind \(id).\(layer) to \(length)")
            try rig.cache.rewind(sequence: SequenceID(id), layer: layer, length: Position(length))
            reference.layers[layer] = Array(reference.layers[layer][..<length])
        case ..<74:
            let length = Int.random(in: reference.committed...reference.length, using: &generator)
            log.append("rewind \(id) to \(length)")
            try rig.cache.rewind(sequence: SequenceID(id), length: Position(length))
            reference.cut(to: length)
        case ..<84 where model.count < 9:
            let length = Int.random(in: 0...reference.length, using: &generator)
            log.append("fork \(id) to \(nextID) at \(length)")
            try rig.fork(id, nextID, length)
            if length > reference.committed { reference.shared = max(reference.shared, length) }
            var child = reference
            child.cut(to: length)
            child.committed = min(length, reference.committed)
            model[nextID] = child
            nextID += 1
        case ..<90:
            let length = Int.random(in: 0...reference.committed, using: &generator)
            log.append("truncate \(id) to \(length)")
            try rig.truncate(id, length)
            reference.committed = length
            reference.cut(to: length)
        case ..<94:
            log.append("close \(id)")
            try rig.close(id)
            model[id] = nil
            return
        case ..<97: return try crash()
        default:
            log.append("verify")
            try verify()
        }
        model[id] = reference
    }

    private func append(_ id: UInt64, _ reference: inout Reference, _ generator: inout SeededGenerator) throws {
        let layers = Bool.random(using: &generator) ? [Int.random(in: 0..<3, using: &generator)] : [0, 1, 2]
        let count = Int.random(in: 1...60, using: &generator)
        for layer in layers {
            let tags = (0..<count).map { _ in UInt32.random(in: 0...UInt32.max, using: &generator) }
            log.append("append \(count) to \(id).\(layer)")
            do {
                try rig.appendWhenRoom(id, layer: layer, at: reference.layers[layer].count, tags)
                reference.layers[layer] += tags
            } catch let error as ServiceError where error.code == .overloaded {
                // What is in RAM fills no blocks.
                log.append("no room")
            }
        }
    }

    /// The process dies and another begins: on a copy of the file, as it is at this moment.
    private func crash() throws {
        log.append("crash")
        readers = []
        let data = try rig.quietData()
        spilledBefore = blocksSpilled
        rig = try Self.rig(variant, uncommittedByteCountMax: rig.settings.uncommittedByteCountMax)
        try rig.edit { $0 = data }
        model = model.mapValues { reference in
            var kept = reference
            kept.cut(to: reference.committed)
            kept.shared = 0
            return kept
        }
    }

    private func verify() throws {
        let verification = rig.cache.verification()
        while true {
            let batch = try verification.advance()
            let damage = batch.findings.filter(\.isDamage)
            if !damage.isEmpty { Issue.record("\(damage); \(log.suffix(40).joined(separator: "; "))") }
            if batch.isDone { return }
        }
    }

    /// Takes a reader, and looks at those that were taken before.
    func look(_ generator: inout SeededGenerator) throws {
        for item in readers where !rig.matches(item.reader, item.tags, layer: item.layer) {
            Issue.record("a reader sees other bytes than before; \(log.suffix(40).joined(separator: "; "))")
        }
        if readers.count > 4 { readers.removeFirst(2) }
        guard let (id, reference) = model.randomElement(using: &generator) else { return }
        let layer = Int.random(in: 0..<3, using: &generator)
        let tags = reference.layers[layer]
        let reader = try rig.cache.context(sequence: SequenceID(id), layer: layer, length: Position(tags.count))
        readers.append((reader, tags, layer))
    }

    /// - Returns: what is not as it should be.
    func difference() throws -> String? {
        var byteCount = 0
        for (id, reference) in model {
            let state = try rig.state(id)
            guard
                state.committedLength == Position(reference.committed)
                    && state.layerLengths.map(\.value) == reference.layers.map(\.count)
            else { return "sequence \(id) has \(state)" }
            for (layer, tags) in reference.layers.enumerated() {
                guard try rig.holds(id, tags, layers: [layer]) else { return "\(id).\(layer) differs" }
                let layout = rig.cluster.layout
                let rank = rig.cluster.contextRank(of: rig.rank)
                byteCount +=
                    (layout.localLength(ofRank: rank, length: tags.count)
                        - layout.localLength(ofRank: rank, length: reference.committed)) * 18 * 4
            }
        }
        try rig.settleSpills()
        let statistics = try rig.cache.statistics()
        let counted = statistics.uncommittedByteCount + statistics.spilledByteCount
        guard counted == byteCount else { return "\(counted) uncommitted bytes are counted, not \(byteCount)" }
        let held = rig.cache.uncommittedHoldings
        guard held.reduce(0, { $0 + $1.spilledByteCount }) == statistics.spilledByteCount else {
            return "\(held) are told of \(statistics.spilledByteCount) spilled bytes"
        }
        return nil
    }

    func end() throws {
        readers = []
        for id in model.keys { try rig.close(id) }
        try rig.settle()
    }
}
