// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

/// The operations for each rank that make all ranks hold the same data, computed when all have registered in an epoch.
///
/// A sequence's length becomes the smallest over the ranks: what every rank has committed, and nothing that only some
/// have. Operations of one rank are applied in order: models to put and to remove, forks and new sequences (while
/// parents still have their tokens), truncations, closings.
///
/// It works in pieces: a million sequences take seconds, during which the coordinator must renew leases.
package struct Reconciliation {
    /// Default number of sequences in a piece: some milliseconds.
    package static let pieceCount = 8192

    /// Sequences with pending changes, whether or not a rank turned out to lack them.
    private(set) var owed: Set<SequenceID> = []
    /// Sequences that some rank must cut, or that were to be cut before, with their lengths.
    private(set) var cutLengths: [SequenceID: Int] = [:]
    /// What ranks hold and the directory does not know.
    private(set) var unknown: [SequenceID: (ranks: Set<RankIndex>, model: ModelID)] = [:]
    private(set) var isComplete = false
    private let pieceCount: Int
    private var parts: [Part]
    private var cuts: [SequenceCut] = []
    /// Sequences up to this one have been compared.
    private var place = SequenceID(0)
    /// Of this part the sequences are being looked up in the directory; those before it were.
    private var lookedUp = 0

    /// The result for one rank.
    private struct Part {
        let rank: RankIndex
        let holdings: Holdings
        var operations: [DirectoryOperation] = []
        var truncations: [DirectoryOperation] = []
        var closings: [DirectoryOperation] = []
        /// The lengths of sequences that the rank must create.
        var made: [SequenceID: Int] = [:]
        /// How many of its sequences have been looked up.
        var lookedUp = 0
        /// How many of its operations have been taken.
        var taken = 0

        init(_ joined: JoinedRank, _ state: CoordinatorState) {
            rank = joined.registration.rank
            holdings = joined.holdings
            let known = Dictionary(joined.registration.models.map { ($0.id, $0) }, uniquingKeysWith: { a, _ in a })
            operations = state.sortedModels.filter { known[$0.id] != $0 }.map { .putModel($0) }
            // A model that was removed while the rank was absent; it stays if sequences still use it.
            let gone = known.keys.sorted().filter { state.models[$0] == nil }
            guard !gone.isEmpty else { return }
            let used = Set(holdings.sequences.values.lazy.map(\.model))
            operations += gone.filter { !used.contains($0) }.map { .removeModel($0) }
        }

        /// Its length of a sequence, existing or to be created.
        func length(of id: SequenceID) -> Int? { holdings.sequences[id]?.committedLength ?? made[id] }

        /// What a fork of a sequence can have.
        func intactLength(of id: SequenceID) -> Int? {
            holdings.sequences[id].map { min($0.intactLength, $0.committedLength) } ?? made[id]
        }
    }

    init(_ state: CoordinatorState, _ joined: [JoinedRank], pieceCount: Int) {
        self.pieceCount = pieceCount
        parts = joined.map { Part($0, state) }
    }

    /// Works on the next piece. The directory must not change in between.
    mutating func advance(_ state: CoordinatorState) {
        precondition(!isComplete)
        let ids = state.sequenceOrder.ids(after: place, count: pieceCount)
        if let last = ids.last {
            for id in ids {
                let entry = state.sequences[id]!
                compare(entry, isClosing: state.isClosing(entry))
            }
            place = last
        } else if lookedUp < parts.count {
            lookUpPiece(in: state)
        } else {
            for index in parts.indices {
                parts[index].operations += parts[index].truncations + parts[index].closings
                parts[index].made = [:]
            }
            isComplete = true
        }
    }

    /// The events to report.
    var events: [CoordinatorEvent] {
        var strangers: [RankIndex: [SequenceID]] = [:]
        for (id, found) in unknown { for rank in found.ranks { strangers[rank, default: []].append(id) } }
        return (cuts.isEmpty ? [] : [.reconciled(cuts)])
            + strangers.sorted { $0.key < $1.key }.map { .unknownSequences($0.key, $0.value.sorted()) }
    }

    /// The next operations of each rank, in order; none at the end.
    mutating func takeOperations() -> [(rank: RankIndex, operations: ArraySlice<DirectoryOperation>)] {
        parts.indices.compactMap { index in
            let piece = parts[index].operations.dropFirst(parts[index].taken).prefix(pieceCount)
            parts[index].taken += piece.count
            return piece.isEmpty ? nil : (parts[index].rank, piece)
        }
    }

    private mutating func compare(_ entry: SequenceEntry, isClosing: Bool) {
        let id = entry.record.id
        if isClosing || entry.fork != nil || entry.truncateLength != nil { owed.insert(id) }
        let held = parts.map { $0.holdings.sequences[id] }
        if isClosing {
            for index in parts.indices where held[index] != nil { parts[index].closings.append(.close(id)) }
            return
        }
        // The possible length on each rank: its own, or for a missed fork the parent's length there.
        let available = parts.indices.map { index in
            held[index]?.committedLength
                ?? entry.fork.map { min($0.length, parts[index].intactLength(of: $0.parent) ?? 0) } ?? 0
        }
        let target = min(available.min() ?? 0, entry.truncateLength ?? Int.max)
        // The length that some rank has, or all should have, and that no client has cut.
        let longest = min(max(available.max() ?? 0, entry.fork?.length ?? 0), entry.truncateLength ?? Int.max)
        var truncated: [RankIndex] = []
        for index in parts.indices {
            if let held = held[index] {
                guard held.committedLength > target else { continue }
                truncated.append(parts[index].rank)
                parts[index].truncations.append(.truncate(id, length: target))
            } else if let fork = entry.fork, parts[index].length(of: fork.parent) != nil {
                parts[index].operations.append(
                    .fork(parent: fork.parent, child: id, length: target, name: entry.record.name))
                parts[index].made[id] = target
            } else {
                parts[index].operations.append(.open(entry.record))
                parts[index].made[id] = 0
            }
        }
        for index in parts.indices where held[index]?.retention ?? Retention() != entry.retention {
            parts[index].operations.append(.retain(id, entry.retention))
        }
        if !truncated.isEmpty || entry.truncateLength != nil { cutLengths[id] = target }
        if target < longest {
            cuts.append(SequenceCut(entry.record, from: longest, to: target, ranks: truncated))
        }
    }

    private mutating func lookUpPiece(in state: CoordinatorState) {
        let part = parts[lookedUp]
        let piece = part.holdings.order.dropFirst(part.lookedUp).prefix(pieceCount)
        for id in piece where state.sequences[id] == nil {
            unknown[id, default: ([], part.holdings.sequences[id]!.model)].ranks.insert(part.rank)
        }
        parts[lookedUp].lookedUp += piece.count
        if parts[lookedUp].lookedUp == part.holdings.order.count { lookedUp += 1 }
    }
}

/// Committed tokens of a sequence that a join gives up because only some ranks had them, or should have had them.
public struct SequenceCut: Hashable, Sendable {
    public var sequence: SequenceID
    public var name: String
    /// The longest that a rank had.
    public var from: Int
    public var to: Int
    /// Ranks that had more.
    public var ranks: [RankIndex]

    init(_ record: SequenceRecord, from: Int, to: Int, ranks: [RankIndex]) {
        sequence = record.id
        name = record.name
        self.from = from
        self.to = to
        self.ranks = ranks
    }
}
