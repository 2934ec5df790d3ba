public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Makes a sequence that starts with the first `length` (global) committed tokens of another.
    ///
    /// Sealed blocks wholly within the length are shared, the tokens of the block it cuts are copied. Parent and child
    /// then live and end independently. Repeating a fork succeeds; another sequence of the child's id is `.conflict`.
    /// - Parameter completion: `.invalidRequest` above the parent's committed length; `.unknownSequence`,
    ///   `.storeDamaged`, `.storeFull`.
    public func fork(parent: SequenceID, child: SequenceID, length: Int, completion: @escaping CacheCompletion) {
        let origin = SequenceRecord.Origin(parent: parent, length: length)
        let plan = Plan<(child: SequenceCache, lineage: Lineage, tokens: TokenRecord)?>(nil)
        enqueue([Self.key(parent), Self.key(child)], completion) { [self] transaction in
            if damagedRecords.withLock({ $0[child] != nil }) { _ = try sequence(child) }
            if let known = sequenceCaches.withLock({ $0[child] }) {
                guard known.origin == origin else {
                    throw fail(
                        .conflict,
                        "\(child) exists on \(rank) and is not a fork of \(parent) at \(length); use another id.")
                }
                return
            }
            plan.value = try fork(sequence(parent), child, origin, &transaction)
        } undo: {
            plan.value = nil
        } apply: { [self] in
            guard let (forked, lineage, tokens) = plan.value else { return }
            plan.value = nil
            stored(forked.core.withLock { $0.lastChange })
            lineages.withLock { $0[child] = lineage }
            sequenceCaches.withLock { $0[child] = forked }
            tokensForked(parent, forked, tokens)
        }
    }

    private func fork(
        _ parent: SequenceCache, _ child: SequenceID, _ origin: SequenceRecord.Origin,
        _ transaction: inout WriteTransaction
    ) throws -> (SequenceCache, Lineage, TokenRecord) {
        let core = try prepare(parent)
        let length = origin.length
        guard (0...core.committed).contains(length) else {
            throw fail(
                .invalidRequest,
                "\(parent.id) has \(core.committed) committed tokens on \(rank) and cannot be forked at \(length).")
        }
        let local = localLength(length)
        try checkIntact(core, localLength: local)
        guard let lineage = lineages.withLock({ $0[parent.id] }) else { throw unknown(parent.id) }
        let copies = try straddlingBlocks(parent, lineage: lineage, localLength: local)
        let shared = local / blockTokens
        let layers = parent.layers.enumerated().map { index, layer in
            layer.state.withLock { state in
                LayerState(
                    length: length, mapped: Array(state.mapped.prefix(shared)),
                    assembled: state.assembled.filter { $0.key < shared },
                    memory: copies.isEmpty ? [] : [copies[index]], verified: state.verified.clamped(to: 0..<shared))
            }
        }
        let change = takeChange()
        let forked = SequenceCache(
            id: child, model: parent.model, scope: parent.scope, origin: origin, committed: length, lastChange: change,
            isTailLoaded: true, layers: layers)
        let childLineage = lineage.cut(to: shared, writer: try takeWriter(&transaction))
        try putRows(forked, shared * blockTokens..<local, blocks: copies, &transaction)
        let tokens = try cutTokens(of: parent.id, to: length, writer: childLineage.writer, &transaction)
        let record = SequenceRecord(
            forked, committed: length, lineage: childLineage, tokens: tokens, lastChange: change, claim: .none)
        try transaction.put(tables.sequences, SequenceRecord.key(child), record.encoded(child))
        return (forked, childLineage, tokens)
    }
}
