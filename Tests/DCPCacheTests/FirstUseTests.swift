// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Foundation
import Testing

/// What a start leaves to the first use of a sequence, and how it tells that it goes on.
@Suite("first use after a start")
struct FirstUseTests {
    /// A sequence of `blocks` blocks of 128 KiB; 128 of them make a piece.
    private func filled(blocks: Int) throws -> (rig: Rig, tags: [UInt32]) {
        let rig = try Rig(layers: 1, kvHeads: 8, dims: (128, 128))
        let tags = (0..<UInt32(blocks * 16)).map { $0 }
        try rig.open(1)
        for start in stride(from: 0, to: tags.count, by: 800) {
            try rig.appendAll(1, at: start, Array(tags[start..<start + 800]))
            try rig.commit(1, start + 800)
        }
        return (rig, tags)
    }

    @Test("blocks are checked a piece at a time, and what was checked stays checked when the caller gives up")
    func pieces() throws {
        let (rig, tags) = try filled(blocks: 300)
        try rig.reopen()
        func pieces(givingUpAfter limit: Int = .max) throws -> Int {
            var count = 0
            do throws(ServiceError) {
                _ = try rig.cache.contexts([(SequenceID(1), 0..<Position(tags.count))], layer: 0) {
                    () throws(ServiceError) in
                    count += 1
                    if count == limit { throw ServiceError(.stepAborted, "enough") }
                }
            } catch {
                #expect(error.code == .stepAborted && count == limit)
            }
            return count
        }
        #expect(try pieces(givingUpAfter: 1) == 1)
        #expect(try pieces() == 2)
        #expect(try pieces() == 0)
        // Read back as rows they are checked alike, and what is before them is not read; it is when it is used.
        try rig.reopen()
        func piecesOfRows(_ positions: Range<Int>) throws -> Int {
            var count = 0
            _ = try rig.rows(of: SequenceID(1), layer: 0, Range<Position>(positions)) { count += 1 }
            return count
        }
        #expect(try piecesOfRows(200 * 16..<200 * 16 + 1) == 1)
        #expect(try piecesOfRows(200 * 16..<tags.count) == 1)
        #expect(try piecesOfRows(10 * 16..<210 * 16) == 2)
        #expect(try pieces() == 1)
        #expect(try pieces() == 0)
        #expect(try rig.holds(1, tags))
    }

    @Test("blocks outside a window are not read, damaged or not; a window elsewhere is checked")
    func windows() throws {
        let (rig, tags) = try filled(blocks: 200)
        try rig.flip(payload(of: 50 * 16, rig), at: 0)
        try rig.reopen()
        func tokens(_ positions: Range<Position>) throws -> (first: Int, tokens: Int) {
            let context = try rig.cache.contexts([(SequenceID(1), positions)], layer: 0)[0]
            for index in 0..<context.tokens {
                let tag = tags[context.firstIndex.value + index]
                #expect(rig.row(index, of: context) == rig.stored(tag))
            }
            return (context.firstIndex.value, context.tokens)
        }
        #expect(try tokens(1000..<3200) == (992, 2208))
        #expect(try tokens(3199..<3200) == (3184, 16))
        #expect(try tokens(0..<100) == (0, 100))
        #expect(try tokens(3100..<3200) == (3088, 112))
        #expect(try tokens(3200..<3200) == (3200, 0))
        expect(.storeDamaged, "Block 50", "truncate the sequence to 800") { _ = try tokens(800..<900) }
    }

    @Test("a damaged block in a later piece is found, and those before it are served")
    func damage() throws {
        let (rig, tags) = try filled(blocks: 200)
        try rig.flip(payload(of: 190 * 16, rig), at: 0)
        try rig.reopen()
        expect(.storeDamaged, "Block 190", "truncate the sequence to 3040") {
            _ = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: Position(tags.count))
        }
        #expect(try rig.holds(1, Array(tags[..<3040])))
    }

    /// Bytes that only the block with this token has.
    private func payload(of token: Int, _ rig: Rig) throws -> Data {
        let context = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: Position(token + 16))
        return Data(bytes: context.blocks[token / 16], count: 1024)
    }

    @Test("a start tells how far it is, whatever it is at")
    func progress() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Array(0..<100))
        try rig.commit(1, 100)
        rig.cache.close()
        func start() throws -> LoadProgress {
            let progress = LoadProgress()
            let cache = try ShardCache.open(
                directory: rig.storePath, rank: rig.rank, cluster: rig.cluster, settings: rig.settings,
                progress: progress)
            cache.close()
            return progress
        }
        let plain = try start()
        #expect(plain.description.contains("12 blocks and 1 sequences indexed"))
        // The root table and the trees of five tables come before them.
        #expect(plain.steps >= 13 + 6 && !plain.description.contains("verified"))
        try Data().write(to: URL(fileURLWithPath: rig.storePath + "/dcp-store.suspect"))
        let verified = try start()
        #expect(verified.steps > plain.steps && verified.description.contains("verified after a failed sync"))
    }
}
