// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore
import Testing

@Suite("Frames whose payload lies in shared memory")
struct MemoryPlaceTests {
    /// What was asked for, and what lies there.
    private final class Memory: PayloadMemory {
        private let payload: ByteBuffer
        private(set) var taken: [(byteCount: Int, place: MemoryPlace)] = []

        init(_ payload: ByteBuffer) { self.payload = payload }

        func take(_ byteCount: Int, at place: MemoryPlace) throws(ServiceError) -> ByteBuffer {
            taken.append((byteCount, place))
            return payload
        }
    }

    private static let place = MemoryPlace(number: 7, offset: 4096)

    private static let frame: Frame = {
        let queries = ByteBuffer(bytes: (0..<256).map { UInt8($0) })
        let slice = QuerySlice(tokens: 2, heads: 2, keyDim: 16, dataType: .float32, queries: queries)
        return Frame(epoch: Epoch(3), tag: Tag(client: ClientID(1), number: 2), message: .query(slice))
    }()

    private static var bytes: [UInt8] { frame.encode(frame.body, inMemory: place).flatMap(\.readableBytesView) }

    @Test("the frame has the place and not the payload, which is taken once")
    func place() throws {
        let bytes = Self.bytes
        #expect(bytes.count == FrameHeader.byteCount + 9)
        #expect(bytes[44..<48] == [0, 1, 0, 0] && bytes[52..<60] == [7, 0, 0, 0, 0, 16, 0, 0])
        guard case .query(let sent) = Self.frame.message else { preconditionFailure("it is a query") }
        let memory = Memory(sent.queries)
        var decoder = FrameDecoder(limits: FrameLimits())
        var buffer = ByteBuffer(bytes: bytes)
        guard case .query(let slice)? = try decoder.next(from: &buffer, memory: memory)?.message else {
            Issue.record("no query came")
            return
        }
        #expect(slice == sent && buffer.readableBytes == 0)
        #expect(memory.taken.map(\.byteCount) == [256] && memory.taken.map(\.place) == [Self.place])
    }

    @Test("where there is no memory the frame breaks the protocol")
    func without() {
        #expect(refusal(Self.bytes)?.code == .protocolViolation)
    }

    @Test("a payload over the limit is refused by the header, before it is taken")
    func overLimit() {
        let memory = Memory(ByteBuffer())
        var decoder = FrameDecoder(limits: FrameLimits(payloadByteCountMax: 255))
        var buffer = ByteBuffer(bytes: Self.bytes)
        let error = #expect(throws: ServiceError.self) { try decoder.next(from: &buffer, memory: memory) }
        #expect(error?.code == .protocolViolation && memory.taken.isEmpty)
    }

    @Test("a payload of another length than its fields say is refused")
    func otherLength() {
        let memory = Memory(ByteBuffer(repeating: 0, count: 252))
        var decoder = FrameDecoder(limits: FrameLimits())
        var buffer = ByteBuffer(bytes: Self.bytes)
        #expect(throws: ServiceError.self) { try decoder.next(from: &buffer, memory: memory) }
    }
}
