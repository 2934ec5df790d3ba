// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPCore
internal import DCPWire
internal import NIOCore
internal import Synchronization

/// The two attentions of a step.
extension StepWork {
    /// What the preparation of an attention has come to.
    enum Preparation {
        case job(AttentionJob)
        /// Is called again.
        case goesOn
        /// For what a thread may wait for, and the loop may not.
        case waits
    }

    /// Causal attention of the own heads over the step's own tokens.
    func attendNewTokens(in place: Place, completion: @escaping Completion<AttentionResult>) {
        let own = QueryConversion.Part(heads: plan.ownHeads, dataType: request.queryDataType, rows: ownQueries)
        let layout = PanelLayout(
            plan.attention, plan.kvFormat, kvHeads: plan.partition.kvHeads, blockTokens: Self.newTokenBlockTokens)
        let kept = Kept(
            (
                queries: QueryConversion(heads: plan.ownHeads, [own], plan, limits),
                panels: LargePanels(entries, layout)
            ))
        attend(in: place, completion) { [self] _ throws(ServiceError) in
            guard try checkInputs(), try kept.value.panels.advance(self),
                let queries = try kept.value.queries.advance()
            else { return .goesOn }
            let large = kept.value.panels.panels
            let own = OwnToken(
                plan.attention, plan.kvFormat, partition: plan.partition, heads: plan.ownHeads)
            return .job(
                job(heads: plan.ownHeads.count, owners: []) { [self] index, states throws(ServiceError) in
                    try withRows { (rows) throws(ServiceError) in
                        try own.attend(entries[index].tokens.lowerBound, queries, rows, into: &states)
                    }
                } entry: { [self] index throws(ServiceError) in
                    let (entry, tokens) = entries[index]
                    // Of most decode steps all are such.
                    guard tokens.count > 1 else { return .own }
                    let panels = if let filled = large[index] { filled } else { try newTokenPanels(of: tokens, layout) }
                    let work = AttentionWork(
                        attention: plan.attention, partition: plan.partition, heads: plan.ownHeads, queries: queries,
                        tokens: tokens, visible: .new(plan.attention.visibility, at: entry.positions),
                        over: panels.blocks)
                    return AttentionJob.Entry(work, owner: panels)
                })
        }
    }

    /// New tokens sit in blocks of their own size: their layout is nobody's but this step's.
    private static var newTokenBlockTokens: Int { 64 }

    private func newTokenPanels(of tokens: Range<Int>, _ layout: PanelLayout) throws(ServiceError) -> NewTokenPanels {
        var panels: NewTokenPanels?
        try withRows { (rows) throws(ServiceError) in
            panels = try NewTokenPanels(layout: layout, rows: rows, tokens: tokens)
        }
        guard let panels else { preconditionFailure("rows are lent at once") }
        return panels
    }

    /// Attention of all the group's heads over this rank's shard, as far back as they see.
    /// - Parameter isRecent: whether its pages are in memory.
    func attendContext(
        _ slices: [QuerySlice], isRecent: Bool, in place: Place,
        completion: @escaping Completion<(states: ContextStates, span: ComputeSpan)>
    ) {
        let allHeads = 0..<plan.partition.queryHeads
        let parts = slices.enumerated().map { member, slice in
            QueryConversion.Part(
                heads: slices.count == 1 ? allHeads : plan.partition.ownHeads(ofRank: member),
                dataType: slice.dataType, rows: PayloadPart(slice.queries))
        }
        // From what the first query of an entry sees; the others see nothing before it.
        let wanted = request.entries.map {
            let first = plan.attention.visibility.first(seenFrom: $0.position)
            return ($0.sequence, Range<Position>(first..<$0.contextEnd(appends: plan.appends)))
        }
        let conversion = Kept(QueryConversion(heads: allHeads, parts, plan, limits))
        let converted = Kept<QueryRows?>(nil)
        let cut: Completion<AttentionResult> = { [self] in
            switch $0 {
            case .success(let result): self.cut(result, completion: completion)
            case .failure(let error): completion(.failure(error))
            }
        }
        attend(in: place, cut) { [self] mayWait throws(ServiceError) in
            if converted.value == nil { converted.value = try conversion.value.advance() }
            guard let queries = converted.value else { return .goesOn }
            guard mayWait else {
                guard let readers = try cache.contextsAtHand(wanted, layer: layer) else { return .waits }
                return .job(contextJob(readers, queries, isRecent: isRecent))
            }
            guard let readers = try contexts(wanted) else { return .goesOn }
            return .job(contextJob(readers, queries, isRecent: isRecent))
        }
    }

    /// Those of a prefill some rows at a time, on the threads.
    private func cut(
        _ result: AttentionResult, completion: @escaping Completion<(states: ContextStates, span: ComputeSpan)>
    ) {
        guard plan.exchange == .allToAll, result.states.outputs.count > Self.outputsAtOnce else {
            return completion(.success((plan.cut(result.states), result.span)))
        }
        let kept = Kept(plan.partialCut(of: result.states))
        submit(in: .threads, completion) { () throws(ServiceError) in
            kept.value.advance(outputsMax: Self.outputsAtOnce).map { (ContextStates.cut($0), result.span) }
        }
    }

    /// - Returns: nil after blocks were checked that have not been used since the start, as long as there may be more.
    private func contexts(
        _ wanted: [(sequence: SequenceID, positions: Range<Position>)]
    ) throws(ServiceError) -> [ContextReader]? {
        var hasChecked = false
        do throws(ServiceError) {
            return try cache.contexts(wanted, layer: layer) { () throws(ServiceError) in
                // What was checked stays so, and the thread takes its turn.
                hasChecked = true
                throw ServiceError(.stepAborted, "The step was over before its context was checked.")
            }
        } catch {
            guard hasChecked, !isCancelled.load(ordering: .relaxed) else { throw error }
            return nil
        }
    }

    private func contextJob(_ readers: [ContextReader], _ queries: QueryRows, isRecent: Bool) -> AttentionJob {
        job(heads: queries.heads.count, owners: readers) { _, _ in
            preconditionFailure("a context has work")
        } entry: { [self] index in
            let (entry, tokens) = entries[index]
            let reader = readers[index]
            return AttentionJob.Entry(
                AttentionWork(
                    attention: plan.attention, partition: plan.partition, heads: queries.heads, queries: queries,
                    tokens: tokens,
                    visible: .context(
                        plan.attention.visibility, seenFrom: entry.positions, areOwn: !plan.appends, of: plan.layout,
                        rank: plan.contextRank, local: reader.local),
                    over: KVBlocks(
                        layout: reader.layout, blocks: reader.blocks, tokens: reader.tokens, isMapped: !isRecent)))
        }
    }

    private func job(
        heads: Int, owners: [any AnyObject & Sendable],
        own: @escaping @Sendable (Int, inout AttentionStates) throws(ServiceError) -> Void,
        entry: @escaping @Sendable (Int) throws(ServiceError) -> AttentionJob.Entry
    ) -> AttentionJob {
        AttentionJob(
            entries: entries.count, rows: heads * plan.tokens, valueDim: plan.attention.valueDim, owners: owners,
            own: own, entry: entry)
    }

    /// The own heads' part of the queries the client sent.
    private var ownQueries: PayloadPart {
        guard request.queryMode == .replicate else { return request.queries }
        let headByteCount = plan.tokens * plan.attention.keyDim * request.queryDataType.byteCount
        return request.queries.part(
            at: plan.ownHeads.lowerBound * headByteCount, byteCount: plan.ownHeads.count * headByteCount)
    }
}

/// The panels of entries with many new tokens, filled some blocks at a time. Those of few are filled where they are read.
private struct LargePanels {
    private(set) var panels: [NewTokenPanels?]
    private let entries: [(entry: StepRequest.Entry, tokens: Range<Int>)]
    private var index = 0
    private var block = 0

    /// Filled at once: some 0.5 ms.
    private static let blocksAtOnce = 4

    init(_ entries: [(entry: StepRequest.Entry, tokens: Range<Int>)], _ layout: PanelLayout) {
        self.entries = entries
        panels = entries.map { _, tokens in
            tokens.count > layout.blockTokens ? NewTokenPanels(layout: layout, tokens: tokens.count) : nil
        }
    }

    /// Fills the next blocks.
    /// - Returns: whether all are filled.
    mutating func advance(_ work: StepWork) throws(ServiceError) -> Bool {
        while index < panels.count {
            guard let current = panels[index], block < current.blocks.blocks.count else {
                (index, block) = (index + 1, 0)
                continue
            }
            let some = block..<min(block + Self.blocksAtOnce, current.blocks.blocks.count)
            let tokens = entries[index].tokens
            try work.withRows { (rows) throws(ServiceError) in try current.fill(some, rows, tokens: tokens) }
            block = some.upperBound
            return false
        }
        return true
    }
}
