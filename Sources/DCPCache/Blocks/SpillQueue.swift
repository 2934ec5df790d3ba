// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Sequences that may have full blocks in RAM, and who waits for the writer to take some to the store.
struct SpillQueue: Sendable {
    /// In the order in which they got the first of these blocks; with some that are no members any more.
    private var order: [SequenceID] = []
    private var members: Set<SequenceID> = []
    /// A batch is on its way.
    private(set) var isRunning = false
    /// Run when the batch has ended, each once.
    private var waiters: [@Sendable (ServiceError?) -> Void] = []
    /// Why the last batch failed, and the store then; nil when it did not.
    private(set) var failure: (error: ServiceError, room: RoomState)?

    mutating func note(_ id: SequenceID) {
        if members.insert(id).inserted { order.append(id) }
    }

    mutating func forget(_ id: SequenceID) {
        guard members.remove(id) != nil, order.count > 2 * members.count + 64 else { return }
        order.removeAll { !members.contains($0) }
    }

    /// Takes the first out; who finds that it has more than was wanted puts it back.
    mutating func takeFirst() -> SequenceID? {
        while let first = order.first {
            order.removeFirst()
            if members.remove(first) != nil { return first }
        }
        return nil
    }

    mutating func putBack(_ ids: [SequenceID]) {
        let new = ids.filter { members.insert($0).inserted }
        order.insert(contentsOf: new, at: 0)
    }

    /// - Parameter room: by now. After a failure another attempt needs another.
    /// - Returns: whether the caller is to start a batch.
    mutating func begin(_ room: RoomState) -> Bool {
        guard !isRunning, !members.isEmpty, failure?.room != room else { return false }
        isRunning = true
        return true
    }

    /// - Returns: false when no batch is on its way.
    mutating func wait(_ body: @escaping @Sendable (ServiceError?) -> Void) -> Bool {
        if isRunning { waiters.append(body) }
        return isRunning
    }

    /// A batch has ended.
    /// - Parameter isEnough: whether none is to follow.
    /// - Returns: whom to tell.
    mutating func end(
        _ error: ServiceError?, _ room: RoomState, isEnough: Bool
    ) -> [@Sendable (ServiceError?) -> Void] {
        defer { waiters = [] }
        failure = error.map { ($0, room) }
        isRunning = error == nil && !isEnough && !members.isEmpty
        return waiters
    }

    /// The process is as good as dead: who waits is not told, and let go of.
    mutating func abandon() -> [@Sendable (ServiceError?) -> Void] {
        defer { waiters = [] }
        return waiters
    }

    /// The disk may take what it has refused.
    mutating func retry() { failure = nil }
}
