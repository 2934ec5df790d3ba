// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPTestKit
import DCPWire
import Testing

@Suite("CoordinatorState: names of sequences")
struct NameTests {
    private func entry(_ id: UInt64, _ name: String, isClosing: Bool = false) -> SequenceEntry {
        SequenceEntry(
            record: SequenceRecord(id: SequenceID(id), name: name, model: ModelID(1), scope: ""), isClosing: isClosing)
    }

    @Test("after any changes each name leads to its sequence, and no other does")
    func random() throws {
        var random = SeededGenerator(seed: SeededGenerator.seed)
        let shape = try ClusterShape(ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var state = CoordinatorState(shape: shape)
        for round in 0..<2000 {
            let id = UInt64.random(in: 1...12, using: &random)
            if Bool.random(using: &random) {
                let name = "n\(Int.random(in: 0..<6, using: &random))"
                state.apply(.sequence(entry(id, name, isClosing: Bool.random(using: &random))))
            } else {
                state.apply(.sequenceRemoved(SequenceID(id)))
            }
            for name in 0..<6 {
                let all = state.sequences.values.filter { $0.record.name == "n\(name)" }
                let found = state.sequence(named: "n\(name)")
                let comment = "round \(round), DCP_SEED=\(SeededGenerator.seed)"
                #expect((found == nil) == all.isEmpty, "\(comment)")
                guard let found else { continue }
                #expect(all.contains(found), "\(comment)")
                #expect(!found.isClosing || all.allSatisfy(\.isClosing), "\(comment)")
            }
        }
    }
}
