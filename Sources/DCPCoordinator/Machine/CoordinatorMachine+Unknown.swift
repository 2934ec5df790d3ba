internal import DCPCore
internal import DCPWire

/// Sequences that ranks hold and the directory does not know.
///
/// Whatever clients asked for was recorded first, so there are none unless the coordinator's state was restored from a
/// copy, or a rank's store was. An operator has the grace time to put that right; then they are dropped, since nobody can
/// name them. Their numbers are never given again, so a new sequence cannot find an old one's tokens.
extension CoordinatorMachine {
    struct UnknownSequence: Sendable {
        /// Of the join that found it first.
        var since: Duration
        var ranks: Set<RankIndex>
        var model: ModelID
    }

    /// Remembers what a join found, with the time of the join that found it first.
    mutating func noteUnknownSequences(now: Duration) {
        var found: [SequenceID: UnknownSequence] = [:]
        for (rank, member) in members {
            for held in member.registration.sequences where state.sequences[held.sequence] == nil {
                let since = unknownSequences[held.sequence]?.since ?? now
                found[held.sequence, default: UnknownSequence(since: since, ranks: [], model: held.model)].ranks
                    .insert(rank)
            }
        }
        unknownSequences = found
    }

    /// Has those closed whose grace time is over.
    mutating func dropUnknownSequences(now: Duration) -> [Action] {
        guard case .ready = phase else { return [] }
        var actions: [Action] = []
        for (id, unknown) in unknownSequences.sorted(by: { $0.key < $1.key }) where now - unknown.since > unknownGrace {
            unknownSequences[id] = nil
            actions.append(.report(.droppedUnknown(id, ranks: unknown.ranks.sorted())))
            actions += carry(.close(id), to: unknown.ranks)
        }
        return actions
    }

    /// The numbers after those that a rank's store ever had, where they are higher than the directory's own.
    func numbersTaken(by registration: Registration) -> [StateChange] {
        let (model, sequence) = (registration.numbers.model &+ 1, registration.numbers.sequence &+ 1)
        guard model > state.nextModel || sequence > state.nextSequence else { return [] }
        return [.nextIDs(model: max(model, state.nextModel), sequence: max(sequence, state.nextSequence))]
    }
}
