// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// In which order sequences were used, which of them since the coordinator was told last, and which had to go.
///
/// After a start the order is that of the last changes, which the store remembers.
struct UseLog {
    /// Maximum number of uses in a renewal; if there are more, the latest.
    static let reportedMax = 1 << 20

    /// Uses since the start. Of several ranks the one with the most knows the order best.
    private(set) var count: UInt64 = 0
    private var lastUses: [SequenceID: UInt64] = [:]
    private var untold: Set<SequenceID> = []
    private var clock: UInt64 = 0
    private var evicted = EvictedSequences()

    /// - Parameter sequences: the least recently changed first.
    init(_ sequences: some Sequence<SequenceID> = []) {
        for sequence in sequences {
            clock += 1
            lastUses[sequence] = clock
        }
    }

    mutating func note(_ sequences: some Sequence<SequenceID>) { for sequence in sequences { note(sequence) } }

    mutating func note(_ sequence: SequenceID) {
        clock += 1
        count += 1
        lastUses[sequence] = clock
        untold.insert(sequence)
    }

    mutating func forget(_ sequence: SequenceID) {
        lastUses[sequence] = nil
        untold.remove(sequence)
    }

    /// The sequence is about to be closed to make room; its next use gets the right error.
    mutating func noteEviction(of sequence: SequenceID) { evicted.insert(sequence) }

    /// Whether a sequence was closed to make room, as far as that is remembered.
    func isEvicted(_ sequence: SequenceID) -> Bool { evicted.contains(sequence) }

    /// The higher, the later; 0 for one that was never used.
    func lastUse(of sequence: SequenceID) -> UInt64 { lastUses[sequence] ?? 0 }

    func isUntold(_ sequence: SequenceID) -> Bool { untold.contains(sequence) }

    /// Returns what was used since the last call, in the order of the last uses.
    mutating func take() -> [SequenceID] {
        defer { untold = [] }
        return untold.map { (lastUse(of: $0), $0) }.sorted { $0.0 < $1.0 }.suffix(Self.reportedMax).map(\.1)
    }
}

/// Sequences that were closed to make room, so that their next use gets the right error. The oldest are dropped.
private struct EvictedSequences {
    static let countMax = 4096

    private var known: Set<SequenceID> = []
    private var order: [SequenceID] = []

    mutating func insert(_ sequence: SequenceID) {
        guard known.insert(sequence).inserted else { return }
        order.append(sequence)
        if order.count > Self.countMax { known.remove(order.removeFirst()) }
    }

    func contains(_ sequence: SequenceID) -> Bool { known.contains(sequence) }
}
