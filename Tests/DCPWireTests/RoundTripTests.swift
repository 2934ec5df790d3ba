// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPWire
import NIOCore
import Testing

@Suite("Frames: round trips and the stream")
struct RoundTripTests {
    @Test("there is a sample of every frame type")
    func samplesAreComplete() throws {
        let sampled = Set(try Samples.messages().map(\.type))
        #expect(Catalog.types.filter { !sampled.contains($0) } == [])
    }

    @Test("every message comes back with every field, and so does the envelope")
    func everyMessage() throws {
        for message in try Samples.messages() {
            let frame = Samples.frame(message)
            let back = try #require(try decode(encoded(frame)))
            #expect(try Catalog.text(of: back) == Catalog.text(of: frame), "\(message.type)")
            #expect(encoded(try Catalog.rewritten(back)) == encoded(frame), "\(message.type)")
        }
    }

    @Test("the bytes are those an independent writer makes of the documented offsets")
    func documentedOffsets() throws {
        for message in try Samples.messages() {
            #expect(RawFrame(message).bytes == encoded(Samples.frame(message)), "\(message.type)")
        }
    }

    @Test("golden bytes of one frame: magic, version, type, epoch, tag, sender, lengths, checksums, fields")
    func golden() throws {
        let frame = Frame(
            epoch: Epoch(0x1122_3344_5566_7788),
            tag: Tag(client: ClientID(0xa1a2_a3a4_a5a6_a7a8), number: 0xb1b2_b3b4_b5b6_b7b8, layer: 0xc1c2_c3c4),
            sender: RankIndex(5), message: .request(GetTopology(waitMilliseconds: 0x0102_0304)))
        #expect(encoded(frame) == goldenBytes)
        let back = try #require(try decode(goldenBytes))
        #expect(try Catalog.text(of: back) == Catalog.text(of: frame))
    }

    @Test("a sender of 0xFFFF is no rank")
    func noSender() throws {
        var raw = RawFrame(.linksReady)
        raw.sender = 0xFFFF
        #expect(try decode(raw.bytes)?.sender == nil)
        var frame = Samples.frame(.linksReady)
        frame.sender = nil
        #expect(encoded(frame) == raw.bytes)
    }

    @Test("cut off at every byte, a frame is not there yet and nothing is taken off the buffer")
    func truncated() throws {
        for message in try Samples.messages() {
            let bytes = encoded(Samples.frame(message))
            for count in 0..<bytes.count {
                var decoder = FrameDecoder(limits: FrameLimits())
                var buffer = ByteBuffer(bytes: bytes[..<count])
                #expect(try decoder.next(from: &buffer) == nil, "\(message.type), \(count) bytes")
                #expect(buffer.readableBytes == count)
                #expect(decoder.frameByteCount == (count >= 64 ? bytes.count : nil))
            }
        }
    }

    @Test("a stream decodes alike byte by byte, all at once and in random pieces")
    func pieces() throws {
        let frames = try Samples.messages().map { Samples.frame($0) }
        let stream = frames.flatMap { encoded($0) }
        let expected = try frames.map { try Catalog.text(of: $0) }
        var generator = SeededGenerator.ofRun(salt: 1)
        let cuts: [[Int]] =
            [Array(repeating: 1, count: stream.count), [stream.count]]
            + (0..<20).map { _ in (0..<stream.count).map { _ in Int.random(in: 1...200, using: &generator) } }
        for cut in cuts {
            var decoder = FrameDecoder(limits: FrameLimits())
            var buffer = ByteBuffer()
            var found: [String] = []
            var start = 0
            for count in cut where start < stream.count {
                let end = min(start + count, stream.count)
                buffer.writeBytes(stream[start..<end])
                start = end
                while let frame = try decoder.next(from: &buffer) { found.append(try Catalog.text(of: frame)) }
            }
            #expect(found == expected)
            #expect(buffer.readableBytes == 0)
        }
    }

    @Test("a text over 65,535 bytes is cut at a character, and the frame still decodes")
    func longText() throws {
        let text = String(repeating: "ü", count: 40_000)
        let frame = try #require(try decode(encoded(Samples.frame(.failure(ServiceError(.internal, text))))))
        guard case .failure(let error) = frame.message else {
            Issue.record("decoded as \(frame.message.type)")
            return
        }
        #expect(error.message.hasSuffix("…") && error.message.utf8.count <= 65_535)
        #expect(text.hasPrefix(error.message.dropLast()))
    }

    /// Made with Python's `struct` and a bitwise CRC-32C.
    private let goldenBytes: [UInt8] = [
        0x44, 0x43, 0x50, 0x31, 0x04, 0x00, 0x00, 0x01, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0xa8, 0xa7, 0xa6, 0xa5, 0xa4, 0xa3, 0xa2, 0xa1, 0xb8, 0xb7, 0xb6, 0xb5, 0xb4, 0xb3, 0xb2, 0xb1,
        0xc4, 0xc3, 0xc2, 0xc1, 0x05, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0xaa, 0x09, 0x45, 0x0c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x11, 0xe4, 0x92, 0x56,
        0x04, 0x03, 0x02, 0x01,
    ]
}
