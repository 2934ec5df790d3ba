internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPWire
internal import NIOCore
internal import Synchronization

/// What a step computes, on the pool's threads or on the event loop. Immutable but for the flag that stops it.
///
/// Each function returns at once; its completion is called once, on a compute thread or on the loop.
final class StepWork: Sendable {
    /// Where something is computed.
    enum Place {
        case threads
        /// Runs a body as a task of the loop; see `LoopWork`.
        case loop((_ body: @escaping @Sendable () -> Void) -> Void)

        var isOnThreads: Bool {
            switch self {
            case .threads: true
            case .loop: false
            }
        }
    }

    let plan: StepPlan
    private let request: StepRequest
    private let limits: InputLimits
    private let layer: Int
    private let cache: ShardCache
    let pool: ComputePool
    private let broken: BrokenRule?
    let isCancelled = Atomic<Bool>(false)
    /// What the check of the step's tensors found, once it has run.
    private let inputs = Mutex<Result<Void, ServiceError>?>(nil)

    init(
        plan: StepPlan, request: StepRequest, layer: Int, cache: ShardCache, pool: ComputePool,
        broken: BrokenRule?
    ) {
        self.plan = plan
        self.request = request
        limits = InputLimits(plan.attention, kvDataType: plan.kvDataType)
        self.layer = layer
        self.cache = cache
        self.pool = pool
        self.broken = broken
    }

    /// Pieces that have not begun are skipped. Completions are still called.
    func cancel() { isCancelled.store(true, ordering: .relaxed) }

    typealias Completion<Value> = @Sendable (Result<Value, ServiceError>) -> Void

    /// Checks all the step's tensors, and not only what this rank keeps of them: with queries the ranks of a group are given
    /// the same keys and values, so none of them appends what another refuses. Without queries each is given its own, and
    /// the machine has them wait for each other. Whichever job is first runs it, the others wait for it.
    private func checkInputs() throws(ServiceError) {
        let result = inputs.withLock { known in
            if let known { return known }
            let found = Result { () throws(ServiceError) in
                let heads = request.queryMode == .gather ? plan.ownHeads.lowerBound : 0
                let rowCount = plan.keyValueTokens
                for (tensor, rows, dataType, firstHead, tokens, dim) in [
                    (
                        InputLimits.Tensor.query, request.queries, request.queryDataType, heads, plan.tokens,
                        request.keyDim
                    ),
                    (.key, request.keys, request.keyValueDataType, 0, rowCount, request.keyDim),
                    (.value, request.values, request.keyValueDataType, 0, rowCount, request.valueDim),
                ] {
                    try rows.withBytes { (bytes) throws(ServiceError) in
                        try limits.check(
                            tensor, UnsafeRawBufferPointer(start: bytes, count: rows.byteCount), dataType: dataType,
                            firstHead: firstHead, tokens: tokens, dim: dim
                        ) { tensor == .query ? $0 : plan.token(ofRow: $0) }
                    }
                }
            }
            known = found
            return found
        }
        try result.get()
    }

    /// The owned tokens into the cache, all entries or none. Waits for room, without a thread, while the cache makes some.
    func append(in place: Place, completion: @escaping Completion<Void>) {
        append(from: 0, in: place, completion: completion)
    }

    /// - Parameter first: the entry to go on with; those before it are in the cache.
    private func append(from first: Int, in place: Place, completion: @escaping Completion<Void>) {
        submit(in: place) { [self] in
            var next = first
            do throws(ServiceError) {
                guard !isCancelled.load(ordering: .relaxed) else {
                    throw ServiceError(.stepAborted, "The step was over before its tokens were appended.")
                }
                try checkInputs()
                guard try appendEntries(from: &next) else { return wait(before: next, completion: completion) }
                completion(.success(()))
            } catch {
                takeBack(before: next)
                completion(.failure(error))
            }
        }
    }

    /// - Returns: false when one found no room.
    private func appendEntries(from next: inout Int) throws(ServiceError) -> Bool {
        var index = next
        var hasRoom = true
        defer { next = index }
        try withRows { (rows) throws(ServiceError) in
            // Without queries only the owned tokens' rows have come, those of one entry behind another's.
            var firstRow = request.entries.prefix(index).reduce(0) { $0 + plan.ownedIndices(of: $1).count }
            for (entry, tokens) in entryTokens.dropFirst(index) {
                if plan.queryMode == .absent {
                    hasRoom = try cache.appendIfRoom(
                        sequence: entry.sequence, layer: layer, positions: entry.positions, owned: rows, from: firstRow)
                    firstRow += plan.ownedIndices(of: entry).count
                } else {
                    hasRoom = try cache.appendIfRoom(
                        sequence: entry.sequence, layer: layer, position: entry.position, rows: rows, tokens: tokens)
                }
                guard hasRoom else { return }
                index += 1
            }
        }
        return hasRoom
    }

    private func wait(before next: Int, completion: @escaping Completion<Void>) {
        cache.whenRoom { [self] refusal in
            guard let refusal else { return append(from: next, in: .threads, completion: completion) }
            pool.submit { [self] in
                takeBack(before: next)
                completion(.failure(refusal))
            }
        }
    }

    private func takeBack(before next: Int) {
        for entry in request.entries.prefix(next) {
            // Fails for a sequence that was closed meanwhile: its tokens are gone with it.
            try? cache.rewind(sequence: entry.sequence, layer: layer, length: entry.position)
        }
    }

    /// Causal attention of the own heads over the step's own tokens.
    func attendNewTokens(in place: Place, completion: @escaping Completion<AttentionResult>) {
        attend(in: place, completion) { [self] (_, _) throws(ServiceError) -> AttentionJob in
            try checkInputs()
            var queries = QueryRows(heads: plan.ownHeads, tokens: plan.tokens, keyDim: plan.attention.keyDim)
            let slice = ownQueries
            try slice.withBytes { (bytes) throws(ServiceError) in
                try queries.set(
                    heads: plan.ownHeads, dataType: request.queryDataType, rows: bytes, limits: limits)
            }
            let layout = PanelLayout(
                plan.attention, plan.kvDataType, kvHeads: plan.partition.kvHeads,
                blockTokens: Self.newTokenBlockTokens)
            var panels: [NewTokenPanels] = []
            try withRows { (rows) throws(ServiceError) in
                for (_, tokens) in entryTokens {
                    panels.append(try NewTokenPanels(layout: layout, rows: rows, tokens: tokens))
                }
            }
            let works = zip(entryTokens, panels).map { item, panels in
                AttentionWork(
                    attention: plan.attention, partition: plan.partition, heads: plan.ownHeads, queries: queries,
                    tokens: item.1, visible: .new(plan.attention.visibility, at: item.0.positions), over: panels.blocks)
            }
            return job(works, heads: plan.ownHeads.count, owners: panels)
        }
    }

    /// Attention of all the group's heads over this rank's shard, as far back as they see.
    /// - Parameter isRecent: whether its pages are in memory.
    func attendContext(
        _ slices: [QuerySlice], isRecent: Bool, in place: Place, completion: @escaping Completion<AttentionResult>
    ) {
        attend(in: place, completion) { [self] (goesOn, mayWait) throws(ServiceError) -> AttentionJob? in
            // From what the first query of an entry sees; the others see nothing before it.
            let wanted = request.entries.map {
                let first = plan.attention.visibility.first(seenFrom: $0.position)
                return ($0.sequence, first..<$0.contextEnd(appends: plan.appends))
            }
            guard mayWait else {
                let readers = try cache.contextsAtHand(wanted, layer: layer)
                return try readers.map { (readers) throws(ServiceError) in
                    try contextJob(readers, slices, isRecent: isRecent)
                }
            }
            let readers = try cache.contexts(wanted, layer: layer) { () throws(ServiceError) in
                goesOn()
                guard !isCancelled.load(ordering: .relaxed) else {
                    throw ServiceError(.stepAborted, "The step was over before its context was checked.")
                }
            }
            return try contextJob(readers, slices, isRecent: isRecent)
        }
    }

    private func contextJob(
        _ readers: [ContextReader], _ slices: [QuerySlice], isRecent: Bool
    ) throws(ServiceError) -> AttentionJob {
        let allHeads = 0..<plan.partition.queryHeads
        var queries = QueryRows(heads: allHeads, tokens: plan.tokens, keyDim: plan.attention.keyDim)
        for (member, slice) in slices.enumerated() {
            let heads = slices.count == 1 ? allHeads : plan.partition.ownHeads(ofRank: member)
            try PayloadPart(slice.queries).withBytes { (bytes) throws(ServiceError) in
                try queries.set(heads: heads, dataType: slice.dataType, rows: bytes, limits: limits)
            }
        }
        let (layout, rank) = try windowLayout
        let works = zip(entryTokens, readers).map { item, reader in
            AttentionWork(
                attention: plan.attention, partition: plan.partition, heads: allHeads, queries: queries,
                tokens: item.1,
                visible: .context(
                    plan.attention.visibility, seenFrom: item.0.positions, areOwn: !plan.appends, of: layout,
                    rank: rank, local: reader.firstIndex..<reader.firstIndex + reader.tokens),
                over: KVBlocks(
                    layout: reader.layout, blocks: reader.blocks, tokens: reader.tokens, isMapped: !isRecent))
        }
        return job(works, heads: allHeads.count, owners: readers)
    }

    /// Reduce-scatter, first half: this rank's outputs weighed by the combined LSE, cut by rank.
    func correct(
        _ states: AttentionStates, lse: [[Double]], in place: Place,
        completion: @escaping Completion<([[Float]], [Double])>
    ) {
        submit(in: place, completion) { [plan] () throws(ServiceError) in
            for (member, rows) in lse.enumerated() { try ReceivedNumbers.check(lse: rows, from: member) }
            let combined = try AttentionStates.combinedLSE(lse)
            let outputs = states.corrected(by: combined)
            let slices = (0..<plan.members).map { member in
                let rows = plan.rows(ofRank: member)
                return Array(outputs[rows.lowerBound * states.valueDim..<rows.upperBound * states.valueDim])
            }
            return (slices, combined.slice(rows: plan.rows(ofRank: plan.contextRank)).values)
        }
    }

    func merge(
        _ partials: [AttentionStates], _ newTokens: AttentionStates, in place: Place,
        completion: @escaping Completion<AttentionStates>
    ) {
        submit(in: place, completion) { [self] () throws(ServiceError) in
            for (member, partial) in partials.enumerated() { try ReceivedNumbers.check(partial, from: member) }
            return try merged(partials.isEmpty ? [newTokens] : [AttentionStates.merge(partials), newTokens])
        }
    }

    func reduce(
        _ summands: [[Float]], lse: [Double], _ newTokens: AttentionStates, in place: Place,
        completion: @escaping Completion<AttentionStates>
    ) {
        submit(in: place, completion) { [self] () throws(ServiceError) in
            for (member, outputs) in summands.enumerated() {
                try ReceivedNumbers.check(corrected: outputs, from: member)
            }
            let context = AttentionStates(
                valueDim: newTokens.valueDim, outputs: AttentionStates.sum(of: summands), lse: lse)
            return try merged([context, newTokens])
        }
    }

    /// The end of the own heads' attention. Their sinks count here, once: no other rank and no piece knows them.
    private func merged(_ parts: [AttentionStates]) throws(ServiceError) -> AttentionStates {
        var parts = parts
        if broken == .sink {
            parts = try parts.map { (part) throws(ServiceError) in
                try AttentionStates.merge([part], sinks: plan.sinks)
            }
        }
        return try AttentionStates.merge(parts, sinks: plan.sinks)
    }

    /// By which the first positions of windows are found among this rank's tokens.
    private var windowLayout: (ContextLayout, rank: Int) {
        get throws(ServiceError) {
            guard broken == .window else { return (plan.layout, plan.contextRank) }
            // With one rank alone a position is a local index.
            let (interleave, blockTokens) = (plan.layout.interleave, plan.layout.blockTokens)
            return (try ContextLayout(contextRanks: 1, interleave: interleave, blockTokens: blockTokens), 0)
        }
    }

    /// New tokens sit in blocks of their own size: their layout is nobody's but this step's.
    private static var newTokenBlockTokens: Int { 64 }

    private var entryTokens: [(StepRequest.Entry, Range<Int>)] {
        var start = 0
        return request.entries.map { entry in
            defer { start += entry.count }
            return (entry, start..<start + entry.count)
        }
    }

    /// The own heads' part of the queries the client sent.
    private var ownQueries: PayloadPart {
        guard request.queryMode == .replicate else { return request.queries }
        let headByteCount = plan.tokens * plan.attention.keyDim * request.queryDataType.byteCount
        return request.queries.part(
            at: plan.ownHeads.lowerBound * headByteCount, byteCount: plan.ownHeads.count * headByteCount)
    }

    private func withRows(_ body: (KeyValueRows) throws(ServiceError) -> Void) throws(ServiceError) {
        try request.keys.withBytes { (keys) throws(ServiceError) in
            try request.values.withBytes { (values) throws(ServiceError) in
                try body(
                    KeyValueRows(
                        dataType: request.keyValueDataType, keys: keys, values: values, tokens: plan.keyValueTokens))
            }
        }
    }
}

extension PayloadPart {
    /// The bytes as a pointer; never nil, also for none.
    fileprivate func withBytes(_ body: (UnsafeRawPointer) throws(ServiceError) -> Void) throws(ServiceError) {
        try withUnsafeBytes { (bytes) throws(ServiceError) in
            var nothing: UInt64 = 0
            try withUnsafePointer(to: &nothing) { (nothing) throws(ServiceError) in
                try body(bytes.baseAddress ?? UnsafeRawPointer(nothing))
            }
        }
    }
}
