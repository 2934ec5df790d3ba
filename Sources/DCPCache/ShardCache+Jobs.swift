internal import DCPCore
internal import DCPStore
internal import Synchronization

/// What a job hands from its body to its undo and its apply.
///
/// @unchecked Sendable: all three run on the writer's thread, one after the other.
final class Plan<Value>: @unchecked Sendable {
    var value: Value

    init(_ value: Value) { self.value = value }
}

extension ShardCache {
    static let epochKey = WriteJob.Key(space: 0, value: 0)
    static func key(_ id: SequenceID) -> WriteJob.Key { WriteJob.Key(space: 1, value: id.value) }

    /// Hands an operation to the writer; see the DESIGN comment of `ShardCache` for the parts.
    func enqueue(
        _ keys: [WriteJob.Key], isAlone: Bool = false, isFreeing: Bool = false, isSynced: Bool = false,
        isInternal: Bool = false,
        _ completion: @escaping CacheCompletion,
        body: @escaping @Sendable (inout WriteTransaction) throws -> Void,
        undo: @escaping @Sendable () -> Void = {},
        apply: @escaping @Sendable () -> Void = {}
    ) {
        let job = WriteJob(
            keys: keys, isAlone: isAlone, isFreeing: isFreeing, isSynced: isSynced, body: body, undo: undo
        ) { [self] in
            switch $0 {
            case .success:
                apply()
                if isFreeing { turnOver() }
                completion(.success(()))
            case .failure(let error):
                completion(.failure(ServiceError(any: error, rank: rank)))
            }
        }
        if isInternal { writer.submitInternal(job) } else { writer.submit(job) }
    }

    /// Makes freed pages usable. LMDB gives the pages that transaction N frees to N + 2 at the earliest, and a commit
    /// that fails for lack of them makes no transaction: on a full store somebody has to.
    private func turnOver() {
        writer.submitInternal(
            WriteJob(
                isFreeing: true,
                body: { [tables] transaction in
                    guard let stored = try transaction.get(tables.meta, Counter.writer) else { return }
                    try transaction.put(tables.meta, Counter.writer, Array(stored))
                },
                // Speeds up what would happen anyway; a store that cannot write says so at the next commit.
                completion: { _ in }))
    }

    /// A writer number that was never given out before. Taken in the transaction, so an aborted one gives it back.
    func takeWriter(_ transaction: inout WriteTransaction) throws -> UInt64 {
        let stored = try transaction.get(tables.meta, Counter.writer)
        guard let number = stored.flatMap({ Counter.decoded($0, key: Counter.writer) }) else {
            throw fail(
                .storeDamaged,
                "The writer counter of the store \(environment.directory) is damaged; move the store away and restart, "
                    + "the rank then starts empty.")
        }
        try transaction.put(tables.meta, Counter.writer, Counter.encoded(number + 1, key: Counter.writer))
        return number
    }

    // MARK: Deleting blocks

    /// The most pages one transaction frees: the list of freed pages is itself a value, and the reserve must hold it.
    static let pagesFreedMax = 8192

    /// Deletes blocks up to the bound of one transaction, whose other jobs delete some too.
    /// - Returns: what is left to delete.
    func delete(_ doomed: [DoomedBlocks], _ transaction: inout WriteTransaction) throws -> [DoomedBlocks] {
        var rest: [DoomedBlocks] = []
        for range in doomed {
            for layer in range.layers {
                var remaining = range
                remaining.layers = layer..<layer + 1
                while transaction.pagesFreed < Self.pagesFreedMax, let index = remaining.blocks.first {
                    let key = BlockKey(model: range.model, writer: range.writer, layer: layer, index: index)
                    try transaction.delete(tables.blocks, key.bytes, pages: range.pages)
                    remaining.blocks.removeFirst()
                }
                if !remaining.blocks.isEmpty { rest.append(remaining) }
            }
        }
        return rest
    }

    /// Remembers blocks that a committed operation left to delete, and deletes them in transactions of their own. Were
    /// the process to end before, the next start finds that no lineage covers them.
    func sweepLater(_ rest: [DoomedBlocks]) {
        let isPending = doomed.withLock { doomed in
            doomed += rest
            return !doomed.isEmpty
        }
        if isPending { sweep() }
    }

    func sweep() {
        let plan = Plan<[DoomedBlocks]>([])
        // Alone: its apply replaces the list, which no other job of the same transaction may have added to.
        enqueue([], isAlone: true, isFreeing: true, isInternal: true, { _ in }) { [self] transaction in
            let all = doomed.withLock { $0 }
            plan.value = try delete(all, &transaction)
        } apply: { [self] in
            let isPending = doomed.withLock { doomed in
                doomed = plan.value
                return !doomed.isEmpty
            }
            if isPending { sweep() }
        }
    }
}

extension ModelEntry {
    /// Bytes of a block's value in a layer.
    func blockByteCount(layer: Int, pageByteCount: Int) -> Int {
        BlockRecord.byteCount(panels[layer], pageByteCount: pageByteCount)
    }

    /// Pages that a block's value takes in each layer.
    func blockPages(pageByteCount: Int) -> [Int] {
        panels.map { (15 + BlockRecord.byteCount($0, pageByteCount: pageByteCount)) / pageByteCount + 1 }
    }

    /// Layers beside each other whose blocks take as many pages.
    func pageRuns(pageByteCount: Int) -> [(layers: Range<Int>, pages: Int)] {
        var runs: [(layers: Range<Int>, pages: Int)] = []
        for (layer, pages) in blockPages(pageByteCount: pageByteCount).enumerated() {
            if let last = runs.last, last.pages == pages {
                runs[runs.count - 1].layers = last.layers.lowerBound..<layer + 1
            } else {
                runs.append((layer..<layer + 1, pages))
            }
        }
        return runs
    }
}
