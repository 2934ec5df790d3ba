import DCPClient
import DCPCore
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

        private static func changes(_ claim: Claim) -> [DirectoryRequest] {
            [
                .truncate(name: "s", length: 5, claim: claim),
                .fork(name: "s", newName: "late", length: 5, claim: claim), .close(name: "s", claim: claim),
            ]
        }

        @Test("what comes after the successor has resumed and committed is refused, and takes no token away")
        func late() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    let coordinator = cluster.local.coordinatorEndpoint
                    let old = try await onOwnThread { try RawConnection.client(coordinator).claim("s", number: 1) }
                    #expect(try await client.resume(sequence).committedLength == 30)
                    _ = try await client.play(trace, Cuts([30, 50]), on: sequence)
                    let late = try await onOwnThread {
                        let dead = try RawConnection.client(coordinator)
                        return try Self.changes(old).enumerated().map { try dead.ask($1, number: UInt64($0 + 1)) }
                    }
                    for answer in late {
                        guard case .failure(let error) = answer else {
                            Issue.record("\(answer)")
                            continue
                        }
                        #expect(
                            error.code == .claimed && error.isRetryable && error.message.contains("`s`"), "\(error)")
                    }
                    #expect(try await client.sequences().map(\.record.name) == ["s"])
                    #expect(try await client.status(of: sequence).committedLength == 50)
                    let answer = Answer(try await client.step(trace, 50..<60, on: sequence))
                    trace.check(answer, 50..<60, "after late operations")
                    // Its own are taken.
                    try await client.truncate("s", length: 40)
                    #expect(try await client.status(of: sequence).layerLengths == [40])
                }
            }
        }

        @Test("what was taken before is over on every rank before the successor resumes")
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
                        let old = try dead.claim("s", number: 1)
                        sleeper.signal(SIGSTOP)
                        defer { sleeper.signal(SIGCONT) }
                        let cut = Message.directoryRequest(.truncate(name: "s", length: 5, claim: old))
                        try dead.send(cut, epoch: .none, tag: Tag(client: ClientID(5), number: 2))
                        // Frames of a connection are taken in order: the truncation is under way when this is answered.
                        try Self.expectList(dead.ask(.listSequences, number: 3))
                        let claim = Message.directoryRequest(.claim(name: "s"))
                        try next.send(claim, epoch: .none, tag: Tag(client: ClientID(6), number: 1))
                        // And the claim waits while others are answered.
                        try Self.expectList(next.ask(.listSequences, number: 2))
                        sleeper.signal(SIGCONT)
                        return try next.receive()?.message
                    }
                    guard case .directoryReply(let reply)? = claim else {
                        Issue.record("\(String(describing: claim))")
                        return
                    }
                    #expect(reply.claim != .none && reply.sequences == [sequence.record])
                    #expect(try await client.status(of: sequence).committedLength == 5)
                    #expect(try await client.resume(sequence).layerLengths == [5])
                    _ = try await client.play(trace, Cuts([5, 30]), on: sequence)
                    #expect(try await client.status(of: sequence).committedLength == 30)
                }
            }
        }

        private static func expectList(_ message: Message) throws {
            guard case .directoryReply(let reply) = message, reply.claim == .none, reply.sequences.count == 1 else {
                throw ServiceError(.internal, "Answered with \(message) instead of the list.")
            }
        }

        @Test(
            "after the coordinator's death a claim is void; resuming gives another, and within an epoch none is needed")
        func restart() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    #expect(try await client.resume(sequence).committedLength == 30)
                    try await cluster.local.kill(.coordinator)
                    // The claim is of the epoch that the ranks serve.
                    #expect(try await client.resume(sequence).committedLength == 30)
                    try cluster.local.start(.coordinator)
                    try await cluster.waitUntilReady()
                    _ = try await client.topology()
                    let error = await #expect(throws: ServiceError.self) { try await client.truncate("s", length: 20) }
                    #expect(error?.code == .claimed, "\(String(describing: error))")
                    #expect(try await client.resume(sequence).committedLength == 30)
                    try await client.truncate("s", length: 20)
                    #expect(try await client.status(of: sequence).committedLength == 20)
                }
            }
        }
    }
}
