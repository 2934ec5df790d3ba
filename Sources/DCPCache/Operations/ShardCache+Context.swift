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
        try contexts([(id, length)], layer: layer)[0]
    }

    /// The contexts of a step over several sequences, which share one read transaction: readers are few, and a step is
    /// one of them however many sequences it has.
    /// - Parameter goesOn: called after each piece of blocks that was checked; what it throws ends the call, and what was
    ///   checked stays so.
    /// - Throws: as `context(sequence:layer:length:)`, for the first that cannot be read.
    public func contexts(
        _ wanted: [(sequence: SequenceID, length: Int)], layer: Int,
        goesOn: () throws(ServiceError) -> Void = {}
    ) throws(ServiceError) -> [ContextReader] {
        var isAssembling = false
        while true {
            if let readers = try readers(wanted, layer: layer, &isAssembling) { return readers }
            // Without the snapshot that the readers share: it would live as long as all checks.
            for item in wanted { try checkBlocks(of: item.sequence, layer: layer, length: item.length, goesOn) }
        }
    }

    /// - Returns: nil when not all of the sealed blocks have been checked.
    private func readers(
        _ wanted: [(sequence: SequenceID, length: Int)], layer: Int, _ isAssembling: inout Bool
    ) throws(ServiceError) -> [ContextReader]? {
        let snapshot = try snapshot()
        var readers: [ContextReader] = []
        for item in wanted {
            guard
                let reader = try reader(
                    item.sequence, layer: layer, length: item.length, snapshot, &isAssembling)
            else { return nil }
            readers.append(reader)
        }
        return readers
    }

    private func snapshot() throws(ServiceError) -> Snapshot {
        Snapshot(try mapping { () throws(StoreError) in try environment.beginRead() })
    }

    private func reader(
        _ id: SequenceID, layer: Int, length: Int, _ snapshot: Snapshot, _ isAssembling: inout Bool
    ) throws(ServiceError) -> ContextReader? {
        var own: [Int: AssembledBlock] = [:]
        var generation: Int?
        while true {
            let view = try withReadable(id, layer: layer, length: length) { sequence, tokens, state -> ReaderView in
                let count = (tokens + blockTokens - 1) / blockTokens
                let mapped = Array(state.mapped.prefix(count))
                guard state.verified >= mapped.count else { return .unchecked }
                // Put together before the sequence was cut, so perhaps others.
                if generation != state.generation { own = [:] }
                var assembled: [Int: AssembledBlock] = [:]
                var missing: [Int] = []
                for (index, address) in mapped.enumerated() where address.payload == nil {
                    assembled[index] = state.assembled[index] ?? own[index]
                    if assembled[index] == nil { missing.append(index) }
                }
                guard missing.isEmpty else { return .inPieces(sequence, missing, generation: state.generation) }
                let blocks = Array(state.memory.prefix(count - mapped.count))
                for block in blocks { block.leases.add(1, ordering: .acquiring) }
                return .reader(
                    ContextReader(
                        mapped: mapped, assembled: assembled, memory: blocks, tokens: tokens,
                        layout: sequence.model.panels, snapshot: snapshot, account: readers))
            }
            switch view {
            case .unchecked: return nil
            case .reader(let reader): return reader
            case .inPieces(let sequence, let missing, let current):
                generation = current
                let blocks = try assemble(
                    sequence, layer: layer, missing, generation: current, hasBegun: &isAssembling)
                own.merge(blocks) { $1 }
            }
        }
    }

    /// What a look at a layer came to.
    private enum ReaderView {
        case reader(ContextReader)
        /// Not all of the sealed blocks have been checked.
        case unchecked
        /// These are in pieces and have to be put together first.
        case inPieces(SequenceCache, [Int], generation: Int)
    }

    /// Looks at a layer whose first `length` tokens can be served. With the layer's mutex held.
    private func withReadable<Result>(
        _ id: SequenceID, layer: Int, length: Int, _ body: (SequenceCache, _ tokens: Int, LayerState) -> Result
    ) throws(ServiceError) -> Result {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let core = try prepare(sequence)
        guard length >= 0 else { throw fail(.invalidRequest, "A context of \(length) tokens is negative.") }
        let tokens = localLength(length)
        try checkIntact(core, localLength: tokens)
        return try sequence.layers[layer].state.withLock { state throws(ServiceError) in
            guard !state.isClosed else { throw unknown(id) }
            guard length <= state.length else {
                throw fail(
                    .positionMismatch,
                    "Layer \(layer) of \(id) has \(state.length) tokens on \(rank), fewer than the \(length) of the "
                        + "context; append them first.")
            }
            return body(sequence, tokens, state)
        }
    }

    // MARK: The first use of blocks

    /// Blocks that are checked together.
    private struct Piece {
        var sequence: SequenceCache
        var indices: Range<Int>
        /// Of these and of those behind them, which are asked for meanwhile.
        var addresses: [BlockAddress]
        var generation: Int
    }

    /// Bytes of a piece: some milliseconds from memory, a second from a slow disk.
    private static var pieceByteCount: Int { 16 << 20 }

    /// Compares the checksums of blocks that have not been used since the start, a piece at a time: a long context takes
    /// minutes. Each piece has a read transaction of its own, and counts as checked whatever becomes of the next.
    private func checkBlocks(
        of id: SequenceID, layer: Int, length: Int, _ goesOn: () throws(ServiceError) -> Void
    ) throws(ServiceError) {
        while try checkPiece(of: id, layer: layer, length: length) { try goesOn() }
    }

    /// - Returns: false when there was nothing to check.
    private func checkPiece(of id: SequenceID, layer: Int, length: Int) throws(ServiceError) -> Bool {
        // The snapshot is taken before the addresses are looked up: see ContextReader.
        let snapshot = try snapshot()
        defer { withExtendedLifetime(snapshot) {} }
        let piece = try withReadable(id, layer: layer, length: length) { sequence, tokens, state -> Piece in
            let count = max(1, Self.pieceByteCount / sequence.model.panels.payloadByteCount)
            let sealed = min((tokens + blockTokens - 1) / blockTokens, state.mapped.count)
            let rest = state.mapped[min(state.verified, sealed)..<sealed]
            return Piece(
                sequence: sequence, indices: rest.startIndex..<min(rest.startIndex + count, sealed),
                addresses: Array(rest.prefix(2 * count)), generation: state.generation)
        }
        guard !piece.indices.isEmpty else { return false }
        try check(piece, layer: layer)
        return true
    }

    /// Checks blocks, without a lock, and remembers the result.
    private func check(_ piece: Piece, layer: Int) throws(ServiceError) {
        let sequence = piece.sequence
        let lineage = lineages.withLock { $0[sequence.id] }
        let byteCount = sequence.model.panels.payloadByteCount
        func ask(_ addresses: some Sequence<BlockAddress>) {
            for payload in addresses.compactMap(\.payload) { MappedPages.ask(for: payload, byteCount: byteCount) }
        }
        ask(piece.addresses.prefix(piece.indices.count))
        var intact = piece.indices.lowerBound
        var failure: ServiceError?
        for (offset, address) in piece.addresses.prefix(piece.indices.count).enumerated() {
            ask(piece.addresses.dropFirst(piece.indices.count + offset).prefix(1))
            do throws(ServiceError) {
                try checkBlock(sequence, layer: layer, index: intact, address: address, lineage: lineage)
                intact += 1
            } catch {
                failure = error
                break
            }
        }
        let isCurrent = sequence.layers[layer].state.withLock { state in
            guard state.generation == piece.generation else { return false }
            state.verified = max(state.verified, intact)
            return true
        }
        // Dropped meanwhile, so the lineage may not be that of the addresses. A truncation changes the generation before it
        // changes the lineage, so when it is current, both are of the piece.
        guard isCurrent, let failure else { return }
        sequence.markDamaged(fromLocalIndex: intact * blockTokens, failure.message)
        try checkIntact(sequence.core.withLock { $0 }, localLength: intact * blockTokens + 1)
    }
}
