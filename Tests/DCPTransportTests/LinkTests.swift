// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Glibc
import NIOCore
import Testing

@Suite("Links over real sockets", .timeLimit(.minutes(1)))
struct LinkTests {
    private let directory = TemporaryDirectory(in: "/tmp")

    private func endpoint(_ kind: String) throws -> Endpoint {
        kind == "unix" ? .unix(path: directory.path("s")) : try Endpoint("tcp:127.0.0.1:0")
    }

    private func layout(_ interleave: Int) throws -> LayoutFingerprint {
        LayoutFingerprint(
            try ClusterShape(ranks: 2, headGroups: 1, interleave: interleave, blockTokens: 64, exchange: .allToAll))
    }

    @Test("hello and welcome introduce both sides; frames then go both ways", arguments: ["unix", "tcp"])
    func introduction(kind: String) async throws {
        let layout = try layout(4)
        let server = Recorder { hello throws(ServiceError) in
            try hello.check(against: layout)
            return Hello(role: .coordinator, fingerprint: layout)
        }
        try await withStation(try endpoint(kind), recorder: server) { station, endpoint in
            if case .tcp(_, let port) = endpoint { #expect(port > 0) }
            let hello = Hello(role: .rank, rank: RankIndex(1), fingerprint: layout, release: "1.2.3")
            let client = try await station.dial(endpoint, hello: hello)
            #expect(try await server.opened() == hello)
            #expect(try await client.opened() == Hello(role: .coordinator, fingerprint: layout))
            #expect(try await station.on(server) { $0.peer } == hello)
            try await station.on(client) { try $0.send(frame(7)) }
            #expect(try await server.frame().tag.number == 7)
            try await station.on(server) { try $0.send(frame(8)) }
            #expect(try await client.frame().tag.number == 8)
            // The peer learns the reason for a close, and a closed link accepts no frames.
            try await station.on(client) { $0.close(ServiceError(.shuttingDown, "Done.")) }
            #expect(try await client.closed() == ServiceError(.shuttingDown, "Done."))
            #expect(try await server.closed().code == .rankUnavailable)
            await #expect(throws: ServiceError.self) { try await station.on(client) { try $0.send(frame(9)) } }
        }
    }

    @Test("TRAPS 20, 23: another layout is refused; the dialler gets both fingerprints", arguments: ["unix", "tcp"])
    func refusal(kind: String) async throws {
        let (ours, theirs) = (try layout(4), try layout(8))
        let server = Recorder { hello throws(ServiceError) in
            try hello.check(against: ours)
            return Hello(role: .coordinator, fingerprint: ours)
        }
        try await withStation(try endpoint(kind), recorder: server) { station, endpoint in
            let hello = Hello(role: .rank, rank: RankIndex(1), fingerprint: theirs)
            let client = try await station.dial(endpoint, hello: hello)
            let told = try await client.closed()
            #expect(told.code == .incompatible)
            #expect(told.message.contains(ours.text) && told.message.contains(theirs.text))
            guard case .closed(let error, let wasRefused) = await server.next() else {
                Issue.record("the server opened it")
                return
            }
            #expect(error == told && wasRefused)
        }
    }

    @Test("no listener: unreachable, with the address", arguments: ["unix", "tcp"])
    func unreachable(kind: String) async throws {
        try await withStation(.unix(path: directory.path("a"))) { station, _ in
            // No process listens on port 1 of loopback.
            let nowhere = kind == "unix" ? Endpoint.unix(path: directory.path("b")) : .tcp(host: "127.0.0.1", port: 1)
            guard case .failed(let error) = try await station.dial(nowhere).next() else {
                Issue.record("something answered")
                return
            }
            #expect(error.code == .unreachable && error.isRetryable && error.message.contains("\(nowhere)"))
        }
    }

    @Test("a large payload comes whole, and frames come in the order they were sent", arguments: ["unix", "tcp"])
    func largeAndOrdered(kind: String) async throws {
        try await withStation(try endpoint(kind)) { station, endpoint in
            let client = try await station.dial(endpoint)
            _ = try await client.opened()
            _ = try await station.recorder.opened()
            var generator = SeededGenerator.ofRun(salt: 40)
            var payload = ByteBuffer()
            for _ in 0..<(20 << 20) / 8 / 64 {
                let some = generator.next()
                for index in 0..<64 as Range<UInt64> { payload.writeInteger(some &* (2 &* index &+ 1)) }
            }
            #expect(payload.readableBytes == 20 << 20)
            // keyDim is 16 bits on the wire: the rows are spread over tokens.
            let sent = payload
            let message = Message.query(
                QuerySlice(
                    tokens: 5120, heads: 16, keyDim: 64, dataType: .float32, queries: sent))
            try await station.on(client) { link in
                for number in 0..<300 as Range<UInt64> { try link.send(frame(number)) }
                try link.send(Frame(epoch: Epoch(1), tag: Tag(client: ClientID(1), number: 300), message: message))
                for number in 301..<600 as Range<UInt64> { try link.send(frame(number)) }
            }
            for number in 0..<600 as Range<UInt64> {
                let received = try await station.recorder.frame()
                #expect(received.tag.number == number)
                guard number == 300, case .query(let slice) = received.message else { continue }
                #expect(slice.queries == sent, "seed \(SeededGenerator.seed)")
            }
            let counts = (
                try await station.on(client) { $0.sentByteCount },
                try await station.on(station.recorder) { $0.receivedByteCount }
            )
            #expect(counts.0 == counts.1)
        }
    }

    @Test("a stale socket file is replaced; the socket is for its owner only, and gone after the stop")
    func socketFile() async throws {
        let path = directory.path("s")
        // A killed process leaves its file, at which nobody listens.
        let abandoned = try SocketAddress(unixDomainSocketPath: path)
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
        try #require(abandoned.withSockAddr { bind(descriptor, $0, socklen_t($1)) } == 0)
        close(descriptor)
        try await withStation(.unix(path: path)) { station, endpoint in
            let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
            #expect(mode == 0o600)
            _ = try await station.dial(endpoint).opened()
        }
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test("a path at which another process listens is refused, and stays the other's")
    func pathInUse() async throws {
        let path = directory.path("s")
        try await withStation(.unix(path: path)) { station, endpoint in
            let second = Station(endpoint)
            let error = await #expect(throws: ServiceError.self) { try await second.start() }
            #expect(error?.message.contains("Address already in use") == true)
            #expect(error?.message.contains(path) == true)
            try await second.stop()
            _ = try await station.dial(endpoint).opened()
        }
    }

    @Test("an address that cannot be bound is refused by name")
    func cannotListen() async throws {
        let station = Station(.unix(path: directory.path("missing/s")))
        let error = await #expect(throws: ServiceError.self) { try await station.start() }
        #expect(error?.code == .invalidConfiguration && error?.message.contains("missing/s") == true)
        try await station.stop()
    }
}
