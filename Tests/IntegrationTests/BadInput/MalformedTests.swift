// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import NIOCore
import Testing

extension Integration {
    /// Requests in whole frames that cannot be right: each is answered under its tag, and the connection goes on.
    @Suite("malformed requests")
    struct MalformedTests {
        private struct Wrong: Sendable {
            var what: String
            var code = ServiceError.Code.invalidRequest
            var change: @Sendable (inout StepRequest) -> Void
        }

        private static let wrongs: [Wrong] = [
            Wrong(what: "5 query heads") { $0.queryHeads = 5 },
            Wrong(what: "3 KV heads") { $0.kvHeads = 3 },
            Wrong(what: "40 key dimensions") { $0.keyDim = 40 },
            Wrong(what: "0 value dimensions") { $0.valueDim = 0 },
            Wrong(what: "2 tokens with keys and values") { $0.keyValueTokens = 2 },
            Wrong(what: "does not append") { $0.appends = false },
            Wrong(what: "bytes of tensors") { $0.keyValueDataType = .bfloat16 },
            Wrong(what: "bytes of tensors") { $0.queryDataType = .float16 },
            Wrong(what: "bytes of tensors") { $0.tensors.writeInteger(UInt8(0)) },
            Wrong(what: "bytes of tensors") { $0.tensors = ByteBuffer() },
            Wrong(what: "without tokens", code: .protocolViolation) { $0.entries[0].count = 0 },
            Wrong(what: "0 entries", code: .protocolViolation) { $0.entries = [] },
            Wrong(what: "the limit of a step", code: .protocolViolation) {
                $0.entries[0].count = StepRequest.tokensMax + 1
            },
        ]

        @Test("a step of wrong dimensions is answered with them, and the next step goes through", arguments: [1, 2])
        func steps(ranks: Int) async throws {
            try await ClusterSetup(ranks: ranks, interleave: 1).run { cluster in
                let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 6, salt: 71)
                let (sequence, topology) = try await cluster.withClient { client in
                    (try await client.open(trace, Fresh.name("malformed")), try await client.readyTopology())
                }
                let endpoints = cluster.local.rankEndpoints
                try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    var number: UInt64 = 0
                    func send(_ change: (inout StepRequest) -> Void) throws -> [Frame?] {
                        number += 1
                        let tag = steps.tag(number)
                        for (rank, connection) in zip(topology.shape.allRanks, connections) {
                            var request = steps.request(trace, 0..<6, to: rank, on: sequence)
                            change(&request)
                            try connection.send(.step(request), epoch: topology.epoch, tag: tag)
                        }
                        return try connections.map { try $0.receive() }
                    }
                    for wrong in Self.wrongs {
                        for frame in try send(wrong.change) {
                            let frame = try #require(frame, "\(wrong.what): the connection was closed")
                            guard case .failure(let error) = frame.message else {
                                Issue.record("\(wrong.what) was answered with \(frame.message.type)")
                                continue
                            }
                            #expect(frame.tag == steps.tag(number))
                            #expect(error.code == wrong.code && error.message.contains(wrong.what), "\(error)")
                        }
                    }
                    let answers = try send { _ in }
                    let results = answers.compactMap { $0?.message.stepResult }
                    try #require(results.count == ranks)
                    trace.check(RawSteps.answer(results, trace.shape), 0..<6, "after them")
                }
            }
        }

        @Test("a malformed step at one rank ends the step of the others of its group")
        func group() async throws {
            try await ClusterSetup(ranks: 2, interleave: 1).run { cluster in
                let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 4, salt: 72)
                let (sequence, topology) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, Fresh.name("group"))
                    _ = try await client.play(trace, Cuts([0, 3]), on: sequence, commit: .atEnd)
                    return (sequence, try await client.readyTopology())
                }
                let endpoints = cluster.local.rankEndpoints
                try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    for (rank, connection) in zip(topology.shape.allRanks, connections) {
                        var request = steps.request(trace, 3..<4, to: rank, on: sequence)
                        if rank == RankIndex(1) { request.entries = [] }
                        try connection.send(.step(request), epoch: topology.epoch, tag: steps.tag(1))
                    }
                    for connection in connections {
                        guard case .failure(let error)? = try connection.receive()?.message else {
                            Issue.record("A step went through of which one rank was sent another.")
                            continue
                        }
                        #expect(error.code == .protocolViolation && error.message.contains("0 entries"))
                        #expect(error.rank == nil || error.rank == RankIndex(1))
                    }
                }
            }
        }

        @Test("every request of a client with a field too few or too many is answered, by ranks and coordinator")
        func fields() async throws {
            try await ClusterSetup(ranks: 1).run { cluster in
                let endpoints = [cluster.local.rankEndpoints[0], cluster.local.coordinatorEndpoint]
                try await onOwnThread {
                    let samples = try Sample.all()
                    let requests = [0x02, 0x01].map { kind in samples.filter { [kind, 0x03].contains($0.type >> 8) } }
                    for (daemon, requests) in zip(endpoints, requests) {
                        #expect(requests.count > 6)
                        let connection = try RawConnection.client(daemon)
                        for request in requests {
                            for isLonger in [true, false] {
                                guard let bytes = try malformed(request, isLonger: isLonger) else { continue }
                                connection.send(bytes)
                                let frame = try #require(try connection.receive(), "\(request.name): it was closed")
                                guard case .failure(let error) = frame.message else {
                                    Issue.record("\(request.name) was answered with \(frame.message.type)")
                                    continue
                                }
                                #expect(frame.tag.number == 9 && error.code == .protocolViolation, "\(error)")
                                #expect(error.message.contains(request.name), "\(error)")
                            }
                        }
                        // A frame that cannot be trusted still ends it.
                        var damaged = try #require(
                            try requests.lazy.compactMap { try malformed($0, isLonger: true) }.first)
                        damaged[damaged.count - 1] ^= 1
                        connection.send(damaged)
                        guard case .failure(let error)? = try connection.receive()?.message else {
                            Issue.record("A damaged frame was taken.")
                            continue
                        }
                        #expect(error.code == .protocolViolation)
                        #expect(try connection.receive() == nil)
                    }
                }
            }
        }

        /// A frame that the tests of the wire wrote, one at least of each type (`FixtureTests`).
        private struct Sample: Decodable {
            var type: Int
            var name: String
            var frame: String

            static func all() throws -> [Sample] {
                let file = URL(filePath: repositoryFile("Tests/Fixtures/wire-frames.json"))
                return try JSONDecoder().decode([Sample].self, from: Data(contentsOf: file))
            }

            func decoded() throws -> Frame {
                let digits = Array(frame)
                let bytes = try stride(from: 0, to: digits.count, by: 2).map {
                    try #require(UInt8(String(digits[$0..<$0 + 2]), radix: 16))
                }
                var (buffer, decoder) = (ByteBuffer(bytes: bytes), FrameDecoder(limits: FrameLimits()))
                return try #require(try decoder.next(from: &buffer))
            }
        }

        /// A request with a byte of fields too many, or without its last; nil for one without fields, or with tensors
        /// behind them.
        private func malformed(_ request: Sample, isLonger: Bool) throws -> [UInt8]? {
            var frame = try request.decoded()
            frame.epoch = .none
            frame.tag = Tag(client: ClientID(77), number: 9)
            var bytes = RawConnection.bytes(frame)
            let fields = bytes[40..<44].reversed().reduce(0) { $0 << 8 | Int($1) }
            guard bytes.count == 64 + fields, isLonger || fields > 0 else { return nil }
            if isLonger { bytes.append(0) } else { bytes.removeLast() }
            // The header again, with the new count and both checksums.
            func set(_ value: UInt32, at offset: Int) {
                withUnsafeBytes(of: value.littleEndian) { bytes.replaceSubrange(offset..<offset + 4, with: $0) }
            }
            set(UInt32(bytes.count - 64), at: 40)
            set(bytes[64...].withUnsafeBytes { CRC32C.checksum($0) }, at: 48)
            set(bytes[..<60].withUnsafeBytes { CRC32C.checksum($0) }, at: 60)
            return bytes
        }
    }
}
