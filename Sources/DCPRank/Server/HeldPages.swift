// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPWire

/// The sequences in a rank's store as it tells the coordinator of them in a join, as a value: a page at a time.
///
/// The next page goes when the coordinator has taken the one before. With all of them on their way, renewals of the lease
/// would be behind a million sequences of each rank, and leases would end on both sides.
struct HeldPages: Sendable {
    private var rest: ArraySlice<HeldSequences.Element>
    private let pageCount: Int
    /// Of the page that was given last, counted from 1.
    private var number: UInt64 = 0

    /// Of a million sequences this takes seconds.
    /// - Parameter pageCount: sequences of a page.
    init(of cache: ShardCache, _ uses: UseLog, pageCount: Int) {
        // The least recently used first.
        let held = cache.heldSequences.map { (lastUse: uses.lastUse(of: $0.id), $0) }
            .sorted { ($0.lastUse, $0.1.id) < ($1.lastUse, $1.1.id) }
        rest =
            held.map { _, held in
                HeldSequences.Element(
                    sequence: held.id, model: held.model, committedLength: held.committedLength.value,
                    intactLength: held.intactLength.value, retention: held.retention)
            }[...]
        self.pageCount = pageCount
    }

    /// - Parameter taken: the number of the page that the coordinator has taken; 0 for the first page.
    /// - Returns: nil after the last page, and when another page is on its way.
    mutating func next(after taken: UInt64) -> (page: HeldSequences, number: UInt64)? {
        guard taken == number, number == 0 || !rest.isEmpty else { return nil }
        let page = rest.prefix(pageCount)
        rest = rest.dropFirst(pageCount)
        number += 1
        return (HeldSequences(Array(page), isLast: rest.isEmpty), number)
    }
}
