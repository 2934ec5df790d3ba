public import DCPCore
public import DCPWire

/// A sequence as a client holds it.
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
    /// Registers a model, or confirms that it is registered as described. Without a revision any is confirmed.
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
    ///   - model: the model it must belong to; nil takes whichever it belongs to, and then creates nothing.
    ///   - revision: what its model's must be; nil takes any.
    ///   - scope: of a new sequence: who may find it by its tokens.
    /// - Throws: `.unknownSequence` when it does not exist and `create` is not set; `.modelMismatch` with both models or
    ///   revisions.
    public func openSequence(
        _ name: String, model: String?, revision: String? = nil, scope: String = "", create: Bool = true
    ) async throws(ServiceError) -> SequenceHandle {
        try await openSequences([name], model: model, revision: revision, scope: scope, create: create)[0].get()
    }

    /// Opens sequences, in one request. Each is opened or refused by itself.
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

    /// Makes a sequence of what is stored of some token ids: a fork of the one that begins with most of them, which shares its
    /// blocks, or an empty one. This client has the claim on it.
    ///
    /// - Parameters:
    ///   - ids: of the tokens, from the first on.
    ///   - name: of the new sequence.
    ///   - scope: of the sequences that are looked at, and of the new one.
    ///   - lengthMax: how many tokens it has at most: nil for all; fewer than `ids` leaves some to be computed.
    /// - Returns: the sequence, and how many of the ids it has, committed on every rank: go on from there.
    /// - Throws: `.conflict` when there is a sequence of that name; `.modelMismatch` with both revisions.
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

    /// Sequences that are not being closed, in the order in which they were made; asked for a page at a time, so one that is made
    /// or closed meanwhile may be among them or not.
    /// - Parameters:
    ///   - prefix: what their names begin with.
    ///   - limit: as many at most; nil for all.
    ///   - isWanted: what is not does not count for the limit.
    public func sequences(
        prefix: String = "", limit: Int? = nil, where isWanted: (SequenceRecord) -> Bool = { _ in true }
    ) async throws(ServiceError) -> [SequenceHandle] {
        let list = try await list(prefix: prefix, limit: limit, where: isWanted)
        let models = Dictionary(list.models.map { ($0.id, $0) }, uniquingKeysWith: { a, _ in a })
        return try list.sequences.map { (element) throws(ServiceError) in
            guard let model = models[element.record.model] else {
                throw ServiceError(
                    .internal, "Sequence `\(element.record.name)` has the unlisted \(element.record.model).")
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

    /// Keeps a sequence from being evicted, or lets it be again. Durable.
    public func setPinned(_ isPinned: Bool, _ name: String) async throws(ServiceError) {
        _ = try await ask(one: RetainSequence(name: name, isPinned: isPinned))
    }

    /// Changes how long a sequence stays. Durable.
    /// - Parameters:
    ///   - priority: nil leaves it as it is. Sequences of a lower priority are evicted first.
    ///   - timeToLive: nil leaves it as it is; zero is for ever. How long it stays without being used.
    @discardableResult
    public func retain(
        _ name: String, priority: Int8? = nil, timeToLive: Duration? = nil
    ) async throws(ServiceError) -> Retention {
        try await ask(
            one: RetainSequence(
                name: name, priority: priority, timeToLive: timeToLive.map { UInt32(clamping: $0.components.seconds) }))
    }

    /// Makes a new sequence of the first `length` tokens of another, which all its layers have. Blocks are shared, not copied.
    /// What is not committed of the one is not of the other: each is committed for itself.
    /// - Parameter revision: what their model's must be; nil takes any.
    /// - Throws: `.invalidRequest` when a rank has fewer tokens.
    @discardableResult
    public func fork(
        _ name: String, as newName: String, length: Int, revision: String? = nil
    ) async throws(ServiceError) -> SequenceRecord {
        let sequence = try await openSequence(name, model: nil, revision: revision)
        return try await fork(sequence, as: [(newName, length)])[0].get()
    }

    /// Makes new sequences of the first tokens of another, in one request. Each is made or refused by itself.
    /// - Parameter forks: their names, and how many tokens of the sequence each has.
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

    /// Cuts sequences to their first tokens, committed or not. Each is cut or refused by itself.
    ///
    /// Tokens that are not committed are cut by the ranks alone, which costs one round trip; committed ones by the
    /// coordinator, which records it first.
    /// - Parameter lengths: how many tokens of each are left. More than it has is refused.
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
    /// - Parameter keep: leaves it to be found by its tokens until its room is needed; what is not committed is taken back.
    public func closeSequence(_ name: String, keep: Bool = false) async throws(ServiceError) {
        try await closeSequences([try await openSequence(name, model: nil)], keep: keep)[0].get()
    }

    /// Deletes sequences, in one request. Each is closed or refused by itself.
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
