// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Lists, cuts, kept sequences, and sequences that are opened by their tokens.
    @Suite("sequences as a cache")
    struct ConversationCacheTests {
        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 120, salt: salt)
        }

        private static let ids = (0..<120).map { UInt32($0 * 7 + 1) }

        @Test("32 forks and their closing are one request each; names that are taken are refused alone")
        func forks() async throws {
            let trace = try Self.trace(1500)
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 100]), on: sequence)
                    let wanted = (0..<32).map { (name: $0 == 5 ? "s" : "f\($0)", length: 100 - $0) }
                    let forks = try await client.fork(sequence, as: wanted)
                    #expect(forks.count == 32)
                    for (index, fork) in forks.enumerated() {
                        switch fork {
                        case .success(let record): #expect(record.name == wanted[index].name && index != 5)
                        case .failure(let error): #expect(index == 5 && error.code == .conflict)
                        }
                    }
                    let opened = try await client.openSequences(["f0", "nobody", "f31"], model: nil)
                    #expect(opened.map { (try? $0.get()) != nil } == [true, false, true])
                    let last = try opened[2].get()
                    let lengths = try await client.statuses(of: [last])[last.record.id]?.layerLengths
                    #expect(lengths == [69, 69])
                    _ = try await client.play(trace, Cuts([69, 80]), on: last)
                    let handles = opened.compactMap { try? $0.get() }
                    let closed = try await client.closeSequences(handles)
                    #expect(closed.allSatisfy { (try? $0.get()) != nil })
                    #expect(try await client.sequences().count == 30)
                }
            }
        }

        @Test("one cut for committed and uncommitted tokens; more than there is is refused, each by itself")
        func cuts() async throws {
            let trace = try Self.trace(1501)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let first = try await client.open(trace, "a", model: "m")
                    let second = try await client.open(trace, "b", model: "m")
                    for sequence in [first, second] {
                        _ = try await client.play(trace, Cuts([0, 40]), on: sequence)
                        _ = try await client.play(trace, Cuts([40, 60]), on: sequence, commit: .never)
                    }
                    func lengths() async throws -> [[Int]] {
                        let statuses = try await client.statuses(of: [first, second])
                        return [first, second].map { statuses[$0.record.id]?.layerLengths ?? [] }
                    }
                    // Uncommitted ones of one, committed ones of the other.
                    let cut = try await client.cut([(first, 50), (second, 30)])
                    #expect(cut.allSatisfy { (try? $0.get()) != nil })
                    #expect(try await lengths() == [[50, 50], [30, 30]])
                    let more = try await client.cut([(first, 51), (second, 20)])
                    guard case .failure(let error) = more[0] else {
                        Issue.record("cut to more than there is")
                        return
                    }
                    #expect(error.code == .positionMismatch && error.message.contains("51"))
                    #expect(try await lengths() == [[50, 50], [20, 20]])
                    for (sequence, length) in [(first, 50), (second, 20)] {
                        let answer = try await client.play(trace, Cuts([length, 120]), on: sequence)
                        for layer in 0..<2 {
                            trace.check(answer[layer], layer: layer, length..<120, "cut to \(length)")
                        }
                    }
                }
            }
        }

        @Test("the stored prefix of some tokens is opened after a SIGKILL of all ranks, and answers the same bits")
        func matching() async throws {
            let trace = try Self.trace(1502)
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let undisturbed = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 100]), on: sequence, commit: .never)
                    let part = SequenceCommit(
                        sequence: sequence.record.id, length: 100,
                        tokens: TokenIDs(start: 0, ids: Array(Self.ids[..<100])))
                    try await client.commit([part])
                    try await client.closeSequence("s", keep: true)
                    let other = try await client.open(trace, "undisturbed", model: "m")
                    _ = try await client.play(trace, Cuts([0, 90]), on: other)
                    return try await client.play(trace, Cuts([90, 120]), on: other)
                }
                for rank in 0..<3 { try await cluster.local.killRank(rank) }
                _ = try cluster.local.startMissing()
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    // They part after 90 tokens.
                    let wanted = Array(Self.ids[..<90]) + [0, 0, 0]
                    let (sequence, length) = try await client.openSequence(matching: wanted, as: "next", model: "m")
                    #expect(length == 90)
                    let answer = try await client.play(trace, Cuts([90, 120]), on: sequence, commit: .never)
                    #expect(answer == undisturbed, "bits")
                    let (none, nothing) = try await client.openSequence(matching: [0], as: "new", model: "m")
                    #expect(nothing == 0)
                    _ = try await client.play(trace, Cuts([0, 10]), on: none)
                    let (_, short) = try await client.openSequence(
                        matching: Array(Self.ids[..<100]), as: "short", model: "m", lengthMax: 64)
                    #expect(short == 64)
                    let list = try await client.sequences()
                    #expect(list.filter(\.retention.isKept).map(\.record.name) == ["s"])
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.openSequence(matching: wanted, as: "s", model: "m")
                    }
                    #expect(error?.code == .conflict)
                }
            }
        }

        @Test(
            "clients that match, extend, commit and keep concurrently, while another closes their matches, agree on the bits"
        )
        func together() async throws {
            let trace = try Self.trace(1503)
            try await ClusterSetup(ranks: 2).run { cluster in
                let expected = try await cluster.withClient { client in
                    let other = try await client.open(trace, "undisturbed", model: "m")
                    return try await client.play(trace, Cuts([0, 60, 120]), on: other)
                }
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for number in 0..<3 {
                        group.addTask {
                            try await cluster.withClient { client in
                                for round in 0..<6 {
                                    try await Self.goOn(trace, expected, "c\(number)-\(round)", client)
                                }
                            }
                        }
                    }
                    group.addTask {
                        try await cluster.withClient { client in
                            for _ in 0..<10 {
                                for kept in try await client.sequences() where kept.retention.isKept {
                                    // Another may be about to fork it, or may have closed it.
                                    _ = try await client.closeSequences([kept])
                                }
                            }
                        }
                    }
                    try await group.waitForAll()
                }
            }
        }

        /// Opens what is stored of a drawn number of tokens, plays the rest, commits with ids and leaves it to be found.
        private static func goOn(_ trace: Trace, _ expected: [Answer], _ name: String, _ client: Cluster) async throws {
            let (sequence, length) = try await client.openSequence(
                matching: Self.ids, as: name, model: "m", lengthMax: 119)
            let answer = try await client.play(trace, Cuts([length, 120]), on: sequence, commit: .never)
            for layer in 0..<2 {
                trace.check(answer[layer], layer: layer, length..<120, "\(name) from \(length)")
            }
            try await client.commit([
                SequenceCommit(
                    sequence: sequence.record.id, length: 120,
                    tokens: TokenIDs(start: length, ids: Array(Self.ids[length...])))
            ])
            try await client.closeSequence(name, keep: true)
        }
    }
}
