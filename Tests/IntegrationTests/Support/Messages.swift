// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire

/// Requests and replies as tests write them.
extension Message {
    static func step(_ request: StepRequest) -> Message { .request(request) }
    static func commit(_ lengths: [SequenceLength]) -> Message { .request(Commit(lengths)) }
    static func cut(_ length: SequenceLength) -> Message { .request(Many([CutUncommitted(length)])) }
    static func item(_ item: some RequestItem) -> Message { .request(Many([item])) }

    /// The reply to a request of this type; nil when the message is something else.
    func reply<R: Request>(to request: R.Type) -> R.Reply? {
        guard case .reply(let body) = self else { return nil }
        return try? body.reply(to: request)
    }

    /// The answer to the only item of a request; nil when it is refused, or the message is something else.
    func answer<Item: RequestItem>(to item: Item.Type) -> Item.Answer? {
        reply(to: Many<Item>.self).flatMap { reply in try? reply.answers.first?.get() }
    }

    /// Why a request, or its only item, was refused; nil when it was not.
    func refusal<Item: RequestItem>(of item: Item.Type) -> ServiceError? {
        switch self {
        case .failure(let error): return error
        case .reply:
            guard case .failure(let error)? = reply(to: Many<Item>.self)?.answers.first else { return nil }
            return error
        default: return nil
        }
    }

    var stepResult: StepResult? { reply(to: StepRequest.self) }
    var isCommitted: Bool { reply(to: Commit.self) != nil }
    var isCut: Bool { answer(to: CutUncommitted.self) != nil }
}
