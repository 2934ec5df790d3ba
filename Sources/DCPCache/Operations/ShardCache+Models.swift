// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Adds a model. Repeating it succeeds; the same id with another name or description is `.modelMismatch`.
    /// - Parameter isOwed: see `openSequence`.
    public func putModel(
        id: ModelID, name: String, description: ModelDescription, isOwed: Bool = false,
        completion: @escaping CacheCompletion
    ) {
        enqueue([], isAlone: true, usesReserve: isOwed, completion) { [self] transaction in
            try cluster.check(description)
            if let known = modelEntries.withLock({ $0[id] }) {
                var differences = description.differences(from: known.description)
                if NameKey(known.name) != NameKey(name) {
                    differences.insert("name: \(name), not \(known.name)", at: 0)
                }
                guard differences.isEmpty else {
                    throw fail(
                        .modelMismatch,
                        "\(id) differs on \(rank): \(differences.joined(separator: "; ")). Use another model, or "
                            + "remove this one first.")
                }
                return
            }
            let record = StoredModel(
                name: name, description: description, fingerprint: LayoutFingerprint(description, in: cluster).value)
            try transaction.put(tables.models, StoredModel.key(id), record.encoded(id))
            try transaction.raise(Counter.model, to: UInt64(id.value), tables.meta)
        } apply: { [self] in
            modelEntries.withLock { models in
                if models[id] == nil {
                    models[id] = ModelEntry(
                        id: id, name: name, description: description, cluster: cluster,
                        pageByteCount: environment.pageByteCount)
                }
            }
            numbers.withLock { $0.model = max($0.model, UInt64(id.value)) }
        }
    }

    /// Removes a model; succeeds when there is none. `.conflict` while a sequence uses it.
    public func removeModel(_ id: ModelID, completion: @escaping CacheCompletion) {
        enqueue([], isAlone: true, isFreeing: true, completion) { [self] transaction in
            let users = sequenceCaches.withLock { $0.values.count { $0.model.id == id } }
            guard users == 0 else {
                throw fail(.conflict, "\(users) sequences use \(id) on \(rank); close them first.")
            }
            try transaction.delete(tables.models, StoredModel.key(id))
        } apply: { [self] in
            modelEntries.withLock { $0[id] = nil }
        }
    }

    public func model(_ id: ModelID) -> (name: String, description: ModelDescription)? {
        modelEntries.withLock { $0[id] }.map { ($0.name, $0.description) }
    }

    /// All models, by id.
    public var models: [(id: ModelID, name: String, description: ModelDescription)] {
        modelEntries.withLock { Array($0.values) }.sorted { $0.id < $1.id }.map { ($0.id, $0.name, $0.description) }
    }
}
