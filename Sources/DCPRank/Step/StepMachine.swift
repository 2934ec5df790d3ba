public import DCPAttention
internal import DCPCollectives
public import DCPCore
public import DCPWire

/// One step on one rank, as a value: events in, actions out; no async, no clock, no socket.
///
/// Three strands run side by side and meet in the merge:
///
///     queries --all-gather--> context attention --exchange--> merge --> reply
///     new tokens: causal attention of the own heads ----------^          ^
///     append of the owned tokens ----------------------------------------+
///
/// `gathering < attending < exchanging < merging < replied`, and from any of them `failed`. Peers may be a phase ahead:
/// each collective takes pieces from the start. The first failure, of this rank or of any other, is the verdict; it is
/// told to the client, and by the rank where it arose to the whole group, so that nobody waits for a deadline.
public struct StepMachine: Sendable {
    public enum Action: Sendable {
        case sendQuery(QuerySlice, to: Int)
        /// Causal attention of the own heads over the step's tokens. Answer with `.newTokensDone`.
        case startNewTokens
        /// The owned tokens into the cache. Answer with `.appended`.
        case startAppend
        /// Attention of all the group's heads over this rank's shard. Answer with `.contextDone`.
        /// The slices are those of all ranks in rank order, or the one replicated slice.
        case startContext([QuerySlice])
        case sendPartial(AttentionStates, to: Int)
        case sendLogSumExp([Float], to: Int)
        /// Weighs the context partial by `exp(own LSE - combined LSE)`. Answer with `.correctionDone`.
        case startCorrection(AttentionStates, lse: [[Float]])
        case sendCorrected([Float], to: Int)
        /// All-to-all: merge the ranks' partials in rank order, then the new tokens. Answer with `.mergeDone`.
        case startMerge([AttentionStates], newTokens: AttentionStates)
        /// Reduce-scatter: add the corrected outputs in rank order, then merge the new tokens. Answer with `.mergeDone`.
        case startReduction([[Float]], lse: [Float], newTokens: AttentionStates)
        /// The outputs of the own heads, `[head][token]`.
        case reply(AttentionStates)
        /// The verdict, to the client.
        case fail(ServiceError)
        /// The verdict, to the rest of the group; only from the rank where it arose.
        case sendAbort(ServiceError, to: Int)
        /// Take the step's tokens out of the cache again, and the layer's end back to where the step began.
        case rollBack
    }

    public enum Event: Sendable {
        /// The layer holds every token before the step's positions.
        case contextReady
        case query(QuerySlice, from: Int)
        case newTokensDone(AttentionStates)
        case appended
        /// The append failed and left nothing behind; what was reserved for its tokens has to be given back.
        case appendFailed(ServiceError)
        case contextDone(AttentionStates)
        case partial(AttentionStates, from: Int)
        case logSumExp([Float], from: Int)
        /// The weighed outputs for each rank's own heads, in rank order, and the combined LSE of this rank's.
        case correctionDone([[Float]], lse: [Float])
        case corrected([Float], from: Int)
        case mergeDone(AttentionStates)
        /// A computation that was started failed, and will not answer otherwise.
        case computationFailed(ServiceError)
        /// Something else went wrong: the client or a peer is gone, a message could not be sent.
        case failed(ServiceError)
        /// Another rank's verdict.
        case aborted(ServiceError)
        /// The step's deadline passed.
        case expired
    }

    private enum Exchanged: Sendable {
        /// No entry has context: there was nothing to exchange.
        case nothing
        case partials([AttentionStates])
        case summands([[Float]], lse: [Float])
    }

    private enum Phase: Sendable {
        case gathering
        case attending
        case exchanging
        case merging
        case replied
        case failed
    }

    public let plan: StepPlan
    private let appends: Bool
    private var phase = Phase.gathering
    private var queries: AllGather<QuerySlice>
    private var gathered: [QuerySlice]?
    private var isContextReady = false
    private var partials: AllToAll<AttentionStates>
    private var logSumExps: AllGather<[Float]>
    private var corrections: ReduceScatter<[Float]>
    private var ownLSE: [Float]?
    private var contextPartial: AttentionStates?
    /// What the exchange left, waiting for the new tokens.
    private var exchanged: Exchanged?
    private var newTokens: AttentionStates?
    private var output: AttentionStates?
    private var isAppended = false
    private var hasAppendFailed = false
    private var hasRolledBack = false

    /// Computations that were started and have not answered. The step's memory is needed until it is zero.
    public private(set) var outstandingCount = 0

    /// - Parameter appends: false when the step repeats one whose tokens the cache already holds.
    public init(_ plan: StepPlan, appends: Bool) {
        self.plan = plan
        self.appends = appends
        queries = AllGather(rank: plan.contextRank, members: plan.members)
        partials = AllToAll(rank: plan.contextRank, members: plan.members)
        logSumExps = AllGather(rank: plan.contextRank, members: plan.members)
        corrections = ReduceScatter(rank: plan.contextRank, members: plan.members)
    }

    /// Whether the client has its answer.
    public var isOver: Bool {
        switch phase {
        case .replied, .failed: true
        case .gathering, .attending, .exchanging, .merging: false
        }
    }

    /// Whether nothing of the step is left to happen on this rank.
    public var isFinished: Bool { isOver && outstandingCount == 0 }

    /// Begins the step with the queries the client sent.
    public mutating func start(_ own: QuerySlice) -> [Action] {
        var actions: [Action] = []
        outstandingCount += 1
        actions.append(.startNewTokens)
        if appends {
            outstandingCount += 1
            actions.append(.startAppend)
        } else {
            isAppended = true
        }
        if !plan.hasContext {
            phase = .exchanging
            exchanged = .nothing
            return actions
        }
        switch plan.queryMode {
        case .replicate:
            gathered = [own]
            return actions + startContextIfReady()
        case .gather:
            // Q leaves at once; it waits for no turn and no other step.
            do throws(ServiceError) {
                let gather = try queries.contribute(own)
                return handle(gather) + actions
            } catch {
                return actions + fail(error)
            }
        }
    }

    public mutating func handle(_ event: Event) -> [Action] {
        do throws(ServiceError) {
            return try take(event)
        } catch {
            return fail(error)
        }
    }

    private mutating func take(_ event: Event) throws(ServiceError) -> [Action] {
        switch event {
        case .newTokensDone, .appended, .appendFailed, .contextDone, .correctionDone, .mergeDone, .computationFailed:
            outstandingCount -= 1
        default: break
        }
        precondition(outstandingCount >= 0, "a computation answered twice")
        if case .appendFailed = event { hasAppendFailed = true }
        if isOver {
            // A late append of a failed step leaves tokens behind that no rank may keep.
            if case .appended = event { isAppended = true }
            return rollBackIfNeeded()
        }
        switch event {
        case .contextReady:
            isContextReady = true
            return startContextIfReady()
        case .query(let slice, let member):
            try check(slice, from: member)
            return handle(try queries.receive(slice, from: member))
        case .newTokensDone(let states):
            newTokens = states
            return startMergeIfReady()
        case .appended:
            isAppended = true
            return replyIfReady()
        case .contextDone(let states):
            return try startExchange(states)
        case .partial(let states, let member):
            try check(states, from: member)
            return handle(try partials.receive(states, from: member))
        case .logSumExp(let rows, let member):
            guard rows.count == plan.partition.queryHeads * plan.tokens else {
                throw mismatch("\(rows.count) LSE values", "\(plan.partition.queryHeads * plan.tokens)", member)
            }
            return handle(try logSumExps.receive(rows, from: member))
        case .correctionDone(let summands, let lse):
            ownLSE = lse
            return handle(try corrections.contribute(summands))
        case .corrected(let summand, let member):
            let count = plan.ownHeads.count * plan.tokens * plan.shape.valueDim
            guard summand.count == count else { throw mismatch("\(summand.count) outputs", "\(count)", member) }
            return handle(try corrections.receive(summand, from: member))
        case .mergeDone(let states):
            output = states
            return replyIfReady()
        case .appendFailed(let error), .computationFailed(let error), .failed(let error):
            throw error
        case .aborted(let error):
            return end(error)
        case .expired:
            throw ServiceError(.deadlineExceeded, "The step's deadline passed while it waited for \(waitingFor).")
        }
    }
}

// MARK: - The strands

extension StepMachine {
    private mutating func handle(_ actions: [AllGather<QuerySlice>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let slice, let member): return [Action.sendQuery(slice, to: member)]
            case .finished(let slices):
                gathered = slices
                return startContextIfReady()
            }
        }
    }

    private mutating func startContextIfReady() -> [Action] {
        guard case .gathering = phase, let gathered, isContextReady else { return [] }
        self.gathered = nil
        phase = .attending
        outstandingCount += 1
        return [.startContext(gathered)]
    }

    private mutating func startExchange(_ states: AttentionStates) throws(ServiceError) -> [Action] {
        phase = .exchanging
        switch plan.exchange {
        case .allToAll:
            let slices = (0..<plan.members).map { states.slice(rows: plan.rows(ofRank: $0)) }
            return handle(try partials.contribute(slices))
        case .allGatherReduceScatter:
            contextPartial = states
            return handle(try logSumExps.contribute(states.lse))
        }
    }

    private mutating func handle(_ actions: [AllToAll<AttentionStates>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let states, let member): return [Action.sendPartial(states, to: member)]
            case .finished(let states):
                exchanged = .partials(states)
                return startMergeIfReady()
            }
        }
    }

    private mutating func handle(_ actions: [AllGather<[Float]>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let rows, let member): return [Action.sendLogSumExp(rows, to: member)]
            case .finished(let rows):
                guard let states = contextPartial else { preconditionFailure("LSE gathered before the own was given") }
                contextPartial = nil
                outstandingCount += 1
                return [.startCorrection(states, lse: rows)]
            }
        }
    }

    private mutating func handle(_ actions: [ReduceScatter<[Float]>.Action]) -> [Action] {
        actions.flatMap { action in
            switch action {
            case .send(let summand, let member): return [Action.sendCorrected(summand, to: member)]
            case .reduce(let summands):
                guard let ownLSE else { preconditionFailure("outputs gathered before the own were given") }
                exchanged = .summands(summands, lse: ownLSE)
                return startMergeIfReady()
            }
        }
    }

    private mutating func startMergeIfReady() -> [Action] {
        guard case .exchanging = phase, let exchanged, let newTokens else { return [] }
        self.exchanged = nil
        self.newTokens = nil
        phase = .merging
        switch exchanged {
        case .nothing:
            output = newTokens
            return replyIfReady()
        case .partials(let partials):
            outstandingCount += 1
            return [.startMerge(partials, newTokens: newTokens)]
        case .summands(let summands, let lse):
            outstandingCount += 1
            return [.startReduction(summands, lse: lse, newTokens: newTokens)]
        }
    }

    /// The client may send its next step or its commit as soon as it has the reply, so the tokens are in place first.
    private mutating func replyIfReady() -> [Action] {
        guard case .merging = phase, isAppended, let output else { return [] }
        self.output = nil
        phase = .replied
        return [.reply(output)]
    }
}

// MARK: - The verdict

extension StepMachine {
    /// A failure that arose here: the group is told.
    private mutating func fail(_ error: ServiceError) -> [Action] {
        guard !isOver else { return [] }
        let aborts = (0..<plan.members).filter { $0 != plan.contextRank }.map { Action.sendAbort(error, to: $0) }
        return aborts + end(error)
    }

    private mutating func end(_ error: ServiceError) -> [Action] {
        phase = .failed
        gathered = nil
        contextPartial = nil
        exchanged = nil
        newTokens = nil
        output = nil
        return rollBackIfNeeded() + [.fail(error)]
    }

    private mutating func rollBackIfNeeded() -> [Action] {
        guard case .failed = phase, appends, isAppended || hasAppendFailed, !hasRolledBack else { return [] }
        hasRolledBack = true
        return [.rollBack]
    }

    private func check(_ slice: QuerySlice, from member: Int) throws(ServiceError) {
        let heads = plan.partition.ownHeads(ofRank: member).count
        guard slice.tokens == plan.tokens, slice.heads == heads, slice.keyDim == plan.shape.keyDim else {
            throw mismatch(
                "queries [\(slice.heads), \(slice.tokens), \(slice.keyDim)]",
                "[\(heads), \(plan.tokens), \(plan.shape.keyDim)]", member)
        }
    }

    private func check(_ states: AttentionStates, from member: Int) throws(ServiceError) {
        let rows = plan.ownHeads.count * plan.tokens
        guard states.rows == rows, states.valueDim == plan.shape.valueDim else {
            throw mismatch(
                "outputs of \(states.rows) x \(states.valueDim)", "\(rows) x \(plan.shape.valueDim)", member)
        }
    }

    private func mismatch(_ got: String, _ expected: String, _ member: Int) -> ServiceError {
        ServiceError(
            .protocolViolation,
            "Context rank \(member) sent \(got) for a step that needs \(expected): it was given another step under the "
                + "same tag. Send each step to all ranks alike.")
    }

    /// Whose pieces are missing, for a person who reads the log.
    private var waitingFor: String {
        func ranks(_ missing: [Int], _ what: String) -> String {
            "the \(what) of context rank " + missing.map(String.init).joined(separator: ", ")
        }
        switch phase {
        case .gathering:
            if !isContextReady { return "the steps before it on the same layer" }
            return ranks(queries.missing, "queries")
        case .attending: return "its own attention over the context"
        case .exchanging where exchanged != nil: return "its own attention over the new tokens"
        case .exchanging:
            switch plan.exchange {
            case .allToAll: return ranks(partials.missing, "partials")
            case .allGatherReduceScatter:
                return contextPartial != nil
                    ? ranks(logSumExps.missing, "LSE") : ranks(corrections.missing, "corrected outputs")
            }
        case .merging: return isAppended ? "its own merge" : "its own append"
        case .replied, .failed: return "nothing"
        }
    }
}
