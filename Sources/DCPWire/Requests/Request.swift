// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import NIOCore

/// A client's request, which a daemon answers once, with its `Reply` or with a `ServiceError`.
///
/// The declaration of a request has its number and name, its fields and its reply. It gives the caller the reply's
/// type, and the daemon's `RequestTable` the handler's. The article *Protocol* describes each, byte by byte.
package protocol Request: FrameBody {
    associatedtype Reply: FrameBody
    /// Its number on the wire, which never changes, and its name for messages. The reply's number follows from it.
    static var type: FrameType { get }
    /// The right that the request requires.
    static var right: ClientRight { get }
}

extension Request {
    /// The default is the highest right.
    package static var right: ClientRight { .administer }
}

/// A request or a reply that is not decoded yet, or already encoded: links carry it without interpreting it.
public struct EncodedBody: Sendable {
    public let type: FrameType
    package let fields: ByteBuffer
    /// One after the other.
    package let payload: [ByteBuffer]
    /// The checksum of an encoded one, computed by its creator instead of the loop that sends it; nil for a received
    /// one.
    let checksum: UInt32?

    /// - Parameter checksum: of one that is written.
    init(type: FrameType, fields: ByteBuffer, payload: [ByteBuffer], checksum: UInt32? = nil) {
        self.type = type
        self.fields = fields
        self.payload = payload
        self.checksum = checksum
    }

    private init(_ type: FrameType, _ body: some FrameBody) {
        var writer = WireWriter()
        payload = body.encodeBody(to: &writer)
        fields = writer.buffer
        checksum = CRC32C.checksum(fields, payload)
        self.type = type
    }

    package init<R: Request>(request: R) { self.init(R.type, request) }
    package init<R: Request>(reply: R.Reply, to: R.Type) { self.init(R.type.reply, reply) }

    /// The body, if it is this request.
    /// - Throws: `.protocolViolation` with the field.
    package func request<R: Request>(as: R.Type = R.self) throws(ServiceError) -> R { try decoded(R.type) }

    /// The body, if it answers this request.
    /// - Throws: `.protocolViolation` with the field, or with both types.
    package func reply<R: Request>(to: R.Type) throws(ServiceError) -> R.Reply { try decoded(R.type.reply) }

    private func decoded<Body: FrameBody>(_ expected: FrameType) throws(ServiceError) -> Body {
        guard type == expected else {
            throw ServiceError(
                .protocolViolation,
                "A \(expected) frame was expected as the answer, but a \(type) frame came.")
        }
        var reader = WireReader(fields, of: expected)
        let body = try Body(from: &reader, payload: payload.joined)
        try reader.finish()
        return body
    }
}

extension Message {
    /// A request as it is sent.
    package static func request(_ request: some Request) -> Message { .request(EncodedBody(request: request)) }

    /// What answers a request.
    package static func reply<R: Request>(_ reply: R.Reply, to request: R.Type) -> Message {
        .reply(EncodedBody(reply: reply, to: request))
    }
}

extension Frame {
    /// The reply to a request of this type.
    /// - Throws: the error in the reply, or `.protocolViolation` if it answers another request.
    package func reply<R: Request>(to request: R.Type) throws(ServiceError) -> R.Reply {
        switch message {
        case .reply(let body): return try body.reply(to: request)
        case .failure(let error): throw error
        default:
            throw ServiceError(
                .protocolViolation,
                "A \(R.type.reply) frame was expected as the answer, but a \(message.type) frame came.")
        }
    }
}
