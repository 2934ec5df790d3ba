// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Foundation
import Testing

@Suite("forks of uncommitted tokens")
struct UncommittedForkTests {
    private static let row = 2 * 18 * 4
    private static let tags = (0..<UInt32(200)).map { $0 &* 77 &+ 3 }
    private static let parent = Array(tags[..<100])

    /// A sequence of 100 tokens, of which 20 are committed.
    private func rig() throws -> Rig {
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4)
        try rig.open(1)
        try rig.appendAll(1, at: 0, Array(Self.parent[..<20]))
        try rig.commit(1, 20)
        try rig.appendAll(1, at: 20, Array(Self.parent[20...]))
        return rig
    }

    private func others(_ salt: UInt32, _ count: Int) -> [UInt32] { (0..<UInt32(count)).map { $0 &+ 1000 &* salt } }

    @Test(
        "a fork has its parent's uncommitted tokens, and both continue independently",
        arguments: [21, 30, 64, 65, 99, 100])
    func fork(_ length: Int) throws {
        let rig = try rig()
        let before = try rig.cache.statistics()
        try rig.fork(1, 2, length)
        #expect(try rig.state(2).committedLength == 20)
        #expect(try rig.state(2).layerLengths.map(\.value) == [length, length])
        let local = rig.cluster.layout.localLength(ofRank: 1, length: length)
        let committed = rig.cluster.layout.localLength(ofRank: 1, length: 20)
        let after = try rig.cache.statistics()
        #expect(
            after.uncommittedByteCount + after.spilledByteCount
                == before.uncommittedByteCount + (local - committed) * 2 * Self.row)
        #expect(after.sealedBlocks == 2 * (local / 16), "what both have is there once")
        try rig.fork(1, 2, length)
        expect(.conflict, "sequence #2") { try rig.fork(1, 2, length - 1) }
        try rig.appendAll(2, at: length, others(8, 50))
        try rig.appendAll(1, at: 100, others(9, 50))
        #expect(try rig.holds(1, Self.parent + others(9, 50)))
        #expect(try rig.holds(2, Self.parent[..<length] + others(8, 50)))
        try rig.commit(2, length + 50)
        #expect(try rig.state(1).committedLength == 20)
        try rig.commit(1, 150)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Self.parent + others(9, 50)))
            #expect(try rig.holds(2, Self.parent[..<length] + others(8, 50)))
            try rig.reopen()
        }
    }

    enum Change: CaseIterable {
        case rewind, truncate, close, commit, goOn
    }

    @Test(
        "changes of the parent do not affect the fork, nor the reverse", arguments: Change.allCases,
        [true, false])
    func change(_ change: Change, ofParent: Bool) throws {
        let rig = try rig()
        try rig.fork(1, 2, 90)
        let (changed, kept): (UInt64, UInt64) = ofParent ? (1, 2) : (2, 1)
        let end = ofParent ? 100 : 90
        let replaced: [UInt32]
        switch change {
        case .rewind:
            try rig.cache.rewind(sequence: SequenceID(changed), length: 37)
            replaced = Array(Self.parent[..<37]) + others(5, 100)
            try rig.appendAll(changed, at: 37, others(5, 100))
        case .truncate:
            try rig.truncate(changed, 10)
            replaced = Array(Self.parent[..<10]) + others(5, 100)
            try rig.appendAll(changed, at: 10, others(5, 100))
        case .close:
            try rig.close(changed)
            replaced = []
        case .commit:
            replaced = Array(Self.parent[..<end])
            try rig.commit(changed, end)
        case .goOn:
            replaced = Array(Self.parent[..<end]) + others(5, 100)
            try rig.appendAll(changed, at: end, others(5, 100))
        }
        try rig.settle()
        let expected = Array(Self.parent[..<(ofParent ? 90 : 100)])
        #expect(try rig.holds(kept, expected))
        if change != .close {
            #expect(try rig.holds(changed, replaced))
            try rig.commit(changed, replaced.count)
            #expect(try rig.holds(kept, expected))
        }
        try rig.appendAll(kept, at: expected.count, others(6, 40))
        try rig.commit(kept, expected.count + 40)
        for _ in 0..<2 {
            #expect(try rig.holds(kept, expected + others(6, 40)))
            if change != .close { #expect(try rig.holds(changed, replaced)) }
            try rig.reopen()
        }
        for id in [1, 2] as [UInt64] { try rig.close(id) }
        try rig.settle()
        #expect(try rig.cache.statistics().sealedBlocks == 0)
    }

    @Test("a crash leaves what is committed; the blocks that one has committed since the other does not overwrite")
    func crash() throws {
        let rig = try rig()
        try rig.fork(1, 2, 90)
        try rig.commit(2, 90)
        try rig.reopen()
        #expect(try rig.holds(1, Array(Self.parent[..<20])))
        try rig.appendAll(1, at: 20, others(5, 100))
        try rig.commit(1, 120)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Array(Self.parent[..<20]) + others(5, 100)))
            #expect(try rig.holds(2, Array(Self.parent[..<90])))
            try rig.reopen()
        }
    }

    @Test("a layer alone is not rewound below a fork that shares its blocks; all of them are")
    func oneLayer() throws {
        let rig = try rig()
        try rig.fork(1, 2, 90)
        for id in [1, 2] as [UInt64] {
            expect(.positionMismatch, "90", "89") {
                try rig.cache.rewind(sequence: SequenceID(id), layer: 0, length: 89)
            }
        }
        try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: 90)
        try rig.cache.rewind(sequence: SequenceID(1), length: 40)
        // They still share what is before that.
        expect(.positionMismatch, "40", "39") { try rig.cache.rewind(sequence: SequenceID(1), layer: 1, length: 39) }
        try rig.cache.rewind(sequence: SequenceID(1), length: 30)
        #expect(try rig.holds(2, Array(Self.parent[..<90])))
    }

    @Test("beyond the shortest layer a fork is refused, with what is there and the remedy")
    func beyond() throws {
        let rig = try rig()
        try rig.append(1, layer: 0, at: 100, [1, 2, 3])
        expect(.invalidRequest, "100 tokens in all layers", "20 of them committed", "101", "append the rest") {
            try rig.fork(1, 2, 101)
        }
        #expect(!rig.cache.holds(SequenceID(2)))
        try rig.cache.rewind(sequence: SequenceID(1), length: 20)
        try rig.fork(1, 2, 20)
    }
}
