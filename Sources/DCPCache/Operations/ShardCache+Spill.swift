// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// Full blocks that are not committed are sealed before their commit when RAM gets short.
///
/// They get the keys that the commit would give them, and the commit counts them. Until then no record does: a crash leaves
/// blocks that no lineage covers, and the next start deletes them.
extension ShardCache {
    /// Uncommitted bytes in RAM from which on blocks are spilled.
    var spillThreshold: Int { settings.uncommittedByteCountMax / 2 }

    /// Blocks that one transaction spills, at the least one: some ten milliseconds, for which a commit waits.
    private static let batchByteCount = 16 << 20

    /// Why an append finds no room at the moment.
    var crowded: ServiceError {
        fail(
            .overloaded,
            "\(uncommitted.value) bytes of uncommitted tokens are in the RAM of \(rank), but the limit is "
                + "\(settings.uncommittedByteCountMax) (uncommitted-limit), and only full blocks can be spilled to its "
                + "store; commit or rewind, then append again.")
    }

    /// Takes room in RAM for rows of a layer that ends at `end` then.
    ///
    /// A token whose first layer was taken is taken in its other layers, too, so that it can be committed: what they have
    /// beyond the limit then is in open blocks, of which each layer has one.
    /// - Returns: false when there is none at the moment, and blocks are being spilled.
    /// - Throws: `.overloaded` when nothing can be spilled; why the store does not take it.
    func takesRoom(_ byteCount: Int, _ sequence: SequenceCache, end: Position) throws(ServiceError) -> Bool {
        let limit = max(settings.uncommittedByteCountMax, spillThreshold + byteCount)
        if uncommitted.add(byteCount, limit: limit) { return true }
        spillIfCrowded()
        let (isRunning, failure) = spills.withLock { ($0.isRunning, $0.failure?.error) }
        if isRunning { return false }
        // A batch may have come to its end since.
        if uncommitted.add(byteCount, limit: limit) { return true }
        if let failure { throw failure }
        guard sequence.layers.contains(where: { $0.state.withLock(\.length) >= end }) else { throw crowded }
        uncommitted.add(byteCount)
        return true
    }

    /// Runs a body when an append that found no room may try again, or with the reason why it should not. At once, or on the
    /// writer's thread, where it must not block.
    public func whenRoom(_ body: @escaping @Sendable (ServiceError?) -> Void) {
        if !spills.withLock({ $0.wait(body) }) { body(nil) }
    }

    /// Whether a batch is on its way to the store.
    package var isSpilling: Bool { spills.withLock(\.isRunning) }

    /// Starts spilling if too much is in RAM and no spill is running.
    func spillIfCrowded() {
        guard uncommitted.value > spillThreshold else { return }
        let room = room
        if spills.withLock({ $0.begin(room) }) { spillBatch() }
    }

    /// By now.
    var room: RoomState {
        RoomState(transactions: writer.transactionsCommitted, oldestRead: environment.oldestRead)
    }

    /// The disk may take what it has refused.
    func retrySpills() {
        spills.withLock { $0.retry() }
        spillIfCrowded()
    }

    private func spillBatch() {
        let batch = Handoff<[Sealing]>([])
        // Alone: whose blocks it takes is not known before it runs.
        enqueue([], isAlone: true, isInternal: true) { [self] result in
            ended(result)
        } body: { [self] transaction in
            batch.value = takeBatch()
            for index in batch.value.indices { try write(&batch.value[index], &transaction) }
        } undo: { [self] in
            spills.withLock { $0.putBack(batch.value.map(\.sequence.id)) }
            batch.value.reversed().forEach(undo)
            batch.value = []
        } apply: { [self] in
            if !batch.value.isEmpty { FailPoint.spillAfter.pass() }
            for sealing in batch.value {
                do throws(StoreError) {
                    try apply(sealing)
                    spilledBlocks.wrappingAdd(
                        UInt64(sealing.layers.reduce(0) { $0 + $1.blocks.count }), ordering: .relaxed)
                } catch {
                    // They are still in RAM, and the commit writes them again.
                }
                // Some were rewound while they were written.
                if !isInPlace(sealing) { trim(sealing.sequence) }
            }
            spills.withLock { $0.putBack(batch.value.filter(hasFullBlocks).map(\.sequence.id)) }
            batch.value = []
            pieced.withLock { $0.noteCommit(transactions: writer.transactionsCommitted) }
            healPieces()
        }
    }

    private func ended(_ result: Result<Void, ServiceError>) {
        var failure: ServiceError?
        if case .failure(let error) = result { failure = error }
        let (room, isEnough) = (room, uncommitted.value <= spillThreshold)
        let (waiters, goesOn) = spills.withLock { spills in
            let waiters = spills.end(failure, room, isEnough: isEnough)
            return (waiters, spills.isRunning)
        }
        if goesOn { spillBatch() }
        for waiter in waiters { waiter(failure) }
    }

    /// Those that have waited longest, of each the lowest layers first: a prefill that goes layer by layer needs them last.
    ///
    /// Each sequence once: an append may note one again that was taken a moment ago, and a second part of it would be planned
    /// from what the first is about to change.
    private func takeBatch() -> [Sealing] {
        var batch: [Sealing] = []
        var byteCount = 0
        var taken: Set<SequenceID> = []
        var notedSince: [SequenceID] = []
        defer { spills.withLock { $0.putBack(notedSince) } }
        while byteCount < Self.batchByteCount, let id = spills.withLock({ $0.takeFirst() }) {
            guard taken.insert(id).inserted else {
                notedSince.append(id)
                continue
            }
            guard let sequence = sequenceCaches.withLock({ $0[id] }), let lineage = lineages.withLock({ $0[id] }) else {
                continue
            }
            var sealing = Sealing(sequence: sequence, lineage: lineage)
            for (number, layer) in sequence.layers.enumerated() {
                let panels = sequence.model.panels[number]
                let rest = max(Self.batchByteCount - byteCount, 0)
                let room = (rest + panels.payloadByteCount - 1) / panels.payloadByteCount
                sealing.layers.append(
                    layer.state.withLock { state in
                        lease(state, upTo: min(fullBlocks(state), state.mapped.count + room))
                    })
                byteCount += sealing.layers[number].blocks.count * panels.payloadByteCount
            }
            if !sealing.isEmpty { batch.append(sealing) }
        }
        return batch
    }

    private func isInPlace(_ sealing: Sealing) -> Bool {
        zip(sealing.sequence.layers, sealing.layers).allSatisfy { layer, planned in
            planned.blocks.isEmpty || layer.state.withLock { $0.mapped.count >= planned.indices.upperBound }
        }
    }

    private func fullBlocks(_ state: LayerState) -> Int { shard.fullBlocks(of: state.length) }

    private func hasFullBlocks(_ sealing: Sealing) -> Bool {
        sealing.sequence.layers.contains { layer in
            layer.state.withLock { !$0.isClosed && fullBlocks($0) > $0.mapped.count }
        }
    }

    /// Deletes spilled blocks that a rewind has dropped from all layers.
    func trim(_ sequence: SequenceCache) {
        let id = sequence.id
        // None, or one.
        let plan = Handoff<[Sealing]>([])
        enqueue([Self.key(id)], isFreeing: true, isInternal: true) { [self] result in
            guard case .failure = result else { return }
            let room = room
            refusedDeletions.withLock { $0.noteTrim(of: id, room) }
        } body: { [self] transaction in
            plan.value = []
            guard sequenceCaches.withLock({ $0[id] }) === sequence, let lineage = lineages.withLock({ $0[id] }) else {
                return
            }
            // Of no blocks.
            var sealing = Sealing(sequence: sequence, lineage: lineage)
            sealing.layers = sequence.layers.map { $0.state.withLock { lease($0, upTo: 0) } }
            // In its place before it is written: a write that fails in the middle has changed the lineage, which is undone.
            plan.value = [sealing]
            try write(&plan.value[0], &transaction)
        } undo: { [self] in
            plan.value.forEach(undo)
            plan.value = []
        } apply: { [self] in
            // Nothing is read back.
            for sealing in plan.value { try? apply(sealing) }
            plan.value = []
        }
    }
}
