// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import NIOCore
import Testing

extension Integration {
    /// Whatever comes in over a socket, the sender alone bears it.
    @Suite("strangers and broken frames", .serialized)
    struct StrangerTests {
        private static let tag = Tag(client: ClientID(9), number: 1)
        private static let hello = RawConnection.bytes(
            Frame(
                epoch: .none, tag: Tag(client: ClientID(0), number: 0),
                message: .hello(Hello(role: .client, fingerprint: nil))))

        /// Bytes sent instead of a hello, and what the refusal says.
        private static var strangers: [(bytes: [UInt8], refusal: String)] {
            var random = SeededGenerator.ofRun(salt: 500)
            let garbage = (0..<4096).map { _ in UInt8.random(in: 0...255, using: &random) }
            func altered(_ offset: Int, _ bytes: [UInt8], seal: Bool) -> [UInt8] {
                var frame = hello
                frame.replaceSubrange(offset..<offset + bytes.count, with: bytes)
                return seal ? sealed(frame) : frame
            }
            return [
                (Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8), "the peer speaks HTTP"),
                (Array("POST /metrics HTTP/1.1\r\n\r\n".utf8), "the peer speaks HTTP"),
                ([0x16, 0x03, 0x01, 0x02, 0x00, 0x01], "the peer speaks TLS"),
                (garbage, "not with a frame"),
                (altered(0, [0x58], seal: true), "not with a frame"),
                (altered(4, [9, 0], seal: true), "protocol version 9"),
                (altered(6, [0xE7, 0x03], seal: true), "before the hello"),
                (altered(16, [1], seal: false), "checksum"),
                (altered(64, [0x77], seal: false), "checksum"),
                (altered(40, [0xFF, 0xFF, 0xFF, 0x7F], seal: true), "the limit is 4096"),
                (altered(44, [0xFF, 0xFF, 0xFF, 0xFF], seal: true), "the limit is 0"),
                (
                    RawConnection.bytes(Frame(epoch: .none, tag: tag, message: .request(GetRankStatus()))),
                    "before the hello"
                ),
            ]
        }

        /// A header with a checksum that fits.
        private static func sealed(_ frame: [UInt8]) -> [UInt8] {
            var frame = frame
            let checksum = frame[0..<60].withUnsafeBytes { CRC32C.checksum($0) }
            for byte in 0..<4 { frame[60 + byte] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(byte))) }
            return frame
        }

        @Test(
            "HTTP, TLS, garbage and broken hellos are refused with the reason; others are served meanwhile",
            arguments: [LocalClusterConfiguration.Transport.unix, .tcp])
        func strangers(transport: LocalClusterConfiguration.Transport) async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 80, salt: 501)
            try await ClusterSetup(ranks: 2, transport: transport).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    var answer = Answer(try await client.step(trace, 0..<40, on: sequence))
                    let endpoints = [cluster.local.coordinatorEndpoint] + cluster.local.rankEndpoints
                    var position = 40
                    for (bytes, refusal) in Self.strangers {
                        for endpoint in endpoints {
                            let frame = try await onOwnThread {
                                let connection = try RawConnection(endpoint)
                                connection.send(bytes)
                                return try connection.receive()
                            }
                            guard case .failure(let error)? = frame?.message else {
                                Issue.record("\(endpoint) did not refuse \(bytes.prefix(8))")
                                continue
                            }
                            #expect(error.message.contains(refusal), "\(endpoint): \(error)")
                        }
                        answer.append(try await client.step(trace, position..<position + 1, on: sequence))
                        position += 1
                    }
                    answer.append(try await client.step(trace, position..<80, on: sequence))
                    trace.check([answer], "among strangers")
                    let refused = try await client.rankStatuses().map(\.framesRefused)
                    #expect(refused.allSatisfy { $0 >= UInt64(Self.strangers.count) })
                }
            }
        }

        @Test(
            "after the hello: frames that are broken, not a client's, or too long end that connection alone; bad requests do not"
        )
        func afterHello() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 40, salt: 502)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    var answer = Answer(try await client.step(trace, 0..<20, on: sequence))
                    let epoch = try await client.readyTopology().epoch
                    let good = RawConnection.bytes(
                        Frame(epoch: epoch, tag: Self.tag, message: .request(Many([GetSequenceStatus(SequenceID(1))]))))
                    var body = good
                    body[body.count - 1] ^= 1
                    var long = good
                    long.replaceSubrange(44..<48, with: [0, 0, 0, 0x7F])
                    var lying = good
                    // One sequence more than there are bytes for.
                    lying[64] = 0xFF
                    let crc = lying[64...].withUnsafeBytes { CRC32C.checksum($0) }
                    for byte in 0..<4 { lying[48 + byte] = UInt8(truncatingIfNeeded: crc >> (8 * UInt32(byte))) }
                    let frames = [
                        body, Self.sealed(long), Array("GET / HTTP/1.1\r\n\r\n".utf8),
                        RawConnection.bytes(Frame(epoch: epoch, tag: Self.tag, message: .linksReady)),
                        RawConnection.bytes(
                            Frame(epoch: epoch, tag: Self.tag, message: .abort(ServiceError(.internal, "no")))),
                    ]
                    for endpoint in [cluster.local.coordinatorEndpoint, cluster.local.rankEndpoints[1]] {
                        for bytes in frames {
                            let isClosed = try await onOwnThread {
                                let connection = try RawConnection.client(endpoint)
                                connection.send(bytes)
                                while let frame = try connection.receive() {
                                    guard case .failure = frame.message else { return false }
                                }
                                return true
                            }
                            #expect(isClosed, "\(endpoint), \(bytes.prefix(8))")
                        }
                        // A request that is whole and cannot be read, or is not taken, is answered; the next one too.
                        let unreadable = Self.sealed(lying)
                        try await onOwnThread {
                            let connection = try RawConnection.client(endpoint)
                            for _ in 0..<2 {
                                connection.send(unreadable)
                                guard let frame = try connection.receive(), case .failure(let error) = frame.message
                                else { throw RawConnection.Failure.ended }
                                #expect(frame.tag == Self.tag && error.code == .protocolViolation, "\(error)")
                            }
                        }
                    }
                    answer.append(try await client.step(trace, 20..<40, on: sequence))
                    trace.check([answer], "after broken frames")
                }
            }
        }

        @Test("half a frame, then nothing: the connection ends with its peer, and no other is affected")
        func halfFrame() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 40, salt: 503)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    (try await client.readyTopology(), try await client.open(trace, "s"))
                }
                let endpoint = cluster.local.rankEndpoints[0]
                try await onOwnThread {
                    let steps = RawSteps(topology: topology)
                    let message = steps.message(trace, 0..<40, to: RankIndex(0), on: sequence)
                    let bytes = RawConnection.bytes(Frame(epoch: topology.epoch, tag: steps.tag(1), message: message))
                    for count in [1, 63, 64, 65, bytes.count - 1] {
                        let connection = try RawConnection.client(endpoint)
                        connection.send(Array(bytes.prefix(count)))
                        connection.finishSending()
                        while try connection.receive() != nil {}
                    }
                }
                try await cluster.withClient { client in
                    #expect(try await client.resume(sequence).layerLengths == [0])
                    let answer = Answer(try await client.step(trace, 0..<40, on: sequence))
                    trace.check([answer], "after half frames")
                }
            }
        }

        @Test("a request of another epoch is refused as stale, naming both")
        func staleEpoch() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 4, salt: 504)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    (try await client.readyTopology(), try await client.open(trace, "s"))
                }
                let endpoint = cluster.local.rankEndpoints[0]
                for epoch in [Epoch(0), topology.epoch.next] {
                    let frame = try await onOwnThread {
                        let steps = RawSteps(topology: topology)
                        let connection = try RawConnection.client(endpoint)
                        let message = steps.message(trace, 0..<4, to: RankIndex(0), on: sequence)
                        try connection.send(message, epoch: epoch, tag: steps.tag(1))
                        return try connection.receive()
                    }
                    guard case .failure(let error)? = frame?.message else {
                        Issue.record("no refusal")
                        continue
                    }
                    #expect(error.code == .staleEpoch && error.isRetryable)
                    #expect(error.message.contains("\(epoch)") && error.message.contains("\(topology.epoch)"))
                }
            }
        }
    }
}
