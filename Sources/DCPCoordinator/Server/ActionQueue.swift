internal import DCPWire

/// What the machine wants done, in its order, as a value.
///
/// What stands behind a `persist` waits until that is durable. A `persist` takes along all that wait behind it: what is durable
/// earlier than it has to be harms nobody, and each sync costs milliseconds, in which others come. So however many clients ask
/// at once, two syncs answer all of them. What promises nothing waits for none: a rank whose lease is not renewed in time
/// dials anew.
package struct ActionQueue {
    package typealias Action = CoordinatorMachine.Action

    private var prompt: [Action] = []
    private var waiting: [Action] = []
    /// So many of these were taken.
    private var taken = 0
    package private(set) var isPersisting = false

    package init() {}

    package mutating func add(_ actions: [Action]) {
        for action in actions { action.isPromise ? waiting.append(action) : prompt.append(action) }
    }

    /// What is to be done now; nil when there is nothing, or it waits. After a `persist` only what waits for nothing comes,
    /// until it is durable.
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
