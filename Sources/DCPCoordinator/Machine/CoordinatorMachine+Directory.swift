// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
package import DCPWire

/// Clients' requests to the directory. Each kind of request implements `carryOut`.
extension CoordinatorMachine {
    public static let nameByteCountMax = 255
    /// A join takes some 20 us for each.
    public static let sequencesMax = 1_000_000

    func checkReady() throws(ServiceError) {
        guard case .ready = phase else {
            throw ServiceError(.notReady, "The cluster is not ready: \(reason). Try again when it is.")
        }
    }

    package func page(_ request: ListSequences) -> SequenceList {
        var list = SequenceList(directoryCount: state.sequences.count)
        var models: Set<ModelID> = []
        // A rare prefix takes several pages, so that no request makes the others wait for a scan of all sequences.
        let ids = state.sequenceOrder.ids(after: request.after, count: ListSequences.countMax + 1)
        for id in ids.prefix(ListSequences.countMax) {
            list.next = id
            guard let entry = state.sequences[id], !entry.isClosing,
                entry.record.name.utf8.starts(with: request.prefix.utf8)
            else { continue }
            models.insert(entry.record.model)
            list.sequences.append(SequenceList.Element(record: entry.record, retention: entry.retention))
            if list.sequences.count == request.count { break }
        }
        if list.next == ids.last { list.next = nil }
        list.models = state.sortedModels.filter { models.contains($0.id) }
        return list
    }

    // MARK: Lookups

    func model(_ name: String) throws(ServiceError) -> ModelRecord {
        guard let record = state.model(named: name) else {
            throw ServiceError(
                .unknownModel, "There is no model `\(name)`; `dcpctl model list` shows the registered models.")
        }
        return record
    }

    func sequence(_ name: String) throws(ServiceError) -> SequenceEntry {
        guard let entry = state.sequence(named: name), !entry.isClosing else { throw unknownSequence(name) }
        return entry
    }

    func unknownSequence(_ name: String) -> ServiceError {
        if let cause = eviction.cause(of: name) {
            let why =
                switch cause {
                case .room(let rank, _): "was closed to make room when the store of \(rank) was full"
                case .age(let seconds): "was closed because it had not been used for \(seconds) s, its time to live"
                }
            return ServiceError(
                .evicted,
                "Sequence `\(name)` \(why); prefill it again, and pin it if it must stay (dcpctl sequence pin).")
        }
        return ServiceError(
            .unknownSequence, "There is no sequence `\(name)`; `dcpctl sequence list` shows the existing ones.")
    }

    func newSequence(_ name: String, model: ModelID, scope: String) throws(ServiceError) -> SequenceRecord {
        if let known = state.sequence(named: name) {
            guard !known.isClosing else {
                throw ServiceError(.notReady, "Sequence `\(name)` is still being closed; try again in a moment.")
            }
            throw ServiceError(
                .conflict, "Sequence `\(name)` already exists; choose another name or close it first.")
        }
        guard state.sequences.count < sequencesMax else {
            throw ServiceError(
                .storeFull,
                "The directory has \(state.sequences.count) sequences, but the limit is \(sequencesMax); close some, "
                    + "or give old ones a time to live: dcpctl sequence retain NAME --ttl 86400.")
        }
        guard CanaryNames.isReserved(name) == (model == .canary) else { throw reserved(name, of: "sequence") }
        return SequenceRecord(id: SequenceID(state.nextSequence), name: name, model: model, scope: scope)
    }

    func checkRoom(for model: ModelRecord) throws(ServiceError) {
        let (byteCount, limit) = (model.encodedByteCount, ModelDescription.totalByteCountMax)
        guard state.modelsByteCount + byteCount <= limit else {
            throw ServiceError(
                .storeFull,
                "The description of model `\(model.name)` has \(byteCount) bytes and those of the \(state.models.count) "
                    + "registered models have \(state.modelsByteCount), but the limit of all together is \(limit); remove "
                    + "models that no sequence uses (dcpctl model remove NAME).")
        }
    }

    func reserved(_ name: String, of kind: String) -> ServiceError {
        ServiceError(
            .invalidRequest,
            "Names that begin with a dot are reserved for canaries; `\(name)` cannot name this \(kind). Choose another name."
        )
    }

    /// A client that gives a revision never gets keys and values of another; without one, any revision matches.
    func check(scope: String) throws(ServiceError) {
        guard scope.utf8.count <= SequenceLimits.scopeByteCountMax else {
            throw ServiceError(
                .invalidRequest,
                "A scope has at most \(SequenceLimits.scopeByteCountMax) bytes; this one has \(scope.utf8.count). Choose a shorter "
                    + "one.")
        }
    }

    func check(name: String, of kind: String) throws(ServiceError) {
        let isPlain = name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        guard (1...Self.nameByteCountMax).contains(name.utf8.count), isPlain else {
            throw ServiceError(
                .invalidRequest,
                "A \(kind)'s name has 1 to \(Self.nameByteCountMax) bytes and no control characters; this one has "
                    + "\(name.utf8.count) bytes. Choose another name.")
        }
    }

    /// Numbers are never reused, even after a removal and a restart of the coordinator.
    func nextIDs(afterModel id: ModelID) -> StateChange {
        .nextIDs(model: id.value + 1, sequence: state.nextSequence)
    }

    func nextIDs(afterSequence id: SequenceID) -> StateChange {
        .nextIDs(model: state.nextModel, sequence: id.value + 1)
    }
}
