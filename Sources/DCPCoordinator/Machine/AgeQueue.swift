// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The times at which sequences with a time to live are checked, in seconds.
///
/// A use does not move a sequence: it is found not to be old at its check, and is scheduled again. Each sequence is
/// therefore checked once per time to live, however many there are.
package struct AgeQueue: Sendable {
    private var waiting: [Int: Set<SequenceID>] = [:]
    /// The second for which each is scheduled.
    private var seconds: [SequenceID: Int] = [:]
    /// The first second not taken yet.
    private var next = 0

    package init() {}

    /// - Parameter time: a past time counts as the next second.
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

    /// Removes and returns those whose second has come.
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
