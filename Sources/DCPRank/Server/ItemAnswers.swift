// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The answers to the items of one request, which arrive one by one and are returned together. Confined to one loop.
final class ItemAnswers<Answer> {
    private var answers: [Result<Answer, ServiceError>?]
    private var missing: Int
    private let done: ([Result<Answer, ServiceError>]) -> Void

    init(count: Int, done: @escaping ([Result<Answer, ServiceError>]) -> Void) {
        answers = Array(repeating: nil, count: count)
        missing = count
        self.done = done
    }

    /// Set once.
    subscript(index: Int) -> Result<Answer, ServiceError>? {
        get { answers[index] }
        set {
            precondition(answers[index] == nil && newValue != nil, "an item is answered exactly once")
            answers[index] = newValue
            missing -= 1
            if missing == 0 { done(answers.map { $0! }) }
        }
    }
}
