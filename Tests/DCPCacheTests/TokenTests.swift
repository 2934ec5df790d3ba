// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import Foundation
import Testing

@Suite("token ids")
struct TokenTests {
    /// Ids that are each other's neighbours nowhere else.
    static let ids = (0..<UInt32(700)).map { $0 &* 2_654_435_761 }

    /// 700 tokens: two full chunks and an open one.
    private func rig(_ ids: [UInt32] = ids) throws -> Rig {
        let rig = try Rig(layers: 1, kvHeads: 1)
        try rig.open(1)
        try rig.commit(1, ids: ids)
        return rig
    }

    @Test("ids come back as they were committed, in steps of any size, and after a start")
    func survive() throws {
        let rig = try rig(Array(Self.ids[..<3]))
        for range in [3..<256, 256..<257, 257..<512, 512..<700] { try rig.commit(1, ids: Array(Self.ids[range])) }
        for _ in 0..<2 {
            #expect(try rig.ids(1) == Self.ids)
            #expect(try rig.cache.tokenIDs(of: SequenceID(1), 250..<515) == Array(Self.ids[250..<515]))
            #expect(try rig.match(Self.ids + [1]) == [1, 700])
            #expect(try rig.match(Array(Self.ids[..<300]) + [7, 7]) == [1, 300])
            #expect(try rig.match([7]) == nil)
            try rig.reopen()
        }
        expect(.positionMismatch, "700 tokens", "690..<701") {
            _ = try rig.cache.tokenIDs(of: SequenceID(1), 690..<701)
        }
    }

    @Test("ids that contradict, leave a gap, or are too many or too few are refused, and change nothing")
    func refusals() throws {
        let rig = try rig(Array(Self.ids[..<300]))
        try rig.appendAll(1, at: 300, Array(Self.ids[300..<310]))
        func refused(
            _ code: ServiceError.Code, _ length: Int, _ start: Int, _ ids: [UInt32], _ words: String...,
            annotation: [UInt8]? = nil
        ) throws {
            do {
                try rig.commit(1, length, ids.isEmpty ? nil : TokenIDs(start: start, ids: ids), annotation: annotation)
                Issue.record("not refused: \(words)")
            } catch let error as ServiceError {
                #expect(error.code == code, "\(error)")
                for word in words { #expect(error.message.contains(word), "no \(word) in: \(error)") }
            }
            #expect(try rig.state(1).committedLength == 300)
            #expect(try rig.ids(1) == Array(Self.ids[..<300]))
            #expect(try rig.annotation(1) == nil)
        }
        try refused(.invalidRequest, 310, 300, Array(Self.ids[300..<311]), "310", "300..<311")
        try refused(.positionMismatch, 310, 301, Array(Self.ids[301..<310]), "300 tokens", "from token 301")
        try refused(.invalidRequest, 310, 300, Array(Self.ids[300..<309]), "309 of its 310", "309..<310")
        try refused(.invalidRequest, 310, 0, [], "300 of its 310", "300..<310")
        var wrong = Array(Self.ids[250..<310])
        wrong[9] ^= 1
        try refused(.conflict, 310, 250, wrong, "Token 259", "\(Self.ids[259])", "\(wrong[9])")
        try refused(.conflict, 200, 100, [1], "Token 100")
        try refused(.invalidRequest, 300, -1, [1], "-1..<0")
        let long = [UInt8](repeating: 1, count: SequenceLimits.annotationByteCountMax + 1)
        try refused(.invalidRequest, 300, 0, [], "1048577", "1048576", annotation: long)
        let part = CommitPart(SequenceID(1), length: 310)
        expect(.invalidRequest, "twice") { try finish { rig.cache.commit([part, part], completion: $0) } }
        try rig.commit(1, 310, TokenIDs(start: 290, ids: Array(Self.ids[290..<310])))
        try rig.commit(1, 300, TokenIDs(start: 0, ids: Array(Self.ids[..<300])))
        #expect(try rig.ids(1) == Array(Self.ids[..<310]), "repeated in part, and as a whole")
    }

    @Test("a sequence without ids gets them from 0 on and for all its tokens, or stays without")
    func without() throws {
        let rig = try Rig(layers: 1, kvHeads: 1)
        try rig.open(1)
        try rig.appendAll(1, at: 0, Array(Self.ids[..<20]))
        try rig.commit(1, 10)
        #expect(try rig.match(Self.ids) == nil)
        expect(.positionMismatch, "0 tokens") {
            try rig.commit(1, 20, TokenIDs(start: 10, ids: Array(Self.ids[10..<20])))
        }
        expect(.invalidRequest, "9 of its 10") { try rig.commit(1, 10, TokenIDs(start: 0, ids: Array(Self.ids[..<9]))) }
        try rig.commit(1, 15)
        try rig.commit(1, 20, TokenIDs(start: 0, ids: Array(Self.ids[..<20])))
        #expect(try rig.match(Self.ids) == [1, 20])
        try rig.truncate(1, 0)
        #expect(try rig.state(1).tokenIDs == 0 && rig.match(Self.ids) == nil)
        try rig.appendAll(1, at: 0, [5])
        try rig.commit(1, 1)
        #expect(try rig.state(1).tokenIDs == 0, "cut to nothing it may go on without")
    }

    @Test("forks of forks share chunks, and outlive a cut and the end of those they come from")
    func forks() throws {
        let rig = try rig()
        try rig.fork(1, 2, 600)
        try rig.fork(2, 3, 300)
        try rig.commit(2, ids: [1, 2, 3])
        try rig.commit(3, ids: Array(Self.ids[300..<400]) + [9])
        try rig.truncate(1, 100)
        try rig.commit(1, ids: [8, 8])
        for _ in 0..<2 {
            #expect(try rig.ids(1) == Array(Self.ids[..<100]) + [8, 8])
            #expect(try rig.ids(2) == Array(Self.ids[..<600]) + [1, 2, 3])
            #expect(try rig.ids(3) == Array(Self.ids[..<400]) + [9])
            #expect(try rig.match(Self.ids) == [2, 600])
            #expect(try rig.match(Self.ids, excluding: [2]) == [3, 400])
            #expect(try rig.match(Array(Self.ids[..<100])) == [1, 100])
            try rig.reopen()
        }
        try rig.close(1)
        try rig.close(2)
        try rig.settle()
        #expect(try rig.ids(3) == Array(Self.ids[..<400]) + [9] && rig.match(Self.ids) == [3, 400])
        #expect(try rig.verifyStopped().findings.isEmpty, "what only the closed ones had is gone")
        try rig.reopen()
        try rig.close(3)
        try rig.settle()
        try rig.change { transaction, table in
            for name in ["tokens", "annotations"] {
                let count = try transaction.count(table(name))
                #expect(count == 0, "\(name)")
            }
        }
    }

    @Test("an annotation goes with the length it was given at")
    func annotations() throws {
        let rig = try rig(Array(Self.ids[..<300]))
        let large = (0..<SequenceLimits.annotationByteCountMax).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        try rig.commit(1, 300, nil, annotation: [1])
        try rig.commit(1, 0, nil, annotation: large)
        try rig.fork(1, 2, 300)
        try rig.fork(1, 3, 299)
        try rig.commit(2, ids: [5])
        try rig.reopen()
        #expect(try rig.annotation(1) == large && rig.annotation(2) == large && rig.annotation(3) == nil)
        try rig.close(1)
        try rig.truncate(2, 300)
        #expect(try rig.annotation(2) == large)
        try rig.commit(2, 300, nil, annotation: [7])
        try rig.truncate(2, 299)
        #expect(try rig.annotation(2) == nil)
        try rig.commit(2, 299, nil, annotation: [7])
        try rig.commit(2, 299, nil, annotation: [])
        #expect(try rig.annotation(2) == nil, "an empty one removes it")
        try rig.settle()
        #expect(try rig.verifyStopped().findings.isEmpty)
    }

    @Test("scopes and models see their own sequences only")
    func scopes() throws {
        let rig = try rig()
        try rig.open(2, scope: "tenant")
        try rig.commit(2, ids: Array(Self.ids[..<10]))
        try rig.fork(2, 3, 5)
        for _ in 0..<2 {
            #expect(try rig.match(Self.ids) == [1, 700] && rig.match(Self.ids, scope: "tenant") == [2, 10])
            #expect(try rig.match(Self.ids, scope: "tenant", excluding: [2]) == [3, 5], "a fork inherits it")
            #expect(try rig.match(Self.ids, scope: "other") == nil && rig.state(3).scope == "tenant")
            try rig.reopen()
        }
        expect(.conflict, "tenant", "other") { try rig.open(2, scope: "other") }
        expect(.invalidRequest, "256 bytes", "255") { try rig.open(4, scope: String(repeating: "x", count: 256)) }
        expect(.unknownModel, "#99") { _ = try rig.cache.match(model: ModelID(99), scope: "", ids: [1]) }
    }

    // MARK: Damage

    /// Flips a bit of a token's id, wherever it is stored.
    private func damage(_ rig: Rig, _ token: Int) throws {
        var bytes = Data()
        for id in Self.ids[token...(token + 3)] {
            withUnsafeBytes(of: id.littleEndian) { bytes.append(contentsOf: $0) }
        }
        try rig.flip(bytes, at: 1)
    }

    @Test(
        "damaged ids are reported, never matched, and repaired by a commit of all ids or by a cut",
        arguments: [true, false])
    func damage(_ isCommitted: Bool) throws {
        let rig = try rig()
        try rig.fork(1, 2, 600)
        try rig.fork(1, 3, 200)
        try damage(rig, 300)
        #expect(
            try rig.verifyStopped().findings.map { [$0.kind.name, "\($0.sequence!.value)", "\($0.intactLength!)"] }
                == [["token ids", "1", "256"], ["token ids", "2", "256"]])
        try rig.reopen()
        #expect(rig.cache.sequencesWithDamagedIDs == [SequenceID(1), SequenceID(2)])
        #expect(try rig.match(Self.ids) == [3, 200])
        #expect(try rig.holds(1, Self.ids), "keys and values are good")
        expect(.storeDamaged, "from token 256") { _ = try rig.ids(1) }
        expect(.storeDamaged, "from token 256") { try rig.commit(1, 700, TokenIDs(start: 300, ids: [Self.ids[300]])) }
        try rig.commit(1, ids: [1, 2])
        if isCommitted {
            try rig.commit(1, 702, TokenIDs(start: 0, ids: Self.ids + [1, 2]))
            #expect(try rig.match(Self.ids) == [1, 700])
        } else {
            try rig.truncate(1, 300)
            #expect(rig.cache.sequencesWithDamagedIDs == [SequenceID(1), SequenceID(2)], "the cut goes through it")
            try rig.truncate(1, 256)
            #expect(try rig.match(Self.ids) == [1, 256])
            try rig.truncate(2, 256)
            #expect(rig.cache.sequencesWithDamagedIDs.isEmpty)
        }
        try rig.reopen()
        #expect(rig.cache.sequencesWithDamagedIDs.isEmpty, "a chunk that was made good is good for all that share it")
        #expect(try rig.verifyStopped().findings.isEmpty)
    }

    @Test("a verification of a store that serves takes what it finds out of matches")
    func verification() throws {
        let rig = try rig()
        try damage(rig, 600)
        try rig.reopen()
        try rig.commit(1, 700, TokenIDs(start: 0, ids: Self.ids))
        let found = try Verdict(rig.cache.verification())
        #expect(found.findings.isEmpty, "\(found.findings)")
        try rig.settle()
        #expect(try rig.match(Self.ids) == [1, 700])
    }

    @Test("a damaged annotation is reported and can be replaced")
    func damagedAnnotation() throws {
        let rig = try rig()
        try rig.commit(1, 700, nil, annotation: Array("a client's own state".utf8))
        try rig.flip(Data("client's own".utf8), at: 3)
        #expect(try rig.verifyStopped().findings.map(\.kind) == [.annotation])
        try rig.reopen()
        expect(.storeDamaged, "annotation of sequence #1") { _ = try rig.annotation(1) }
        try rig.commit(1, 700, nil, annotation: [2])
        #expect(try rig.annotation(1) == [2] && rig.match(Self.ids) == [1, 700])
    }

    @Test("chunks and annotations that a crash left are found and deleted")
    func strays() throws {
        let rig = try rig()
        try rig.commit(1, 700, nil, annotation: [1])
        try rig.change { transaction, table in
            try transaction.put(table("tokens"), Rig.key(UInt64(77), UInt32(0)), [1, 2, 3, 4])
            try transaction.put(table("annotations"), Rig.key(UInt64(78)), [1, 2, 3, 4])
            try transaction.put(table("annotations"), Rig.key(UInt64(79), UInt32(0)), [1, 2, 3, 4])
        }
        let found = try rig.verifyStopped()
        #expect(found.findings.map(\.kind) == [.strayTokens] && found.damage.isEmpty)
        #expect(found.findings[0].message.contains("1 chunks of ids and 2 annotations"), "\(found.findings)")
        try rig.reopen()
        try rig.settle()
        #expect(try rig.verifyStopped().findings.isEmpty)
        try rig.reopen()
        #expect(try rig.ids(1) == Self.ids && rig.annotation(1) == [1])
    }
}
