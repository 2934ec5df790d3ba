// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Glibc
import Testing

extension Integration {
    /// A client that died had asked the directory for something; its successor resumes the sequence.
    @Suite("claims", .timeLimit(.minutes(5)))
    struct ClaimTests {
        private static func trace() throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .float32), tokens: 60, salt: 921)
        }

        private static func changes(_ claim: Claim) -> [Message] {
            [
                .item(TruncateSequence(name: "s", length: 5, claim: claim)),
                .item(ForkSequence(name: "s", newName: "late", length: 5, claim: claim)),
                .item(CloseSequence(name: "s", claim: claim)),
            ]
        }

        @Test("late requests after the successor has resumed and committed are refused, and remove no token")
        func late() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    let coordinator = cluster.local.coordinatorEndpoint
                    let old = try await onOwnThread { try RawConnection.client(coordinator).claim(sequence, number: 1) }
                    #expect(try await client.resume(sequence).committedLength == 30)
                    _ = try await client.play(trace, Cuts([30, 50]), on: sequence)
                    let late = try await onOwnThread {
                        let dead = try RawConnection.client(coordinator)
                        return try Self.changes(old).enumerated().map { try dead.ask($1, number: UInt64($0 + 1)) }
                    }
                    let refusals = [
                        late[0].refusal(of: TruncateSequence.self), late[1].refusal(of: ForkSequence.self),
                        late[2].refusal(of: CloseSequence.self),
                    ]
                    for error in refusals {
                        let error = try #require(error)
                        #expect(
                            error.code == .claimed && !error.isRetryable && error.message.contains("`s`"), "\(error)")
                    }
                    #expect(try await client.sequences().map(\.record.name) == ["s"])
                    #expect(try await client.status(of: sequence).committedLength == 50)
                    let answer = Answer(try await client.step(trace, 50..<60, on: sequence))
                    trace.check(answer, 50..<60, "after late operations")
                    // Its own are taken.
                    try await client.cut("s", to: 40)
                    #expect(try await client.status(of: sequence).layerLengths == [40])
                }
            }
        }

        @Test("operations accepted earlier end on every rank before the successor resumes")
        func underWay() async throws {
            let trace = try Self.trace()
            var setup = ClusterSetup(ranks: 2)
            // A rank that is stopped for a while is not lost.
            setup.coordinatorArguments = ["--lease", "300"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 50]), on: sequence)
                    let coordinator = cluster.local.coordinatorEndpoint
                    let sleeper = try #require(cluster.local.daemon(.rank(RankIndex(1))))
                    let claim = try await onOwnThread {
                        let dead = try RawConnection.client(coordinator)
                        let next = try RawConnection.client(coordinator)
                        let old = try dead.claim(sequence, number: 1)
                        sleeper.signal(SIGSTOP)
                        defer { sleeper.signal(SIGCONT) }
                        let cut = Message.item(TruncateSequence(name: "s", length: 5, claim: old))
                        try dead.send(cut, epoch: .none, tag: Tag(client: ClientID(5), number: 2))
                        // Frames of a connection are taken in order: the truncation is under way when this is answered.
                        try Self.expectList(dead.ask(.request(ListSequences()), number: 3))
                        let claim = Message.item(ClaimSequence(sequence.record.id, held: .none))
                        try next.send(claim, epoch: .none, tag: Tag(client: ClientID(6), number: 1))
                        // And the claim waits while others are answered.
                        try Self.expectList(next.ask(.request(ListSequences()), number: 2))
                        sleeper.signal(SIGCONT)
                        return try next.receive()?.message
                    }
                    #expect(try #require(claim?.answer(to: ClaimSequence.self)) != .none)
                    #expect(try await client.status(of: sequence).committedLength == 5)
                    #expect(try await client.resume(sequence).layerLengths == [5])
                    _ = try await client.play(trace, Cuts([5, 30]), on: sequence)
                    #expect(try await client.status(of: sequence).committedLength == 30)
                }
            }
        }

        private static func expectList(_ message: Message) throws {
            guard message.reply(to: ListSequences.self)?.sequences.count == 1 else {
                throw ServiceError(.internal, "Answered with \(message) instead of the list.")
            }
        }

        @Test(
            "after the coordinator's death a claim is void; its holder continues, unless another has claimed meanwhile")
        func restart() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    try await cluster.local.kill(.coordinator)
                    // Steps and commits need no coordinator.
                    _ = try await client.play(trace, Cuts([30, 40]), on: sequence)
                    try cluster.local.start(.coordinator)
                    try await cluster.waitUntilReady()
                    _ = try await client.topology()
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, 40..<50, on: sequence)
                    }
                    #expect(error?.code == .staleEpoch, "\(String(describing: error))")
                    // Of the directory it is asked by name, and claims anew by itself.
                    try await client.cut("s", to: 20)
                    #expect(try await client.status(of: sequence).committedLength == 20)
                    // Another client; then a coordinator that knows of neither.
                    try await cluster.withClient { other in
                        #expect(try await other.resume(sequence).length == 20)
                        _ = try await other.play(trace, Cuts([20, 30]), on: sequence)
                    }
                    try await cluster.local.kill(.coordinator)
                    try cluster.local.start(.coordinator)
                    try await cluster.waitUntilReady()
                    _ = try await client.topology()
                    let late = await #expect(throws: ServiceError.self) { try await client.cut("s", to: 10) }
                    #expect(late?.code == .claimed, "\(String(describing: late))")
                    #expect(try await client.status(of: sequence).committedLength == 30)
                }
            }
        }

        @Test("when ranks and coordinator are started again, the stores still tell that another has come")
        func stored() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 20]), on: sequence)
                    try await cluster.withClient { other in
                        #expect(try await other.resume(sequence).length == 20)
                        _ = try await other.play(trace, Cuts([20, 30]), on: sequence)
                    }
                    try await cluster.local.kill(.coordinator)
                    for rank in 0..<2 { try await cluster.local.killRank(rank) }
                    try cluster.local.start(.coordinator)
                    for rank in 0..<2 { try cluster.local.startRank(rank) }
                    try await cluster.waitUntilReady()
                    var outages = Outages(allowance: .seconds(30))
                    let gone = ServiceError(.rankUnavailable, "Gone.")
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.resume(sequence, after: gone, answered: 20, &outages)
                    }
                    #expect(error?.code == .claimed, "\(String(describing: error))")
                }
            }
        }

        @Test("of two clients on one sequence the last one continues, and the other gets an error that says so")
        func two() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { first in
                    let sequence = try await first.open(trace, "s")
                    _ = try await first.play(trace, Cuts([0, 10, 20]), on: sequence, commit: .never)
                    try await first.commit(sequence, 10)
                    try await cluster.withClient { second in
                        #expect(try await second.resume(sequence, atMost: 10).length == 10)
                        let step = await #expect(throws: ServiceError.self) {
                            try await first.step(trace, 20..<30, on: sequence)
                        }
                        let commit = await #expect(throws: ServiceError.self) { try await first.commit(sequence, 20) }
                        #expect(step?.code == .claimed && commit?.code == .claimed)
                        // Also where it asks for more than there is since.
                        try await second.cut("s", to: 5)
                        let cut = await #expect(throws: ServiceError.self) { try await first.cut("s", to: 10) }
                        let fork = await #expect(throws: ServiceError.self) {
                            try await first.fork("s", as: "f", length: 10)
                        }
                        #expect(cut?.code == .claimed && fork?.code == .claimed)
                        var outages = Outages(allowance: .seconds(30))
                        let resume = await #expect(throws: ServiceError.self) {
                            try await first.resume(sequence, after: ServiceError(.notReady, ""), answered: 20, &outages)
                        }
                        #expect(resume?.code == .claimed)
                        _ = try await second.play(trace, Cuts([5, 20, 40]), on: sequence)
                        #expect(try await second.status(of: sequence).committedLength == 40)
                    }
                    // It may come back, by asking for it.
                    #expect(try await first.resume(sequence).length == 40)
                    trace.check(Answer(try await first.step(trace, 40..<50, on: sequence)), 40..<50, "taken back")
                }
            }
        }

        @Test(
            "a client that overrules itself, by a resume beside a step, is told to retry and not that it was taken over"
        )
        func itself() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 10]), on: sequence)
                    for round in 0..<20 {
                        async let step: Void = {
                            do throws(ServiceError) {
                                _ = try await client.step(trace, 10..<60, on: sequence)
                            } catch {
                                #expect(
                                    error.isRetryable || error.code == .positionMismatch, "round \(round): \(error)")
                            }
                        }()
                        try await client.resume(sequence, atMost: 10)
                        await step
                        #expect(try await client.resume(sequence, atMost: 10).length == 10)
                    }
                }
            }
        }

        @Test("a commit that one rank has carried out and another has rewound is healed by the next resume")
        func halfCommitted() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 20]), on: sequence)
                    let topology = try await client.readyTopology()
                    let endpoints = cluster.local.rankEndpoints
                    try await onOwnThread {
                        let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                        let connections = try endpoints.map { try RawConnection.client($0) }
                        func ask(_ rank: Int, _ message: Message, _ number: UInt64) throws {
                            try connections[rank].send(message, epoch: topology.epoch, tag: steps.tag(number))
                        }
                        for rank in 0..<2 {
                            try ask(rank, steps.message(trace, 20..<21, to: RankIndex(UInt16(rank)), on: sequence), 1)
                        }
                        for connection in connections {
                            #expect(try connection.receive()?.message.stepResult != nil)
                        }
                        // Rank 1 commits, rank 0 rewinds: a client that died between the two.
                        try ask(1, .commit([steps.length(21, of: sequence)]), 2)
                        try ask(0, .cut(steps.length(20, of: sequence)), 3)
                        #expect(try connections[0].receive()?.message.isCut == true)
                        #expect(try connections[1].receive()?.message.isCommitted == true)
                    }
                    #expect(try await client.status(of: sequence).longestCommittedLength == 21)
                    let progress = try await client.resume(sequence)
                    #expect(progress.length == 20 && progress.longestCommittedLength == 20)
                    let answer = Answer(try await client.step(trace, 20..<30, on: sequence))
                    trace.check(answer, 20..<30, "after half a commit")
                    try await client.commit(sequence, 30)
                }
            }
        }
    }
}
