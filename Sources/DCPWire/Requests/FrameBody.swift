// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import NIOCore

/// The body of a frame: fields, and tensors in some kinds of frame.
package protocol FrameBody: Sendable {
    /// - Throws: `.protocolViolation` with the field.
    init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError)

    /// Writes the fields.
    /// - Returns: the tensors, which follow them one after the other, uncopied.
    func encodeBody(to writer: inout WireWriter) -> [ByteBuffer]

    /// Bytes of the tensors.
    var payloadByteCount: Int { get }
}

/// Consecutive fields: a body without tensors, or a part of one.
package protocol WireFields: FrameBody {
    init(from reader: inout WireReader) throws(ServiceError)
    func encode(to writer: inout WireWriter)
}

extension WireFields {
    package init(from reader: inout WireReader, payload: ByteBuffer) throws(ServiceError) {
        guard payload.readableBytes == 0 else {
            throw reader.malformed("has \(payload.readableBytes) bytes of payload, but takes none")
        }
        try self.init(from: &reader)
    }

    package func encodeBody(to writer: inout WireWriter) -> [ByteBuffer] {
        encode(to: &writer)
        return []
    }

    package var payloadByteCount: Int { 0 }
}

/// No fields: the frame's type is the whole message.
package struct Done: WireFields, Hashable {
    package init() {}
    package init(from reader: inout WireReader) throws(ServiceError) {}
    package func encode(to writer: inout WireWriter) {}
}

extension SequenceID: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) { self.init(try reader.read("sequence")) }
    package func encode(to writer: inout WireWriter) { writer.write(value) }
}

extension Claim: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) { self.init(try reader.read("claim")) }
    package func encode(to writer: inout WireWriter) { writer.write(value) }
}

/// A 32-bit count, then each element.
extension Array: FrameBody, WireFields where Element: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        // No part of a frame is empty; an element's minimum size is checked while reading it.
        self = try reader.readArray("elements", byteCountMin: 1) { r throws(ServiceError) in try Element(from: &r) }
    }

    package func encode(to writer: inout WireWriter) { writer.write(self) { $1.encode(to: &$0) } }
}
