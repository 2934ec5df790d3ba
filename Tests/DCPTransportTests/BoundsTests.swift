// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import NIOCore
import Testing

private func block(_ byteCount: Int) -> ByteBuffer { ByteBuffer(repeating: 7, count: byteCount) }

@Suite("Links: bounds, deadlines and strangers", .timeLimit(.minutes(1)))
struct BoundsTests {
    private let directory = TemporaryDirectory(in: "/tmp")
    private var unix: Endpoint { .unix(path: directory.path("s")) }

    @Test(
        "TRAPS 14, 19: strangers are refused, and the listener serves others",
        arguments: ["GET / HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}"])
    func stranger(text: String) async throws {
        try await withStation(try Endpoint("tcp:127.0.0.1:0")) { station, endpoint in
            let stranger = try await RawPeer(endpoint, on: station.group)
            try await stranger.send(Array(text.utf8))
            let answer = try await stranger.frames(1)
            guard case .failure(let told)? = answer.first?.message else {
                Issue.record("no failure came: \(answer)")
                return
            }
            #expect(told.code == .protocolViolation)
            try await stranger.closed()
            guard case .closed(let error, let wasRefused) = await station.recorder.next() else {
                Issue.record("the stranger was let in")
                return
            }
            #expect(error == told && wasRefused)
            let client = try await station.dial(endpoint)
            _ = try await client.opened()
        }
    }

    @Test("a frame before the hello, a second role's frame: refused")
    func notAHello() async throws {
        try await withStation(unix) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group)
            try await peer.send(
                Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: .request(GetRankStatus())))
            guard case .failure(let told)? = try await peer.frames(1).first?.message else {
                Issue.record("no failure came")
                return
            }
            #expect(told.message.contains("before the hello"))
            #expect(try await station.recorder.closed() == told)
        }
    }

    @Test("a peer that never says hello is closed at the handshake deadline")
    func silentPeer() async throws {
        let settings = LinkSettings(handshakeTimeout: .milliseconds(50))
        try await withStation(unix, settings: settings) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group)
            #expect(try await station.recorder.closed().code == .deadlineExceeded)
            try await peer.closed()
        }
    }

    @Test("a server that never says welcome is left at the handshake deadline")
    func silentServer() async throws {
        let welcome = LinkSettings(handshakeTimeout: .milliseconds(50))
        try await withStation(unix) { station, _ in
            let path = directory.path("t")
            let server = try await SilentServer(path, on: station.group)
            let client = try await station.dial(.unix(path: path), settings: welcome)
            #expect(try await client.closed().code == .deadlineExceeded)
            try await server.stop()
        }
    }

    @Test("a frame over the receiver's limit ends the connection with both numbers")
    func frameOverLimit() async throws {
        let small = LinkSettings(frameLimits: FrameLimits(fieldsByteCountMax: 1024, payloadByteCountMax: 1024))
        try await withStation(unix, settings: small) { station, endpoint in
            let client = try await station.dial(endpoint)
            _ = try await (client.opened(), station.recorder.opened())
            try await station.on(client) { try $0.send(frame(1, block(1024))) }
            #expect(try await station.recorder.frame().tag.number == 1)
            try await station.on(client) { try $0.send(frame(2, block(1028))) }
            let error = try await station.recorder.closed()
            #expect(error.code == .protocolViolation)
            #expect(error.message.contains("1028") && error.message.contains("1024"))
            guard case .failure(let told) = try await client.frame().message else {
                Issue.record("the sender was not told")
                return
            }
            #expect(told == error)
        }
    }

    @Test("a frame over the own limit is refused before it is sent, and the link stays")
    func ownLimit() async throws {
        let small = LinkSettings(frameLimits: FrameLimits(payloadByteCountMax: 1024))
        try await withStation(unix) { station, endpoint in
            let client = try await station.dial(endpoint, settings: small)
            _ = try await (client.opened(), station.recorder.opened())
            let error = await #expect(throws: ServiceError.self) {
                try await station.on(client) { try $0.send(frame(1, block(1028))) }
            }
            #expect(error?.code == .invalidRequest && error?.message.contains("1028") == true)
            try await station.on(client) { try $0.send(frame(2, block(1024))) }
            #expect(try await station.recorder.frame().tag.number == 2)
        }
    }

    @Test("while the peer does not read, sending ends in .overloaded; when it reads again, everything comes")
    func backpressure() async throws {
        let settings = LinkSettings(outboundByteCountMax: 1 << 20)
        try await withStation(unix, settings: settings) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group, reads: false)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            let (sent, error) = try await station.on(station.recorder) { (link: Link) -> (UInt64, ServiceError?) in
                var sent: UInt64 = 0
                do throws(ServiceError) {
                    // 256 MiB is more than any socket takes.
                    while sent < 4096 {
                        try link.send(frame(sent, block(64 << 10)))
                        sent += 1
                    }
                    return (sent, nil)
                } catch {
                    return (sent, error)
                }
            }
            #expect(error?.code == .overloaded && error?.isRetryable == true)
            #expect(error?.message.contains("\(1 << 20)") == true && error?.message.contains("a client") == true)
            #expect(sent >= 16 && sent < 4096)
            try await peer.startReading()
            let frames = try await peer.frames(Int(sent) + 1)
            #expect(frames.dropFirst().map(\.tag.number) == Array(0..<sent))
            // There is room again.
            try await station.on(station.recorder) { try $0.send(frame(9999)) }
            #expect(try await peer.frames(1).map(\.tag.number) == [9999])
        }
    }

    @Test("a frame is done when it has been written, not before, or when its link has ended", arguments: [true, false])
    func done(reads: Bool) async throws {
        try await withStation(unix) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group, reads: false)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            let (numbers, continuation) = AsyncStream<UInt64>.makeStream()
            try await station.on(station.recorder) { link in
                for number in 0..<256 as Range<UInt64> {
                    try link.send(frame(number, block(64 << 10))) { continuation.yield(number) }
                }
                // 16 MiB are more than any socket takes.
                try link.send(frame(256)) {
                    continuation.yield(256)
                    continuation.finish()
                }
            }
            // On the same loop, after what the socket takes at once.
            try await station.on(station.recorder) { _ in _ = continuation.yield(1000) }
            if reads {
                try await peer.startReading()
                #expect(try await peer.frames(258).count == 258)
            } else {
                try await station.on(station.recorder) { $0.close(ServiceError(.shuttingDown, "Done.")) }
            }
            var done: [UInt64] = []
            for await number in numbers { done.append(number) }
            let mark = try #require(done.firstIndex(of: 1000), "all was done before the peer read")
            #expect(mark < 256)
            done.remove(at: mark)
            #expect(done == Array(0...256))
        }
    }

    @Test("a peer that reads nothing for the stall timeout is closed; the reason has the number of bytes pending")
    func stall() async throws {
        let settings = LinkSettings(stallTimeout: .milliseconds(50))
        try await withStation(unix, settings: settings) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group, reads: false)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            try await station.on(station.recorder) { link in
                for number in 0..<256 as Range<UInt64> { try link.send(frame(number, block(64 << 10))) }
            }
            let error = try await station.recorder.closed()
            #expect(error.code == .deadlineExceeded)
            #expect(error.message.contains("read none of") && error.message.contains("queued bytes"))
        }
    }

    @Test("a link that closes when its last bytes are written holds nothing of what the peer still sends")
    func sentWhileClosing() async throws {
        try await withStation(unix) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group, reads: false)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            try await station.on(station.recorder) { link in
                // More than the socket takes: the link stays until the peer reads.
                for number in 0..<256 as Range<UInt64> { try link.send(frame(number, block(64 << 10))) }
                link.closeWhenFlushed(ServiceError(.shuttingDown, "Done."))
            }
            // More than a socket holds: when it is written, most of it has been read.
            try await peer.send([UInt8](repeating: 7, count: 8 << 20))
            let (received, held) = try await station.on(station.recorder) {
                ($0.receivedByteCount, $0.unfinishedByteCount)
            }
            #expect(received > 4 << 20 && held == 0)
            try await peer.startReading()
            // The welcome, the frames, and why it closed.
            #expect(try await peer.frames(258).count == 258)
            #expect(try await station.recorder.closed().code == .shuttingDown)
        }
    }

    @Test("a frame that begins and does not end is refused at its deadline, by its cause")
    func unfinishedFrame() async throws {
        try await withStation(unix, settings: LinkSettings(frameTimeout: .milliseconds(50))) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            try await peer.send(bytes(of: frame(1, block(1024))).dropLast())
            let error = try await station.recorder.closed()
            #expect(error.code == .deadlineExceeded && error.message.contains("frame-timeout"))
            // The welcome, and why.
            guard case .failure(error)? = try await peer.frames(2).last?.message else {
                Issue.record("the peer was not told")
                return
            }
            #expect(try await station.refused()[.unfinishedFrame] == 1)
        }
    }

    @Test("above the budget of incomplete frames the oldest is refused, and the others arrive complete")
    func unfinishedFrames() async throws {
        let settings = LinkSettings(unfinishedFrames: UnfinishedFrames(byteCountMax: 2000 << 10))
        try await withStation(unix, settings: settings) { station, endpoint in
            var peers: [(peer: RawPeer, bytes: [UInt8])] = []
            for number in 0..<3 as Range<UInt64> {
                let peer = try await RawPeer(endpoint, on: station.group)
                try await peer.send(RawPeer.hello)
                _ = try await station.recorder.opened()
                let slice = QuerySlice(
                    tokens: 16, heads: 1, keyDim: (900 << 10) / 4 / 16, dataType: .float32, queries: block(900 << 10))
                let bytes = bytes(
                    of: Frame(
                        epoch: Epoch(1), tag: Tag(client: ClientID(1), number: number), message: .query(slice)))
                peers.append((peer, bytes))
                // More than a socket holds: when it is written, most of it has been read. Two whole frames fit, which
                // is what they count in memory that was used before.
                try await peer.send(bytes.prefix(800 << 10))
            }
            let error = try await station.recorder.closed()
            #expect(error.code == .overloaded && error.isRetryable)
            #expect(error.message.contains("\(2000 << 10)") && error.message.contains("unfinished-frames-limit"))
            guard case .failure(error)? = try await peers[0].peer.frames(2).last?.message else {
                Issue.record("the first peer was not told")
                return
            }
            for number in 1..<3 {
                try await peers[number].peer.send(peers[number].bytes.dropFirst(800 << 10))
                #expect(try await station.recorder.frame().tag.number == UInt64(number))
            }
            #expect(try await station.refused()[.tooManyUnfinished] == 1)
        }
    }

    private func bytes(of frame: Frame) -> [UInt8] {
        frame.encode().flatMap(\.readableBytesView)
    }

    @Test("a connection above the limit is closed with the reason; when another closes, a new one is accepted")
    func connections() async throws {
        try await withStation(unix, settings: LinkSettings(admission: AdmissionLimits(connectionsMax: 2))) {
            station, endpoint in
            let first = try await station.dial(endpoint)
            _ = try await (first.opened(), station.recorder.opened())
            let second = try await station.dial(endpoint)
            _ = try await (second.opened(), station.recorder.opened())
            for _ in 0..<3 {
                let third = try await station.dial(endpoint)
                #expect(try await third.closed().code == .overloaded)
                #expect(try await station.recorder.closed().code == .overloaded)
            }
            try await station.on(first) { $0.close(ServiceError(.shuttingDown, "Done.")) }
            _ = try await station.recorder.closed()
            let fourth = try await station.dial(endpoint)
            _ = try await (fourth.opened(), station.recorder.opened())
        }
    }

    @Test("a connection that was dropped before its hello gives its place back")
    func droppedEarly() async throws {
        try await withStation(unix, settings: LinkSettings(admission: AdmissionLimits(connectionsMax: 1))) {
            station, endpoint in
            for _ in 0..<5 {
                let peer = try await RawPeer(endpoint, on: station.group)
                try await peer.send([0x44])
                try await peer.close()
                #expect(try await station.recorder.closed().code == .rankUnavailable)
            }
            let client = try await station.dial(endpoint)
            _ = try await client.opened()
        }
    }
}
