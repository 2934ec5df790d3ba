// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore

/// The first 64 bytes of every frame, little-endian.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `DCP1` |
/// | 4 | 2 | protocol version |
/// | 6 | 2 | frame type |
/// | 8 | 8 | epoch |
/// | 16 | 8 | client: who the step or request belongs to |
/// | 24 | 8 | number: the client's step or request number |
/// | 32 | 4 | layer |
/// | 36 | 2 | sender: a rank's index, `0xFFFF` for a client or the coordinator |
/// | 38 | 2 | attempt: how often the step was sent before |
/// | 40 | 4 | bytes of fields that follow the header |
/// | 44 | 4 | bytes of payload |
/// | 48 | 4 | CRC-32C of what follows the header: the fields, and the payload if it does |
/// | 52 | 4 | 0 when the payload follows the fields; else which payload it is of those in memory that both sides share |
/// | 56 | 4 | at which offset it lies there |
/// | 60 | 4 | CRC-32C of bytes 0..<60 |
///
/// The header has a separate checksum, so that lengths can be trusted before memory is allocated.
public struct FrameHeader: Hashable, Sendable {
    public var type: FrameType
    public var epoch: Epoch
    public var tag: Tag
    /// The rank that sent the frame; nil for a client or the coordinator.
    public var sender: RankIndex?
    package var fieldsByteCount: Int
    package var payloadByteCount: Int
    package var bodyChecksum: UInt32
    /// Of a payload in memory that both sides share; nil where it follows the fields.
    package var memoryPlace: MemoryPlace?

    public static let byteCount = 64
    /// `DCP1`, read as a little-endian integer.
    public static let magic: UInt32 = 0x3150_4344
    /// Raised when a frame changes its meaning; both sides must have the same.
    public static let version: UInt16 = 4
    static let noSender: UInt16 = 0xFFFF
}

/// The key that matches the frames of a step, or a request and its reply. Together with the epoch and the frame type
/// (the phase) it is unique in the cluster: the client's number is random, and the step's number rises.
public struct Tag: Hashable, Sendable, CustomStringConvertible {
    public var client: ClientID
    public var number: UInt64
    public var layer: UInt32
    /// It rises when a client sends a step again, so that late frames of an earlier attempt do not match the new one.
    public var attempt: UInt16

    public init(client: ClientID, number: UInt64, layer: UInt32 = 0, attempt: UInt16 = 0) {
        self.client = client
        self.number = number
        self.layer = layer
        self.attempt = attempt
    }

    /// Whether both are attempts at one step.
    public func isSameStep(as other: Tag) -> Bool {
        client == other.client && number == other.number && layer == other.layer
    }

    public var description: String {
        "\(client) step \(number) layer \(layer)" + (attempt > 0 ? " attempt \(attempt)" : "")
    }
}

/// Limits for a peer's frames. They are checked against the header before anything is allocated.
public struct FrameLimits: Hashable, Sendable {
    public var fieldsByteCountMax: Int
    public var payloadByteCountMax: Int
    /// Whether every frame except hello, welcome and failure is refused without reading it.
    public var isGreeting: Bool

    public init(
        fieldsByteCountMax: Int = 16 << 20, payloadByteCountMax: Int = 256 << 20, isGreeting: Bool = false
    ) {
        self.fieldsByteCountMax = fieldsByteCountMax
        self.payloadByteCountMax = payloadByteCountMax
        self.isGreeting = isGreeting
    }

    /// Before the handshake is complete: a hello, a welcome or a refusal.
    public static let beforeHello = FrameLimits(fieldsByteCountMax: 4096, payloadByteCountMax: 0, isGreeting: true)
}

extension FrameHeader {
    func write(to buffer: inout ByteBuffer) {
        let start = buffer.writerIndex
        buffer.writeInteger(Self.magic, endianness: .little)
        buffer.writeInteger(Self.version, endianness: .little)
        buffer.writeInteger(type.rawValue, endianness: .little)
        buffer.writeInteger(epoch.value, endianness: .little)
        buffer.writeInteger(tag.client.value, endianness: .little)
        buffer.writeInteger(tag.number, endianness: .little)
        buffer.writeInteger(tag.layer, endianness: .little)
        buffer.writeInteger(sender?.value ?? Self.noSender, endianness: .little)
        buffer.writeInteger(tag.attempt, endianness: .little)
        buffer.writeInteger(UInt32(fieldsByteCount), endianness: .little)
        buffer.writeInteger(UInt32(payloadByteCount), endianness: .little)
        buffer.writeInteger(bodyChecksum, endianness: .little)
        buffer.writeInteger(memoryPlace?.number ?? 0, endianness: .little)
        buffer.writeInteger(memoryPlace?.offset ?? 0, endianness: .little)
        let checksum = buffer.viewBytes(at: start, length: 60)!.withUnsafeBytes { CRC32C.checksum($0) }
        buffer.writeInteger(checksum, endianness: .little)
    }

    /// Reads and checks a header at the reader index, without moving it; nil while there are fewer than 64 bytes.
    ///
    /// A peer with another protocol is detected after 4 bytes, so that a port scanner does not hold a connection open.
    static func peek(
        _ buffer: ByteBuffer, limits: FrameLimits
    ) throws(ServiceError) -> FrameHeader? {
        let start = buffer.readerIndex
        func integer<Value: FixedWidthInteger>(_ offset: Int, as: Value.Type = Value.self) -> Value {
            buffer.getInteger(at: start + offset, endianness: .little)!
        }
        guard buffer.readableBytes >= 4 else { return nil }
        let magic: UInt32 = integer(0)
        guard magic == Self.magic else { throw stranger(buffer) }
        guard buffer.readableBytes >= byteCount else { return nil }
        let expected: UInt32 = integer(60)
        let computed = buffer.viewBytes(at: start, length: 60)!.withUnsafeBytes { CRC32C.checksum($0) }
        guard expected == computed else {
            throw ServiceError(
                .protocolViolation,
                "A frame header has checksum \(hex(computed)), but states \(hex(expected)): the bytes were "
                    + "damaged in transit or are not a frame. Reconnect.")
        }
        // The version is compared only after the header's checksum passes, although 6 bytes would be enough: a damaged
        // version must not be taken for another release. The position and scope of the checksum are the same in all
        // versions.
        let version: UInt16 = integer(4)
        guard version == Self.version else {
            throw ServiceError(
                .incompatible,
                "The peer speaks protocol version \(version), but this program speaks version \(Self.version); install "
                    + "the same release on both sides.")
        }
        let rawType: UInt16 = integer(6)
        guard let type = FrameType(rawValue: rawType) else {
            throw ServiceError(
                .protocolViolation,
                "Frame type \(rawType) is unknown to protocol version \(Self.version); install the same release on "
                    + "both sides.")
        }
        guard !limits.isGreeting || type.isGreeting else {
            throw ServiceError(
                .protocolViolation, "A \(type) frame came before the hello; the peer has a bug.")
        }
        let fields = Int(integer(40, as: UInt32.self))
        let payload = Int(integer(44, as: UInt32.self))
        let sender: UInt16 = integer(36)
        let number: UInt32 = integer(52)
        return FrameHeader(
            type: type, epoch: Epoch(integer(8)),
            tag: Tag(client: ClientID(integer(16)), number: integer(24), layer: integer(32), attempt: integer(38)),
            sender: sender == noSender ? nil : RankIndex(sender), fieldsByteCount: fields,
            payloadByteCount: payload, bodyChecksum: integer(48),
            memoryPlace: number == 0 ? nil : MemoryPlace(number: number, offset: integer(56)))
    }

    /// Bytes that follow the header.
    var bodyByteCount: Int { fieldsByteCount + (memoryPlace == nil ? payloadByteCount : 0) }

    /// Before anything is allocated for the frame.
    func checkByteCounts(_ limits: FrameLimits) throws(ServiceError) {
        for (name, count, limit) in [
            ("fields", fieldsByteCount, limits.fieldsByteCountMax),
            ("payload", payloadByteCount, limits.payloadByteCountMax),
        ] where count > limit {
            throw ServiceError(
                .protocolViolation,
                "A \(type) frame announces \(count) bytes of \(name), but the limit is \(limit); send fewer tokens in "
                    + "one step (dcpctl submit --chunk).")
        }
    }

    /// Guesses the protocol of a peer that does not use this one.
    private static func stranger(_ buffer: ByteBuffer) -> ServiceError {
        let first = buffer.getBytes(at: buffer.readerIndex, length: 4) ?? []
        let guess: String
        switch String(decoding: first, as: UTF8.self) {
        case "GET ", "POST", "HEAD", "PUT ", "OPTI", "PRI ", "HTTP": guess = "the peer speaks HTTP"
        default:
            // A handshake record, or an alert from a port that accepts only TLS.
            let isTLS = first.starts(with: [0x16, 0x03]) || first.starts(with: [0x15, 0x03])
            guess = isTLS ? "the peer speaks TLS" : "the peer speaks something else"
        }
        let bytes = first.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
        return ServiceError(
            .protocolViolation,
            "The connection begins with \(bytes), not with a frame of the DCP protocol (44 43 50 31): \(guess). "
                + "Use dcpctl or DCPClient.")
    }
}

func hex(_ value: UInt32) -> String { "0x" + String(value, radix: 16) }
