internal import DCPCore

/// Which sequences were used since the coordinator was told last, in the order of their last use.
struct UseLog {
    /// A renewal tells of no more than so many; of more it tells the latest.
    static let reportedMax = 1 << 20

    private var uses: [SequenceID: UInt64] = [:]
    private var clock: UInt64 = 0

    mutating func note(_ sequences: some Sequence<SequenceID>) {
        for sequence in sequences {
            clock += 1
            uses[sequence] = clock
        }
    }

    /// Returns what was noted and forgets it.
    mutating func take() -> [SequenceID] {
        defer { uses = [:] }
        return uses.sorted { $0.value < $1.value }.suffix(Self.reportedMax).map(\.key)
    }
}

/// Sequences that were closed to make room, so that their next use is told what became of them. The oldest are forgotten.
struct EvictedSequences {
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
