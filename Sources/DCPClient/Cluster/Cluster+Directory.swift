// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// A client's handle of a sequence.
public struct SequenceHandle: Hashable, Sendable {
    public let record: SequenceRecord
    public let model: ModelRecord
    /// As of the list that this is from; the default otherwise.
    public internal(set) var retention = Retention()

    public func entry(position: Int, count: Int) -> StepRequest.Entry {
        StepRequest.Entry(sequence: record.id, position: position, count: count)
    }
}

/// Models and sequences, by name.
extension Cluster {
    /// Registers a model, or confirms that it is registered with this description. Without a revision any revision
    /// matches.
    /// - Throws: `.modelMismatch` with the differences.
    @discardableResult
    public func registerModel(
        _ name: String, _ description: ModelDescription
    ) async throws(ServiceError) -> ModelRecord {
        try await ask(one: RegisterModel(name: name, description))
    }

    /// Removes a model that no sequence uses.
    public func removeModel(_ name: String) async throws(ServiceError) {
        _ = try await ask(one: RemoveModel(name: name))
    }

    public func models() async throws(ServiceError) -> [ModelRecord] { try await ask(ListModels()) }

    /// The model of that name, or nil.
    public func model(named name: String) async throws(ServiceError) -> ModelRecord? {
        try await models().first { NameKey($0.name) == NameKey(name) }
    }

    /// Opens a sequence.
    /// - Parameters:
    ///   - model: the model that it must belong to; with nil any model matches, and nothing is created.
    ///   - revision: the revision that its model must have; nil for any.
    ///   - scope: the scope of a new sequence, which limits who finds it by its tokens.
    /// - Throws: `.unknownSequence` if it does not exist and `create` is not set; `.modelMismatch` with both models or
    ///   revisions.
    public func openSequence(
        _ name: String, model: String?, revision: String? = nil, scope: String = "", create: Bool = true
    ) async throws(ServiceError) -> SequenceHandle {
        try await openSequences([name], model: model, revision: revision, scope: scope, create: create)[0].get()
    }

    /// Opens sequences in one request. Each succeeds or fails independently.
    /// - Returns: in the order of `names`.
    public func openSequences(
        _ names: [String], model: String?, revision: String? = nil, scope: String = "", create: Bool = true
    ) async throws(ServiceError) -> [Result<SequenceHandle, ServiceError>] {
        let items = names.map {
            OpenSequence(
                name: $0, model: model ?? "", revision: revision ?? "", scope: scope, create: create && model != nil)
        }
        return try await ask(each: items).map { $0.map { SequenceHandle(record: $0.sequence, model: $0.model) } }
    }

    /// Creates a sequence from the longest stored prefix of some token ids: a fork of the sequence that begins with the
    /// most of them, which shares its blocks, or an empty one. This client has the claim on it.
    ///
    /// - Parameters:
    ///   - ids: of the tokens, from the first on.
    ///   - name: of the new sequence.
    ///   - scope: the scope of the search, and of the new sequence.
    ///   - lengthMax: its maximum length; nil for all. A limit below the number of `ids` leaves some to be computed.
    /// - Returns: the sequence, and its length, committed on every rank: continue from there.
    /// - Throws: `.conflict` if a sequence of that name exists; `.modelMismatch` with both revisions.
    public func openSequence(
        matching ids: [UInt32], as name: String, model: String, revision: String? = nil, scope: String = "",
        lengthMax: Int? = nil
    ) async throws(ServiceError) -> (sequence: SequenceHandle, length: Int) {
        let matched = try await ask(
            one: OpenMatching(
                name: name, model: model, revision: revision ?? "", scope: scope, ids: ids,
                lengthMax: lengthMax ?? ids.count))
        claims[matched.sequence.id] = HeldClaim(claim: matched.claim)
        return (SequenceHandle(record: matched.sequence, model: matched.model), matched.length)
    }

    /// Sequences that are not being closed, in the order of their creation. They are read page by page, so the result
    /// may or may not include one that is created or closed meanwhile.
    /// - Parameters:
    ///   - prefix: a prefix of their names.
    ///   - limit: the maximum number; nil for all.
    ///   - isWanted: a filter; excluded sequences do not count for the limit.
    public func sequences(
        prefix: String = "", limit: Int? = nil, where isWanted: (SequenceRecord) -> Bool = { _ in true }
    ) async throws(ServiceError) -> [SequenceHandle] {
        let list = try await list(prefix: prefix, limit: limit, where: isWanted)
        let models = Dictionary(list.models.map { ($0.id, $0) }, uniquingKeysWith: { a, _ in a })
        return try list.sequences.map { (element) throws(ServiceError) in
            guard let model = models[element.record.model] else {
                throw ServiceError(
                    .internal,
                    "Sequence `\(element.record.name)` refers to \(element.record.model), which is not listed.")
            }
            return SequenceHandle(record: element.record, model: model, retention: element.retention)
        }
    }

    /// How many sequences there are.
    public func sequenceCount() async throws(ServiceError) -> Int {
        try await ask(ListSequences(count: 1)).directoryCount
    }

    package func list(
        prefix: String = "", limit: Int? = nil, where isWanted: (SequenceRecord) -> Bool = { _ in true }
    ) async throws(ServiceError) -> SequenceList {
        var list = SequenceList()
        var request = ListSequences(prefix: prefix)
        repeat {
            request.count = min(ListSequences.countMax, (limit ?? .max) - list.sequences.count)
            guard request.count > 0 else { break }
            let page = try await ask(request)
            let known = Set(list.models.map(\.id))
            list.models += page.models.filter { !known.contains($0.id) }
            list.sequences += page.sequences.filter { isWanted($0.record) }
            list.directoryCount = page.directoryCount
            guard let next = page.next else { break }
            request.after = next
        } while true
        return list
    }

    /// Keeps a sequence from being evicted, or allows it again. Durable.
    public func setPinned(_ isPinned: Bool, _ name: String) async throws(ServiceError) {
        _ = try await ask(one: RetainSequence(name: name, isPinned: isPinned))
    }

    /// Changes the retention of a sequence. Durable.
    /// - Parameters:
    ///   - priority: nil keeps it unchanged. Sequences with a lower priority are evicted first.
    ///   - timeToLive: the time without use after which it is closed; nil keeps it unchanged, zero means never.
    @discardableResult
    public func retain(
        _ name: String, priority: Int8? = nil, timeToLive: Duration? = nil
    ) async throws(ServiceError) -> Retention {
        try await ask(
            one: RetainSequence(
                name: name, priority: priority, timeToLive: timeToLive.map { UInt32(clamping: $0.components.seconds) }))
    }

    /// Creates a sequence from the first `length` tokens of another, which all its layers must have. Blocks are shared,
    /// not copied. Tokens that are uncommitted in the parent are uncommitted in the fork: each is committed separately.
    /// - Parameter revision: the revision that their model must have; nil for any.
    /// - Throws: `.invalidRequest` if a rank has fewer tokens.
    @discardableResult
    public func fork(
        _ name: String, as newName: String, length: Int, revision: String? = nil
    ) async throws(ServiceError) -> SequenceRecord {
        let sequence = try await openSequence(name, model: nil, revision: revision)
        return try await fork(sequence, as: [(newName, length)])[0].get()
    }

    /// Creates sequences from the first tokens of another, in one request. Each succeeds or fails independently.
    /// - Parameter forks: their names and lengths.
    /// - Returns: in the order of `forks`.
    public func fork(
        _ sequence: SequenceHandle, as forks: [(name: String, length: Int)]
    ) async throws(ServiceError) -> [Result<SequenceRecord, ServiceError>] {
        try await withClaims(on: [SequenceRecord](repeating: sequence.record, count: forks.count)) { index, claim in
            ForkSequence(
                name: sequence.record.name, newName: forks[index].name, length: forks[index].length, claim: claim)
        }
    }

    /// Cuts a sequence to its first `length` tokens, committed or not.
    public func cut(_ name: String, to length: Int) async throws(ServiceError) {
        try await cut([(try await openSequence(name, model: nil), length)])[0].get()
    }

    /// Cuts sequences to their first tokens, committed or not. Each succeeds or fails independently.
    ///
    /// The ranks alone cut uncommitted tokens, which takes one round trip; the coordinator cuts committed ones, and
    /// records it first.
    /// - Parameter lengths: the new length of each. More than the sequence has is refused.
    /// - Returns: in the order of `lengths`.
    public func cut(
        _ lengths: [(sequence: SequenceHandle, length: Int)]
    ) async throws(ServiceError) -> [Result<Void, ServiceError>] {
        let ends = try await cutUncommitted(lengths)
        let committed = lengths.indices.filter { index in
            if case .success(let end) = ends[index] { return end > lengths[index].length }
            return false
        }
        var results = ends.map { $0.map { _ in } }
        guard !committed.isEmpty else { return results }
        let answers = try await withClaims(on: committed.map { lengths[$0].sequence.record }) { index, claim in
            let (sequence, length) = lengths[committed[index]]
            return TruncateSequence(name: sequence.record.name, length: length, claim: claim)
        }
        for (index, answer) in zip(committed, answers) { results[index] = answer.map { _ in } }
        return results
    }

    /// Deletes a sequence. Blocks that forks share stay until the last of them is closed.
    /// - Parameter keep: keeps it for later matches until its room is needed; uncommitted tokens are rolled back.
    public func closeSequence(_ name: String, keep: Bool = false) async throws(ServiceError) {
        try await closeSequences([try await openSequence(name, model: nil)], keep: keep)[0].get()
    }

    /// Deletes sequences in one request. Each succeeds or fails independently.
    /// - Parameter keep: as for one.
    /// - Returns: in the order of `sequences`.
    public func closeSequences(
        _ sequences: [SequenceHandle], keep: Bool = false
    ) async throws(ServiceError) -> [Result<Void, ServiceError>] {
        let answers = try await withClaims(on: sequences.map(\.record)) { index, claim in
            CloseSequence(name: sequences[index].record.name, claim: claim, keep: keep)
        }
        for (sequence, answer) in zip(sequences, answers) {
            if case .success = answer { claims[sequence.record.id] = nil }
        }
        return answers.map { $0.map { _ in } }
    }
}
