public import DCPCore
internal import DCPWire

/// What each rank has to do so that all hold the same: computed once all have registered in an epoch.
///
/// A sequence's length becomes the smallest over the ranks: what every rank has committed, and nothing that only some
/// have. Operations of one rank are carried out in order: models to put and to remove, forks and new sequences (while
/// parents still have their tokens), truncations, closings.
struct Reconciliation {
    var operations: [RankIndex: [DirectoryOperation]] = [:]
    /// Of what the directory still owes something, whether or not a rank turned out to lack it.
    var owed: Set<SequenceID> = []
    /// What some rank has to cut, or what was to be cut before, and to where.
    var cutLengths: [SequenceID: Int] = [:]
    var events: [CoordinatorEvent] = []

    init(_ state: CoordinatorState, _ registrations: [RankIndex: Registration]) {
        var lengths: [RankIndex: [SequenceID: Int]] = [:]
        /// What a fork can have of each.
        var intact: [RankIndex: [SequenceID: Int]] = [:]
        for (rank, registration) in registrations {
            lengths[rank] = Dictionary(
                registration.sequences.map { ($0.sequence, $0.committedLength) }, uniquingKeysWith: { a, _ in a })
            intact[rank] = Dictionary(
                registration.sequences.map { ($0.sequence, min($0.intactLength, $0.committedLength)) },
                uniquingKeysWith: { a, _ in a })
        }
        let retentions = registrations.mapValues { registration in
            Dictionary(registration.sequences.map { ($0.sequence, $0.retention) }, uniquingKeysWith: { a, _ in a })
        }
        let ranks = registrations.keys.sorted()
        for rank in ranks {
            let known = Dictionary(
                registrations[rank]!.models.map { ($0.id, $0) }, uniquingKeysWith: { a, _ in a })
            operations[rank] = state.sortedModels.filter { known[$0.id] != $0 }.map { .putModel($0) }
            // A model that was removed while the rank was away; one that sequences still use is left with them.
            let used = Set(registrations[rank]!.sequences.map(\.model))
            operations[rank]! += known.keys.sorted().filter { state.models[$0] == nil && !used.contains($0) }
                .map { .removeModel($0) }
        }
        var truncations: [RankIndex: [DirectoryOperation]] = [:]
        var closings: [RankIndex: [DirectoryOperation]] = [:]
        var cuts: [SequenceCut] = []
        // By rising number, so that a parent comes before its forks.
        for entry in state.sortedSequences {
            let id = entry.record.id
            if entry.isClosing || entry.fork != nil || entry.truncateLength != nil { owed.insert(id) }
            if entry.isClosing {
                for rank in ranks where lengths[rank]![id] != nil { closings[rank, default: []].append(.close(id)) }
                continue
            }
            // What each rank can have of it: its own, or for a fork that it missed what the parent has there.
            let available = ranks.map { rank in
                lengths[rank]![id] ?? entry.fork.map { min($0.length, intact[rank]![$0.parent] ?? 0) } ?? 0
            }
            let target = min(available.min() ?? 0, entry.truncateLength ?? Int.max)
            // What some rank has, or all were to have, and no client has given up.
            let longest = min(max(available.max() ?? 0, entry.fork?.length ?? 0), entry.truncateLength ?? Int.max)
            var truncated: [RankIndex] = []
            for rank in ranks {
                if let length = lengths[rank]![id] {
                    guard length > target else { continue }
                    truncated.append(rank)
                    truncations[rank, default: []].append(.truncate(id, length: target))
                } else if let fork = entry.fork, lengths[rank]![fork.parent] != nil {
                    operations[rank]!.append(
                        .fork(parent: fork.parent, child: id, length: target, name: entry.record.name))
                    lengths[rank]![id] = target
                    intact[rank]![id] = target
                } else {
                    operations[rank]!.append(.open(entry.record))
                    lengths[rank]![id] = 0
                    intact[rank]![id] = 0
                }
            }
            for rank in ranks where retentions[rank]![id] ?? Retention() != entry.retention {
                operations[rank]!.append(.retain(id, entry.retention))
            }
            if !truncated.isEmpty || entry.truncateLength != nil { cutLengths[id] = target }
            if target < longest {
                cuts.append(
                    SequenceCut(entry.record, from: longest, to: target, ranks: truncated))
            }
        }
        if !cuts.isEmpty { events.append(.reconciled(cuts)) }
        for rank in ranks {
            operations[rank]! += (truncations[rank] ?? []) + (closings[rank] ?? [])
            let unknown = registrations[rank]!.sequences.filter { state.sequences[$0.sequence] == nil }
            if !unknown.isEmpty { events.append(.unknownSequences(rank, unknown.map(\.sequence).sorted())) }
        }
    }
}

/// Committed tokens of one sequence that are given up at a join: some ranks had them, or were to have them, and not all.
public struct SequenceCut: Hashable, Sendable {
    public var sequence: SequenceID
    public var name: String
    /// The longest that a rank had.
    public var from: Int
    public var to: Int
    /// Who had more than is left.
    public var ranks: [RankIndex]

    init(_ record: SequenceRecord, from: Int, to: Int, ranks: [RankIndex]) {
        sequence = record.id
        name = record.name
        self.from = from
        self.to = to
        self.ranks = ranks
    }
}
