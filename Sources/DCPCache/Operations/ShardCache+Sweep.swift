// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore
internal import Synchronization

/// Deleting, in transactions of a bounded size: the list of the pages that one frees is itself a value, for which there must
/// be a run of pages. See `WriteTransaction.pagesFreedMax`.
extension ShardCache {
    /// Deletes blocks up to the bound of one transaction, whose other jobs delete some too.
    /// - Returns: what is left to delete.
    func delete(_ doomed: [DoomedBlocks], _ transaction: inout WriteTransaction) throws -> [DoomedBlocks] {
        var rest: [DoomedBlocks] = []
        for range in doomed {
            for layer in range.layers {
                var remaining = range
                remaining.layers = layer..<layer + 1
                while transaction.canFree(range.pages), let index = remaining.blocks.first {
                    let key = BlockKey(model: range.model, writer: range.writer, layer: layer, index: index)
                    try transaction.remove(tables.blocks, key.bytes, pages: range.pages)
                    remaining.blocks.removeFirst()
                }
                if !remaining.blocks.isEmpty { rest.append(remaining) }
            }
        }
        return rest
    }

    /// Deletes rows, as many as the transaction may.
    /// - Returns: what is left to delete.
    func delete(_ doomed: [DoomedTailRows], _ transaction: inout WriteTransaction) throws -> [DoomedTailRows] {
        var rest: [DoomedTailRows] = []
        for var remaining in doomed {
            while transaction.canFree(remaining.pages), let token = remaining.tokens.first {
                let key = TailRecord.key(writer: remaining.writer, localIndex: token)
                try transaction.remove(tables.tail, key, pages: remaining.pages)
                remaining.tokens.removeFirst()
            }
            if !remaining.tokens.isEmpty { rest.append(remaining) }
        }
        return rest
    }

    /// Chunks of ids lie in leaves, three to a page.
    private func delete(
        _ doomed: [DoomedChunks], _ transaction: inout WriteTransaction
    ) throws -> [DoomedChunks] {
        var rest: [DoomedChunks] = []
        for var remaining in doomed {
            while transaction.canFree(1), let index = remaining.chunks.first {
                let key = TokenChunk.Key(writer: remaining.writer, index: index)
                try transaction.delete(tables.tokens, key.bytes, pages: 1)
                remaining.chunks.removeFirst()
            }
            if !remaining.chunks.isEmpty { rest.append(remaining) }
        }
        return rest
    }

    private func delete(
        _ doomed: [DoomedAnnotation], _ transaction: inout WriteTransaction
    ) throws -> [DoomedAnnotation] {
        var rest: [DoomedAnnotation] = []
        for annotation in doomed {
            let pages = environment.runPages(valueByteCount: AnnotationRecord.byteCount(annotation.byteCount))
            if transaction.canFree(pages) {
                try transaction.remove(tables.annotations, AnnotationRecord.key(annotation.number), pages: pages)
            } else {
                rest.append(annotation)
            }
        }
        return rest
    }

    /// Records values that a committed operation left to delete, and deletes them in separate transactions. If the
    /// process ends before, the next start finds that no sequence refers to them.
    func sweepLater(_ rest: Doomed) {
        let isPending = doomed.withLock { doomed in
            doomed += rest
            return !doomed.isEmpty
        }
        if isPending { sweep() }
    }

    func sweep() {
        let plan = Handoff(Doomed())
        // Alone: its apply replaces the list, which no other job of the same transaction may have added to.
        enqueue([], isAlone: true, isFreeing: true, isInternal: true) { [self] result in
            guard case .failure = result else { return }
            let room = room
            refusedDeletions.withLock { $0.noteSweep(room) }
        } body: { [self] transaction in
            let all = doomed.withLock { $0 }
            plan.value.blocks = try delete(all.blocks, &transaction)
            plan.value.rows = try delete(all.rows, &transaction)
            plan.value.chunks = try delete(all.chunks, &transaction)
            plan.value.annotations = try delete(all.annotations, &transaction)
        } apply: { [self] in
            let isPending = doomed.withLock { doomed in
                doomed = plan.value
                return !doomed.isEmpty
            }
            if isPending { sweep() }
        }
    }

    /// Tries deletions again that the store refused, if it has other room by now. Cheap when none was refused.
    ///
    /// Transactions of this cache do it when they have committed. A rank does it every second, too: a reader that has
    /// ended tells nobody, and in a full store nothing is committed until something is deleted. Any thread.
    public func retryDeletions() {
        guard refusedDeletions.withLock({ !$0.isEmpty }) else { return }
        let room = room
        retry(refusedDeletions.withLock { $0.take(room) })
    }

    /// The same whatever the room: the disk may do what it has refused.
    func retryAllDeletions() { retry(refusedDeletions.withLock { $0.take(nil) }) }

    private func retry(_ refused: (sweep: Bool, trims: Set<SequenceID>)) {
        if refused.sweep { sweep() }
        for id in refused.trims {
            if let sequence = sequenceCaches.withLock({ $0[id] }) { trim(sequence) }
        }
    }
}
