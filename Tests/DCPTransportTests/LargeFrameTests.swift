// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import NIOCore
import Testing

@Suite("Links: frames of megabytes", .timeLimit(.minutes(1)))
struct LargeFrameTests {
    private let directory = TemporaryDirectory(in: "/tmp")
    private var unix: Endpoint { .unix(path: directory.path("s")) }

    /// A frame whose payload is the given count of numbers drawn from the generator.
    private func frame(_ number: UInt64, floats: Int, _ generator: inout SeededGenerator) -> Frame {
        var payload = ByteBuffer()
        for _ in 0..<floats / 2 { payload.writeInteger(generator.next()) }
        // keyDim is 16 bits on the wire.
        return Frame(
            epoch: Epoch(1), tag: Tag(client: ClientID(1), number: number),
            message: .query(
                QuerySlice(
                    tokens: floats / 64, heads: 1, keyDim: 64, dataType: .float32, queries: payload)))
    }

    private func payload(_ frame: Frame) -> ByteBuffer? {
        if case .query(let slice) = frame.message { slice.queries } else { nil }
    }

    @Test("frames of any size come whole, in whatever pieces they are sent", arguments: ["unix", "tcp"])
    func pieces(kind: String) async throws {
        var generator = SeededGenerator.ofRun(salt: 42)
        let sizes = (0..<40).map { index in
            index % 8 == 0 ? Int(generator.next() % (2 << 20)) / 64 * 64 : Int(generator.next() % 30_000) / 64 * 64
        }
        let frames = sizes.enumerated().map { frame(UInt64($0), floats: $1, &generator) }
        var bytes = frames.flatMap { $0.encode().flatMap(\.readableBytesView) }[...]
        try await withStation(kind == "unix" ? unix : try Endpoint("tcp:127.0.0.1:0")) { station, endpoint in
            let peer = try await RawPeer(endpoint, on: station.group)
            try await peer.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            while !bytes.isEmpty {
                // Of a few bytes, so that headers are cut, and of many.
                let count = generator.next() % 2 == 0 ? generator.next() % 100 + 1 : generator.next() % 400_000 + 1
                try await peer.send(bytes.prefix(Int(count)))
                bytes = bytes.dropFirst(Int(count))
            }
            for frame in frames {
                let received = try await station.recorder.frame()
                #expect(received.tag == frame.tag)
                #expect(payload(received) == payload(frame), "\(frame.tag), seed \(SeededGenerator.seed)")
            }
        }
    }

    @Test("a frame is read in windows of at most a MiB, of which a turn of the loop reads one, and none behind its end")
    func windows() throws {
        var generator = SeededGenerator.ofRun(salt: 43)
        let large = frame(1, floats: 8 << 20, &generator)
        let bytes = large.encode().flatMap(\.readableBytesView)
        let frames = InboundFrames()
        frames.limits = FrameLimits()
        var first = ByteBuffer(bytes: bytes.prefix(100))
        frames.append(&first)
        var found = try frames.next()
        var (windows, end) = (0, 100)
        while var window = frames.window, found == nil {
            let count = min(InboundFrames.windowByteCountMax, bytes.count - end)
            #expect(window.writableBytes == count)
            // As a socket does that has less.
            window.writeBytes(bytes[end..<end + count / 2])
            frames.append(&window)
            windows += 1
            end += count / 2
            guard bytes.count - end < 64 else { continue }
            var rest = ByteBuffer(bytes: bytes[end...])
            frames.append(&rest)
            found = try frames.next()
        }
        #expect(windows > 64 && found?.tag == large.tag && found.flatMap(payload) == payload(large))
        #expect(frames.window == nil)
    }

    @Test("a frame in memory that an earlier one has written counts whole from its header on")
    func reusedMemory() throws {
        var generator = SeededGenerator.ofRun(salt: 45)
        // Of a size that no other test maps, for the memory belongs to the process.
        let bytes = frame(1, floats: 37 << 18, &generator).encode().flatMap(\.readableBytesView)
        func begun() throws -> InboundFrames {
            let frames = InboundFrames()
            frames.limits = FrameLimits()
            var first = ByteBuffer(bytes: bytes.prefix(100))
            frames.append(&first)
            #expect(try frames.next()?.tag == nil)
            return frames
        }
        let frames = try begun()
        #expect(frames.unfinishedByteCount == 2 << 20, "the first huge page")
        var rest = ByteBuffer(bytes: bytes[100...])
        frames.append(&rest)
        let tag = try frames.next()?.tag
        #expect(tag != nil, "its memory is given back when it is dropped, as where it is refused")
        #expect(try begun().unfinishedByteCount == bytes.count)
    }

    @Test("a peer that dies in the middle of a frame, and one whose frame is damaged, end their own link alone")
    func broken() async throws {
        var generator = SeededGenerator.ofRun(salt: 44)
        let large = frame(1, floats: 1 << 20, &generator)
        let bytes = large.encode().flatMap(\.readableBytesView)
        try await withStation(unix) { station, endpoint in
            let client = try await station.dial(endpoint)
            _ = try await (client.opened(), station.recorder.opened())
            let dying = try await RawPeer(endpoint, on: station.group)
            try await dying.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            try await dying.send(bytes.prefix(bytes.count / 2))
            try await dying.close()
            #expect(try await station.recorder.closed().code == .rankUnavailable)
            let damaged = try await RawPeer(endpoint, on: station.group)
            try await damaged.send(RawPeer.hello)
            _ = try await station.recorder.opened()
            var other = bytes
            other[Int(generator.next() % UInt64(bytes.count - 64)) + 64] ^= 1
            try await damaged.send(other)
            let error = try await station.recorder.closed()
            #expect(error.code == .protocolViolation && error.message.contains("checksum"))
            try await station.on(client) { try $0.send(large) }
            #expect(payload(try await station.recorder.frame()) == payload(large), "seed \(SeededGenerator.seed)")
        }
    }
}
