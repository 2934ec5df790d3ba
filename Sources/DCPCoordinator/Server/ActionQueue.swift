// SPDX-License-Identifier: Apache-2.0

internal import DCPWire

/// The machine's actions in order, as a value.
///
/// Actions after a `persist` wait until it is durable. A `persist` includes all waiting `persist` actions behind it:
/// making a change durable earlier than necessary does no harm, and each sync takes milliseconds, in which others
/// arrive. However many clients send requests at once, two syncs serve all of them. Actions without a promise do not
/// wait, because a rank whose lease is not renewed in time reconnects.
package struct ActionQueue {
    package typealias Action = CoordinatorMachine.Action

    private var prompt: [Action] = []
    private var waiting: [Action] = []
    /// Number of actions taken.
    private var taken = 0
    package private(set) var isPersisting = false

    package init() {}

    package mutating func add(_ actions: [Action]) {
        for action in actions { action.isPromise ? waiting.append(action) : prompt.append(action) }
    }

    /// The next action; nil if there is none, or it must wait. After a `persist`, only actions that need not wait are
    /// returned until it is durable.
    package mutating func next() -> Action? {
        if !prompt.isEmpty { return prompt.removeFirst() }
        guard !isPersisting, taken < waiting.count else {
            compact()
            return nil
        }
        defer { taken += 1 }
        guard case .persist(let changes) = waiting[taken] else { return waiting[taken] }
        isPersisting = true
        return .persist(changes + takeQueuedChanges())
    }

    /// The last `persist` is durable.
    package mutating func persisted() { isPersisting = false }

    private mutating func takeQueuedChanges() -> [StateChange] {
        var changes: [StateChange] = []
        var others: [Action] = []
        for action in waiting[(taken + 1)...] {
            if case .persist(let some) = action { changes += some } else { others.append(action) }
        }
        if !changes.isEmpty { waiting.replaceSubrange((taken + 1)..., with: others) }
        return changes
    }

    private mutating func compact() {
        waiting.removeFirst(taken)
        taken = 0
    }
}

extension CoordinatorMachine.Action {
    fileprivate var isPromise: Bool {
        if case .send(.leaseRenewed, _, _) = self { false } else { true }
    }
}
