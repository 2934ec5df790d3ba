// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore

/// A frame in parts, written from the documented offsets and not by the code under test.
struct RawFrame {
    var magic: [UInt8] = [0x44, 0x43, 0x50, 0x31]
    var version: UInt16 = 4
    var type: UInt16
    var epoch: UInt64 = 6
    var client: UInt64 = 0xABCD
    var number: UInt64 = 17
    var layer: UInt32 = 2
    var sender: UInt16 = 1
    var fields: [UInt8]
    var payload: [UInt8]
    /// What the header says, when that is not the truth.
    var fieldsByteCount: UInt32?
    var payloadByteCount: UInt32?

    init(type: FrameType, fields: [UInt8], payload: [UInt8] = []) {
        self.type = type.rawValue
        self.fields = fields
        self.payload = payload
    }

    /// Takes a message apart.
    init(_ message: Message) {
        let all = encoded(Samples.frame(message))
        let count = all[40..<44].reversed().reduce(0) { $0 << 8 | Int($1) }
        self.init(type: message.type, fields: Array(all[64..<64 + count]), payload: Array(all[(64 + count)...]))
    }

    var bytes: [UInt8] {
        var header = magic
        func append<Value: FixedWidthInteger>(_ value: Value) {
            withUnsafeBytes(of: value.littleEndian) { header.append(contentsOf: $0) }
        }
        append(version)
        append(type)
        append(epoch)
        append(client)
        append(number)
        append(layer)
        append(sender)
        append(UInt16(0))
        append(fieldsByteCount ?? UInt32(fields.count))
        append(payloadByteCount ?? UInt32(payload.count))
        append((fields + payload).withUnsafeBytes { CRC32C.checksum($0) })
        append(UInt64(0))
        append(header.withUnsafeBytes { CRC32C.checksum($0) })
        return header + fields + payload
    }
}

func encoded(_ frame: Frame) -> [UInt8] {
    frame.encode().flatMap(\.readableBytesView)
}

/// Decodes the first frame of some bytes; nil when it is not whole.
func decode(_ bytes: [UInt8], limits: FrameLimits = FrameLimits()) throws(ServiceError) -> Frame? {
    var decoder = FrameDecoder(limits: limits)
    var buffer = ByteBuffer(bytes: bytes)
    return try decoder.next(from: &buffer)
}

/// The refusal of some bytes, or of the body in them; nil when they were taken or are not a whole frame yet.
func refusal(_ bytes: [UInt8], limits: FrameLimits = FrameLimits()) -> ServiceError? {
    do throws(ServiceError) {
        if let frame = try decode(bytes, limits: limits) { _ = try Catalog.contents(of: frame) }
        return nil
    } catch {
        return error
    }
}
