// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Testing

/// Ids and annotations against arrays, with starts in between.
@Suite("randomised token ids")
struct RandomTokensTests {
    struct Reference {
        var scope: String
        var ids: [UInt32] = []
        var annotation: (length: Int, bytes: [UInt8])?

        func cut(to length: Int) -> Reference {
            Reference(
                scope: scope, ids: Array(ids[..<length]),
                annotation: annotation.flatMap { $0.length <= length ? $0 : nil })
        }
    }

    @Test("commit, fork, truncate, close, reopen, match", arguments: 0..<6)
    func operations(_ variant: Int) throws {
        var generator = SeededGenerator("randomised token ids \(variant)")
        generator = SeededGenerator(generator, variant)
        let ranks = 1 + variant % 3
        let rig = try Rig(rank: UInt16(variant % ranks), ranks: ranks, layers: 1, kvHeads: 1, dims: (8, 8))
        var model: [UInt64: Reference] = [:]
        var nextID: UInt64 = 1
        // Long runs of one id, so that sequences share long prefixes and part at any place.
        func fresh(_ count: Int) -> [UInt32] {
            (0..<count).map { _ in Int.random(in: 0..<60, using: &generator) == 0 ? 2 : 1 }
        }
        for step in 0..<300 {
            guard let id = model.keys.sorted().randomElement(using: &generator),
                model.count > 8 || Int.random(in: 0..<100, using: &generator) >= 10, var known = model[id]
            else {
                model[nextID] = Reference(scope: ["", "a"].randomElement(using: &generator) ?? "")
                try rig.open(nextID, scope: model[nextID]?.scope ?? "")
                nextID += 1
                continue
            }
            switch Int.random(in: 0..<100, using: &generator) {
            case ..<45:
                let ids = fresh(Int.random(in: 1...(step % 3 == 0 ? 300 : 20), using: &generator))
                var bytes: [UInt8]?
                if Int.random(in: 0..<4, using: &generator) == 0 {
                    let count = Int.random(in: 1...5000, using: &generator)
                    bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* step) }
                }
                // Some of those that are stored are said again.
                let start = Int.random(in: 0...known.ids.count, using: &generator)
                let length = known.ids.count + ids.count
                try rig.appendAll(id, at: known.ids.count, ids)
                try rig.commit(
                    id, length, TokenIDs(start: start, ids: known.ids[start...] + ids), annotation: bytes)
                known.ids += ids
                if let bytes { known.annotation = (length, bytes) }
            case ..<65:
                let length = Int.random(in: 0...known.ids.count, using: &generator)
                try rig.fork(id, nextID, length)
                model[nextID] = known.cut(to: length)
                nextID += 1
            case ..<80:
                let length = Int.random(in: 0...known.ids.count, using: &generator)
                try rig.truncate(id, length)
                known = known.cut(to: length)
            case ..<90 where model.count > 4:
                try rig.close(id)
                model[id] = nil
                continue
            default:
                try rig.reopen()
            }
            model[id] = known
            try check(rig, model, &generator)
        }
        try rig.settle()
        #expect(try rig.verifyStopped().findings.isEmpty, "DCP_SEED=\(SeededGenerator.seed)")
        try rig.reopen()
        for id in model.keys { try rig.close(id) }
        try rig.settle()
        try rig.change { transaction, table in
            for name in ["tokens", "annotations"] {
                let count = try transaction.count(table(name))
                #expect(count == 0, "\(name)")
            }
        }
    }

    private func check(_ rig: Rig, _ model: [UInt64: Reference], _ generator: inout SeededGenerator) throws {
        for (id, known) in model {
            #expect(try rig.ids(id) == known.ids)
            #expect(try rig.annotation(id) == known.annotation?.bytes)
        }
        for scope in ["", "a"] {
            let from = model.values.randomElement(using: &generator)?.ids ?? []
            let wanted = Array(from.prefix(Int.random(in: 0...from.count, using: &generator))) + [1, 1, 2, 1]
            let excluded = Set(model.keys.filter { $0 % 4 == 0 })
            let best = model.filter { $0.value.scope == scope && !excluded.contains($0.key) }
                .map { (id: Int($0.key), length: zip(wanted, $0.value.ids).prefix { $0 == $1 }.count) }
                .filter { $0.length > 0 }.max { ($0.length, $1.id) < ($1.length, $0.id) }
            let found = try rig.match(wanted, scope: scope, excluding: excluded)
            #expect(found == best.map { [$0.id, $0.length] }, "DCP_SEED=\(SeededGenerator.seed)")
        }
    }
}
