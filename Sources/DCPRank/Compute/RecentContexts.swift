// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import NIOCore

/// The contexts read recently, as a value: their pages are in memory, so that reading them again does not wait for a
/// disk.
///
/// It is only a hint: if it is wrong, under memory pressure, a page fault happens on the event loop.
package struct RecentContexts {
    private struct Key: Hashable {
        let sequence: SequenceID
        let layer: Int
    }

    /// The first position that was read, and when.
    private typealias Reads = [Key: (first: Int, at: NIODeadline)]

    /// Since `start`, and those before it. Let go of as a whole: looking at each took the event loop milliseconds a second.
    private var recent: Reads = [:]
    private var former: Reads = [:]
    private var start: NIODeadline?

    /// As long as the slowest engine takes for a token.
    package static let lifetime = TimeAmount.seconds(10)
    package static let countMax = 1 << 16

    package init() {}

    /// How many are remembered, some of them twice.
    package var count: Int { recent.count + former.count }

    /// A layer of a sequence was read from a position to its end.
    package mutating func note(_ sequence: SequenceID, layer: Int, from first: Int, at now: NIODeadline) {
        if recent.count >= Self.countMax / 2 { turnOver(at: now) }
        recent[Key(sequence: sequence, layer: layer)] = (first, now)
    }

    /// Whether everything from a position on was read. Tokens appended since are in memory in any case.
    package func holds(_ sequence: SequenceID, layer: Int, from first: Int, at now: NIODeadline) -> Bool {
        let key = Key(sequence: sequence, layer: layer)
        guard let read = recent[key] ?? former[key] else { return false }
        return read.first <= first && now - read.at <= Self.lifetime
    }

    /// Called every second or so.
    package mutating func expire(at now: NIODeadline) {
        if now - (start ?? now) >= Self.lifetime { turnOver(at: now) }
        start = start ?? now
    }

    private mutating func turnOver(at now: NIODeadline) {
        (former, recent, start) = (recent, [:], now)
    }
}
