// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// Sequences on ranks that are not in the directory.
///
/// Every request is recorded first, so there are none unless the coordinator's state or a rank's store was restored
/// from a copy. An operator has the grace time to correct this; then they are dropped, because no client can name them.
/// Their numbers are never reused, so a new sequence cannot get an old one's tokens.
extension CoordinatorMachine {
    struct UnknownSequence: Sendable {
        /// The time of the join that first found it.
        var since: Duration
        var ranks: Set<RankIndex>
        var model: ModelID
    }

    /// Records what a join found, with the time of the first join that found it.
    mutating func note(unknown found: [SequenceID: (ranks: Set<RankIndex>, model: ModelID)], now: Duration) {
        let known = unknownSequences
        unknownSequences = Dictionary(
            uniqueKeysWithValues: found.map { id, found in
                (id, UnknownSequence(since: known[id]?.since ?? now, ranks: found.ranks, model: found.model))
            })
        noteOldestUnknown()
    }

    private mutating func noteOldestUnknown() { oldestUnknown = unknownSequences.values.lazy.map(\.since).min() }

    /// Closes those whose grace time has passed.
    mutating func dropUnknownSequences(now: Duration) -> [Action] {
        guard case .ready = phase, let oldestUnknown, now - oldestUnknown > unknownGrace else { return [] }
        defer { noteOldestUnknown() }
        var actions: [Action] = []
        let due = unknownSequences.filter { now - $0.value.since > unknownGrace }
        for (id, unknown) in due.sorted(by: { $0.key < $1.key }) {
            unknownSequences[id] = nil
            actions.append(.report(.droppedUnknown(id, ranks: unknown.ranks.sorted())))
            actions += carry(.close(id), to: unknown.ranks)
        }
        return actions
    }

    /// The numbers after the highest that a rank's store ever had, if they are higher than the directory's own.
    func numbersTaken(by registration: Registration) -> [StateChange] {
        let (model, sequence) = (registration.numbers.model &+ 1, registration.numbers.sequence &+ 1)
        guard model > state.nextModel || sequence > state.nextSequence else { return [] }
        return [.nextIDs(model: max(model, state.nextModel), sequence: max(sequence, state.nextSequence))]
    }
}
