// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The sequences in a rank's store in an epoch, received page by page.
struct Holdings: Sendable {
    private(set) var sequences: [SequenceID: HeldSequences.Element] = [:]
    /// The least recently used first.
    private(set) var order: [SequenceID] = []

    /// - Parameter count: about how many there will be.
    init(capacity count: Int) {
        sequences.reserveCapacity(count)
        order.reserveCapacity(count)
    }

    mutating func add(_ page: HeldSequences) {
        for held in page.sequences where sequences.updateValue(held, forKey: held.sequence) == nil {
            order.append(held.sequence)
        }
    }
}

/// A rank's registration in an epoch with the sequences in its store.
struct JoinedRank: Sendable {
    var registration: Registration
    var holdings: Holdings
}
