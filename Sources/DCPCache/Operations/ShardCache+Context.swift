internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// This rank's tokens among the first `length` global tokens of a layer, readable in place.
    ///
    /// Reads blocks completely once, when they are first used after a start, to compare their checksums.
    /// - Throws: `.positionMismatch` above the layer's length; `.storeDamaged` when a block fails its checksum;
    ///   `.overloaded` with too many readers; `.unknownSequence`.
    public func context(sequence id: SequenceID, layer: Int, length: Int) throws(ServiceError) -> ContextReader {
        try context(of: id, layer: layer, length: length, snapshot: snapshot())
    }

    /// The contexts of a step over several sequences, which share one read transaction: readers are few, and a step is
    /// one of them however many sequences it has.
    /// - Throws: as `context(sequence:layer:length:)`, for the first that cannot be read.
    public func contexts(
        _ wanted: [(sequence: SequenceID, length: Int)], layer: Int
    ) throws(ServiceError) -> [ContextReader] {
        let snapshot = try snapshot()
        return try wanted.map { (item) throws(ServiceError) in
            try context(of: item.sequence, layer: layer, length: item.length, snapshot: snapshot)
        }
    }

    private func snapshot() throws(ServiceError) -> Snapshot {
        Snapshot(try mapping { () throws(StoreError) in try environment.beginRead() })
    }

    private func context(
        of id: SequenceID, layer: Int, length: Int, snapshot: Snapshot
    ) throws(ServiceError) -> ContextReader {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        while true {
            let core = try prepare(sequence)
            guard length >= 0 else { throw fail(.invalidRequest, "A context of \(length) tokens is negative.") }
            try checkIntact(core, localLength: localLength(length))
            if let reader = try attempt(sequence, layer: layer, length: length, snapshot: snapshot) {
                return reader
            }
        }
    }

    /// - Returns: nil when sealed blocks were dropped while they were checked; then the state has to be read again.
    private func attempt(
        _ sequence: SequenceCache, layer: Int, length: Int, snapshot: Snapshot
    ) throws(ServiceError) -> ContextReader? {
        let panels = sequence.model.panels
        let tokens = localLength(length)
        let count = (tokens + blockTokens - 1) / blockTokens
        // The snapshot was taken before the addresses are looked up: see ContextReader.
        let found = try sequence.layers[layer].state.withLock { state throws(ServiceError) in
            guard !state.isClosed else { throw unknown(sequence.id) }
            guard length <= state.length else {
                throw fail(
                    .positionMismatch,
                    "Layer \(layer) of \(sequence.id) has \(state.length) tokens on \(rank), fewer than the \(length) of "
                        + "the context; append them first.")
            }
            let mapped = Array(state.mapped.prefix(count))
            let blocks = Array(state.memory.prefix(count - mapped.count))
            for block in blocks { block.leases.add(1, ordering: .acquiring) }
            return Found(mapped: mapped, memory: blocks, verified: state.verified, generation: state.generation)
        }
        let reader = ContextReader(
            mapped: found.mapped, memory: found.memory, tokens: tokens, layout: panels, snapshot: snapshot,
            account: readers)
        guard found.verified < found.mapped.count else { return reader }
        return try verify(sequence, layer: layer, found) ? reader : nil
    }

    private static var verifyAheadByteCount: Int { 16 << 20 }

    private struct Found: Sendable {
        var mapped: [BlockAddress]
        var memory: [MemoryBlock]
        var verified: Int
        var generation: Int
    }

    /// Checks the blocks that have not been checked yet, without a lock, and remembers the result.
    /// - Returns: false when the sequence dropped blocks meanwhile, so that its lineage may not be that of `found`.
    private func verify(_ sequence: SequenceCache, layer: Int, _ found: Found) throws(ServiceError) -> Bool {
        let lineage = lineages.withLock { $0[sequence.id] }
        let byteCount = sequence.model.panels.payloadByteCount
        // Some blocks ahead, not all: a long context may be larger than memory.
        let ahead = max(1, Self.verifyAheadByteCount / byteCount)
        func ask(_ blocks: Range<Int>) {
            for index in blocks.clamped(to: found.verified..<found.mapped.count) {
                MappedPages.ask(for: found.mapped[index].payload, byteCount: byteCount)
            }
        }
        ask(found.verified..<found.verified + ahead)
        var intact = found.verified
        var failure: ServiceError?
        for index in found.verified..<found.mapped.count {
            ask(index + ahead..<index + ahead + 1)
            do throws(ServiceError) {
                try checkBlock(sequence, layer: layer, index: index, address: found.mapped[index], lineage: lineage)
                intact += 1
            } catch {
                failure = error
                break
            }
        }
        let isCurrent = sequence.layers[layer].state.withLock { state in
            guard state.generation == found.generation else { return false }
            state.verified = max(state.verified, intact)
            return true
        }
        guard let failure else { return true }
        // A truncation changes the generation before it changes the lineage, so here both are those of `found`.
        guard isCurrent else { return false }
        sequence.markDamaged(fromLocalIndex: intact * blockTokens, failure.message)
        try checkIntact(sequence.core.withLock { $0 }, localLength: intact * blockTokens + 1)
        return false
    }
}
