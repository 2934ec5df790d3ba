package import DCPCore
package import NIOCore

/// What a client asks of a daemon, which answers it once: with its `Reply`, or with a `ServiceError`.
///
/// A request is declared in one place: its number and name, its fields, and what answers it. The caller gets the reply's type
/// from it, the daemon's `RequestTable` the handler's. The article *Protocol* describes each, byte by byte.
package protocol Request: FrameBody {
    associatedtype Reply: FrameBody
    /// Its number on the wire, which never changes, and its name for messages. The reply's number follows from it.
    static var type: FrameType { get }
    /// What a client has to be allowed to ask for it.
    static var right: ClientRight { get }
}

extension Request {
    /// Where a request says nothing, the most.
    package static var right: ClientRight { .administer }
}

/// A request or a reply whose fields have not been read yet, or are written already: links carry them without knowing what
/// they mean.
public struct EncodedBody: Sendable {
    public let type: FrameType
    package let fields: ByteBuffer
    /// One after the other.
    package let payload: [ByteBuffer]
    /// Of one that is written, so that whoever makes it has the work and not the loop that sends it; nil when it was received.
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

    /// The body, when it is this request. - Throws: `.protocolViolation`, naming the field.
    package func request<R: Request>(as: R.Type = R.self) throws(ServiceError) -> R { try decoded(R.type) }

    /// The body, when it answers this request.
    /// - Throws: `.protocolViolation`, naming the field, or both types.
    package func reply<R: Request>(to: R.Type) throws(ServiceError) -> R.Reply { try decoded(R.type.reply) }

    private func decoded<Body: FrameBody>(_ expected: FrameType) throws(ServiceError) -> Body {
        guard type == expected else {
            throw ServiceError(.protocolViolation, "A \(type) frame came where a \(expected) frame answers.")
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
    /// What answers a request of this type.
    /// - Throws: the refusal, when it is one; `.protocolViolation` when it answers something else.
    package func reply<R: Request>(to request: R.Type) throws(ServiceError) -> R.Reply {
        switch message {
        case .reply(let body): return try body.reply(to: request)
        case .failure(let error): throw error
        default:
            throw ServiceError(
                .protocolViolation, "A \(message.type) frame came where a \(R.type.reply) frame answers.")
        }
    }
}
