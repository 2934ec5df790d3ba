// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The directory rebuilt from the ranks' stores; the existing state may be empty, or older than they.
///
/// The stores take precedence over the state. A sequence that all ranks have is adopted with the shortest length
/// (`Reconciliation`), and so is a model. A sequence that a rank lacks was never acknowledged, or is closed: it is
/// given up, and `unknown-grace` is the time to save it. Only the closings in progress are taken from an older state: a
/// pending truncation may already have been applied, and the sequence may have continued since.
struct AdoptedDirectory {
    private(set) var changes: [StateChange] = []
    private(set) var report = AdoptionReport()
    private let state: CoordinatorState
    private let joined: [RankIndex: JoinedRank]
    /// Ranks whose stores count.
    private let witnesses: [RankIndex]
    private var models: [ModelID: ModelRecord] = [:]
    private var names: Set<NameKey> = []

    init(
        _ state: CoordinatorState, _ joined: [JoinedRank],
        records: [RankIndex: [SequenceID: SequenceRecord]], replaced: Set<RankIndex>
    ) {
        self.state = state
        self.joined = Dictionary(uniqueKeysWithValues: joined.map { ($0.registration.rank, $0) })
        witnesses = joined.filter { !replaced.contains($0.registration.rank) || !$0.holdings.order.isEmpty }
            .map(\.registration.rank).sorted()
        adoptModels()
        adoptSequences(records)
        report.models = models.count
    }

    // MARK: Models

    private mutating func adoptModels() {
        var found: [ModelID: [RankIndex: ModelRecord]] = [:]
        for rank in witnesses {
            for record in joined[rank]!.registration.models { found[record.id, default: [:]][rank] = record }
        }
        var names: Set<NameKey> = []
        // Of two with the same name, the later stays.
        for (id, records) in found.sorted(by: { $0.key > $1.key }) {
            let record = records[records.keys.min()!]!
            if let problem = problem(of: records) {
                giveUp("model", record.name, "\(id)", problem)
            } else if !names.insert(NameKey(record.name)).inserted {
                giveUp("model", record.name, "\(id)", "a later one has the same name")
            } else {
                models[id] = record
                if state.models[id] != record { changes.append(.model(record)) }
            }
        }
        for id in state.models.keys.sorted() where models[id] == nil { changes.append(.modelRemoved(id)) }
    }

    private func problem(of records: [RankIndex: ModelRecord]) -> String? {
        let missing = witnesses.filter { records[$0] == nil }
        guard missing.isEmpty else { return "\(Self.list(missing)) does not have it" }
        let first = records[witnesses[0]]!
        for rank in witnesses.dropFirst() where records[rank] != first {
            let other = records[rank]!
            let differences =
                (other.name == first.name ? [] : ["name: \(other.name), not \(first.name)"])
                + other.description.differences(from: first.description)
            return "\(rank) and \(witnesses[0]) disagree about it (\(differences.joined(separator: "; ")))"
        }
        return nil
    }

    // MARK: Sequences

    private mutating func adoptSequences(_ records: [RankIndex: [SequenceID: SequenceRecord]]) {
        var held: [SequenceID: [RankIndex: HeldSequences.Element]] = [:]
        for rank in witnesses {
            for (id, sequence) in joined[rank]!.holdings.sequences { held[id, default: [:]][rank] = sequence }
        }
        var adopted: Set<SequenceID> = []
        for (id, holders) in held.sorted(by: { $0.key > $1.key }) {
            let told = holders.keys.sorted().compactMap { records[$0]?[id] }
            let known = state.sequences[id]
            if let known, known.isClosing {
                adopted.insert(id)
                continue
            }
            let name = told.first?.name ?? known?.record.name ?? ""
            if let problem = problem(of: holders, told, name) {
                giveUp("sequence", name, "\(id)", problem)
                continue
            }
            guard let record = told.first, names.insert(NameKey(name)).inserted else {
                giveUp("sequence", name, "\(id)", "a later one has the same name")
                continue
            }
            let retention = holders.values.map(\.retention).reduce(holders.values.first!.retention) { $0.longer($1) }
            // Its cuts before this epoch are unknown: nothing of it is valid in an older copy of a store.
            let before = CutHistory([.init(epoch: Epoch(state.epoch.value - 1), length: 0)])
            // Stores do not have the owner; it is taken from the older state, if it has one.
            let owner = known?.record == record ? known?.owner ?? "" : ""
            changes.append(
                .sequence(SequenceEntry(record: record, owner: owner, retention: retention, history: before)))
            adopted.insert(id)
            report.sequences += 1
        }
        for entry in state.sortedSequences where !adopted.contains(entry.record.id) {
            changes.append(.sequenceRemoved(entry.record.id))
            if held[entry.record.id] == nil { report.closed.append(entry.record.name) }
        }
    }

    private func problem(
        of holders: [RankIndex: HeldSequences.Element], _ told: [SequenceRecord], _ name: String
    ) -> String? {
        let missing = witnesses.filter { holders[$0] == nil }
        guard missing.isEmpty else { return "\(Self.list(missing)) does not have it" }
        guard told.count == witnesses.count, !name.isEmpty else { return "its name is unknown" }
        for other in told.dropFirst() where other != told[0] {
            return "the ranks disagree about it (`\(told[0].name)` of \(told[0].model) and scope `\(told[0].scope)`, "
                + "`\(other.name)` of \(other.model) and scope `\(other.scope)`)"
        }
        return models[told[0].model] == nil ? "its model, \(told[0].model), is not adopted" : nil
    }

    private mutating func giveUp(_ kind: String, _ name: String, _ id: String, _ reason: String) {
        let title = name.isEmpty ? id : "\(kind) `\(name)` (\(id))"
        report.lost.append(AdoptionReport.Lost(what: title, reason: reason))
    }

    private static func list(_ ranks: [RankIndex]) -> String { ranks.map { "\($0)" }.joined(separator: ", ") }
}

/// The result of rebuilding a directory from the ranks' stores.
public struct AdoptionReport: Hashable, Sendable {
    public struct Lost: Hashable, Sendable {
        /// The model or the sequence, with its number.
        public var what: String
        public var reason: String
    }

    public var models = 0
    public var sequences = 0
    /// Names in an older state that no rank has: they were closed since.
    public var closed: [String] = []
    /// Models and sequences of some ranks that were not adopted. Ranks keep such sequences for `unknown-grace`.
    public var lost: [Lost] = []

    package init(models: Int = 0, sequences: Int = 0) {
        self.models = models
        self.sequences = sequences
    }
}
