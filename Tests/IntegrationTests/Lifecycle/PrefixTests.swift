// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// Token ids, annotations, and stored prefixes that are found by their ids.
    @Suite("prefixes")
    struct PrefixTests {
        private static let setup = ClusterSetup(ranks: 3, interleave: 4)

        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(layers: 2, 4, 2, 16, 16, .float32), tokens: 300, salt: salt)
        }

        /// What a client calls tokens.
        private static func ids(_ count: Int, _ salt: UInt32 = 1) -> [UInt32] {
            (0..<UInt32(count)).map { ($0 &+ salt) &* 2_654_435_761 }
        }

        private static func part(
            _ sequence: SequenceHandle, _ length: Int, _ ids: [UInt32]? = nil, from start: Int = 0,
            annotation: [UInt8]? = nil
        ) -> SequenceCommit {
            SequenceCommit(
                sequence: sequence.record.id, length: length,
                tokens: ids.map { TokenIDs(start: start, ids: Array($0[start..<length])) }, annotation: annotation)
        }

        @Test("ids and annotation outlive a SIGKILL of every rank, and a match finds them on whichever rank it asks")
        func killed() async throws {
            let trace = try Self.trace(1400)
            let (ids, note) = (Self.ids(300), Array("what the engine wants back".utf8))
            try await Self.setup.run { cluster in
                let sequence = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "a", model: "m")
                    _ = try await client.play(trace, Cuts([0, 200, 300]), on: sequence, commit: .never)
                    try await client.commit([Self.part(sequence, 290, ids)])
                    try await client.commit([Self.part(sequence, 300, ids, from: 290, annotation: note)])
                    return sequence
                }
                for rank in 0..<3 { try await cluster.local.killRank(rank) }
                _ = try cluster.local.startMissing()
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    #expect(try await client.status(of: sequence).tokenIDs == 300)
                    #expect(try await client.tokenIDs(of: sequence.record.id, 0..<300) == ids)
                    #expect(try await client.annotation(of: sequence.record.id) == note)
                    for count in [1, 64, 299, 300] {
                        for _ in 0..<3 {
                            let match = try await client.match(
                                model: sequence.model, ids: Array(ids[..<count]) + [0, 0])
                            #expect(match.map(Found.init) == Found(sequence.record.id, count))
                        }
                    }
                    #expect(try await client.match(model: sequence.model, ids: [0]) == nil)
                }
            }
        }

        @Test("a match promises what every rank has committed, and a sequence that one rank lacks ids of is left out")
        func uneven() async throws {
            let trace = try Self.trace(1401)
            let ids = Self.ids(300)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "a", model: "m")
                    let shorter = try await client.openSequence("b", model: "m")
                    _ = try await client.play(trace, Cuts([0, 40]), on: sequence, commit: .never)
                    _ = try await client.play(trace, Cuts([0, 20]), on: shorter, commit: .never)
                    try await client.commit([Self.part(sequence, 30, ids), Self.part(shorter, 20, ids)])
                    let topology = try await client.readyTopology()
                    let endpoints = cluster.local.rankEndpoints
                    // By one client after the other, each to one rank only.
                    func commit(_ part: SequenceCommit, on rank: Int, of sequence: SequenceHandle) async throws {
                        let answer = try await onOwnThread {
                            let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                            var part = part
                            part.claim = steps.claims[sequence.record.id] ?? .none
                            let connection = try RawConnection.client(endpoints[rank])
                            try connection.send(.request(Commit([part])), epoch: topology.epoch, tag: steps.tag(1))
                            return try connection.receive()?.message
                        }
                        #expect(answer?.isCommitted == true, "\(String(describing: answer))")
                    }
                    try await commit(Self.part(sequence, 40, ids, from: 30), on: 1, of: sequence)
                    for _ in 0..<6 {
                        let match = try await client.match(model: sequence.model, ids: ids)
                        #expect(match.map(Found.init) == Found(sequence.record.id, 30))
                    }
                    // Without ids on all ranks but one.
                    let bare = try await client.openSequence("c", model: "m")
                    _ = try await client.play(trace, Cuts([0, 50]), on: bare)
                    try await commit(Self.part(bare, 50, ids), on: 2, of: bare)
                    for _ in 0..<6 {
                        let match = try await client.match(model: sequence.model, ids: ids)
                        #expect(match.map(Found.init) == Found(sequence.record.id, 30))
                    }
                }
            }
        }

        @Test("ids that contradict, leave a gap or are too many are refused over the wire, and nothing has changed")
        func refusals() async throws {
            let trace = try Self.trace(1402)
            let ids = Self.ids(300)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "a", model: "m")
                    _ = try await client.play(trace, Cuts([0, 60]), on: sequence, commit: .never)
                    try await client.commit([Self.part(sequence, 50, ids)])
                    func refused(_ code: ServiceError.Code, _ part: SequenceCommit, _ words: String...) async throws {
                        do {
                            try await client.commit([part])
                            Issue.record("not refused: \(words)")
                        } catch let error {
                            #expect(error.code == code, "\(error)")
                            for word in words { #expect(error.message.contains(word), "\(error)") }
                        }
                        let progress = try await client.status(of: sequence)
                        #expect(progress.committedLength == 50 && progress.tokenIDs == 50)
                    }
                    try await refused(.conflict, Self.part(sequence, 60, Self.ids(60, 9)), "Token 0", "\(ids[0])")
                    try await refused(.positionMismatch, Self.part(sequence, 60, ids, from: 55), "50 tokens")
                    try await refused(.invalidRequest, Self.part(sequence, 60), "50 of its 60")
                    var many = Self.part(sequence, 60, ids)
                    many.length = 55
                    try await refused(.invalidRequest, many, "55")
                    let note = [UInt8](repeating: 0, count: SequenceLimits.annotationByteCountMax + 1)
                    try await refused(
                        .invalidRequest, Self.part(sequence, 60, ids, annotation: note), "1048577", "1048576")
                    try await client.commit([Self.part(sequence, 60, ids)])
                    await expectFailure(.positionMismatch, "60") {
                        _ = try await client.tokenIDs(of: sequence.record.id, 50..<61)
                    }
                }
            }
        }

        @Test("scopes and revisions isolate prefixes, and an error about another revision names both")
        func scopes() async throws {
            let plain = try shape(4, 2, 16, 16, .float32)
            let shape = try ModelDescription(layers: [plain[0]], kvFormat: .float32, revision: "r1")
            let trace = Trace(shape, tokens: 40, salt: 1403)
            let ids = Self.ids(40)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let model = try await client.registerModel("m", shape)
                    let tenant = try await client.openSequence("a", model: "m", scope: "tenant")
                    _ = try await client.play(trace, Cuts([0, 40]), on: tenant, commit: .never)
                    try await client.commit([Self.part(tenant, 40, ids)])
                    let fork = try await client.fork("a", as: "b", length: 10)
                    func match(_ scope: String) async throws -> Found? {
                        try await client.match(model: model, revision: "r1", scope: scope, ids: ids).map(Found.init)
                    }
                    #expect(try await match("tenant") == Found(tenant.record.id, 40))
                    #expect(try await match("") == nil)
                    #expect(try await match("tenan") == nil)
                    try await client.closeSequence("a")
                    #expect(try await match("tenant") == Found(fork.id, 10), "as its parent")
                    await expectFailure(.modelMismatch, "r1", "r2") {
                        _ = try await client.match(model: model, revision: "r2", scope: "tenant", ids: ids)
                    }
                }
            }
        }

        @Test("ids damaged on one rank are not matched; a repair gives them again from another and cuts nothing")
        func damaged() async throws {
            let trace = try Self.trace(1405)
            let ids = Self.ids(300)
            try await Self.setup.run { cluster in
                let sequence = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "a", model: "m")
                    _ = try await client.play(trace, Cuts([0, 300]), on: sequence, commit: .never)
                    try await client.commit([Self.part(sequence, 300, ids, annotation: [1, 2])])
                    return sequence
                }
                let stored = ids[100..<104].reduce(into: Data()) { data, id in
                    withUnsafeBytes(of: id.littleEndian) { data.append(contentsOf: $0) }
                }
                try await StoreDamage(cluster, rank: 1).flip(stored, at: 5)
                try await cluster.withClient { client in
                    for _ in 0..<6 {
                        let match = try await client.match(model: sequence.model, ids: ids)
                        #expect(match == nil)
                    }
                    let read = try await client.tokenIDs(of: sequence.record.id, 90..<110)
                    #expect(read == Array(ids[90..<110]))
                }
                let found = try await cluster.tool.run("verify")
                #expect(found.status == 74 && found.data.contains("fail their checksum"), "\(found)")
                let repaired = try await cluster.tool.run("verify", "--repair", "--yes")
                #expect(repaired.status == 0 && repaired.data.contains("got its token ids"), "\(repaired)")
                #expect(try await cluster.tool.run("verify").status == 0)
                try await cluster.withClient { client in
                    for _ in 0..<3 {
                        let match = try await client.match(model: sequence.model, ids: ids)
                        #expect(match?.length == 300)
                    }
                    let note = try await client.annotation(of: sequence.record.id)
                    #expect(note == [1, 2])
                }
            }
        }

        @Test("dcpctl commits a file's ids, finds them, and moves them to a cluster of another shape")
        func commands() async throws {
            let trace = try Self.trace(1404)
            let ids = Self.ids(300)
            let directory = TemporaryDirectory()
            let (file, moved) = (directory.path("in.safetensors"), directory.path("moved.safetensors"))
            try trace.write(layer: nil, ids: ids, to: file)
            let listed = (ids[..<120] + [5]).map { "\($0)" }.joined(separator: ",")
            try await Self.setup.run { cluster in
                let tool = cluster.tool
                let submitted = try await tool.run("submit", file, "--model", "m", "--sequence", "a")
                #expect(submitted.status == 0, "\(submitted.messages)")
                let found = try await tool.run("sequence", "match", "--ids", listed, "--model", "m", "--json")
                #expect(found.status == 0, "\(found.messages)")
                #expect(try found.object()["sequence"] as? String == "a" && found.object()["length"] as? Int == 120)
                let text = try await tool.run("sequence", "match", file, "--model", "m").data
                #expect(text.contains("begins with the first 300 of the 300 ids"), "\(text)")
                try await tool.fails(64, saying: ["--ids"], ["sequence", "match", "--model", "m"])
                try await tool.fails(64, saying: ["x1"], ["sequence", "match", "--model", "m", "--ids", "3,x1"])
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("a", model: nil)
                    try await client.commit([Self.part(sequence, 300, annotation: [1, 2, 3])])
                }
                #expect(try await tool.run("sequence", "export", "a", moved).status == 0)
            }
            try await ClusterSetup(ranks: 2, headGroups: 2).run { cluster in
                let outcome = try await cluster.tool.run("sequence", "import", moved)
                #expect(outcome.status == 0, "\(outcome.messages)")
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("a", model: nil)
                    #expect(try await client.tokenIDs(of: sequence.record.id, 0..<300) == ids)
                    #expect(try await client.annotation(of: sequence.record.id) == [1, 2, 3])
                    #expect(try await client.match(model: sequence.model, ids: ids)?.length == 300)
                }
                let again = directory.path("again.safetensors")
                #expect(try await cluster.tool.run("sequence", "export", "a", again).status == 0)
                #expect(try Data(contentsOf: URL(filePath: again)) == Data(contentsOf: URL(filePath: moved)))
            }
        }
    }
}

private struct Found: Equatable {
    var sequence: SequenceID
    var length: Int

    init(_ sequence: SequenceID, _ length: Int) { (self.sequence, self.length) = (sequence, length) }
    init(_ match: PrefixMatch) { self.init(match.sequence, match.length) }
}

/// Fails the test unless a body fails with a code, and a message that has all the words.
private func expectFailure(
    _ code: ServiceError.Code, _ words: String..., sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () async throws -> Void
) async {
    do {
        try await body()
        Issue.record("nothing was thrown", sourceLocation: sourceLocation)
    } catch let error as ServiceError {
        #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
        for word in words { #expect(error.message.contains(word), "\(error)", sourceLocation: sourceLocation) }
    } catch {
        Issue.record("\(error)", sourceLocation: sourceLocation)
    }
}
