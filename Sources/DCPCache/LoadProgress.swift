// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// How far the loading of a store is. Read from any thread while another loads.
public final class LoadProgress: Sendable {
    private let pages = Atomic<Int>(0)
    private let blocks = Atomic<Int>(0)
    private let sequences = Atomic<Int>(0)
    private let ids = Atomic<Int>(0)
    private let batches = Atomic<Int>(0)

    public init() {}

    /// The sum of all work done so far: it rises while loading makes progress.
    public var steps: Int { count(pages) + count(blocks) + count(sequences) + count(ids) + count(batches) }

    /// For the line of `systemctl status`.
    public var description: String {
        let loaded = "\(count(pages)) pages checked, \(count(blocks)) blocks and \(count(sequences)) sequences indexed"
        return count(batches) == 0 ? loaded : loaded + ", \(count(batches)) batches verified after a failed sync"
    }

    private func count(_ part: borrowing Atomic<Int>) -> Int { part.load(ordering: .relaxed) }

    /// A page of a tree has been checked.
    func checkedPage() { pages.add(1, ordering: .relaxed) }
    func indexedBlock() { blocks.add(1, ordering: .relaxed) }
    func indexedSequence() { sequences.add(1, ordering: .relaxed) }
    /// A sequence can be found by its token ids.
    func indexedIDs() { ids.add(1, ordering: .relaxed) }
    /// Some megabytes of a store in which a sync had failed.
    func verifiedBatch() { batches.add(1, ordering: .relaxed) }
}
