package import DCPCore
package import NIOCore

/// Which contexts were attended over a moment ago, as a value: their pages are in memory, so that nobody waits for a disk
/// who reads them again.
///
/// A hint: where it is wrong, under great want of memory, a page fault is taken on the event loop.
package struct RecentContexts {
    private struct Key: Hashable {
        let sequence: SequenceID
        let layer: Int
    }

    /// The first position that was read, and when.
    private var reads: [Key: (first: Int, at: NIODeadline)] = [:]

    /// As long as the slowest engine takes for a token.
    package static let lifetime = TimeAmount.seconds(10)
    package static let countMax = 1 << 16

    package init() {}

    /// A layer of a sequence was read from a position to its end.
    package mutating func note(_ sequence: SequenceID, layer: Int, from first: Int, at now: NIODeadline) {
        if reads.count >= Self.countMax { reads = [:] }
        reads[Key(sequence: sequence, layer: layer)] = (first, now)
    }

    /// Whether all from a position on was read. What has been appended since is in memory in any case.
    package func holds(_ sequence: SequenceID, layer: Int, from first: Int, at now: NIODeadline) -> Bool {
        guard let read = reads[Key(sequence: sequence, layer: layer)] else { return false }
        return read.first <= first && now - read.at <= Self.lifetime
    }

    package mutating func expire(at now: NIODeadline) {
        reads = reads.filter { now - $0.value.at <= Self.lifetime }
    }
}
