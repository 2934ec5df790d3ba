// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Testing

/// The cache against a trivial model in memory, in which a sequence is a list of tags for each layer.
@Suite("randomised")
struct RandomisedTests {
    struct Reference {
        var committed = 0
        var layers: [[UInt32]]
    }

    @Test("append, commit, rewind, fork, truncate, close, reopen, in any order", arguments: 0..<6)
    func operations(_ variant: Int) throws {
        var generator = SeededGenerator("randomised \(variant)")
        generator = SeededGenerator(generator, variant)
        let ranks = 1 + variant % 4
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never)
        // None stays in RAM that is not used.
        if variant % 2 == 1 { settings.memoryByteCountMax = 1 }
        let rig = try Rig(
            rank: UInt16(variant % ranks), ranks: ranks, interleave: [1, 4, 16][variant % 3],
            format: CacheFormat.allCases[variant % 5], kvHeads: 1, settings: settings)
        var model: [UInt64: Reference] = [:]
        var nextID: UInt64 = 1
        var log: [String] = []
        for _ in 0..<400 {
            let id = model.keys.sorted().randomElement(using: &generator)
            let choice = Int.random(in: 0..<100, using: &generator)
            guard let id, choice >= 4 || model.count > 6 else {
                try rig.open(nextID)
                model[nextID] = Reference(layers: [[], []])
                log.append("open \(nextID)")
                nextID += 1
                continue
            }
            guard var reference = model[id] else { continue }
            switch choice {
            case ..<50:
                let layer = Int.random(in: 0..<2, using: &generator)
                let count = Int.random(in: 1...45, using: &generator)
                let tags = (0..<count).map { _ in UInt32.random(in: 0...UInt32.max, using: &generator) }
                log.append("append \(count) to \(id).\(layer)")
                try rig.append(id, layer: layer, at: reference.layers[layer].count, tags)
                reference.layers[layer] += tags
            case ..<68:
                let reached = reference.layers.map(\.count).min() ?? 0
                guard reached >= reference.committed else { continue }
                reference.committed = Int.random(in: reference.committed...reached, using: &generator)
                log.append("commit \(id) to \(reference.committed)")
                try rig.commit(id, reference.committed)
            case ..<75:
                let layer = Int.random(in: 0..<2, using: &generator)
                let length = Int.random(in: reference.committed...reference.layers[layer].count, using: &generator)
                log.append("rewind \(id).\(layer) to \(length)")
                try rig.cache.rewind(sequence: SequenceID(id), layer: layer, length: Position(length))
                reference.layers[layer] = Array(reference.layers[layer][..<length])
            case ..<82:
                let length = Int.random(in: 0...reference.committed, using: &generator)
                // Those at one place share more than they do with their parent.
                for _ in 0..<Int.random(in: 1...2, using: &generator) {
                    log.append("fork \(id) to \(nextID) at \(length)")
                    try rig.fork(id, nextID, length)
                    model[nextID] = Reference(
                        committed: length, layers: reference.layers.map { Array($0[..<length]) })
                    nextID += 1
                }
            case ..<90:
                let length = Int.random(in: 0...reference.committed, using: &generator)
                log.append("truncate \(id) to \(length)")
                try rig.truncate(id, length)
                reference.committed = length
                reference.layers = reference.layers.map { Array($0[..<length]) }
            case ..<94:
                log.append("close \(id)")
                try rig.close(id)
                model[id] = nil
                continue
            default:
                log.append("reopen")
                try rig.reopen()
                for (id, reference) in model {
                    model[id]?.layers = reference.layers.map { Array($0[..<reference.committed]) }
                }
                reference.layers = reference.layers.map { Array($0[..<reference.committed]) }
            }
            if Int.random(in: 0..<4, using: &generator) == 0 { rig.cache.releaseIdle() }
            model[id] = reference
            guard try agrees(rig, model, log, SeededGenerator.seed) else { return }
        }
        try rig.settle()
        #expect(try rig.verifyStopped().findings == [], "DCP_SEED=\(SeededGenerator.seed)")
        try rig.reopen()
        for id in model.keys { try rig.close(id) }
        try rig.settle()
        let statistics = try rig.cache.statistics()
        #expect(statistics.sealedBlocks == 0 && statistics.memoryByteCount == 0, "nothing is left behind")
        #expect(statistics.uncommittedByteCount == 0)
        #expect(try rig.rows() == [])
    }

    private func agrees(
        _ rig: Rig, _ model: [UInt64: Reference], _ log: [String], _ seed: UInt64
    ) throws -> Bool {
        for (id, reference) in model {
            let state = try rig.state(id)
            var isEqual =
                state.committedLength == Position(reference.committed)
                && state.layerLengths.map(\.value) == reference.layers.map(\.count)
            for layer in 0..<2 where isEqual {
                isEqual = try rig.holds(id, reference.layers[layer], layers: [layer])
            }
            guard isEqual else {
                Issue.record("sequence \(id) differs; DCP_SEED=\(seed); \(log.suffix(30).joined(separator: "; "))")
                return false
            }
        }
        return true
    }
}

extension SeededGenerator {
    /// A separate generator for a variant of a test.
    init(_ other: SeededGenerator, _ variant: Int) {
        self = other
        for _ in 0..<variant { _ = next() }
    }
}
