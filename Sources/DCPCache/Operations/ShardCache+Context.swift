// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// This rank's tokens among the first `length` tokens of a layer, readable in place.
    ///
    /// Reads blocks completely once, when they are first used after a start, to compare their checksums.
    /// - Throws: `.positionMismatch` above the layer's length; `.storeDamaged` when a block fails its checksum;
    ///   `.overloaded` with too many readers; `.unknownSequence`.
    public func context(sequence id: SequenceID, layer: Int, length: Position) throws(ServiceError) -> ContextReader {
        try contexts([(id, Position(0)..<length)], layer: layer)[0]
    }

    /// The contexts of a step over several sequences, which share one read transaction: readers are few, and a step is
    /// one of them however many sequences it has.
    ///
    /// - Parameters:
    ///   - wanted: sequences with the positions to read. The readers begin with the block that holds the first of them
    ///     on this rank; what is before it is not touched.
    ///   - goesOn: called after each piece of blocks that was checked; what it throws ends the call, and what was
    ///     checked stays so.
    /// - Throws: as `context(sequence:layer:length:)`, for the first that cannot be read.
    public func contexts(
        _ wanted: [(sequence: SequenceID, positions: Range<Position>)], layer: Int,
        goesOn: () throws(ServiceError) -> Void = {}
    ) throws(ServiceError) -> [ContextReader] {
        var isAssembling = false
        while true {
            if let readers = try readers(wanted, layer: layer, &isAssembling) { return readers }
            // Without the snapshot that the readers share: it would live as long as all checks.
            for item in wanted { try checkBlocks(of: item.sequence, layer: layer, item.positions, goesOn) }
        }
    }

    /// The same for a caller that must not wait.
    /// - Returns: nil when something has to be checked, brought into RAM or put together first.
    /// - Throws: as `contexts`.
    public func contextsAtHand(
        _ wanted: [(sequence: SequenceID, positions: Range<Position>)], layer: Int
    ) throws(ServiceError) -> [ContextReader]? {
        guard wanted.allSatisfy({ isAtHand($0.sequence) }) else { return nil }
        let snapshot = try snapshot()
        return try each(of: wanted) { (item) throws(ServiceError) in
            switch try view(item.sequence, layer: layer, item.positions, snapshot, own: nil) {
            case .reader(let reader): reader
            case .unchecked, .inPieces: nil
            }
        }
    }

    /// Whether a sequence is loaded into RAM. Its first use loads it from the store.
    public func isAtHand(_ id: SequenceID) -> Bool {
        sequenceCaches.withLock { $0[id] }?.core.withLock { $0.residence != nil } ?? false
    }

    /// - Returns: nil when not all of the sealed blocks have been checked.
    private func readers(
        _ wanted: [(sequence: SequenceID, positions: Range<Position>)], layer: Int, _ isAssembling: inout Bool
    ) throws(ServiceError) -> [ContextReader]? {
        let snapshot = try snapshot()
        return try each(of: wanted) { (item) throws(ServiceError) in
            try reader(item.sequence, layer: layer, item.positions, snapshot, &isAssembling)
        }
    }

    /// - Returns: nil as soon as one is.
    private func each(
        of wanted: [(sequence: SequenceID, positions: Range<Position>)],
        _ reader: ((sequence: SequenceID, positions: Range<Position>)) throws(ServiceError) -> ContextReader?
    ) throws(ServiceError) -> [ContextReader]? {
        var readers: [ContextReader] = []
        for item in wanted {
            guard let reader = try reader(item) else { return nil }
            readers.append(reader)
        }
        return readers
    }

    private func snapshot() throws(ServiceError) -> Snapshot {
        Snapshot(try mapping { () throws(StoreError) in try environment.beginRead() })
    }

    private func reader(
        _ id: SequenceID, layer: Int, _ positions: Range<Position>, _ snapshot: Snapshot, _ isAssembling: inout Bool
    ) throws(ServiceError) -> ContextReader? {
        var own: (blocks: [Int: AssembledBlock], generation: Int)?
        while true {
            switch try view(id, layer: layer, positions, snapshot, own: own) {
            case .unchecked: return nil
            case .reader(let reader): return reader
            case .inPieces(let sequence, let missing, let generation):
                let blocks = try assemble(
                    sequence, layer: layer, missing, generation: generation, hasBegun: &isAssembling)
                let former = own.flatMap { $0.generation == generation ? $0.blocks : nil } ?? [:]
                own = (former.merging(blocks) { $1 }, generation)
            }
        }
    }

    /// - Parameter own: blocks in pieces that the caller has put together, and of which generation they are.
    private func view(
        _ id: SequenceID, layer: Int, _ positions: Range<Position>, _ snapshot: Snapshot,
        own: (blocks: [Int: AssembledBlock], generation: Int)?
    ) throws(ServiceError) -> ReaderView {
        try withReadable(id, layer: layer, positions) { sequence, local, state -> ReaderView in
            let blocks = shard.blocks(of: local)
            let sealed = blocks.clamped(to: 0..<state.mapped.count)
            guard sealed.isEmpty || sealed == sealed.clamped(to: state.verified) else { return .unchecked }
            // Of another generation: put together before the sequence was cut, so perhaps others.
            let own = own.flatMap { $0.generation == state.generation ? $0.blocks : nil } ?? [:]
            var assembled: [AssembledBlock] = []
            var missing: [Int] = []
            let payloads = sealed.compactMap { index -> UnsafeRawPointer? in
                if let payload = state.mapped[index].payload { return payload }
                guard let block = state.assembled[index] ?? own[index] else {
                    missing.append(index)
                    return nil
                }
                assembled.append(block)
                return block.payload
            }
            guard missing.isEmpty else { return .inPieces(sequence, missing, generation: state.generation) }
            let open = max(blocks.lowerBound, state.mapped.count)..<max(blocks.upperBound, state.mapped.count)
            let memory = open.map { state.memory[$0 - state.mapped.count] }
            for block in memory { block.leases.add(1, ordering: .acquiring) }
            let first = shard.start(ofBlock: blocks.lowerBound)
            return .reader(
                ContextReader(
                    sealed: payloads, assembled: assembled, memory: memory, firstIndex: first,
                    tokens: local.isEmpty ? 0 : local.upperBound - first, layout: sequence.model.panels[layer],
                    snapshot: snapshot, account: readers))
        }
    }

    /// The result of looking up a layer.
    private enum ReaderView {
        case reader(ContextReader)
        /// Not all of the sealed blocks have been checked.
        case unchecked
        /// These are in pieces and have to be put together first.
        case inPieces(SequenceCache, [Int], generation: Int)
    }

    /// Looks at a layer whose tokens up to the last of `positions` can be served. With the layer's mutex held.
    private func withReadable<Result>(
        _ id: SequenceID, layer: Int, _ positions: Range<Position>,
        _ body: (SequenceCache, _ local: Range<LocalIndex>, LayerState) -> Result
    ) throws(ServiceError) -> Result {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let core = try prepare(sequence)
        guard positions.lowerBound >= Position(0) else {
            throw fail(
                .invalidRequest, "A context from position \(positions.lowerBound) on begins before the sequence.")
        }
        let local = shard.range(of: positions)
        try checkIntact(core, upTo: local.upperBound)
        return try core.layers[layer].state.withLock { state throws(ServiceError) in
            guard !state.isClosed else { throw unknown(id) }
            guard positions.upperBound <= state.length else {
                throw fail(
                    .positionMismatch,
                    "Layer \(layer) of \(id) has \(state.length) tokens on \(rank), fewer than the "
                        + "\(positions.upperBound) that the context needs; append them first.")
            }
            return body(sequence, local, state)
        }
    }

    // MARK: The first use of blocks

    /// Blocks that are checked together.
    private struct Piece {
        var sequence: SequenceCache
        var indices: Range<Int>
        /// Of these and of those behind them, which are asked for meanwhile.
        var addresses: [BlockAddress]
        /// Whether it adjoins what has been checked; else it takes its place.
        var adjoins: Bool
        var generation: Int
    }

    /// Bytes of a piece: some milliseconds from memory, a second from a slow disk.
    private static var pieceByteCount: Int { 16 << 20 }

    /// Compares the checksums of blocks that have not been used since the start, a piece at a time: a long context
    /// takes minutes. Each piece has its own read transaction, and counts as checked whatever the result of the next.
    private func checkBlocks(
        of id: SequenceID, layer: Int, _ positions: Range<Position>, _ goesOn: () throws(ServiceError) -> Void
    ) throws(ServiceError) {
        while try checkPiece(of: id, layer: layer, positions) { try goesOn() }
    }

    /// - Returns: false when there was nothing to check.
    private func checkPiece(of id: SequenceID, layer: Int, _ positions: Range<Position>) throws(ServiceError) -> Bool {
        // The snapshot is taken before the addresses are looked up: see ContextReader.
        let snapshot = try snapshot()
        defer { withExtendedLifetime(snapshot) {} }
        let piece = try withReadable(id, layer: layer, positions) { sequence, local, state -> Piece in
            let count = max(1, Self.pieceByteCount / sequence.model.panels[layer].payloadByteCount)
            let needed = shard.blocks(of: local).clamped(to: 0..<state.mapped.count)
            let verified = state.verified
            let adjoins =
                !verified.isEmpty && needed.lowerBound <= verified.upperBound
                && needed.upperBound >= verified.lowerBound
            var rest = needed
            var indices = needed.prefix(count)
            if adjoins, needed.lowerBound < verified.lowerBound {
                // From what has been checked downwards, so that each piece adjoins it.
                rest = needed.lowerBound..<verified.lowerBound
                indices = rest.suffix(count)
            } else if adjoins {
                rest = min(verified.upperBound, needed.upperBound)..<needed.upperBound
                indices = rest.prefix(count)
            }
            let next = rest.clamped(to: indices.lowerBound..<min(indices.upperBound + count, rest.upperBound))
            return Piece(
                sequence: sequence, indices: indices, addresses: Array(state.mapped[next]), adjoins: adjoins,
                generation: state.generation)
        }
        guard !piece.indices.isEmpty else { return false }
        try check(piece, layer: layer)
        return true
    }

    /// Checks blocks, without a lock, and remembers the result.
    private func check(_ piece: Piece, layer: Int) throws(ServiceError) {
        let sequence = piece.sequence
        let lineage = lineages.withLock { $0[sequence.id] }
        let byteCount = sequence.model.panels[layer].payloadByteCount
        func willNeed(_ addresses: some Sequence<BlockAddress>) {
            for payload in addresses.compactMap(\.payload) { MappedPages.willNeed(payload, byteCount: byteCount) }
        }
        willNeed(piece.addresses.prefix(piece.indices.count))
        var intact = piece.indices.lowerBound
        var failure: ServiceError?
        for (offset, address) in piece.addresses.prefix(piece.indices.count).enumerated() {
            willNeed(piece.addresses.dropFirst(piece.indices.count + offset).prefix(1))
            do throws(ServiceError) {
                try checkBlock(sequence, layer: layer, index: intact, address: address, lineage: lineage)
                intact += 1
            } catch {
                failure = error
                break
            }
        }
        let isCurrent = try prepare(sequence).layers[layer].state.withLock { state in
            guard state.generation == piece.generation else { return false }
            let checked = piece.indices.lowerBound..<intact
            if !piece.adjoins {
                state.verified = checked
            } else if checked.lowerBound == state.verified.upperBound {
                state.verified = state.verified.lowerBound..<checked.upperBound
            } else if checked.upperBound == state.verified.lowerBound {
                state.verified = checked.lowerBound..<state.verified.upperBound
            }
            return true
        }
        // Dropped meanwhile, so the lineage may not be that of the addresses. A truncation changes the generation before it
        // changes the lineage, so when it is current, both are of the piece.
        guard isCurrent, let failure else { return }
        let start = shard.start(ofBlock: intact)
        sequence.markDamaged(from: start, failure.message)
        try checkIntact(sequence.core.withLock { $0 }, upTo: start + 1)
    }
}
