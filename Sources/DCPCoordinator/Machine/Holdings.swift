internal import DCPCore
internal import DCPWire

/// What a rank's store holds in an epoch, as it tells by and by.
struct Holdings: Sendable {
    private(set) var sequences: [SequenceID: HeldSequences.Element] = [:]
    /// The least recently used first.
    private(set) var order: [SequenceID] = []

    mutating func add(_ page: HeldSequences) {
        for held in page.sequences where sequences.updateValue(held, forKey: held.sequence) == nil {
            order.append(held.sequence)
        }
    }
}

/// A rank's registration in an epoch with what its store holds.
struct JoinedRank: Sendable {
    var registration: Registration
    var holdings: Holdings
}
