package import DCPCore

/// When sequences with a time to live are to be looked at again, by the second.
///
/// A use does not move a sequence: it is found not to be old when its second comes, and waits for its next one. So each is
/// looked at once in its time to live, however many there are.
package struct AgeQueue: Sendable {
    private var waiting: [Int: Set<SequenceID>] = [:]
    /// In which of these seconds each waits.
    private var seconds: [SequenceID: Int] = [:]
    /// The first that has not been taken.
    private var next = 0

    package init() {}

    /// - Parameter time: one that is over counts as the next second.
    package mutating func put(_ id: SequenceID, at time: Duration) {
        let second = max(time.secondsRoundedUp, next)
        guard seconds[id] != second else { return }
        remove(id)
        seconds[id] = second
        waiting[second, default: []].insert(id)
    }

    package mutating func remove(_ id: SequenceID) {
        guard let second = seconds.removeValue(forKey: id) else { return }
        waiting[second]!.remove(id)
        if waiting[second]!.isEmpty { waiting[second] = nil }
    }

    /// Those whose second has come. They wait no more.
    package mutating func take(now: Duration) -> [SequenceID] {
        var due: [SequenceID] = []
        while next <= now.components.seconds {
            due += waiting.removeValue(forKey: next) ?? []
            next += 1
        }
        for id in due { seconds[id] = nil }
        return due.sorted()
    }
}

extension Duration {
    fileprivate var secondsRoundedUp: Int { Int(components.seconds) + (components.attoseconds > 0 ? 1 : 0) }
}
