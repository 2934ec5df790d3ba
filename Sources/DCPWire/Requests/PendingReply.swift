// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import NIOCore

/// The reply to a request with several items: each answer is encoded as it arrives.
package struct PendingReply: Sendable {
    private let type: FrameType
    private var answers: [ByteBuffer?]
    private var missing: Int

    package init<Item: RequestItem>(to request: Many<Item>) {
        type = Item.type.reply
        answers = Array(repeating: nil, count: request.items.count)
        missing = request.items.count
    }

    /// An item is answered once.
    package mutating func answer(_ index: Int, with answer: EncodedAnswer) {
        precondition(answers[index] == nil, "item \(index) has already been answered")
        answers[index] = answer.fields
        missing -= 1
    }

    /// The complete reply, when no answer is missing; a failure if no frame takes it.
    package var message: Message? {
        guard missing == 0 else { return nil }
        // Before they are joined: a thousand answers with a large model each are more than a buffer can have.
        let byteCount = answers.reduce(0) { $0 + $1!.readableBytes }
        let limit = FrameLimits().fieldsByteCountMax
        guard byteCount + 4 <= limit else {
            return .failure(
                ServiceError(
                    .invalidRequest,
                    "The \(answers.count) answers have \(byteCount) bytes, but the limit of a frame is \(limit). What the "
                        + "request asked for was carried out; ask for fewer at once."))
        }
        var writer = WireWriter()
        writer.write(UInt32(answers.count))
        for answer in answers { writer.write(encoded: answer!) }
        return .reply(EncodedBody(type: type, fields: writer.buffer, payload: []))
    }
}

/// The encoded answer to one item.
package struct EncodedAnswer: Sendable {
    fileprivate let fields: ByteBuffer

    package init<Answer: WireFields>(_ result: Result<Answer, ServiceError>) {
        var writer = WireWriter()
        result.encode(to: &writer)
        fields = writer.buffer
    }

    package init(_ error: ServiceError) { self.init(Result<Done, ServiceError>.failure(error)) }
}

/// A bool, and the answer or the error.
extension Result: FrameBody, WireFields where Success: WireFields, Failure == ServiceError {
    package init(from reader: inout WireReader) throws(ServiceError) {
        self =
            try reader.readBool("answered")
            ? .success(try Success(from: &reader)) : .failure(try ServiceError(from: &reader))
    }

    package func encode(to writer: inout WireWriter) {
        switch self {
        case .success(let answer):
            writer.write(true)
            answer.encode(to: &writer)
        case .failure(let error):
            writer.write(false)
            error.encode(to: &writer)
        }
    }
}
