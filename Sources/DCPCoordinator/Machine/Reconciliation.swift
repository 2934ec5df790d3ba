internal import DCPCore
internal import DCPWire

/// What each rank has to do so that all hold the same: computed once all have registered in an epoch.
///
/// A sequence's length becomes the smallest over the ranks: what every rank has committed, and nothing that only some
/// have. Operations of one rank are carried out in order: models to put and to remove, forks and new sequences (while
/// parents still have their tokens), truncations, closings.
struct Reconciliation {
    var operations: [RankIndex: [DirectoryOperation]] = [:]
    /// What the directory still owes, whether or not a rank turned out to lack it.
    var unconfirmed: Set<DirectoryOperation> = []
    var events: [CoordinatorEvent] = []

    init(_ state: CoordinatorState, _ registrations: [RankIndex: Registration]) {
        var lengths: [RankIndex: [SequenceID: Int]] = [:]
        for (rank, registration) in registrations {
            lengths[rank] = Dictionary(
                registration.sequences.map { ($0.sequence, $0.committedLength) }, uniquingKeysWith: { a, _ in a })
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
        var late: [RankIndex: [DirectoryOperation]] = [:]
        // By rising number, so that a parent comes before its forks.
        for entry in state.sortedSequences {
            let id = entry.record.id
            if entry.isClosing {
                for rank in ranks where lengths[rank]![id] != nil { late[rank, default: []].append(.close(id)) }
                continue
            }
            // What each rank can have of it: its own, or for a fork that it missed what the parent has there.
            let available = ranks.map { rank in
                lengths[rank]![id] ?? entry.fork.map { min($0.length, lengths[rank]![$0.parent] ?? 0) } ?? 0
            }
            let target = min(available.min() ?? 0, entry.truncateLength ?? Int.max)
            var truncated: [RankIndex] = []
            for rank in ranks {
                if let length = lengths[rank]![id] {
                    guard length > target else { continue }
                    truncated.append(rank)
                    late[rank, default: []].insert(.truncate(id, length: target), at: 0)
                } else if let fork = entry.fork, lengths[rank]![fork.parent] != nil {
                    operations[rank]!.append(.fork(parent: fork.parent, child: id, length: target))
                    lengths[rank]![id] = target
                } else {
                    operations[rank]!.append(.open(id, model: entry.record.model))
                    lengths[rank]![id] = 0
                }
            }
            if !truncated.isEmpty { events.append(.reconciled(id, length: target, truncated: truncated)) }
        }
        for rank in ranks {
            operations[rank]! += late[rank] ?? []
            let unknown = registrations[rank]!.sequences.filter { state.sequences[$0.sequence] == nil }
            if !unknown.isEmpty { events.append(.unknownSequences(rank, unknown.map(\.sequence).sorted())) }
        }
        for entry in state.sortedSequences {
            let id = entry.record.id
            if entry.isClosing { unconfirmed.insert(.close(id)) }
            if let fork = entry.fork { unconfirmed.insert(.fork(parent: fork.parent, child: id, length: fork.length)) }
            if let length = entry.truncateLength { unconfirmed.insert(.truncate(id, length: length)) }
        }
    }
}
