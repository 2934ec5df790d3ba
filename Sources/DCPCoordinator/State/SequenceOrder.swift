// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The ids of a directory's sequences, in order.
///
/// Each bucket covers a range of ids, so that adding or removing one of a million moves only a few kilobytes. Ids rise,
/// so nearly all are added at the end. Two orders with the same ids are equal.
package struct SequenceOrder: Hashable, Sendable {
    private static let bucketBits: UInt64 = 12

    /// Rising; the ids of `buckets[i]` begin with `numbers[i]`.
    private var numbers: [UInt64] = []
    /// Rising, and never empty.
    private var buckets: [[SequenceID]] = []

    package init() {}

    package mutating func insert(_ id: SequenceID) {
        let number = id.value >> Self.bucketBits
        let bucket = numbers.sortedCount { $0 < number }
        if bucket == numbers.count || numbers[bucket] != number {
            numbers.insert(number, at: bucket)
            buckets.insert([], at: bucket)
        }
        let place = buckets[bucket].sortedCount { $0 < id }
        guard place == buckets[bucket].count || buckets[bucket][place] != id else { return }
        buckets[bucket].insert(id, at: place)
    }

    package mutating func remove(_ id: SequenceID) {
        let number = id.value >> Self.bucketBits
        let bucket = numbers.sortedCount { $0 < number }
        guard bucket < numbers.count, numbers[bucket] == number else { return }
        let place = buckets[bucket].sortedCount { $0 < id }
        guard place < buckets[bucket].count, buckets[bucket][place] == id else { return }
        buckets[bucket].remove(at: place)
        guard buckets[bucket].isEmpty else { return }
        numbers.remove(at: bucket)
        buckets.remove(at: bucket)
    }

    /// Up to `count` ids above one, rising.
    package func ids(after id: SequenceID, count: Int) -> [SequenceID] {
        var found: [SequenceID] = []
        found.reserveCapacity(Swift.min(count, 1 << Int(Self.bucketBits)))
        for bucket in buckets[numbers.sortedCount { $0 < id.value >> Self.bucketBits }...] {
            found += bucket[bucket.sortedCount { $0 <= id }...].prefix(count - found.count)
            if found.count == count { break }
        }
        return found
    }
}

extension SequenceOrder: Sequence {
    package func makeIterator() -> FlattenSequence<[[SequenceID]]>.Iterator { buckets.joined().makeIterator() }
}
