// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// One thing that a client asks the directory for, of whichever kind.
struct AnyItem: CustomStringConvertible {
    let message: Message
    let description: String
    private let read: (Frame) -> Result<Answer, ServiceError>

    init<Item: RequestItem>(_ item: Item) {
        message = .request(Many([item]))
        description = "\(item)"
        read = { frame in
            Result { () throws(ServiceError) in
                guard let answer = try frame.reply(to: Many<Item>.self).answers.first else {
                    throw ServiceError(.protocolViolation, "An item was not answered.")
                }
                return Answer(value: try answer.get())
            }
        }
    }

    func answer(in frame: Frame) -> Result<Answer, ServiceError> { read(frame) }

    struct Answer {
        fileprivate let value: any Sendable

        /// What answers this kind of item: it is of the kind that was asked for.
        func answer<Item: RequestItem>(to: Item.Type) -> Item.Answer { value as! Item.Answer }
    }
}
