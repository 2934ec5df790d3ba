public import DCPCore
public import DCPWire

/// A sequence as a client holds it.
public struct SequenceHandle: Hashable, Sendable {
    public let record: SequenceRecord
    public let model: ModelRecord
    /// Never evicted, as of the list that this is from.
    public internal(set) var isPinned = false

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
        try Self.one(await directory(.registerModel(name: name, description)).models)
    }

    /// Removes a model that no sequence uses.
    public func removeModel(_ name: String) async throws(ServiceError) {
        _ = try await directory(.removeModel(name: name))
    }

    public func models() async throws(ServiceError) -> [ModelRecord] { try await directory(.listModels).models }

    /// The model of that name, or nil.
    public func model(named name: String) async throws(ServiceError) -> ModelRecord? {
        try await models().first { NameKey($0.name) == NameKey(name) }
    }

    /// Opens a sequence.
    /// - Parameters:
    ///   - model: the model it must belong to; nil takes whichever it belongs to, and then creates nothing.
    ///   - revision: what its model's must be; nil takes any.
    /// - Throws: `.unknownSequence` when it does not exist and `create` is not set; `.modelMismatch` with both models or
    ///   revisions.
    public func openSequence(
        _ name: String, model: String?, revision: String? = nil, create: Bool = true
    ) async throws(ServiceError) -> SequenceHandle {
        let reply = try await directory(
            .openSequence(
                name: name, model: model ?? "", revision: revision ?? "", create: create && model != nil))
        return SequenceHandle(record: try Self.one(reply.sequences), model: try Self.one(reply.models))
    }

    public func sequences() async throws(ServiceError) -> [SequenceHandle] {
        let reply = try await directory(.listSequences)
        let models = Dictionary(reply.models.map { ($0.id, $0) }, uniquingKeysWith: { a, _ in a })
        return try reply.sequences.map { (record) throws(ServiceError) in
            guard let model = models[record.model] else {
                throw ServiceError(.internal, "Sequence `\(record.name)` has the unlisted \(record.model).")
            }
            var handle = SequenceHandle(record: record, model: model)
            handle.isPinned = reply.pinned.contains(record.id)
            return handle
        }
    }

    /// Keeps a sequence from being evicted, or lets it be again. Durable.
    public func setPinned(_ isPinned: Bool, _ name: String) async throws(ServiceError) {
        _ = try await directory(isPinned ? .pin(name: name) : .unpin(name: name))
    }

    /// Cuts a sequence to its first `length` committed tokens.
    public func truncate(_ name: String, length: Int) async throws(ServiceError) {
        let sequence = try await openSequence(name, model: nil)
        let committed = try await status(of: sequence).committedLength
        guard length <= committed else {
            throw ServiceError(
                .positionMismatch,
                "Sequence `\(name)` has \(committed) committed tokens and cannot be truncated to \(length); choose at "
                    + "most \(committed).")
        }
        try await withClaim(on: sequence.record) { .truncate(name: name, length: length, claim: $0) }
    }

    /// Makes a new sequence of the first `length` committed tokens of another. Sealed blocks are shared, not copied.
    /// - Parameter revision: what their model's must be; nil takes any.
    @discardableResult
    public func fork(
        _ name: String, as newName: String, length: Int, revision: String? = nil
    ) async throws(ServiceError) -> SequenceRecord {
        let sequence = try await openSequence(name, model: nil, revision: revision)
        let committed = try await status(of: sequence).committedLength
        guard length <= committed else {
            throw ServiceError(
                .positionMismatch,
                "Sequence `\(name)` has \(committed) committed tokens and cannot be forked at \(length); choose at most "
                    + "\(committed).")
        }
        let reply = try await withClaim(on: sequence.record) {
            .fork(name: name, newName: newName, length: length, claim: $0)
        }
        return try Self.one(reply.sequences)
    }

    /// Deletes a sequence. Blocks that forks share stay until the last of them is closed.
    public func closeSequence(_ name: String) async throws(ServiceError) {
        let sequence = try await openSequence(name, model: nil).record
        try await withClaim(on: sequence) { .close(name: name, claim: $0) }
        claims[sequence.id] = nil
    }

    func directory(_ request: DirectoryRequest) async throws(ServiceError) -> DirectoryReply {
        let reply = try await ask(.directoryRequest(request))
        guard case .directoryReply(let directory) = reply else {
            throw Self.unexpected(reply, from: "the coordinator")
        }
        return directory
    }

    private static func one<Record>(_ records: [Record]) throws(ServiceError) -> Record {
        guard let record = records.first else {
            throw ServiceError(.protocolViolation, "The coordinator answered without the record that was asked for.")
        }
        return record
    }
}
