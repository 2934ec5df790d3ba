// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Glibc
import NIOCore
import Testing

@Suite("Links that share memory", .timeLimit(.minutes(1)))
struct SharedMemoryLinkTests {
    private let directory = TemporaryDirectory(in: "/tmp")
    private let memory = MemorySettings(ringByteCount: 16 << 10, payloadByteCountMin: 64)

    private var sharing: LinkSettings {
        var settings = LinkSettings()
        settings.memory = memory
        return settings
    }

    private func rank(_ features: Hello.Features = .sharedMemory) -> Hello {
        Hello(role: .rank, rank: RankIndex(1), fingerprint: nil, features: features)
    }

    private func server(_ features: Hello.Features = .sharedMemory) -> Recorder {
        Recorder { _ in Hello(role: .coordinator, fingerprint: nil, features: features) }
    }

    private func payload(_ number: UInt64) -> ByteBuffer {
        ByteBuffer(
            bytes: (0..<Int(number * 7919 % 9000)).map { UInt8(truncatingIfNeeded: $0 &+ Int(number)) }.prefix(8996))
    }

    /// Of whole numbers of floats.
    private func message(_ number: UInt64) -> Frame {
        var payload = payload(number)
        return frame(number, payload.readSlice(length: payload.readableBytes / 4 * 4)!)
    }

    private func greeting(_ message: Message) -> Frame {
        Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: message)
    }

    private func isShared(_ station: Station, _ side: Recorder) async throws {
        guard case .shared(.success) = await side.next() else { throw Recorder.Unexpected() }
        #expect(try await station.on(side) { $0.sharesMemory })
    }

    @Test("payloads go through memory, and with their frames when there is no room; all come whole and in order")
    func exchange() async throws {
        let server = server()
        try await withStation(.unix(path: directory.path("s")), settings: sharing, recorder: server) {
            station, endpoint in
            let client = try await station.dial(endpoint, hello: rank(), settings: sharing)
            _ = try await (client.opened(), server.opened())
            try await isShared(station, server)
            try await isShared(station, client)
            for (from, to) in [(client, server), (server, client)] {
                try await station.on(from) { link in
                    for number in 0..<300 as Range<UInt64> { try link.send(message(number)) }
                }
                for number in 0..<300 as Range<UInt64> {
                    let received = try await to.frame()
                    #expect(received.tag.number == number)
                    guard case .query(let slice) = received.message, case .query(let sent) = message(number).message
                    else {
                        Issue.record("another message came")
                        return
                    }
                    #expect(slice.queries == sent.queries)
                }
                let traffic = try await station.on(from) { $0.memoryTraffic }
                #expect(traffic.payloads > 0 && traffic.fallbacks > 0 && traffic.byteCount > traffic.payloads * 64)
            }
        }
    }

    @Test(
        "a peer that cannot share memory, or is not a rank, gets frames", arguments: ["peer", "own", "client", "tcp"])
    func notShared(kind: String) async throws {
        let server = server()
        let endpoint = kind == "tcp" ? try Endpoint("tcp:127.0.0.1:0") : .unix(path: directory.path("s"))
        try await withStation(endpoint, settings: kind == "own" ? LinkSettings() : sharing, recorder: server) {
            station, endpoint in
            let hello =
                kind == "client"
                ? Hello(role: .client, fingerprint: nil, features: .sharedMemory)
                : rank(kind == "peer" ? [] : .sharedMemory)
            let client = try await station.dial(endpoint, hello: hello, settings: sharing)
            _ = try await (client.opened(), server.opened())
            try await station.on(client) { try $0.send(message(5)) }
            #expect(try await server.frame().tag.number == 5)
            for side in [client, server] { #expect(try await !station.on(side) { $0.sharesMemory }) }
        }
    }

    @Test("a payload that is named where the connection has no memory ends it")
    func withoutMemory() async throws {
        let server = server()
        try await withStation(.unix(path: directory.path("s")), recorder: server) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group)
            try await peer.send(greeting(.hello(rank())))
            _ = try await server.opened()
            let frame = message(5)
            try await peer.send(
                frame.encode(frame.body, inMemory: MemoryPlace(number: 1, offset: 0)).flatMap(\.readableBytesView))
            #expect(try await server.closed().code == .protocolViolation)
            try await peer.closed()
        }
    }

    @Test(
        "unexpected messages about memory end the connection",
        arguments: [Message.memorySent, .memoryTaken])
    func unexpected(message: Message) async throws {
        let server = server()
        try await withStation(.unix(path: directory.path("s")), settings: sharing, recorder: server) {
            station, endpoint in
            let client = try await station.dial(endpoint, hello: rank([]), settings: sharing)
            _ = try await (client.opened(), server.opened())
            try await station.on(client) { try $0.send(greeting(message)) }
            #expect(try await server.closed().code == .protocolViolation)
        }
    }

    @Test("a descriptor comes with the token of its connection alone; others are closed")
    func tokens() throws {
        let listener = directory.path("s")
        let passage = SocketPassage(beside: listener)
        func other() -> SocketPassage { SocketPassage(beside: listener) }
        let address = try passage.open()
        let (_, descriptor) = try SharedRings.create(at: .dialling, memory)
        defer { close(descriptor) }
        let stranger = MemoryAddress(
            name: address.name, token: .init(high: address.token.high &+ 1, low: address.token.low))
        try other().send(descriptor, to: stranger)
        #expect(throws: ServiceError.self) { try passage.receive() }
        // It waits no longer.
        #expect(throws: ServiceError.self) { try other().send(descriptor, to: address) }

        let again = try passage.open()
        try other().send(descriptor, to: MemoryAddress(name: again.name, token: address.token))
        try other().send(descriptor, to: again)
        let received = try passage.receive()
        defer { close(received) }
        _ = try SharedRings(received, at: .accepting, memory)
        // Nothing is left beside the listener's socket.
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
    }

    @Test(
        "a peer cannot have a datagram sent to any socket but one for memory, beside its own",
        arguments: ["notify", "../s.memory-1", "a/s.memory-1"])
    func otherSockets(name: String) throws {
        let (_, descriptor) = try SharedRings.create(at: .dialling, memory)
        defer { close(descriptor) }
        let address = MemoryAddress(name: name, token: .init(high: 1, low: 2))
        let error = #expect(throws: ServiceError.self) {
            try SocketPassage(beside: directory.path("s")).send(descriptor, to: address)
        }
        #expect(error?.code == .protocolViolation)
    }

    @Test("the next listener removes only what a killed process has left")
    func leftovers() async throws {
        let path = directory.path("s")
        let others = ["s.memory-12", "s.memory-ff", "t.memory-12", "s.other"]
        for name in others { #expect(FileManager.default.createFile(atPath: directory.path(name), contents: nil)) }
        try await withStation(.unix(path: path), settings: sharing) { _, _ in
            let left = try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted()
            #expect(left == ["s", "s.other", "t.memory-12"])
        }
    }
}
