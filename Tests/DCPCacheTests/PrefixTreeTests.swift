// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Testing

@Suite("prefix tree")
struct PrefixTreeTests {
    /// Ids in memory. One of them may be unreadable.
    struct Arrays: TokenSource {
        var ids: [SequenceID: [UInt32]] = [:]
        var damaged: SequenceID?

        func id(of sequence: SequenceID, at position: Int) throws -> UInt32 { try all(sequence)[position] }

        func commonLength(_ a: SequenceID, _ b: SequenceID, from start: Int, upTo end: Int) throws -> Int {
            let (first, second) = (try all(a), try all(b))
            #expect(first[..<start] == second[..<start], "what is said to be known is not so")
            return (start..<end).first { first[$0] != second[$0] } ?? end
        }

        func commonLength(_ ids: [UInt32], _ sequence: SequenceID, upTo end: Int) throws -> Int {
            let stored = try all(sequence)
            return (0..<end).first { ids[$0] != stored[$0] } ?? end
        }

        private func all(_ sequence: SequenceID) throws -> [UInt32] {
            guard sequence != damaged else { throw UnreadableTokens(sequence: sequence, message: "") }
            return ids[sequence] ?? []
        }

        /// What a match must say.
        func match(_ wanted: [UInt32], where isEligible: (SequenceID) -> Bool) -> Match? {
            ids.filter { isEligible($0.key) }
                .map { Match(sequence: $0.key, length: zip(wanted, $0.value).prefix { $0 == $1 }.count) }
                .filter { $0.length > 0 }
                .max { ($0.length, $1.sequence) < ($1.length, $0.sequence) }
        }
    }

    struct Match: Equatable {
        var sequence: SequenceID
        var length: Int
    }

    @Test("a match is exact to the token: inside an edge, at its end, and behind a sequence that ends")
    func exact() throws {
        let source = Arrays(ids: [SequenceID(1): [1, 2, 3, 4], SequenceID(2): [1, 2, 5], SequenceID(3): [1, 2]])
        var tree = PrefixTree()
        for id in source.ids.keys.sorted() { try tree.insert(id, length: source.ids[id]!.count, from: source) }
        func match(_ ids: [UInt32], excluding: UInt64? = nil) throws -> Match? {
            try tree.match(ids, from: source) { $0.value != excluding }
                .map { Match(sequence: $0.sequence, length: $0.length) }
        }
        #expect(try match([1, 2, 3, 9]) == Match(sequence: SequenceID(1), length: 3))
        #expect(try match([1, 2, 5, 6]) == Match(sequence: SequenceID(2), length: 3))
        #expect(try match([1, 2]) == Match(sequence: SequenceID(1), length: 2), "the lowest of equals")
        #expect(try match([1]) == Match(sequence: SequenceID(1), length: 1))
        #expect(try match([1, 2, 3, 4, 5], excluding: 1) == Match(sequence: SequenceID(2), length: 2))
        #expect(try match([2, 1]) == nil)
        #expect(try match([]) == nil)
    }

    @Test("a sequence that cannot be read fails the search by name and changes nothing")
    func unreadable() throws {
        var source = Arrays(ids: [SequenceID(1): [1, 2, 3], SequenceID(2): [1, 2, 4]])
        var tree = PrefixTree()
        try tree.insert(SequenceID(1), length: 3, from: source)
        source.damaged = SequenceID(1)
        #expect(throws: UnreadableTokens.self) { try tree.insert(SequenceID(2), length: 3, from: source) }
        #expect(!tree.contains(SequenceID(2)) && tree.nodeCount == 2)
        tree.remove(SequenceID(1))
        try tree.insert(SequenceID(2), length: 3, from: source)
        #expect(try tree.match([1, 2, 4], from: source) { _ in true }?.length == 3)
    }

    @Test("inserts, growth, forks, cuts and removals against arrays", arguments: 0..<6)
    func random(_ variant: Int) throws {
        var generator = SeededGenerator("prefix tree \(variant)")
        generator = SeededGenerator(generator, variant)
        // With one id every sequence is a prefix of every other; with two most part early.
        let alphabet = UInt32(1 + variant % 4)
        var source = Arrays()
        var tree = PrefixTree()
        func fresh(_ count: Int) -> [UInt32] {
            (0..<count).map { _ in UInt32.random(in: 0..<alphabet, using: &generator) }
        }
        for step in 0..<3000 {
            let known = source.ids.keys.sorted().randomElement(using: &generator)
            let next = SequenceID(UInt64.random(in: 0..<1000, using: &generator))
            switch (Int.random(in: 0..<10, using: &generator), known) {
            case (0...2, _), (_, nil):
                guard source.ids[next] == nil else { continue }
                source.ids[next] = fresh(Int.random(in: 1...12, using: &generator))
                try tree.insert(next, length: source.ids[next]!.count, from: source)
            case (3...5, let id?):
                source.ids[id]! += fresh(Int.random(in: 1...4, using: &generator))
                try tree.extend(id, to: source.ids[id]!.count, from: source)
            case (6, let id?):
                guard source.ids[next] == nil else { continue }
                let length = Int.random(in: 1...source.ids[id]!.count, using: &generator)
                try tree.fork(id, next, length: length, from: source)
                source.ids[next] = Array(source.ids[id]![..<length])
            case (7, let id?):
                let length = Int.random(in: 0...source.ids[id]!.count, using: &generator)
                try tree.truncate(id, to: length, from: source)
                source.ids[id] = length > 0 ? Array(source.ids[id]![..<length]) : nil
            case (_, let id?):
                guard source.ids.count > 40 else { continue }
                tree.remove(id)
                source.ids[id] = nil
            }
            #expect(tree.nodeCount <= 2 * source.ids.count + 1)
            for _ in 0..<3 {
                let start = source.ids.values.randomElement(using: &generator) ?? []
                let wanted = start.prefix(Int.random(in: 0...start.count, using: &generator)) + fresh(3)
                let excluded = Set(source.ids.keys.filter { $0.value % 3 == UInt64(step % 5) })
                let found = try tree.match(Array(wanted), from: source) { !excluded.contains($0) }
                let expected = source.match(Array(wanted)) { !excluded.contains($0) }
                guard found?.sequence == expected?.sequence, found?.length == expected?.length else {
                    Issue.record("step \(step): \(String(describing: found)), not \(String(describing: expected))")
                    return
                }
            }
        }
        for id in source.ids.keys { tree.remove(id) }
        #expect(tree.nodeCount == 1, "nothing is left behind")
    }
}
